"""Writes the results of a grid: `OUT/table.md` and the plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.evaluate.anchor import Anchor, find_too_short
from trainer.evaluate.grid import Grid, GridConfig
from trainer.evaluate.recovery import Recovery, recovery_table
from trainer.evaluate.report.pictures import draw_auc, draw_curves, draw_recovery
from trainer.evaluate.report.tables import markdown, summarise

__all__ = ["write_recovery", "write_results"]


def write_results(grid: Grid, config: GridConfig, out: Path, *, anchor: Anchor | None = None) -> str:
    """Writes the tables and the plots to `out`; returns the Markdown of the tables.

    Args:
        grid: the results.
        config: the grid.
        out: the folder.
        anchor: the regression on the same rows; on a log that is too short the tables compare nothing.
    """
    summaries = summarise(grid.cells)
    text = markdown(summaries, anchor=anchor, too_short=find_too_short(grid.cells, anchor))
    if options := config.feeding.settings:
        settings = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in options.items())
        text = f"`--schedule {config.feeding.name} {settings}`\n\n{text}"
    (out / "table.md").write_text(text)
    for model in config.models:
        if any("auc" in one.mean for one in summaries if one.model == model):
            draw_auc(summaries, model, out / f"auc-{model}.png")
            for compression in config.compressions:
                draw_curves(grid.cells, model, compression, out / f"loss-{model}-{compression:g}x.png")
    return text


def write_recovery(found: Sequence[Recovery], out: Path) -> str:
    """Writes the table of the recoveries and a plot for each model to `out`; returns the Markdown of the table."""
    text = recovery_table(found)
    (out / "recovery.md").write_text(text)
    for model in dict.fromkeys(one.model for one in found):
        draw_recovery(found, model, out / f"recovery-{model}.png")
    return text
