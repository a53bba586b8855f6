"""The pure parts of `python -m benchmarks.served`: delays of rows that were shown, and notes of steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.served.arrivals import Arrival, delays_of, quantiles
from benchmarks.served.trained import Step, read_steps

S = 1_000_000_000  # ns


def step(rows: int, ended_s: int, *keys: int) -> Step:
    return Step(ended_ns=ended_s * S, rows=rows, keys=np.array(keys, np.uint64))


def arrival(feature: int, rows: int, copied_s: int, shown_s: int) -> Arrival:
    return Arrival(feature=feature, step=rows, copied_ms=copied_s * 1000, shown_ns=shown_s * S)


def test_delays_count_from_the_first_and_the_last_step_since_the_record_before() -> None:
    steps = [step(10, 1, 7, 8), step(20, 2, 7), step(30, 4, 7), step(40, 6, 7)]
    seen = [arrival(7, 10, 1, 2), arrival(7, 30, 5, 9), arrival(8, 30, 5, 9)]
    assert delays_of(steps, seen, 0) == {"last": [5.0], "first": [7.0], "copied": [4.0]}


def test_rows_that_no_step_changed_or_that_came_too_early_do_not_count() -> None:
    steps = [step(10, 1, 7), step(20, 2, 7)]
    seen = [arrival(7, 10, 1, 2), arrival(7, 20, 3, 4), arrival(7, 20, 5, 6)]
    assert delays_of(steps, seen, 0)["last"] == [2.0]
    assert delays_of(steps, seen, 5 * S)["last"] == []


def test_quantiles_of_nothing_have_no_figures() -> None:
    assert quantiles([]) == {"rows": 0}
    assert quantiles([1.0, 3.0]) == {"rows": 2, "p50_s": 2.0, "p99_s": pytest.approx(2.98), "max_s": 3.0}


def test_notes_that_are_not_complete_are_left(tmp_path: Path) -> None:
    path, whole = tmp_path / "notes", np.array([5, 10, 2, 7, 8], np.int64).tobytes()
    path.write_bytes(whole + whole[:-3])
    (found,) = read_steps(path)
    assert (found.ended_ns, found.rows, found.keys.tolist()) == (5, 10, [7, 8])
