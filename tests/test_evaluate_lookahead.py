"""Training in a cache of the rows that coming batches read changes no bit, and moves less the further it looks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer.evaluate.cell import Cell, run_cell
from trainer.evaluate.methods.method import Infeasible
from trainer.evaluate.methods.registry import METHODS
from trainer.evaluate.presets import PRESETS
from trainer.evaluate.schedules.feeding import Feeding
from trainer.evaluate.schedules.lookahead import Lookahead, _Plan
from trainer.evaluate.sources.stream import GeneratorSource, load_stream

NUM_ROWS = 4096


@pytest.fixture(autouse=True)
def one_thread():
    """Sums do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cell_of(method: str, lookahead: int | None = None, **knobs: str | float) -> Cell:
    return Cell(
        source=GeneratorSource(seed=3), num_rows=NUM_ROWS, preset=replace(PRESETS["reference"], batch_rows=256),
        model="dlrm", method=method, compression=1.0 if method == "full" else 5.0, seed=0,
        knobs={**METHODS[method].default, **knobs},
        feeding=Feeding() if lookahead is None else Feeding(name="lookahead", lookahead=lookahead),
    )  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
@pytest.mark.parametrize("name", ["full", "hash", "double-hash", "robe", "offline"])
@pytest.mark.parametrize("window", [0, 1, 5, 100])
def test_the_weights_are_the_same_bit_for_bit(name, optimizer, window):
    stream = load_stream(GeneratorSource(seed=3), NUM_ROWS)
    batches = [*stream.batches(256, num_rows=NUM_ROWS)]
    brief = replace(cell_of(name).brief(stream), optimizer=optimizer)
    brief = replace(brief, budget_bytes=brief.full_bytes if name == "full" else brief.full_bytes // 5)
    weights = torch.linspace(-1, 1, 16)
    found = []
    for looks_ahead in (False, True):
        method = METHODS[name].build(brief)
        assert not isinstance(method, Infeasible)
        ahead = Lookahead(method, stream.ids, batches, window) if looks_ahead else None
        for number, rows in enumerate(batches):
            if ahead:
                ahead.fetch(number)
            vectors = method(torch.from_numpy(stream.ids[rows].astype(np.int64)))
            (vectors * weights).sum(dim=2).square().mean().backward()
            method.learn()
            if ahead:
                ahead.write_back(number)
        found.append([tensor for table in method.all_rows for tensor in (table.store.values, table.store.state)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_cell_with_lookahead_has_the_same_figures_and_its_own_name():
    plain, ahead = run_cell(cell_of("hash")), run_cell(cell_of("hash", 4))
    counts = ahead.pop("lookahead")
    assert {**plain, "seconds": 0} == {**ahead, "seconds": 0}
    assert counts["rows_moved"] < counts["rows_moved_plain"]
    assert counts["bytes_moved"] == 68 * counts["rows_moved"]
    assert cell_of("hash").name != cell_of("hash", 4).name


def test_a_row_is_in_the_cache_while_it_is_read_and_leaves_when_no_known_batch_reads_it():
    rng = np.random.default_rng(0)
    reads = [np.unique(np.floor(300 * rng.random(60) ** 3).astype(np.int64)) for _ in range(40)]
    moved = []
    for window in (0, 1, 3, 8, 40):
        plan, held = _Plan(reads, 300, window), set()
        peak = 0
        for number, rows in enumerate(reads):
            fetched, left = set(plan.fetched[number].tolist()), set(plan.left[number].tolist())
            assert not fetched & held
            held |= fetched
            peak = max(peak, len(held))
            assert set(rows.tolist()) <= held
            held -= left
            known = {row for later in reads[number + 1 : number + 1 + window] for row in later.tolist()}
            assert held == held & known
            assert not left & known
        assert not held
        assert plan.peak == peak
        moved.append(sum(map(len, plan.fetched)))
    assert moved == sorted(moved, reverse=True)
    assert moved[0] == plan.num_plain
    assert moved[-1] == len(np.unique(np.concatenate(reads)))


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (cell_of("hotstream", 4), "expected full, hash"),
        (cell_of("saec", 4), "expected full, hash"),
        (cell_of("hash", 4, row_format="int8"), "expected float32"),
    ],
)
def test_a_method_whose_rows_move_or_are_rounded_is_infeasible(cell, reason):
    assert reason in run_cell(cell)["infeasible"]
