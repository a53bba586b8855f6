"""Draws a soak: memory, open files, lag and latency over time."""

from __future__ import annotations

from pathlib import Path

from benchmarks.soak.samples import Samples

__all__ = ["draw_soak"]


def draw_soak(path: Path, samples: Samples, *, title: str, warm_up_s: float) -> None:
    """Writes four plots to `path`; a line marks the end of the warm-up."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second to import

    figure = Figure(figsize=(15, 7.5), layout="constrained")
    plots = figure.subplots(2, 2).flatten()
    for axes, name, series in zip(
        plots,
        ("resident memory, MiB", "open files", "records that wait", "event to assignment, ms"),
        (samples.rss_mib, samples.open_files, samples.lag, samples.latency_ms),
        strict=True,
    ):
        for label, points in series.items():
            axes.plot([second / 60 for second, _ in points], [value for _, value in points], label=label, linewidth=1)
        axes.axvline(warm_up_s / 60, color="#7f8c8d", linestyle=":")
        axes.set(title=name, xlabel="minutes")
        axes.set_ylim(bottom=0)
        if series:
            axes.legend(loc="upper left", fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
