"""A study as one HTML page that needs no other file and no network, and the files of its figures."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath

from lit_sdpo.errors import UserError
from lit_sdpo.report.charts.chart import Chart, Missing, theme_css
from lit_sdpo.report.charts.gallery import gallery, matrix_gallery
from lit_sdpo.report.charts.phases import phases
from lit_sdpo.report.claims import ClaimResult, PhaseMap, check_claims, phase_map
from lit_sdpo.report.comparisons import Comparison, Draws, Effect, compare, levels
from lit_sdpo.report.curve_table import inside_stages
from lit_sdpo.report.equal_success import EqualSuccess, all_at_equal_success
from lit_sdpo.report.html import Markup, anchor, element, join, text
from lit_sdpo.report.sections import (
    claims_table,
    comparisons,
    equal_success,
    figure,
    left_out,
    what_was_run,
)
from lit_sdpo.report.study import Study
from lit_sdpo.report.table_files import tables

PAGE = "index.html"
#: Names the files of a report; a folder that has it is a report.
MANIFEST = "report.json"
#: Closed parts are printed as well.
SCRIPT = "addEventListener('beforeprint',()=>document.querySelectorAll('details').forEach(d=>d.open=true))"


@dataclass(frozen=True)
class Findings:
    """Everything that a report shows of a study.

    Attributes:
        study: The runs.
        claims: What they say about the paper's claims.
        levels: Every measure of every method.
        comparisons: All pairs of methods.
        phase: Where the claims hold.
        equal_success: Pairs of methods where they have learned alike.
        figures: Figures, or what they would need.
        matrices: The scores after every stage.
    """

    study: Study
    claims: Sequence[ClaimResult]
    levels: Mapping[str, Mapping[str, Effect]]
    comparisons: Sequence[Comparison]
    phase: PhaseMap
    equal_success: Sequence[EqualSuccess]
    figures: Sequence[Chart | Missing]
    matrices: Sequence[Chart | Missing]

    @property
    def charts(self) -> list[Chart]:
        """All figures that were drawn."""
        return [chart for chart in (*self.figures, *self.matrices) if isinstance(chart, Chart)]


def investigate(study: Study, roles: Mapping[str, str] | None = None) -> Findings:
    """Judge the claims, compare the methods and draw the figures.

    Args:
        study: The runs.
        roles: Role in the claims to the method that plays it (:func:`~lit_sdpo.report.claims.check_claims`).
    """
    draws = Draws()
    phase = phase_map(study, draws=draws)
    return Findings(
        study=study,
        claims=check_claims(study, roles, draws),
        levels=levels(study, draws=draws),
        comparisons=compare(study, draws=draws) if len(study.methods) > 1 else [],
        phase=phase,
        equal_success=all_at_equal_success(study),
        figures=[*gallery(study), phases(phase)],
        matrices=matrix_gallery(study),
    )


def page(findings: Findings) -> str:
    """The whole page; the same findings give the same text."""
    study = findings.study
    order = ("What was run", "Claims", "Comparisons", "Inside stages", "Figures", "Matrices", "Left-out runs")
    bodies = (
        what_was_run(study),
        claims_table(findings.claims),
        _comparisons(findings),
        inside_stages(study),
        join(map(figure, findings.figures)),
        join(map(figure, findings.matrices)),
        left_out(study),
    )
    counts = [(len(study.all_runs), "run"), (len(study.methods), "method"), (len(study.seeds), "seed")]
    total = ", ".join(f"{n} {name}{'s' * (n != 1)}" for n, name in counts)
    if study.left_out:
        total += f"; {len(study.left_out)} left out"
    sections = [
        element("section", element("h2", title), body, id=anchor(title))
        for title, body in zip(order, bodies, strict=True)
    ]
    head = element(
        "header", element("div", element("h1", "Report of a study"), element("p", f"{total}.", class_="quiet"))
    )
    links = join(element("a", title, href=f"#{anchor(title)}") for title in order)
    footer = element(
        "footer",
        "Figures of methods keep their colour, marker and dash throughout. The paper is arXiv 2607.01763, "
        "“Denser ≠ Better”. Numbers of every figure and table lie beside this page as CSV.",
        class_="quiet",
    )
    body = join([head, element("nav", element("div", links)), element("main", *sections), footer], "\n")
    return _document(body)


def _comparisons(findings: Findings) -> Markup:
    body = comparisons(findings.levels, findings.comparisons, findings.study.methods)
    return join([body, equal_success(findings.equal_success)]) if findings.equal_success else body


def _document(body: Markup) -> str:
    css = (files("lit_sdpo") / "assets" / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # Nothing may be loaded from anywhere, whatever a run's text says.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>Report of a study</title><style>{theme_css()}\n{css}</style></head>",
            f"<body>{body}<script>{SCRIPT}</script></body></html>",
            "",
        ]
    )


def check_target(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder in which a report would mix with other files.

    Raises:
        UserError: It is a file, or holds something that is no report and must not be overwritten, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError("there is a file of this name", where=str(folder), fix="give a folder with -o")
    if folder.is_dir() and not overwrite and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        fix = "give another folder, or --overwrite to write into it (nothing in it is deleted)"
        raise UserError("the folder is not empty and holds no report", where=str(folder), fix=fix)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the folder cannot be written: {error.strerror or error}", where=str(folder), fix="give another with -o"
        ) from error


def write(findings: Findings, folder: Path) -> Path:
    """Write page, figures and tables; the files of an earlier report in the folder are replaced.

    Args:
        findings: What is shown.
        folder: Where to; see :func:`check_target`.

    Returns:
        The page's path.
    """
    _remove_earlier(folder)
    contents: dict[str, str | bytes] = {PAGE: page(findings)}
    for chart in findings.charts:
        contents[f"figures/{chart.name}.svg"] = chart.standalone_svg()
        contents[f"figures/{chart.name}.png"] = chart.png()
        contents[f"figures/{chart.name}.csv"] = chart.table.csv()
    numbers = tables(
        findings.study,
        findings.claims,
        findings.levels,
        findings.comparisons,
        findings.phase,
        findings.equal_success,
    )
    contents |= {f"tables/{name}": content for name, content in numbers.items()}
    contents[MANIFEST] = json.dumps({"files": sorted(contents)}, indent=1) + "\n"
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return folder / PAGE


def _remove_earlier(folder: Path) -> None:
    """Remove what an earlier report wrote, and nothing else."""
    try:
        names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in names:
        path = PurePosixPath(str(name))
        if not path.is_absolute() and ".." not in path.parts and (folder / path).is_file():
            (folder / path).unlink()
