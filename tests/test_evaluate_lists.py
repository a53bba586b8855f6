"""The evaluation of a log with lists: each method sums the vectors of a field's values, or says that it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from trainer.evaluate.anchor import fit_regression
from trainer.evaluate.cell import Cell, run_cell
from trainer.evaluate.methods.cafe_sketch import Scorer
from trainer.evaluate.methods.method import Infeasible
from trainer.evaluate.methods.registry import METHODS
from trainer.evaluate.presets import PRESETS
from trainer.evaluate.sources.stream import FileSource, Stream, load_stream

ROWS = 1200
TELLING = ["good", "bad"]  # the label depends on these, which are never first values


def source_of(folder: Path, *, is_list: bool = True) -> FileSource:
    rng = np.random.default_rng(1)
    told = rng.integers(0, 2, ROWS)
    tags = [[f"n{n % 5}", *([f"m{n % 7}"] if n % 3 else []), TELLING[word]] for n, word in enumerate(told)]
    columns = {"y": (told ^ (rng.random(ROWS) < 0.1)).astype(np.int8), "site": [f"s{n % 11}" for n in range(ROWS)]}
    pq.write_table(pa.table({**columns, "tags": tags}), folder / "log")
    tag = '{ name = "tags", list = true }' if is_list else '{ name = "tags", column = "tags[0]" }'
    (folder / "log.toml").write_text(f'[log]\nlabel = "y"\ncategorical = ["site", {tag}]\n')
    return FileSource(paths=(str(folder / "log"),), schema=str(folder / "log.toml"))


def weighted_source(folder: Path) -> FileSource:
    """A log whose rows have the same two values, and whose label depends on their weights alone."""
    rng = np.random.default_rng(2)
    told = rng.integers(0, 2, ROWS)
    columns = {
        "y": (told ^ (rng.random(ROWS) < 0.1)).astype(np.int8),
        "site": [f"s{n % 11}" for n in range(ROWS)],
        "tags": [["a", "b"]] * ROWS,
        "w": [[1.0, 0.0] if word else [0.0, 1.0] for word in told],
    }
    pq.write_table(pa.table(columns), folder / "log")
    tag = '{ name = "tags", list = true, weights = "w" }'
    (folder / "log.toml").write_text(f'[log]\nlabel = "y"\ncategorical = ["site", {tag}]\n')
    return FileSource(paths=(str(folder / "log"),), schema=str(folder / "log.toml"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FileSource:
    return source_of(tmp_path_factory.mktemp("lists"))


def cell_of(source: FileSource, method: str, compression: float = 1.0) -> Cell:
    return Cell(
        source=source, num_rows=None, preset=replace(PRESETS["reference"], batch_rows=32), model="dlrm", method=method,
        compression=compression, seed=0, knobs=METHODS[method].default,
    )  # fmt: skip


def test_the_vocabulary_and_the_counts_have_every_value(source: FileSource) -> None:
    stream = load_stream(source, None)
    assert stream.field_sizes == (11, 5 + 7 + 2)
    assert stream.counts().sum() == ROWS * 4 - ROWS // 3
    shorter = load_stream(source, 100)
    assert shorter.more is not None
    assert (len(shorter.more.offsets), shorter.num_rows) == (101, 100)
    bags = shorter.bags(slice(10, 13), reads_ids=False)
    assert bags is not None
    assert bags.num_rows == 3
    of_rows = set(shorter.keys[10:13].reshape(-1).tolist()) | set(shorter.more.between(10, 13).keys.tolist())
    assert set(bags.keys.numpy().view(np.uint64).tolist()) == of_rows


@pytest.mark.parametrize("method", ["full", "hotstream-remote"])
def test_a_method_learns_from_second_values(source: FileSource, method: str) -> None:
    result = run_cell(cell_of(source, method, 1.0 if method == "full" else 0.05))  # small logs need room for a sketch
    assert "infeasible" not in result, result
    assert result["auc_last_60"] > 0.8


def test_without_its_second_values_the_log_tells_nothing(tmp_path: Path) -> None:
    assert run_cell(cell_of(source_of(tmp_path, is_list=False), "full"))["auc_last_60"] < 0.6


@pytest.mark.parametrize("method", ["mde", "adaembed", "mpe", "low-rank", "cprec", "saec"])
def test_a_method_of_one_value_a_field_is_infeasible_and_says_why(source: FileSource, method: str) -> None:
    result = run_cell(cell_of(source, method, 0.05))
    assert result["infeasible"] == "it reads one value a field, and fields of this log have several"


def test_methods_and_regression_learn_from_weights(tmp_path: Path) -> None:
    weighted = weighted_source(tmp_path)
    auc = fit_regression(load_stream(weighted, None)).auc
    assert auc is not None
    assert auc > 0.85
    for method in ("full", "hash"):
        assert run_cell(cell_of(weighted, method))["auc_last_60"] > 0.8
    assert run_cell(cell_of(weighted, "mde", 0.05))["infeasible"].endswith("have several")


def test_a_log_with_weights_but_no_lists_is_a_log_of_bags(tmp_path: Path) -> None:
    pq.write_table(pa.table({"y": [0, 1] * 40, "t": ["a", "b"] * 40, "w": [0.5, 2.0] * 40}), tmp_path / "log")
    (tmp_path / "log.toml").write_text('[log]\nlabel = "y"\ncategorical = [{ name = "t", weights = "w" }]\n')
    stream = load_stream(FileSource(paths=(str(tmp_path / "log"),), schema=str(tmp_path / "log.toml")), 50)
    assert (stream.more, stream.has_bags) == (None, True)
    bags = stream.bags(slice(1, 4), reads_ids=True)
    assert bags is not None
    assert bags.weights is not None
    assert (bags.keys.tolist(), bags.weights.tolist()) == (stream.ids[1:4, 0].tolist(), [2.0, 0.5, 2.0])


def test_the_regression_reads_second_values(source: FileSource) -> None:
    auc = fit_regression(load_stream(source, None)).auc
    assert auc is not None
    assert auc > 0.85


@pytest.mark.parametrize("how", ["field", "raw"])
def test_the_scores_of_lists_are_those_of_one_value_where_there_is_one(how: str) -> None:
    gradient = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    plain, listed = Scorer(how, 3), Scorer(how, 3)
    np.testing.assert_allclose(plain(gradient), listed(gradient, np.tile(np.arange(3), 10), 10), rtol=1e-5)


@pytest.mark.parametrize("method", ["hash", "double-hash", "qr", "robe", "dqrm", "full", "offline", "cafe"])
def test_the_vectors_of_values_are_those_of_the_matrix(source: FileSource, method: str) -> None:
    stream = load_stream(source, None)
    plain = Stream(label=stream.label, dense=stream.dense, keys=stream.keys)
    built = METHODS[method].build(replace(cell_of(source, method).brief(plain), budget_bytes=10**6))
    assert not isinstance(built, Infeasible)
    ids = torch.from_numpy(plain.ids[:50].astype(np.int64))
    with torch.no_grad():
        assert torch.equal(built(ids).view(100, -1), built.forward_values(ids.reshape(-1), 50))
