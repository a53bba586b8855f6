"""Fills the documents' figures from the result files, so that the two cannot drift apart.

A document marks a region with the name of a file in `benchmarks/results` and a kind of figure (`figures.py`):

    <!-- figures: evaluate-reference auc -->
    (a table)
    <!-- /figures -->

A region on one line is filled on that line. `python -m trainer.evaluate.report.documents` writes the regions of
README.md and docs/*.md, the tables `evaluate-*.md` beside the result files, the figures of `hotstream advise`, and the
pictures; run it in the root of the repository. A test fails if a document differs from its files.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError
from trainer.evaluate.report.advice import render_measured
from trainer.evaluate.report.figures import KINDS, all_tables, read_recoveries
from trainer.evaluate.report.pictures import draw_auc, draw_curves, draw_recovery
from trainer.evaluate.report.tables import summarise

__all__ = ["FiguresError", "draw_pictures", "fill", "main", "render_all"]

_RESULTS = Path("benchmarks") / "results"
_ADVICE = Path("trainer") / "advise" / "measured.json"
_WIDTH = 125  # characters of a line of text
_OPENING = "<!-- figures:"
_REGION = re.compile(r"(<!-- figures: ([\w-]+) ([\w-]+) -->)(.*?)(<!-- /figures -->)", re.DOTALL)


class FiguresError(TrainerError, ValueError):
    """A region that names no result file or no kind of figure, or whose file lacks the figure."""


def _load(results: Path, name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    except FileNotFoundError:
        raise FiguresError(
            f"figures: {name}: no file {results / name}.json; write it with --json, or delete the region"
        ) from None
    return content


def _figure(results: Path, name: str, kind: str) -> str:
    if kind not in KINDS:
        raise FiguresError(f"figures: {name} {kind}: expected a kind out of {', '.join(KINDS)}")
    try:
        text = KINDS[kind](_load(results, name)).strip()
    except KeyError as missing:
        raise FiguresError(f"figures: {name} {kind}: {name}.json has no {missing}; is it of another command?") from None
    if not text:
        raise FiguresError(f"figures: {name} {kind}: {name}.json has no such figure")
    return text


def fill(text: str, results: Path) -> str:
    """Returns the document with all its regions filled.

    Args:
        text: the document.
        results: the folder of the result files.

    Raises:
        FiguresError: a region is malformed, or its file or figure is missing.
    """

    def filled(region: re.Match[str]) -> str:
        opening, name, kind, content, closing = region.groups()
        figure = _figure(results, name, kind)
        if "\n" not in content:
            return f"{opening}{figure}{closing}"
        if "\n" not in figure:
            figure = textwrap.fill(figure, _WIDTH, break_long_words=False, break_on_hyphens=False)
        return f"{opening}\n{figure}\n{closing}"

    if (num_regions := len(_REGION.findall(text))) != (num_openings := text.count(_OPENING)):
        raise FiguresError(f"figures: got {num_openings} openings and {num_regions} regions '{_OPENING} FILE KIND -->'")
    return _REGION.sub(filled, text)


def render_all(root: Path) -> dict[Path, str]:
    """Returns the text of each document with figures and of each file of tables, by path.

    Raises:
        FiguresError: a region cannot be filled; the message names the document.
    """
    rendered = {
        path.with_suffix(".md"): all_tables(json.loads(path.read_text()))
        for path in sorted((root / _RESULTS).glob("evaluate-*.json"))
    }
    if (advice := root / _ADVICE).exists():
        rendered[advice] = render_measured(root / _RESULTS)
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = path.read_text()
        try:
            rendered[path] = fill(text, root / _RESULTS)
        except FiguresError as error:
            raise FiguresError(f"{path.relative_to(root)}: {error}") from None
    return rendered


def draw_pictures(results: Path) -> None:
    """Draws the pictures of the comparisons: AUC and loss over the ratios, and recovery after a rotation."""
    for path in sorted(results.glob("evaluate-*.json")):
        content = json.loads(path.read_text())
        if recoveries := read_recoveries(content):
            draw_recovery(recoveries, recoveries[0].model, path.with_suffix(".png"))
        elif path.stem == "evaluate-reference":
            draw_auc(summarise(content["cells"]), "dlrm", results / f"{path.stem}-auc.png")
            draw_curves(content["cells"], "dlrm", 1000, results / f"{path.stem}-loss-1000x.png")


def main() -> None:
    """Writes documents, tables and pictures below the current folder."""
    for path, text in render_all(Path()).items():
        path.write_text(text)
    draw_pictures(_RESULTS)


if __name__ == "__main__":
    main()
