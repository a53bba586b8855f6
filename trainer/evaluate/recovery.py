"""Recovery after an abrupt rotation: when each method's loss returns to that of a run without the rotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.evaluate.cell import CellResult
from trainer.evaluate.grid import GridConfig, OnCell, run_all
from trainer.evaluate.sources.stream import GeneratorSource

__all__ = ["Recovery", "recoveries", "recovery_table", "run_undisturbed"]

_NEAR = 0.01
_NUM_AVERAGED = 3  # windows; the loss of a single one has an error of more than 1 %


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """The recovery of one method at one ratio, averaged over the seeds.

    Attributes:
        method: the method's name.
        model: the model's name.
        compression: the compression ratio.
        rows: the number of rows up to the end of each window.
        disturbed: the log loss of each window on the stream with the rotation.
        undisturbed: the log loss of each window on the stream without the rotation.
        rotate_at: the row of the rotation.
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
        """The relative increase of the loss over the undisturbed run, by window."""
        pairs = zip(self.disturbed, self.undisturbed, strict=True)
        return tuple(disturbed / undisturbed - 1 for disturbed, undisturbed in pairs)

    @property
    def rows_until_near(self) -> int | None:
        """Rows from the rotation to the first three windows with a mean excess of at most 1 %, if there are any."""
        start = next(window for window, row in enumerate(self.rows) if row > self.rotate_at)
        excess = self.excess
        for window in range(start, len(excess) - _NUM_AVERAGED + 1):
            if sum(excess[window : window + _NUM_AVERAGED]) <= _NEAR * _NUM_AVERAGED:
                before = self.rows[window - 1] if window else 0
                return max(0, before - self.rotate_at)
        return None

    @property
    def lost(self) -> float:
        """The sum of the loss differences to the undisturbed run over all rows after the rotation."""
        widths = [row - before for before, row in zip((0, *self.rows), self.rows, strict=False)]
        parts = zip(self.rows, widths, self.disturbed, self.undisturbed, strict=True)
        return sum(
            width * (disturbed - undisturbed) for row, width, disturbed, undisturbed in parts if row > self.rotate_at
        )


def run_undisturbed(
    config: GridConfig,
    cells: Sequence[CellResult],
    out: Path,
    *,
    jobs: int = 1,
    on_cell: OnCell | None = None,
) -> list[CellResult]:
    """Runs the cells on the stream without the rotation, with the same settings; returns the results in order."""
    assert isinstance(config.source, GeneratorSource)  # noqa: S101  nothing else rotates
    undisturbed = replace(config, source=replace(config.source, rotate_at=None))
    wanted = [
        undisturbed.cell((cell["method"], cell["model"], cell["compression"]), cell["seed"], cell["knobs"])
        for cell in cells
    ]
    results = run_all(wanted, out, jobs=jobs, on_cell=on_cell)
    return [results[cell.name] for cell in wanted]


def recoveries(disturbed: Sequence[CellResult], undisturbed: Sequence[CellResult], rotate_at: int) -> list[Recovery]:
    """Groups the pairs of results by method, model and ratio, without infeasible ones."""
    groups: dict[tuple[str, str, float], list[tuple[CellResult, CellResult]]] = {}
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
    """Returns a Markdown table of the rows until recovery and the accumulated loss difference."""
    lines = ["| after the rotation | model | ratio | rows until within 1 % | loss over undisturbed, summed |"]
    lines.append("|---" * 5 + "|")
    for one in found:
        until = "not in this run" if one.rows_until_near is None else f"{one.rows_until_near:,}"
        lines.append(f"| {one.method} | {one.model} | {one.compression:g}x | {until} | {one.lost:.0f} |")
    return "\n".join(lines) + "\n"
