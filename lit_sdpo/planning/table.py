"""A plan to read on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from lit_sdpo.planning.plan import RunPlan
from lit_sdpo.units import size

NO_SPEED = """time: not known without speeds of one device.
  --decode-tokens-per-second   completion tokens generated: python -m benchmarks.rollout, on a GPU benchmarks.gpu
  --update-tokens-per-second   completion tokens trained on, with the teacher: python -m benchmarks.step"""


def text(plan: RunPlan) -> str:
    """The whole plan as tables."""
    parts = [_head(plan), _stages(plan), _evaluations(plan), _memory(plan), _disk(plan), _time(plan)]
    return "\n\n".join(part for part in parts if part)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns in line; the first to the left, the others to the right.

    Example:
        >>> print(table([("task", "steps"), ("math", "50")]))
        task  steps
        math     50
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in a unit that fits.

    Example:
        >>> duration(90), duration(3 * 3600), duration(50 * 3600)
        ('1.5 min', '3.0 h', '2.1 days')
    """
    if seconds < 3600:
        return f"{seconds / 60:,.1f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.1f} days"


def count(number: int) -> str:
    """A large number with three digits, a smaller one in full.

    Example:
        >>> count(520_224), count(9_931_840), count(4_022_468_096)
        ('520,224', '9.93 million', '4,022 million')
    """
    if number < 1e6:
        return f"{number:,}"
    return f"{number / 1e6:,.0f} million" if number >= 1e8 else f"{number / 1e6:.3g} million"


def _head(plan: RunPlan) -> str:
    devices = plan.devices
    over = f"{devices.strategy} over {devices.count} devices" if devices.count > 1 else devices.strategy
    trained = "" if plan.trained == plan.parameters else f", {count(plan.trained)} trained"
    lines = [
        f"{plan.method} on {plan.model}: {count(plan.parameters)} parameters{trained}; {over}",
        *(f"note: {note}" for note in devices.notes),
    ]
    return "\n".join(lines)


def _stages(plan: RunPlan) -> str:
    expected = plan.tokens_per_completion is not None
    rows = [("stage", "steps", "prompts", "completions", "tokens at most", *(["expected"] if expected else []))]
    for number, stage in enumerate(plan.stages, start=1):
        rest = [f"{plan.tokens(stage.sampled, stage.tokens):,.0f}"] if expected else []
        counts = (stage.steps, stage.prompts, stage.completions, stage.tokens)
        rows.append((f"{number} {stage.task}", *(f"{n:,}" for n in counts), *rest))
    sums = [sum(getattr(stage, key) for stage in plan.stages) for key in ("steps", "prompts", "completions", "tokens")]
    rest = [f"{plan.training_tokens:,.0f}"] if expected else []
    rows.append(("all", *(f"{n:,}" for n in sums), *rest))
    return table(rows)


def _evaluations(plan: RunPlan) -> str:
    found = plan.evaluation
    if not found.count:
        return "evaluations: none"
    prompts = sum(found.prompts.values())
    each = found.completions // found.count // max(prompts, 1)
    told = ", ".join(f"{task} {'≤ ' if task in found.unread else ''}{n:,}" for task, n in found.prompts.items())
    share = "all" if plan.evaluation_share == 1 else f"{plan.evaluation_share:.0%}"
    word = "at most" if plan.tokens_per_completion is None else "expected"
    lines = [
        f"evaluations: {found.count} of {prompts:,} prompts x {each} = {found.completions:,} completions,"
        f" {plan.evaluation_tokens:,.0f} tokens {word}: {share} of all generation",
        f"  prompts: {told}",
    ]
    if found.unread:
        lines.append("  ≤: these rows are not on this machine; --rows TASK=N gives their number")
    return "\n".join(lines)


def _memory(plan: RunPlan) -> str:
    memory, window = plan.memory, plan.memory.window
    decoded = f", at most {window.decoded} decoded at once" if window.blocks else ""
    rows: list[tuple[str, ...]] = [("memory of a device, at most", "throughout", "rollouts", "update")]
    columns = (memory.resident, memory.rollouts, memory.update)
    for name in dict.fromkeys(key for parts in columns for key in parts):
        rows.append((f"  {name}", *(size(parts[name]) if name in parts else "" for parts in columns)))
    rows.append(("  sum", *(size(sum(parts.values())) for parts in columns)))
    lines = [
        table(rows),
        f"peak: {size(memory.peak)}; {window.prompts} prompts and {window.rows} completions a step{decoded}, in"
        f" {memory.slices} {'slice' if memory.slices == 1 else 'slices'} of at most {memory.slice_tokens:,} tokens",
        f"  {memory.lengths}",
        *([f"  {size(plan.expected_peak)} where rollouts have the expected length"] if plan.expected_peak else []),
        "  counted, not measured; the process, communication buffers and what the allocator keeps come on top",
    ]
    return "\n".join(lines)


def _disk(plan: RunPlan) -> str:
    found = plan.checkpoints
    if not found.stage_ends + found.inside:
        return "checkpoints: none"
    return (
        f"checkpoints: {found.stage_ends} of stage ends and {found.inside} inside stages,"
        f" {size(found.bytes)} each: {size(found.total)}"
    )


def _time(plan: RunPlan) -> str:
    if not plan.seconds:
        return NO_SPEED
    word = "at most, all completions of full length" if plan.tokens_per_completion is None else "expected"
    told = ", ".join(f"{name} {duration(seconds)}" for name, seconds in plan.seconds.items())
    lines = [f"time ({word}): {told}; together {duration(sum(plan.seconds.values()))}"]
    missing = [name for name in ("decode", "update") if getattr(plan.speed, name) is None]
    lines += [f"  without what needs --{name}-tokens-per-second" for name in missing]
    lines.append("  verifiers, checkpoints and waiting for the longest completion come on top")
    return "\n".join(lines)
