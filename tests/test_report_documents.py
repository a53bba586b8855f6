"""The documents' figures come from the result files, and the committed documents are filled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.evaluate.report.documents import FiguresError, fill, main, render_all

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def results(tmp_path: Path) -> Path:
    def made(method: str, compression: float, auc: float, seed: int) -> dict[str, object]:
        identity = {"method": method, "model": "dlrm", "compression": compression, "seed": seed, "knobs": {}}
        return {**identity, "auc": auc, "curve": [[8, 0.5, auc]]}

    cells = [made("full", 1.0, 0.8, 0), made("cafe", 10.0, 0.7, 0), made("hotstream", 10.0, 0.78, 0)]
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "evaluate-small.json").write_text(json.dumps({"cells": cells}))
    return folder


def test_the_committed_documents_show_what_the_result_files_contain() -> None:
    outdated = [str(path.relative_to(ROOT)) for path, text in render_all(ROOT).items() if path.read_text() != text]
    assert outdated == [], "run `make figures` and commit what it writes"


def test_a_region_is_filled_from_its_file_and_the_text_around_it_stays(results: Path) -> None:
    text = "before\n<!-- figures: evaluate-small closed -->\nold\n<!-- /figures -->\nafter\n"
    filled = fill(text, results)
    assert filled.startswith(
        "before\n<!-- figures: evaluate-small closed -->\n| dlrm: share closed | 10x |\n|---|---|\n"
    )
    assert filled.endswith("\n| hotstream of (full - cafe) | 80 % |\n<!-- /figures -->\nafter\n")
    assert fill(filled, results) == filled


def test_a_region_on_one_line_is_filled_on_that_line(results: Path) -> None:
    (results / "sketch.json").write_text(json.dumps({"machine": {"cpu": "Z80", "cores": 1, "memory_bytes": 2**30}}))
    filled = fill("on <!-- figures: sketch machine --><!-- /figures --> only", results)
    assert filled == "on <!-- figures: sketch machine -->Z80, 1 cores, 1 GiB<!-- /figures --> only"


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("<!-- figures: evaluate-none auc --><!-- /figures -->", "evaluate-none: no file .*evaluate-none.json"),
        ("<!-- figures: evaluate-small curves --><!-- /figures -->", "curves: expected a kind out of auc, "),
        ("<!-- figures: evaluate-small trainer-cost --><!-- /figures -->", "evaluate-small.json has no 'cases'"),
        ("<!-- figures: evaluate-small recovery --><!-- /figures -->", "evaluate-small.json has no such figure"),
        ("<!-- figures: evaluate-small auc -->", "got 1 openings and 0 regions"),
        ("<!-- figures: evaluate-small -->\n<!-- /figures -->", "got 1 openings and 0 regions"),
    ],
)
def test_a_region_that_cannot_be_filled_is_an_error_that_names_it(region: str, message: str, results: Path) -> None:
    with pytest.raises(FiguresError, match=message):
        fill(region, results)


def test_the_command_fills_documents_and_writes_the_tables_beside_the_results(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    for document in (tmp_path / "README.md", tmp_path / "docs" / "page.md"):
        document.write_text("<!-- figures: evaluate-small auc -->\n<!-- /figures -->\n")
    monkeypatch.chdir(tmp_path)
    main()
    assert "| cafe | 0.7000 |" in (tmp_path / "docs" / "page.md").read_text()
    assert "| hotstream of (full - cafe) | 80 % |" in (results / "evaluate-small.md").read_text()
    assert all(path.read_text() == text for path, text in render_all(tmp_path).items())
    (tmp_path / "docs" / "page.md").write_text("<!-- figures: evaluate-none auc -->\n<!-- /figures -->\n")
    with pytest.raises(FiguresError, match=r"^docs/page\.md: figures: evaluate-none"):
        main()
