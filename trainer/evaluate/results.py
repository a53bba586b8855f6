"""Writes what a grid came to: `OUT/table.md` and the pictures."""

from __future__ import annotations

from pathlib import Path

from trainer.evaluate.grid import Grid, GridConfig
from trainer.evaluate.pictures import draw_auc, draw_curves
from trainer.evaluate.tables import markdown, summarise

__all__ = ["write_results"]


def write_results(grid: Grid, config: GridConfig, out: Path) -> str:
    """The Markdown of all tables, also written to `out` beside the pictures."""
    summaries = summarise(grid.cells)
    text = markdown(summaries)
    (out / "table.md").write_text(text)
    for model in config.models:
        if any("auc" in one.mean for one in summaries if one.model == model):
            draw_auc(summaries, model, out / f"auc-{model}.png")
            for compression in config.compressions:
                draw_curves(grid.cells, model, compression, out / f"loss-{model}-{compression:g}x.png")
    return text
