"""A study as one HTML page that needs no other file and no network, and the files of its figures."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path, PurePosixPath

from lit_sdpo.errors import UserError
from lit_sdpo.report.charts.chart import theme_css
from lit_sdpo.report.curve_table import inside_stages
from lit_sdpo.report.findings import Findings
from lit_sdpo.report.html import Markup, anchor, element, join, text
from lit_sdpo.report.sections import claims_table, figures, left_out, what_was_run
from lit_sdpo.report.stream_sections import in_short, stream_comparisons
from lit_sdpo.report.table_files import tables

PAGE = "index.html"
#: Names the files of a report; a folder that has it is a report.
MANIFEST = "report.json"
#: Closed parts are printed as well.
SCRIPT = "addEventListener('beforeprint',()=>document.querySelectorAll('details').forEach(d=>d.open=true))"


def page(findings: Findings) -> str:
    """The whole page; the same findings give the same text."""
    study = findings.study
    parts = {
        "In short": join(map(in_short, findings.streams)),
        "What was run": what_was_run(study),
        "Claims": claims_table(findings.claims),
        "Comparisons": join(map(stream_comparisons, findings.streams)),
        "Inside stages": inside_stages(study),
        "Figures": figures(findings.figures),
        "Left-out runs": left_out(study),
    }
    counts = [(len(study.all_runs), "run"), (len(study.methods), "method"), (len(study.seeds), "seed")]
    total = ", ".join(f"{n} {name}{'s' * (n != 1)}" for n, name in counts)
    if study.left_out:
        total += f"; {len(study.left_out)} left out"
    sections = [element("section", element("h2", title), body, id=anchor(title)) for title, body in parts.items()]
    head = element(
        "header", element("div", element("h1", "Report of a study"), element("p", f"{total}.", class_="quiet"))
    )
    links = join(element("a", title, href=f"#{anchor(title)}") for title in parts)
    footer = element(
        "footer",
        "Figures of methods keep their colour, marker and dash throughout. The paper is arXiv 2607.01763, "
        "“Denser ≠ Better”. Numbers of every figure and table lie beside this page as CSV.",
        class_="quiet",
    )
    body = join([head, element("nav", element("div", links)), element("main", *sections), footer], "\n")
    return _document(body)


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
    contents |= {f"tables/{name}": content for name, content in tables(findings).items()}
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
