"""The benchmark of a device, on a CPU with tiny tables: all figures are there, and the limits count what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from trainer.bench.device.cases import DeviceConfig, measure_tables
from trainer.bench.device.clock import DeviceClock
from trainer.bench.device.inputs import NUM_FIELDS, fill_hot_set, make_batches
from trainer.bench.device.limits import adaptive_bytes, hash_bytes
from trainer.bench.device.picture import draw_roofline
from trainer.bench.device.runs import DeviceBench
from trainer.bench.device.tables import ADAPTIVE, BAG, HASH, build_adaptive, build_hash

CPU = torch.device("cpu")
DIM, HOT, ROWS = 8, 520, 32


def test_every_table_is_measured_beside_the_limit(tmp_path: Path) -> None:
    config = DeviceConfig(device=CPU, backend="torch", turns=2, repeats=1)
    [case] = measure_tables(config, DIM, HOT, [ROWS], bandwidth=1e9)
    for figures in (case.step_ms, case.embedding_ms, case.forward_ms, case.samples_per_s):
        assert {ADAPTIVE, HASH, BAG} <= set(figures)
        assert min(figures.values()) > 0
    assert case.reads["lookups"] == ROWS * NUM_FIELDS >= case.reads["distinct"] > 0
    assert 0.1 < case.reads["hot"] / case.reads["lookups"] < 0.4
    assert case.limit_ms[ADAPTIVE] == pytest.approx(case.limit_bytes[ADAPTIVE] / 1e6)
    assert abs(case.nbytes[HASH] / case.nbytes[ADAPTIVE] - 1) < 0.05
    draw_roofline(tmp_path / "roofline.png", [case], 1e9, "a test")
    assert (tmp_path / "roofline.png").stat().st_size > 1000


def test_the_hot_set_is_the_first_ranks_of_every_field() -> None:
    embedding = build_adaptive(HOT, DIM, NUM_FIELDS, CPU, row_format="float32")
    fill_hot_set(embedding, 0)
    keys, rows = embedding.router.items()
    assert np.sort(rows).tolist() == list(range(HOT))
    assert set((keys & np.uint64((1 << 56) - 1)).tolist()) == set(range(1, HOT // NUM_FIELDS + 1))


def test_the_limits_count_each_row_of_a_batch_once() -> None:
    embedding = build_adaptive(HOT, DIM, NUM_FIELDS, CPU, row_format="float32", backend="torch")
    fill_hot_set(embedding, 0)
    hot = torch.from_numpy(embedding.router.items()[0][:2].view(np.int64))
    keys = hot[torch.tensor([0, 1, 0, 0])][:, None]  # one field, four rows of a batch
    counted = adaptive_bytes(embedding, keys)
    vectors, row = 4 * (8 + 2 * DIM * 4), DIM * 4
    assert counted == {"bytes": vectors + 2 * 12 + 2 * (row + 2 * (row + 4)), "lookups": 4, "distinct": 2, "hot": 4}
    hashed = build_hash(100_000, DIM, NUM_FIELDS, CPU, row_format="float32", backend="torch")
    assert hash_bytes(hashed, keys) == vectors + 2 * (row + 2 * (row + 4))


def test_the_turns_are_taken_in_both_orders() -> None:
    order: list[str] = []
    works = [lambda _number: order.append("A"), lambda _number: order.append("B")]
    assert len(DeviceClock(CPU).take_turns(works, turns=2, repeats=2, warm_up=1)) == 2
    assert "".join(order) == "AB" + "AABBBBAA"


def test_batches_differ_and_have_keys_of_every_field() -> None:
    one, other = make_batches(2, ROWS, CPU, seed=1)
    assert not torch.equal(one.keys, other.keys)
    assert torch.equal(one.keys >> 56, torch.arange(1, NUM_FIELDS + 1).expand(ROWS, -1))


def test_the_report_has_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    bench = DeviceBench(
        device=CPU, parts=["tables"], dims=[DIM], batches=[ROWS], capacities=[HOT], turns=1, repeats=1, backend="torch"
    )
    content = bench.run(Console(width=200), None)
    assert {"device", "bytes_per_s", "checks", "cases"} <= set(content)
    assert "FBGEMM: not measured" in capsys.readouterr().out
