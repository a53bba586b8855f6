"""Draws `report.png`, the plots of the demo's report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streams.telemetry.observer import Observer

__all__ = ["draw_report"]

_COLOURS = {"adaptive": "#c0392b", "hash": "#7f8c8d"}


def draw_report(path: Path, observer: Observer, report: dict[str, Any]) -> None:
    """Writes three plots to `path`: AUC over rows, the hot set and its changes over time, and latencies."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second to import
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415

    figure = Figure(figsize=(15, 4.2), layout="constrained")
    quality, hot_set, latency = figure.subplots(1, 3)

    for name, colour in _COLOURS.items():
        points = [(rows, auc[name]) for rows, auc in observer.auc_history if auc.get(name) is not None]
        if points:
            label = f"{name}: {report['auc'][name]:.4f} with {report['embedding_bytes'][name] / 1e6:.2f} MB"
            quality.plot(*zip(*points, strict=True), color=colour, label=label)
            quality.legend(loc="lower right")
    quality.xaxis.set_major_formatter(EngFormatter(sep=""))
    quality.set(title="AUC, each row predicted before training on it", xlabel="rows trained", ylabel="AUC")

    seconds, hot, promotions, demotions = zip(*observer.history, strict=True)
    hot_set.fill_between(seconds, hot, color="#f5b7b1", label="hot features")
    hot_set.axhline(report["hot"]["capacity"], color="#c0392b", linestyle=":", label="capacity")
    hot_set.plot(seconds, promotions, color="#1e8449", label="promotions, total")
    hot_set.plot(seconds, demotions, color="#1f618d", label="demotions, total")
    hot_set.set(title="Hot set and churn", xlabel="seconds", ylabel="features")
    hot_set.legend(loc="center right")

    names = ["event to assignment", "assignment to trainer"]
    latencies_ms = [report["latency_ms"][name.replace(" ", "_")] for name in names]
    for offset, quantile, colour in ((-0.2, "p50", "#85929e"), (0.2, "p99", "#2e4053")):
        widths = [quantiles_ms[quantile] or 0 for quantiles_ms in latencies_ms]
        bars = latency.barh([row + offset for row in range(len(names))], widths, 0.38, color=colour, label=quantile)
        latency.bar_label(bars, fmt="%.0f ms", padding=3)
    latency.set_yticks(range(len(names)), [names[0], f"{names[1]}\n(all parts)"])
    latency.set(title="Latency", xlabel="ms")
    latency.margins(x=0.2)
    latency.legend(loc="lower right")

    for axes in (quality, hot_set, latency):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
