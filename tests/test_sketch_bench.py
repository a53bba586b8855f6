"""`hotstream bench sketch`: the fixed keys of its report, and the truth that it compares with."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from sketch.bench.benchmark import PAPER_BYTES, bound_any_stream, bound_zipf, fair_recall, streams
from trainer.commands.bench_sketch import _read_tokens, command


def _keys(*listed: int) -> np.ndarray:
    return np.array(listed, np.uint64)


def test_recall_counts_any_of_the_keys_that_tie_at_the_last_rank():
    stream = _keys(1, 1, 1, 2, 2, 3, 4)
    assert fair_recall(_keys(1, 2), stream, 2) == 1.0
    assert fair_recall(_keys(1, 2, 3), stream, 3) == fair_recall(_keys(1, 2, 4), stream, 3) == 1.0
    assert fair_recall(_keys(1, 3), stream, 2) == 0.5
    assert fair_recall(_keys(1, 9), stream, 2) == 0.5


def test_the_rotated_stream_replaces_every_other_hot_key_in_its_second_half():
    ranks = np.arange(1000, dtype=np.uint64) % np.uint64(10)
    by_name = {stream.name: stream for stream in streams(ranks, k=2)}
    stationary, rotated = by_name["stationary"].keys, by_name["rotated"].keys
    np.testing.assert_array_equal(rotated[:500], stationary[:500])
    moved = ranks[500:][rotated[500:] != stationary[500:]]
    assert sorted(set(moved.tolist())) == [1, 3, 5, 7]
    top = by_name["rotated"].final_top
    assert top is not None
    assert np.isin(top, rotated[500:]).all()


def test_the_flood_is_the_stationary_stream_mixed_with_keys_that_occur_once():
    ranks = np.zeros(1000, np.uint64)
    flood = next(stream for stream in streams(ranks, k=2) if stream.name == "flood").keys
    distinct, counts = np.unique(flood, return_counts=True)
    assert len(flood) == 1500
    assert sorted(counts.tolist()) == [1] * 500 + [1000]
    assert len(distinct) == 501


def test_the_bounds_are_those_of_the_paper():
    # Theorem 3.1 by hand: 1 - (1 - .001) / (3 x .001 x 10000) = .9667
    assert bound_any_stream(0.001, 4, 10_000) == pytest.approx(0.9667)
    assert bound_any_stream(1e-5, 4, 10_000) == 0.0
    assert bound_zipf(0.001, 4, 10_000, 2.0) > bound_zipf(0.001, 4, 10_000, 1.1) > 0.9


def test_tokens_are_the_words_of_all_files_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "b.txt").write_text("one two")
    (tmp_path / "a.txt").write_text("two\nthree")
    tokens = _read_tokens(tmp_path)
    assert len(tokens) == 4
    assert tokens[0] == tokens[3]
    assert len(np.unique(tokens)) == 3
    assert np.all(tokens >> np.uint64(56) == 4)


def test_the_quick_run_writes_every_fixed_key_a_table_and_a_picture(tmp_path):
    result = CliRunner().invoke(command, ["--quick", "--out", str(tmp_path), "--json", str(tmp_path / "report.json")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["command"] == "bench sketch"
    assert report["ok"] is True
    for row in report["speed"]:
        assert row.keys() >= {
            "buckets", "admission", "inserts_per_s", "queries_per_s", "limit_per_s", "replace_min_per_s", "hot_rows",
            "updates_per_s", "fills_per_s", "fill_changes_per_s", "fill_of_insert",
        }  # fmt: skip
    for row in report["recall"]:
        assert row.keys() >= {"stream", "k", "shards", "admission", "recall", "promotions", "demotions"}
    assert {row["stream"] for row in report["recall"]} == {"stationary", "rotated", "drift", "flood"}
    assert all(row["randomized"] >= row["bound_any_stream"] for row in report["guarantees"])
    assert all(row["replace_min"] >= row["bound_zipf"] for row in report["guarantees"])
    assert {row["half_life"] for row in report["recall"]} == {"events", "event time"}
    stationary = [row for row in report["recall"] if row["stream"] == "stationary" and row["admission"] == "randomized"]
    assert all(row["recall"] > 0.93 for row in stationary if row["bytes_per_row"] >= PAPER_BYTES)
    assert (tmp_path / "sketch.png").stat().st_size > 10_000
    assert "| buckets |" in (tmp_path / "sketch.md").read_text()
