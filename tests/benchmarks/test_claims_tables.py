from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.claims_tables import PAGE, filled
from lit_sdpo.main import main

KEPT = Path(__file__).parents[2] / "docs" / "data" / "claims.tar.xz"


@pytest.mark.slow
def test_the_page_has_the_tables_of_the_kept_files(tmp_path):
    assert main(["report", str(KEPT), "-o", str(tmp_path / "out")]) == 0
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, tmp_path / "out" / "tables") == page
    torn = page.replace("**replicates**", "**undecided**", 1)
    assert filled(torn, tmp_path / "out" / "tables") == page
