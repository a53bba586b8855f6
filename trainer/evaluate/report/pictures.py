"""Plots of a finished grid: AUC against the ratio, log loss over the rows, and recovery after a rotation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.evaluate.cell import CellResult
from trainer.evaluate.recovery import Recovery
from trainer.evaluate.report.tables import Summary

__all__ = ["draw_auc", "draw_curves", "draw_recovery"]


def _figure() -> tuple[Any, Any]:
    from matplotlib import colormaps  # noqa: PLC0415 - takes half a second to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=colormaps["tab20"](range(20)))  # a colour for each of 13 methods
    return figure, axes


def draw_auc(summaries: Sequence[Summary], model: str, path: Path) -> None:
    """Plots the AUC of every method against the ratio, with standard errors, and that of the full table as a line."""
    figure, axes = _figure()
    feasible = [one for one in summaries if one.model == model and "auc" in one.mean]
    for method in dict.fromkeys(one.method for one in feasible):
        points = [one for one in feasible if one.method == method]
        if points[0].compression == 1:
            axes.axhline(points[0].mean["auc"], color="black", linestyle="--", label=method)
            continue
        points.sort(key=lambda one: one.compression)
        ratios, means, errors = zip(
            *((one.compression, one.mean["auc"], one.error["auc"]) for one in points), strict=True
        )
        width = 2.5 if method.startswith("hotstream") else 1.0
        axes.errorbar(ratios, means, yerr=errors, marker="o", capsize=3, linewidth=width, label=method)
    axes.set(xscale="log", xlabel="compression (all bytes)", ylabel="prequential AUC", title=model)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def draw_curves(cells: Sequence[CellResult], model: str, compression: float, path: Path) -> None:
    """Plots the log loss of each window of rows for every method at one ratio, for the first seed."""
    figure, axes = _figure()
    drawn = set()
    for cell in cells:
        if cell["model"] != model or cell["compression"] not in (1, compression) or "infeasible" in cell:
            continue
        if cell["method"] not in drawn:
            drawn.add(cell["method"])
            rows, losses = [point[0] for point in cell["curve"]], [point[1] for point in cell["curve"]]
            style = {"color": "black", "linestyle": "--"} if cell["compression"] == 1 else {}
            axes.plot(rows, losses, label=cell["method"], **style)
    axes.set(xlabel="rows", ylabel="log loss of the window", title=f"{model}, {compression:g}x")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def draw_recovery(found: Sequence[Recovery], model: str, path: Path) -> None:
    """Plots the relative increase of the loss over the undisturbed run, in percent."""
    figure, axes = _figure()
    for one in found:
        if one.model == model:
            style = {"color": "black", "linestyle": "--"} if one.compression == 1 else {}
            name = one.method if one.compression == 1 else f"{one.method} {one.compression:g}x"
            axes.plot(one.rows, [100 * excess for excess in one.excess], label=name, **style)
            axes.axvline(one.rotate_at, color="grey", linewidth=0.8)
    axes.axhline(1, color="grey", linestyle=":")
    axes.set(xlabel="rows", ylabel="log loss over the undisturbed run's, %", title=f"{model}: half the lookups rotate")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
