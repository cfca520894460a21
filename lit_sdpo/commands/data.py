"""``lit-sdpo data check``: looks through task files, or those of a configuration, before a run."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_sdpo.commands.arguments import positive
from lit_sdpo.data.check.checker import Checker, Measure, Part
from lit_sdpo.data.check.deduplicated import check_target, write
from lit_sdpo.data.check.overlap import OverlapFinder
from lit_sdpo.data.check.pairs import PairFinder
from lit_sdpo.data.source import Source
from lit_sdpo.data.task import Row
from lit_sdpo.heartbeat import still_at
from lit_sdpo.likelihood.rows import Parse, scored_row
from lit_sdpo.text import printable_lines

DEFAULT_BUDGET = 2048


def main(arguments: Sequence[str]) -> int:
    """Run ``lit-sdpo data ...``.

    Args:
        arguments: Those after ``data``.

    Returns:
        0 when nothing is wrong, 2 otherwise.

    Raises:
        UserError: A mistake in the arguments.
    """
    options = _parser().parse_args(arguments)
    configs = [target for target in options.target if Path(target).suffix in (".yaml", ".yml")]
    files = [target for target in options.target if target not in configs]
    settings = _settings(configs)
    model = options.model or settings.get("model_name")
    budget = options.max_prompt_tokens or settings.get("max_prompt_tokens") or DEFAULT_BUDGET
    measure, length = _token_counters(model, settings.get("chat_template_options")) if model else (None, len)
    checker = Checker(
        measure=measure,
        size=length,
        max_prompt_tokens=budget,
        answers=not options.skip_answers,
        overlap=OverlapFinder(options.ngram, options.share or None),
        pairs=PairFinder(options.pairs, _Progress()) if options.pairs else None,
        rewarded="rewards" in settings if configs else None,
    )
    scored: list[tuple[Part, Parse]] = [
        (Part(Source(path=file, columns=options.columns)), scored_row) for file in files if options.likelihood
    ]
    parts = [Part(_source(file, options)) for file in files if not options.likelihood]
    parts += [Part(_source(file, options), split="test") for file in options.test]
    generated: list[tuple[str, str, Sequence[Row]]] = []
    if configs:
        from lit_sdpo.data.check.configured import sources_and_rows  # takes seconds to import, and files need it not

        found, generated, likelihood = sources_and_rows(_contents(configs))
        parts += found
        scored += likelihood
    target = Path(options.write_deduplicated) if options.write_deduplicated else None
    training = [part.source for part in parts if part.split in ("", "train")]
    rewritten = check_target(training, target) if target else None
    with still_at("checking") as heartbeat:
        for part in parts:
            heartbeat.now(f"checking {part.source}")
            checker.read(part)
        for part, parse in scored:
            heartbeat.now(f"checking {part.source}")
            checker.likelihood(part, parse)
        for name, split, rows in generated:
            heartbeat.now(f"checking {name} ({split})")
            checker.rows(name, split, rows)
        heartbeat.now("comparing training rows with evaluated ones")
        report, repeated = checker.finish()
    if rewritten is not None and target is not None:
        written = write(rewritten, target, repeated)
        report.notes.append(f"{target}: {written} entries written, {len(repeated)} left out")
    # JSON keeps every character, as its escape; text is for a terminal.
    print(json.dumps(report.as_dict(), indent=1) if options.json else printable_lines(report.text()))
    return 2 if report.findings else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lit-sdpo data", description="Work with task data.", allow_abbrev=False)
    check = parser.add_subparsers(required=True, metavar="check").add_parser(
        "check",
        allow_abbrev=False,
        help="check rows, answers, lengths and overlap; exit code 0 when nothing is wrong, 2 otherwise",
        description="Checks rows, ids, answers, lengths, and training prompts that are evaluated too."
        " Exit code 0 when nothing is wrong, 2 otherwise.",
    )
    check.add_argument("target", nargs="+", help="a file of rows, or the YAML file of a run with all its tasks")
    check.add_argument("--test", nargs="+", default=[], metavar="FILE", help="files of evaluated rows to compare with")
    check.add_argument("--layout", help="layout of the files; recognised from the columns unless given")
    check.add_argument("--columns", type=_mapping, metavar="YAML", help="such as '{prompt: question, answer: label}'")
    check.add_argument(
        "--likelihood",
        action="store_true",
        help="the files hold rows that are scored by likelihood: question or messages, choices and answer; or text",
    )
    check.add_argument("--prompt", metavar="TEXT", help="how a question is put, with {question} in it")
    check.add_argument("--verifier", metavar="NAME", help="scores all rows of the files")
    check.add_argument(
        "--model", "--tokenizer", metavar="NAME", help="whose tokenizer counts tokens; a folder or Hub name"
    )
    check.add_argument(
        "--max_prompt_tokens",
        "--max-prompt-tokens",
        type=positive,
        metavar="N",
        help="longest prompt (2048, or the configuration's)",
    )
    check.add_argument("--ngram", type=positive, default=8, metavar="N", help="words in an n-gram (8)")
    check.add_argument(
        "--share",
        type=_share,
        default=0.8,
        metavar="S",
        help="share of n-grams from which prompts are alike (0.8); 0: off",
    )
    check.add_argument(
        "--skip_answers", "--skip-answers", action="store_true", help="do not put answers to their verifiers"
    )
    check.add_argument(
        "--pairs",
        type=positive,
        metavar="N",
        help="put up to N pairs of a source's different answers to their verifier, and list those judged equal",
    )
    check.add_argument("--json", action="store_true", help="print everything as JSON")
    check.add_argument(
        "--write_deduplicated",
        "--write-deduplicated",
        metavar="OUT",
        help="write the training file without the rows that are evaluated or alike",
    )
    return parser


def _mapping(text: str) -> dict[str, str]:
    value = yaml.safe_load(text)
    if not isinstance(value, dict) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise argparse.ArgumentTypeError("a mapping of names is needed, such as '{prompt: question, answer: label}'")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError("a number from 0 to 1 is needed")
    return value


class _Progress:
    """Says on standard error how far a long comparison is, every few seconds."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds, self.started = seconds, time.monotonic()
        self.said = self.started

    def __call__(self, done: int, total: int) -> None:
        """Say it, if it is time."""
        now = time.monotonic()
        if now - self.said >= self.seconds:
            self.said = now
            left = (now - self.started) * (total - done) / done
            print(f"{done:,} of {total:,} pairs, about {left:.0f} s left", file=sys.stderr)


def _source(path: str, options: argparse.Namespace) -> Source:
    return Source(
        path=path,
        layout=options.layout,
        columns=options.columns,
        prompt=options.prompt,
        verifier=options.verifier,
    )


def _token_counters(model: str, options: Mapping[str, Any] | None) -> tuple[Measure, Callable[[str], int]]:
    from lit_sdpo.data.check.tokens import token_counters  # Transformers takes seconds to import

    return token_counters(model, options)


def _contents(configs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The files that make up the configuration, in order."""
    if not configs:
        return
    from lit_sdpo.configs import expand  # files of rows need no parser of configurations

    texts = expand([word for config in configs for word in ("--config", config)])
    yield from (yaml.safe_load(text) for text in texts if text != "--config")


def _settings(configs: Sequence[str]) -> dict[str, Any]:
    """What of a configuration decides lengths."""
    found: dict[str, Any] = {}
    for content in _contents(configs):
        for section, keys in (
            ("model", ("model_name", "chat_template_options")),
            ("rollout", ("max_prompt_tokens", "rewards")),
        ):
            given = content.get(section) or {}
            if isinstance(given, dict):
                given = {**given, **(given.get("init_args") or {})}
                found |= {key: given[key] for key in keys if given.get(key) is not None}
    return found
