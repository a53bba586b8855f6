"""Draws the skew of a log: the share of the lookups up to each rank, with the capacity of each ratio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.advise.profile import LogProfile
from trainer.advise.sizing import Size

__all__ = ["draw_skew"]

_MOST_POINTS = 400


def draw_skew(path: Path, profile: LogProfile, sizes: Sequence[Size]) -> None:
    """Writes two plots to `path`: lookups by rank with the capacities, and the distinct values of each field."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second to import

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    skew, fields = figure.subplots(1, 2)
    shares = 100 * np.cumsum(profile.counts) / profile.counts.sum()
    ranks = np.unique(np.geomspace(1, len(shares), _MOST_POINTS).astype(np.int64))
    skew.plot(ranks, shares[ranks - 1], color="#c0392b")
    for size in sizes:
        if size.infeasible is None:
            rank = min(size.unique_rows, len(shares))
            skew.axvline(rank, color="#7f8c8d", linestyle=":")
            skew.annotate(f"{size.compression:g}x", (rank, 2), rotation=90, ha="right", fontsize="small")
    skew.set(xscale="log", ylim=(0, 102), xlabel="rank of the feature", ylabel="share of the lookups up to it, %")
    skew.set_title(f"{profile.rows:,} rows, {profile.features:,} features; dotted: unique rows of each ratio")
    columns = sorted(profile.fields, key=lambda one: -one.features)[:40]
    fields.bar([one.name for one in columns], [one.features for one in columns], color="#2e4053")
    fields.set(yscale="log", ylabel="distinct values", title="Fields" if len(columns) < 40 else "The 40 largest fields")
    fields.tick_params(axis="x", rotation=90)
    for axes in (skew, fields):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
