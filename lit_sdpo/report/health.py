"""Is a run collapsing? A judgement of logged values alone, so that recorded runs can be judged like running ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from lit_sdpo.ranges import check_integer

State = Literal["healthy", "suspicious", "collapsing"]
STATES: tuple[State, ...] = ("healthy", "suspicious", "collapsing")
Change = Literal["rise", "fall", "share"]

#: Where each signal is logged by this package.
METRICS = {
    "reward": "rollout/reward/verifier",
    "entropy": "rollout/entropy",
    "divergence": "sdpo/divergence",
    "length": "rollout/length",
    "truncated": "rollout/truncated",
    "flat_groups": "rollout/flat_groups",
    "length_tail": "health/length_tail",
    "repetition": "health/repetition",
    "invalid": "health/invalid",
    "leakage": "artifacts/leakage",
}


@dataclass(frozen=True)
class Rule:
    """When a signal gives points, in terms of its median m over the window, its best so far and its early baseline b.

    ``rise``: ``(m - lowest) / b``; ``fall``: ``(highest - m) / highest``; ``share``: ``m - lowest``. Lowest and highest
    are those of the medians of the stage, b is the first of them. A b below a quarter of an earlier stage's counts as
    that quarter, and a highest below a quarter as a quarter: near zero everything is noise.

    Attributes:
        signal: Name of the signal.
        change: Which of the three.
        suspicious: From here on it gives one point.
        alarm: From here on it gives two.
        words: What is happening, for a reader.
    """

    signal: str
    change: Change
    suspicious: float
    alarm: float
    words: str


RULES = (
    Rule("reward", "fall", 0.12, 0.25, "the reward falls"),
    Rule("entropy", "rise", 0.22, 0.40, "entropy rises again"),
    Rule("divergence", "rise", 0.20, 0.35, "teacher and student part again"),
    Rule("length", "rise", 0.50, 1.00, "completions get longer"),
    Rule("length_tail", "rise", 0.50, 1.00, "the longest completions get longer than the others"),
    Rule("truncated", "share", 0.10, 0.30, "more completions are cut off"),
    Rule("repetition", "share", 0.10, 0.20, "completions repeat themselves more"),
    Rule("invalid", "share", 0.10, 0.25, "more completions have no answer that can be read"),
    Rule("leakage", "share", 0.10, 0.25, "more completions carry another task's format"),
)
#: Points at which a run collapses; the change of one signal does not reach them.
COLLAPSING = 3
#: What counts as near zero: this share of an earlier baseline, and of the highest reward that there can be.
QUARTER = 0.25
#: A share of its early baseline below which a signal has vanished.
VANISHED = 0.1
#: A mean reward up to which, and a share of groups with equal rewards from which, there is nothing to learn from.
LOW_REWARD, FLAT = 0.1, 0.9
#: A share of repeated n-grams that no task explains.
LOOPING = 0.6


@dataclass(frozen=True)
class Health:
    """The judgement of one step: a state, why, and the points behind it."""

    state: State = "healthy"
    reasons: tuple[str, ...] = ()
    points: int = 0

    def __str__(self) -> str:
        """The state and its reasons in one line."""
        return f"{self.state}: {'; '.join(self.reasons)}" if self.reasons else self.state


@dataclass
class Signal:
    """One signal in one stage: its latest values, and the extremes of its medians."""

    values: list[float] = field(default_factory=list)
    earlier: float = 0.0
    baseline: float = math.nan
    lowest: float = math.inf
    highest: float = -math.inf
    now: float = math.nan

    def add(self, value: float, window: int) -> None:
        """Take the value of a step; the median counts from a full window on."""
        self.values = [*self.values, value][-window:]
        self.now = median(self.values) if len(self.values) == window else math.nan
        if math.isnan(self.now):
            return
        if math.isnan(self.baseline):
            self.baseline = self.now
        self.lowest, self.highest = min(self.lowest, self.now), max(self.highest, self.now)

    def change(self, kind: Change) -> float:
        """How far the median is from the best of the stage; nan before the first."""
        if kind == "fall":
            return (self.highest - self.now) / max(self.highest, QUARTER)
        rise = self.now - self.lowest
        scale = 1.0 if kind == "share" else max(self.baseline, QUARTER * self.earlier)
        return rise / scale if scale > 0 else math.nan

    def next_stage(self) -> Signal:
        """The same signal in a new stage, of which nothing is known yet."""
        known = [value for value in (self.earlier, self.baseline) if math.isfinite(value)]
        return Signal(earlier=max(known))


class Watch:
    """Judges a run step by step.

    A stage is judged by itself: its first ``window`` steps give the baselines. Points make it suspicious;
    :data:`COLLAPSING` of them, more than the change of one signal gives, collapsing, until no point is left. That
    teacher and student agree is no health: where their divergence or the entropy vanishes while the reward falls or is
    low, it gives two points.

    The distance of the teacher's weights is no signal: under a frozen teacher it grows in health as well.

    Args:
        window: Steps in a median.
        rules: What gives points.

    Example:
        >>> watch = Watch(window=3)
        >>> learning = [{"reward": 0.9, "entropy": 0.1}] * 5
        >>> failing = [{"reward": 0.6, "entropy": 0.2}] * 3
        >>> [watch.see(values).state for values in learning + failing][-3:]
        ['healthy', 'collapsing', 'collapsing']
    """

    def __init__(self, window: int = 9, rules: Sequence[Rule] = RULES) -> None:
        self.window, self.rules = check_integer("window", window, at_least=1), rules
        self.signals: dict[str, Signal] = {}
        self.state: State = STATES[0]

    def start_stage(self) -> None:
        """Take all baselines anew."""
        self.signals = {name: signal.next_stage() for name, signal in self.signals.items()}
        self.state = STATES[0]

    def forget_window(self) -> None:
        """Begin new windows with the same baselines: what was seen before an intervention says nothing of it."""
        for signal in self.signals.values():
            signal.values, signal.now = [], math.nan
        self.state = "healthy"

    def see(self, values: Mapping[str, float]) -> Health:
        """Judge the run after one more step.

        Args:
            values: Signals of the step by name; those that are missing or not finite are passed over.
        """
        for name, value in values.items():
            if math.isfinite(value):
                self.signals.setdefault(name, Signal()).add(value, self.window)
        given = [*self._changes(), *self._standing()]
        points = sum(number for number, _ in given)
        if not points:
            self.state = "healthy"
        elif points >= COLLAPSING:
            self.state = "collapsing"
        elif self.state == "healthy":
            self.state = "suspicious"
        return Health(self.state, tuple(reason for _, reason in given), points)

    def _changes(self) -> Iterator[tuple[int, str]]:
        for rule in self.rules:
            signal = self.signals.get(rule.signal)
            if signal is None or not (change := signal.change(rule.change)) >= rule.suspicious:
                continue
            best = signal.highest if rule.change == "fall" else signal.lowest
            yield 2 if change >= rule.alarm else 1, f"{rule.words} ({best:.3g} to {signal.now:.3g})"

    def _standing(self) -> Iterator[tuple[int, str]]:
        """Points for levels rather than changes."""
        now = {name: signal.now for name, signal in self.signals.items()}
        reward = self.signals.get("reward", Signal())
        failing = reward.now <= LOW_REWARD or reward.change("fall") >= LOW_REWARD
        if failing:
            for name, words in (("divergence", "teacher and student agree"), ("entropy", "entropy vanishes")):
                signal = self.signals.get(name, Signal())
                if signal.now < VANISHED * signal.baseline:
                    yield 2, f"{words} ({signal.baseline:.3g} to {signal.now:.3g}) at a low reward ({reward.now:.3g})"
        if reward.now <= LOW_REWARD and now.get("flat_groups", math.nan) >= FLAT:
            yield 1, f"all completions of a prompt fail alike (reward {reward.now:.3g})"
        if now.get("repetition", math.nan) >= LOOPING:
            yield 1, f"completions are loops (repeated share {now['repetition']:.3g})"

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which the judgement goes on."""
        return {"state": self.state, "signals": {name: asdict(signal) for name, signal in self.signals.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.state = state["state"]
        self.signals = {name: Signal(**signal) for name, signal in state["signals"].items()}
