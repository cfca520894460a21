"""``lit-sdpo plan``: what a run would do and need, before anything is loaded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from lit_sdpo.errors import UserError
from lit_sdpo.heartbeat import still_at
from lit_sdpo.text import printable_lines


def main(arguments: Sequence[str]) -> int:
    """Run ``lit-sdpo plan``.

    Args:
        arguments: Those after ``plan``.

    Returns:
        0.

    Raises:
        UserError: A mistake in the configuration, or something that cannot be known here.
    """
    files = [argument for argument in _leading(arguments)]
    options, settings = _parser().parse_known_args(list(arguments[len(files) :]))
    if not files and "--config" not in settings:
        raise UserError("no configuration given", fix="lit-sdpo plan CONFIG.yaml")
    with still_at("counting what the run will do and need", seconds=5.0):
        from lit_sdpo.planning.plan import Speed, plan  # torch and Lightning take seconds to import
        from lit_sdpo.planning.table import text

        found = plan(
            [*(word for file in files for word in ("--config", file)), *settings],
            architecture=options.architecture,
            rows=dict(options.rows),
            tokens_per_completion=options.tokens_per_completion,
            speed=Speed(options.decode_tokens_per_second, options.update_tokens_per_second),
        )
    print(json.dumps(found.as_dict(), indent=1) if options.json else printable_lines(text(found)))
    return 0


def _leading(arguments: Sequence[str]) -> list[str]:
    """The files in front; what follows the first option may be an option's value."""
    first = next((n for n, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    return list(arguments[:first])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lit-sdpo plan",
        usage="lit-sdpo plan CONFIG [CONFIG ...] [--KEY VALUE ...] [options]",
        description="Say what a run would do and need: steps, prompts, tokens, evaluations, memory of a device, disk,"
        " time. Nothing is loaded or run. Keys are those of fit, such as --trainer.devices 8.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--architecture",
        metavar="FOLDER",
        help="holds the model's config.json; else that of model_name: in its folder, beside the configuration, on the"
        " Hub",
    )
    parser.add_argument(
        "--rows",
        type=_rows,
        action="append",
        default=[],
        metavar="TASK=N",
        help="evaluated rows of a task whose data are not on this machine",
    )
    parser.add_argument(
        "--tokens_per_completion",
        "--tokens-per-completion",
        type=_number,
        metavar="N",
        help="expected length; without, everything is counted at its longest",
    )
    for part, about in (("decode", "generates"), ("update", "trains on")):
        parser.add_argument(
            f"--{part}_tokens_per_second",
            f"--{part}-tokens-per-second",
            type=_number,
            metavar="N",
            help=f"completion tokens that one device {about}, as measured",
        )
    parser.add_argument("--json", action="store_true", help="print everything as JSON, sizes in bytes")
    return parser


def _rows(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not name or not count.isdecimal() or int(count) < 1:
        raise argparse.ArgumentTypeError("a task and a whole number from 1 on are needed, such as math=60")
    return name, int(count)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("a number above 0 is needed")
    return value
