"""The grid of cells, and running it: what is finished is kept, so a run that was killed goes on where it stood.

Every cell is one JSON file in `OUT/cells`, written whole or not at all, under a name that everything it depends on goes
into. A method's settings are searched on the first seed, knob after knob, over the first quarter of the rows; the two
best are run over all rows, and the better one takes part with the other seeds. All places of the grid, which are
(method, model, ratio), go through these rounds side by side.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from trainer.evaluate.cell import Cell, Measured, run_cell
from trainer.evaluate.methods.method import Knob
from trainer.evaluate.methods.registry import METHODS
from trainer.evaluate.presets import Preset
from trainer.evaluate.sources.stream import Source, load_stream

__all__ = ["Grid", "GridConfig", "run_cells", "run_grid"]

logger = logging.getLogger(__name__)

_SEARCH_SHARE = 4  # the search sees the first quarter of the rows,
_FEWEST_SEARCH_ROWS = 100_000  # or so many, or all
_FINALISTS = 2

Place = tuple[str, str, float]
Steps = Generator[list[Cell], list[Measured], list[Measured]]


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """What is compared.

    Args:
        source: where the rows come from.
        num_rows: how many; None for all of the files.
        preset: how models are trained.
        methods: by name, in the order of the tables.
        models: `dlrm`, `wdl`, `dcn`.
        compressions: ratios.
        seeds: numbers.
        search: whether a method's settings are tried, or the first of each taken.
    """

    source: Source
    num_rows: int | None
    preset: Preset
    methods: tuple[str, ...]
    models: tuple[str, ...]
    compressions: tuple[float, ...]
    seeds: tuple[int, ...]
    search: bool = True

    def cell(self, place: Place, seed: int, knobs: Mapping[str, Knob], trained_rows: int | None = None) -> Cell:
        """The cell of a (method, model, ratio), trained on all rows or the first `trained_rows`."""
        method, model, compression = place
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
        )


@dataclass
class Grid:
    """What a run came to.

    Attributes:
        cells: one for each method, model, ratio and seed, in the order of the grid: the best setting's.
        tried: every cell that was run, with the `rows` that it saw, by place and in the order of its search.
    """

    cells: list[Measured] = field(default_factory=list)
    tried: list[Measured] = field(default_factory=list)


def _read(path: Path) -> Measured | None:
    try:
        measured: Measured = json.loads(path.read_text())["measured"]
    except FileNotFoundError:
        return None
    return measured


def _finish(cell: Cell, folder: str) -> Measured:
    """Runs a cell and keeps it. In a process of its own if there are several jobs."""
    torch.set_num_threads(1)
    measured = run_cell(cell)
    path = Path(folder) / f"{cell.name}.json"
    partial = path.with_suffix(f".partial{os.getpid()}")
    partial.write_text(json.dumps({"cell": cell.describe(), "measured": measured}, indent=1) + "\n")
    partial.replace(path)
    return measured


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Processes that start when they get something to do."""
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))


def run_cells(
    cells: Sequence[Cell], out: Path, jobs: int, pool: ProcessPoolExecutor | None = None
) -> Iterator[tuple[Cell, Measured]]:
    """Each cell and what it came to, in the order in which they are known: first those that `out` keeps.

    Args:
        cells: to run.
        out: where they are kept.
        jobs: processes; a single one is this process.
        pool: the processes, if they are to outlive this call and keep the stream that they have read.
    """
    folder = out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for cell in cells:
        measured = _read(folder / f"{cell.name}.json")
        if measured is None:
            missing.append(cell)
        else:
            yield cell, measured
    if jobs == 1 or (pool is None and len(missing) < 2):
        for cell in missing:
            yield cell, _finish(cell, str(folder))
        return
    with nullcontext(pool) if pool else _pool(jobs) as processes:
        running = {processes.submit(_finish, cell, str(folder)): cell for cell in missing}
        for done in as_completed(running):
            yield running[done], done.result()


def run_grid(
    config: GridConfig, out: Path, *, jobs: int = 1, on_cell: Callable[[Measured, int, int], Any] | None = None
) -> Grid:
    """Runs what is missing of the grid.

    Args:
        config: the grid.
        out: where cells are kept.
        jobs: processes.
        on_cell: told each cell, how many are known, and how many there will be.
    """
    search_rows = _search_rows(config)
    places = _places(config)
    steps = {place: _steps(config, place, search_rows) for place in places}
    waiting = {place: next(steps[place]) for place in places}
    num_cells = sum(_num_cells(config, place, search_rows) for place in places)
    tried: dict[Place, list[Measured]] = {place: [] for place in places}
    chosen: dict[Place, list[Measured]] = {}
    done = 0
    with _pool(jobs) as pool:
        while waiting:
            measured_of: dict[str, Measured] = {}
            for cell, measured in run_cells([cell for ones in waiting.values() for cell in ones], out, jobs, pool):
                done += 1
                measured_of[cell.name] = measured
                if on_cell:
                    on_cell(measured, done, num_cells)
            for place, cells in list(waiting.items()):  # in the order of the grid, whatever came first
                found = [measured_of[cell.name] for cell in cells]
                tried[place] += found
                try:
                    waiting[place] = steps[place].send(found)
                except StopIteration as end:
                    chosen[place] = end.value
                    del waiting[place]
    return Grid(
        cells=[measured for place in places for measured in chosen[place]],
        tried=[measured for place in places for measured in tried[place]],
    )


def _places(config: GridConfig) -> list[Place]:
    """(method, model, ratio), in the order of the tables; the full table has the one ratio 1."""
    return [
        (method, model, compression)
        for model in config.models
        for method in config.methods
        for compression in ((1.0,) if METHODS[method].is_full else config.compressions)
    ]


def _search_rows(config: GridConfig) -> int | None:
    """Rows that the search sees; None: all."""
    if not config.search:
        return None
    num_rows = config.num_rows or load_stream(config.source, None).num_rows
    rows = max(num_rows // _SEARCH_SHARE, _FEWEST_SEARCH_ROWS)
    return rows if rows < num_rows else None


def _num_cells(config: GridConfig, place: Place, search_rows: int | None) -> int:
    """How many cells `_steps` asks for."""
    search = METHODS[place[0]].search
    num_settings = 1 + sum(len(values) - 1 for values in search.values()) if config.search else 1
    if num_settings == 1:
        return len(config.seeds)
    return num_settings + (0 if search_rows is None else _FINALISTS) + len(config.seeds) - 1


def _auc(measured: Measured) -> float:
    """What settings are compared by; an infeasible one, which costs no training, is worth less than any other."""
    return -1.0 if "infeasible" in measured else measured["auc"] or 0.0


def _steps(config: GridConfig, place: Place, search_rows: int | None) -> Steps:
    """Yields the cells of each round, is sent what they came to, and returns the chosen setting's, one a seed."""
    entry, (first_seed, *other_seeds) = METHODS[place[0]], config.seeds
    best = entry.default
    search = {name: values for name, values in entry.search.items() if len(values) > 1} if config.search else {}
    if not search:
        return (yield [config.cell(place, seed, best) for seed in config.seeds])

    tried = yield [config.cell(place, first_seed, best, search_rows)]
    if "infeasible" in tried[0]:  # the other knobs can only be compared once smaller rows have made it feasible
        search = dict(sorted(search.items(), key=lambda knob: knob[0] != "row_format"))
    for name, (_, *others) in search.items():
        found = yield [config.cell(place, first_seed, {**best, name: value}, search_rows) for value in others]
        tried = sorted([*tried, *found], key=_auc, reverse=True)  # a tie goes to what was tried first
        best = tried[0]["knobs"]
    if search_rows is not None:
        tried = yield [config.cell(place, first_seed, one["knobs"]) for one in tried[:_FINALISTS]]
    winner = max(tried, key=_auc)
    found = (yield [config.cell(place, seed, winner["knobs"]) for seed in other_seeds]) if other_seeds else []
    return [winner, *found]
