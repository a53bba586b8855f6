"""The grid of cells. It keeps every finished cell, so a run that was killed continues where it stopped.

Each result is one JSON file in `OUT/cells`, written atomically, whose name contains a hash of everything that the
result depends on. A search tunes the settings of each point of the grid, (method, model, ratio), on the first seed: one
knob after another, on the first quarter of the rows. The two best settings then run over all rows, and the better one
runs with the other seeds. The searches of all points proceed in common rounds, so that their cells can run in parallel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from trainer.evaluate.cell import Cell, CellResult, run_cell
from trainer.evaluate.methods.method import Knob
from trainer.evaluate.methods.registry import METHODS
from trainer.evaluate.presets import Preset
from trainer.evaluate.schedules.feeding import Feeding
from trainer.evaluate.sources.stream import RowSource, load_stream

__all__ = ["Grid", "GridConfig", "OnCell", "run_all", "run_grid"]

_SEARCH_FRACTION = 4  # the search uses a quarter of the rows, but
_MIN_SEARCH_ROWS = 100_000  # at least this many, or all if there are fewer
_NUM_FINALISTS = 2

Point = tuple[str, str, float]
Search = Generator[list[Cell], list[CellResult], list[CellResult]]
OnCell = Callable[[CellResult, int, int], Any]


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """The configuration of a comparison.

    Args:
        source: the source of the rows.
        num_rows: rows to read; None for all rows of the files.
        preset: the training set-up.
        methods: the methods' names, in the order of the tables.
        models: `dlrm`, `wdl`, `dcn`.
        compressions: compression ratios.
        seeds: seeds of weights, hashes and stochastic rounding.
        search: whether to search each method's settings, or to use their defaults.
        feeding: how the cells are fed.
    """

    source: RowSource
    num_rows: int | None
    preset: Preset
    methods: tuple[str, ...]
    models: tuple[str, ...]
    compressions: tuple[float, ...]
    seeds: tuple[int, ...]
    search: bool = True
    feeding: Feeding = field(default_factory=Feeding)

    def cell(self, point: Point, seed: int, knobs: Mapping[str, Knob], trained_rows: int | None = None) -> Cell:
        """Returns a cell of the point, trained on all rows or on the first `trained_rows`."""
        method, model, compression = point
        return Cell(
            source=self.source,
            num_rows=self.num_rows,
            preset=self.preset,
            model=model,
            method=method,
            compression=compression,
            seed=seed,
            knobs=dict(knobs),
            trained_rows=trained_rows,
            feeding=self.feeding,
        )


@dataclass
class Grid:
    """The results of a comparison.

    Attributes:
        cells: the results of the best settings, one for each method, model, ratio and seed, in the order of the grid.
        tried: the results of all cells, in the order of the grid and of each search; `rows` is the number of rows used.
    """

    cells: list[CellResult] = field(default_factory=list)
    tried: list[CellResult] = field(default_factory=list)


def _load(path: Path) -> CellResult | None:
    try:
        result: CellResult = json.loads(path.read_text())["measured"]
    except FileNotFoundError:
        return None
    return result


def _run_and_save(cell: Cell, folder: str) -> CellResult:
    """Runs a cell and writes its file. A worker process runs this function if there are several jobs."""
    torch.set_num_threads(1)
    result = run_cell(cell)
    path = Path(folder) / f"{cell.name}.json"
    partial = path.with_suffix(f".partial{os.getpid()}")
    partial.write_text(json.dumps({"cell": cell.describe(), "measured": result}, indent=1) + "\n")
    partial.replace(path)
    return result


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Returns a pool whose processes start with their first task."""
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))


def _run_cells(
    cells: Sequence[Cell], out: Path, jobs: int, pool: ProcessPoolExecutor | None = None
) -> Iterator[tuple[Cell, CellResult]]:
    """Yields each cell with its result as soon as it is available, those that `out` contains already first.

    Args:
        cells: the cells to run.
        out: the folder of the results.
        jobs: processes to use; 1 uses this process.
        pool: a pool that outlives this call, so that its processes keep the stream in memory.
    """
    folder = out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for cell in cells:
        result = _load(folder / f"{cell.name}.json")
        if result is None:
            missing.append(cell)
        else:
            yield cell, result
    if jobs == 1 or (pool is None and len(missing) < 2):
        for cell in missing:
            yield cell, _run_and_save(cell, str(folder))
        return
    with nullcontext(pool) if pool else _pool(jobs) as processes:
        running = {processes.submit(_run_and_save, cell, str(folder)): cell for cell in missing}
        for done in as_completed(running):
            yield running[done], done.result()


def run_all(cells: Sequence[Cell], out: Path, *, jobs: int = 1, on_cell: OnCell | None = None) -> dict[str, CellResult]:
    """Runs the cells whose results `out` does not contain; returns all results by the cells' names.

    Args:
        cells: the cells to run.
        out: the folder of the results.
        jobs: processes to use.
        on_cell: called with each result, the number of results so far, and the number of cells.
    """
    results: dict[str, CellResult] = {}
    for done, (cell, result) in enumerate(_run_cells(cells, out, jobs), 1):
        results[cell.name] = result
        if on_cell:
            on_cell(result, done, len(cells))
    return results


def run_grid(config: GridConfig, out: Path, *, jobs: int = 1, on_cell: OnCell | None = None) -> Grid:
    """Runs the cells of the grid whose results `out` does not contain.

    Args:
        config: the grid.
        out: the folder of the results.
        jobs: processes to use.
        on_cell: called with each result, the number of results so far, and the number of cells.
    """
    search_rows = _search_rows(config)
    points = _points(config)
    searches = {point: _search(config, point, search_rows) for point in points}
    waiting = {point: next(searches[point]) for point in points}
    num_cells = sum(_num_cells(config, point, search_rows) for point in points)
    tried: dict[Point, list[CellResult]] = {point: [] for point in points}
    chosen: dict[Point, list[CellResult]] = {}
    done = 0
    with _pool(jobs) as pool:
        while waiting:
            results: dict[str, CellResult] = {}
            for cell, result in _run_cells([cell for cells in waiting.values() for cell in cells], out, jobs, pool):
                done += 1
                results[cell.name] = result
                if on_cell:
                    on_cell(result, done, num_cells)
            for point, cells in list(waiting.items()):  # in the order of the grid, not of the results
                found = [results[cell.name] for cell in cells]
                tried[point] += found
                try:
                    waiting[point] = searches[point].send(found)
                except StopIteration as end:
                    chosen[point] = end.value
                    del waiting[point]
    return Grid(
        cells=[result for point in points for result in chosen[point]],
        tried=[result for point in points for result in tried[point]],
    )


def _points(config: GridConfig) -> list[Point]:
    """Returns the points in the order of the tables; the uncompressed table has the single ratio 1."""
    return [
        (method, model, compression)
        for model in config.models
        for method in config.methods
        for compression in ((1.0,) if METHODS[method].is_full else config.compressions)
    ]


def _search_rows(config: GridConfig) -> int | None:
    """Returns the number of rows that the search uses; None for all."""
    if not config.search:
        return None
    num_rows = config.num_rows or load_stream(config.source, None).num_rows
    rows = max(num_rows // _SEARCH_FRACTION, _MIN_SEARCH_ROWS)
    return rows if rows < num_rows else None


def _num_cells(config: GridConfig, point: Point, search_rows: int | None) -> int:
    """Returns the number of cells that `_search` yields for the point."""
    search = METHODS[point[0]].search
    num_settings = 1 + sum(len(values) - 1 for values in search.values()) if config.search else 1
    if num_settings == 1:
        return len(config.seeds)
    return num_settings + (0 if search_rows is None else _NUM_FINALISTS) + len(config.seeds) - 1


def _auc(result: CellResult) -> float:
    """Returns the AUC that ranks settings; -1 for an infeasible setting, which ranks last."""
    return -1.0 if "infeasible" in result else result["auc"] or 0.0


def _search(config: GridConfig, point: Point, search_rows: int | None) -> Search:
    """Yields the cells of each round, receives their results, and returns those of the best setting, one per seed."""
    entry, (first_seed, *other_seeds) = METHODS[point[0]], config.seeds
    best = entry.default
    search = {name: values for name, values in entry.search.items() if len(values) > 1} if config.search else {}
    if not search:
        return (yield [config.cell(point, seed, best) for seed in config.seeds])

    tried = yield [config.cell(point, first_seed, best, search_rows)]
    if "infeasible" in tried[0]:  # other knobs can be compared only after a smaller row format makes it feasible
        search = dict(sorted(search.items(), key=lambda knob: knob[0] != "row_format"))
    for name, (_, *others) in search.items():
        found = yield [config.cell(point, first_seed, {**best, name: value}, search_rows) for value in others]
        tried = sorted([*tried, *found], key=_auc, reverse=True)  # of equal results the earliest wins
        best = tried[0]["knobs"]
    if search_rows is not None:
        tried = yield [config.cell(point, first_seed, one["knobs"]) for one in tried[:_NUM_FINALISTS]]
    winner = max(tried, key=_auc)
    found = (yield [config.cell(point, seed, winner["knobs"]) for seed in other_seeds]) if other_seeds else []
    return [winner, *found]
