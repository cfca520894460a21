"""Pages that name files and names in them: both have to be there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
STOPS = re.findall(r"^\| \d+ \| `(\S+)` \| `(\S+)` \|", (ROOT / "docs" / "reading.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.stem)
def test_files_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w./<-])((?:lit_sdpo|tests|configs|benchmarks|notebooks|docs)/[\w./-]*[\w/])", text)
    assert [name for name in dict.fromkeys(named) if not (ROOT / name).exists()] == []
    linked = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    assert [name for name in dict.fromkeys(linked) if not (page.parent / name).exists()] == []


@pytest.mark.parametrize(("path", "name"), STOPS, ids=[name for _, name in STOPS])
def test_stops_of_the_reading_are_in_their_files(path, name):
    nodes = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for part in name.split("."):
        (found,) = [n for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == part]
        nodes = found.body


def test_the_reading_has_its_stops():
    assert len(STOPS) == 14
