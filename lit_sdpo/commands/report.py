"""``lit-sdpo report``: the runs of a study as one page with figures, tables and the paper's claims."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lit_sdpo.errors import UserError

if TYPE_CHECKING:
    from lit_sdpo.report.claims import ClaimResult


def main(arguments: Sequence[str]) -> int:
    """Run ``lit-sdpo report RUNS... -o FOLDER``.

    Args:
        arguments: Those after ``report``.

    Returns:
        0.

    Raises:
        UserError: There are no runs, or the report cannot be written where it should.
    """
    options = _parser().parse_args(arguments)
    # Imported here: a mistake in the arguments is told without waiting for them.
    from lit_sdpo.report.archive import is_archive, pack, unpack
    from lit_sdpo.report.findings import investigate
    from lit_sdpo.report.page import check_target, write
    from lit_sdpo.report.study import Study
    from lit_sdpo.report.verdict import verdict

    for given in options.runs:
        if Path(given).is_file() and not is_archive(given):
            fix = f"give its folder, {Path(given).parent}" if Path(given).parent.name else "give the folder of a run"
            raise UserError("this is a file, and a folder is needed", where=given, fix=fix)
    target = Path(options.output)
    check_target(target, overwrite=options.overwrite)
    with TemporaryDirectory() as unpacked:
        archives = {Path(unpacked, str(n)): given for n, given in enumerate(options.runs) if is_archive(given)}
        for folder, given in archives.items():
            unpack(Path(given), folder)
        study = Study.read([*(given for given in options.runs if not is_archive(given)), *archives], archives)
        roles = _roles(options.role, study.methods)
        if options.keep is not None:
            pack(study.all_runs, Path(options.keep))
        findings = investigate(study, roles)
        path = write(findings, target)
    print_verdicts(findings.claims)
    for found in findings.streams:
        print("\n".join(filter(None, [found.stream.heading, *verdict(found)])))
    drawn, wanted = len(findings.charts), len(findings.figures) + len(findings.streams)
    print(f"{len(study.all_runs)} runs of {len(study.methods)} methods, {len(study.left_out)} left out")
    print(f"{drawn} of {wanted} figures; the page says what the others need")
    print(path)
    return 0


def print_verdicts(results: Sequence[ClaimResult]) -> None:
    """Print the claims that the runs can test, with what was measured and the verdict."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lit_sdpo.report.claims.table import NOT_TESTED
    from lit_sdpo.report.table_files import measured

    tested = [result for result in results if result.verdict != NOT_TESTED]
    table = Table("claim", "setting", "here (95 % interval)", "verdict", show_lines=True)
    for result in tested:
        claim = f"{result.claim.id}. {result.claim.sentence}"
        table.add_row(*map(Text, (claim, result.setting, "\n".join(measured(result)), result.verdict)))
    if tested:
        Console().print(table)
    names = dict.fromkeys(result.claim.id for result in results)
    if left := [name for name in names if name not in {result.claim.id for result in tested}]:
        print(f"not tested by these runs: {', '.join(left)}")


def _roles(given: Sequence[str], methods: Sequence[str]) -> Mapping[str, str]:
    roles = {}
    for pair in given:
        role, equals, method = pair.partition("=")
        if not equals or method not in methods:
            fix = f"write ROLE=METHOD with one of the methods {', '.join(methods)}"
            raise UserError(f"{pair!r} names no method", where="--role", fix=fix)
        roles[role] = method
    return roles


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lit-sdpo report",
        description="Compare runs: one HTML page with claims, comparisons and figures, and all numbers as CSV.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of runs, folders above them, or archives")
    parser.add_argument("-o", "--output", default="report", metavar="FOLDER", help="where to write (report)")
    parser.add_argument(
        "--overwrite", action="store_true", help="write into a folder that holds other files; none of them is deleted"
    )
    parser.add_argument(
        "--keep",
        metavar="FILE.tar.xz",
        help="also write the runs' small files into an archive, from which the report can be made again",
    )
    parser.add_argument(
        "--role",
        action="append",
        default=[],
        metavar="ROLE=METHOD",
        help="which method plays a role in the claims, such as sdpo=my_sdpo; may be repeated",
    )
    return parser
