"""The roofline picture: the time of the embedding part against the bytes that it must move."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.bench.device.cases import DeviceCase
from trainer.bench.device.tables import ADAPTIVE, HASH

__all__ = ["draw_roofline"]

_COLOURS = {ADAPTIVE: "#1f6feb", HASH: "#9aa5b1"}
_MARKERS = ("o", "s", "^", "D", "v", "P")


def draw_roofline(path: Path, cases: Sequence[DeviceCase], bandwidth: float, title: str) -> None:
    """Draws a point for each case and table, and the line of the memory bandwidth; a panel for each dimension."""
    import matplotlib as mpl  # noqa: PLC0415  `--help` does not need it

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    dims = sorted({case.dim for case in cases})
    sizes = sorted({case.batch_rows for case in cases})
    figure, axes = plt.subplots(1, len(dims), figsize=(5.5 * len(dims), 4.5), layout="constrained", squeeze=False)
    for axis, dim in zip(axes[0], dims, strict=True):
        chosen = [case for case in cases if case.dim == dim]
        for case in chosen:
            marker = _MARKERS[sizes.index(case.batch_rows) % len(_MARKERS)]
            for name, colour in _COLOURS.items():
                axis.plot(case.limit_bytes[name] / 1e6, case.embedding_ms[name], marker, color=colour, alpha=0.8)
        span = [edge(case.limit_bytes[name] for case in chosen for name in _COLOURS) for edge in (min, max)]
        axis.plot([one / 1e6 for one in span], [one / bandwidth * 1e3 for one in span], color="black")
        axis.set(xscale="log", yscale="log", xlabel="bytes to move, MB", ylabel="embedding part, ms", title=f"D {dim}")
    for name, colour in _COLOURS.items():
        axes[0][0].plot([], [], "o", color=colour, label=name)
    for rows, marker in zip(sizes, _MARKERS, strict=False):
        axes[0][0].plot([], [], marker, color="grey", label=f"batch {rows:,}")
    axes[0][0].plot([], [], color="black", label=f"{bandwidth / 1e12:.2f} TB/s")
    axes[0][0].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
