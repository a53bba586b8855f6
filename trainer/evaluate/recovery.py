"""After an abrupt rotation: how soon each method's loss is back where it would have been without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.evaluate.cell import Measured
from trainer.evaluate.grid import GridConfig, run_cells
from trainer.evaluate.sources.stream import GeneratorSource

__all__ = ["Recovery", "recoveries", "recovery_table", "run_undisturbed"]

_NEAR = 0.01
_TOGETHER = 3  # windows that are averaged: the loss of one alone is not known to 1 %


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """One method at one ratio, mean over the seeds.

    Attributes:
        method: by name.
        model: likewise.
        compression: ratio.
        rows: the last row of each window.
        disturbed: log loss of each window.
        undisturbed: the same on the stream without a rotation.
        rotate_at: the rotation's row.
    """

    method: str
    model: str
    compression: float
    rows: tuple[int, ...]
    disturbed: tuple[float, ...]
    undisturbed: tuple[float, ...]
    rotate_at: int

    @property
    def excess(self) -> tuple[float, ...]:
        """The loss over the undisturbed one's, less one, of each window."""
        return tuple(one / other - 1 for one, other in zip(self.disturbed, self.undisturbed, strict=True))

    @property
    def rows_until_near(self) -> int | None:
        """Rows from the rotation to the first three windows that together are within 1 %; None: not in this run."""
        start = next(place for place, row in enumerate(self.rows) if row > self.rotate_at)
        excess = self.excess
        for place in range(start, len(excess) - _TOGETHER + 1):
            if sum(excess[place : place + _TOGETHER]) <= _NEAR * _TOGETHER:
                before = self.rows[place - 1] if place else 0
                return max(0, before - self.rotate_at)
        return None

    @property
    def lost(self) -> float:
        """The sum over all rows after the rotation of the loss over the undisturbed one's."""
        widths = [row - before for before, row in zip((0, *self.rows), self.rows, strict=False)]
        parts = zip(self.rows, widths, self.disturbed, self.undisturbed, strict=True)
        return sum(width * (one - other) for row, width, one, other in parts if row > self.rotate_at)


def run_undisturbed(
    config: GridConfig,
    cells: Sequence[Measured],
    out: Path,
    *,
    jobs: int = 1,
    on_cell: Callable[[Measured, int, int], Any] | None = None,
) -> list[Measured]:
    """The same cells, with the same settings, on the stream without a rotation."""
    assert isinstance(config.source, GeneratorSource)  # noqa: S101  nothing else rotates
    calm = replace(config, source=replace(config.source, rotate_at=None))
    wanted = [
        calm.cell((cell["method"], cell["model"], cell["compression"]), cell["seed"], cell["knobs"]) for cell in cells
    ]
    found: dict[str, Measured] = {}
    for done, (cell, measured) in enumerate(run_cells(wanted, out, jobs), 1):
        found[cell.name] = measured
        if on_cell:
            on_cell(measured, done, len(wanted))
    return [found[cell.name] for cell in wanted]


def recoveries(disturbed: Sequence[Measured], undisturbed: Sequence[Measured], rotate_at: int) -> list[Recovery]:
    """The pairs by method, model and ratio; infeasible ones are left out."""
    groups: dict[tuple[str, str, float], list[tuple[Measured, Measured]]] = {}
    for one, other in zip(disturbed, undisturbed, strict=True):
        if "infeasible" not in one:
            groups.setdefault((one["method"], one["model"], one["compression"]), []).append((one, other))
    return [
        Recovery(
            method=method,
            model=model,
            compression=compression,
            rows=tuple(point[0] for point in pairs[0][0]["curve"]),
            disturbed=_mean([one["curve"] for one, _ in pairs]),
            undisturbed=_mean([other["curve"] for _, other in pairs]),
            rotate_at=rotate_at,
        )
        for (method, model, compression), pairs in groups.items()
    ]


def _mean(curves: Sequence[Sequence[Sequence[float]]]) -> tuple[float, ...]:
    return tuple(sum(point[1] for point in points) / len(points) for points in zip(*curves, strict=True))


def recovery_table(found: Sequence[Recovery]) -> str:
    """Markdown: rows until within 1 % of the undisturbed loss, and what was lost meanwhile."""
    lines = ["| after the rotation | model | ratio | rows until within 1 % | loss over undisturbed, summed |"]
    lines.append("|---" * 5 + "|")
    for one in found:
        until = "not in this run" if one.rows_until_near is None else f"{one.rows_until_near:,}"
        lines.append(f"| {one.method} | {one.model} | {one.compression:g}x | {until} | {one.lost:.0f} |")
    return "\n".join(lines) + "\n"
