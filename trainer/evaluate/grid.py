"""The grid of cells, and running it: what is finished is kept, so a run that was killed goes on where it stood.

Every cell is one JSON file in `OUT/cells`, written whole or not at all, under a name that everything it depends on goes
into. A method with settings to try runs them all on the first seed; the best takes part with the other seeds.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from trainer.evaluate.cell import Cell, Measured, run_cell
from trainer.evaluate.method import Knob
from trainer.evaluate.presets import Preset
from trainer.evaluate.registry import METHODS
from trainer.evaluate.stream import Source

__all__ = ["Grid", "GridConfig", "run_cells", "run_grid"]

logger = logging.getLogger(__name__)


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

    def cell(self, place: tuple[str, str, float], seed: int, knobs: Mapping[str, Knob]) -> Cell:
        """The cell of a (method, model, ratio)."""
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
        )


@dataclass
class Grid:
    """What a run came to.

    Attributes:
        cells: one for each method, model, ratio and seed, in the order of the grid: the best setting's.
        tried: every cell that was trained.
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


def run_cells(cells: Sequence[Cell], out: Path, jobs: int) -> Iterator[tuple[Cell, Measured]]:
    """Each cell and what it came to, in the order in which they are known: first those that `out` keeps."""
    folder = out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for cell in cells:
        measured = _read(folder / f"{cell.name}.json")
        if measured is None:
            missing.append(cell)
        else:
            yield cell, measured
    if jobs == 1 or len(missing) < 2:
        for cell in missing:
            yield cell, _finish(cell, str(folder))
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(_finish, cell, str(folder)): cell for cell in missing}
        for done in as_completed(running):
            yield running[done], done.result()


def _is_better(one: Measured, other: Measured) -> bool:
    return (one.get("auc") or 0.0) > (other.get("auc") or 0.0)


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
    grid, done = Grid(), 0
    first_seed, *other_seeds = config.seeds
    searched = [cell for place in _places(config) for cell in _variants(config, place, first_seed)]
    num_cells = len(searched) + len(other_seeds) * len(_places(config))
    best: dict[tuple[str, str, float], tuple[Cell, Measured]] = {}
    measured_of: dict[str, Measured] = {}
    for cell, measured in run_cells(searched, out, jobs):
        done += 1
        measured_of[cell.name] = measured
        if on_cell:
            on_cell(measured, done, num_cells)
    for cell in searched:  # in the order of the grid, whatever came first
        place, measured = (cell.method, cell.model, cell.compression), measured_of[cell.name]
        grid.tried.append(measured)
        if place not in best or _is_better(measured, best[place][1]):
            best[place] = cell, measured
    rest = [config.cell(place, seed, best[place][0].knobs) for place in _places(config) for seed in other_seeds]
    for cell, measured in run_cells(rest, out, jobs):
        done += 1
        measured_of[cell.name] = measured
        if on_cell:
            on_cell(measured, done, num_cells)
    grid.tried += [measured_of[cell.name] for cell in rest]
    for place in _places(config):
        knobs = best[place][0].knobs
        grid.cells += [measured_of[config.cell(place, seed, knobs).name] for seed in config.seeds]
    return grid


def _places(config: GridConfig) -> list[tuple[str, str, float]]:
    """(method, model, ratio), in the order of the tables; the full table has the one ratio 1."""
    return [
        (method, model, compression)
        for model in config.models
        for method in config.methods
        for compression in ((1.0,) if METHODS[method].is_full else config.compressions)
    ]


def _variants(config: GridConfig, place: tuple[str, str, float], seed: int) -> list[Cell]:
    variants = METHODS[place[0]].variants(search=config.search)
    return [config.cell(place, seed, knobs) for knobs in variants]
