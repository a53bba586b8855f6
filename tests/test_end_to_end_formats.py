"""Logs of others from file to hot set: a libsvm log as iPinYou's, libsvm with weights, and Parquet with lists.

Each goes through `schema infer`, then replay, trainer and agent in memory (what `hotstream demo` starts as processes),
and through the commands `evaluate` and `advise`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from test_end_to_end_lists import replayed, run_agent, sums_of, train

from streams import HotFeatureTable
from streams.keys import make_key
from streams.logs.inference import infer_schema
from streams.logs.locations import LocalFile
from streams.logs.sample import take_sample
from streams.logs.schema import LogSchema, load_schema
from trainer.commands.advise import command as advise
from trainer.commands.evaluate import command as evaluate

ROWS = 1600
POPULAR = 7  # the value that every list and the last position of every line has


def write_ipinyou(folder: Path) -> Path:
    """`click price index:1 ...`, as iPinYou's rows are published: 16 positions, the last one popular."""
    rng = np.random.default_rng(0)
    indices = (100 * np.arange(15) + 80 * rng.random((ROWS, 15)) ** 3).astype(int)
    prices, labels = rng.integers(20, 300, ROWS), rng.random(ROWS) < 0.1 + 0.4 * (indices[:, 3] % 2)
    lines = [
        f"{int(label)} {price} {' '.join(f'{index}:1' for index in row)} {POPULAR}:1"
        for label, price, row in zip(labels, prices, indices, strict=True)
    ]
    path = folder / "train.yzx.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_weighted(folder: Path) -> Path:
    """`label index:value ...` with any number of pairs, as bags of words are written."""
    rng = np.random.default_rng(1)
    lines = []
    for row in range(ROWS):
        words = np.unique([POPULAR, *(10 + 2000 * rng.random(rng.integers(1, 40)) ** 2).astype(int)])
        lines.append(f"{row % 2} " + " ".join(f"{word}:{rng.random() + 0.1:.3f}" for word in words))
    path = folder / "words.svm"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_lists(folder: Path) -> Path:
    rng = np.random.default_rng(2)
    tags = [[f"t{int(300 * rng.random() ** 2)}" for _ in range(rng.integers(0, 12))] + ["7"] for _ in range(ROWS)]
    columns = {
        "click": rng.integers(0, 2, ROWS),
        "site": [f"s{int(60 * rng.random() ** 3)}" for _ in range(ROWS)],
        "tags": tags,
        "ts": np.arange(ROWS) * 1000 + 1_700_000_000_000,
    }
    pq.write_table(pa.table(columns), folder / "log.parquet")
    return folder / "log.parquet"


WEIGHTED = '[log]\nformat = "libsvm"\nlabel = "y"\ncategorical = [{ name = "words", list = true, weights = true }]\n'
MAKERS = {"ipinyou": write_ipinyou, "weighted": write_weighted, "lists": write_lists}


@pytest.fixture(scope="module", params=list(MAKERS))
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A log, and the file of its schema: the inferred one, but for the bag of words, which cannot be told."""
    folder = tmp_path_factory.mktemp(request.param)
    path, schema = MAKERS[request.param](folder), folder / "schema.toml"
    schema.write_text(WEIGHTED if request.param == "weighted" else infer_schema(take_sample(LocalFile(path))))
    return path, schema


def key_of_popular(schema: LogSchema) -> int:
    return make_key(len(schema.categorical), "hash", str(POPULAR))


def test_a_log_of_others_is_replayed_trained_and_its_popular_value_is_hot(log: tuple[Path, Path]) -> None:
    schema = load_schema(str(log[1]))
    broker = replayed(log[0], schema, ROWS)
    session = train(broker, schema, rows=ROWS)
    assert session.run.progress.reasons == {}
    run_agent(broker, schema, "gradient")
    assert sums_of(broker, "gradient")[key_of_popular(schema)] > 0
    with HotFeatureTable(broker) as table:
        assert table.table.num_hot > 0
        assert table.lookup(np.array([key_of_popular(schema)], np.uint64))[0] >= 0


def test_a_log_of_others_is_evaluated_and_advised_on(log: tuple[Path, Path], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    files = [str(log[0]), "--schema", str(log[1]), "--json", str(report)]
    options = ["--methods", "full,hash,hotstream", "--compression", "2", "--no-search", "--seeds", "0", "--rows", "500"]
    done = CliRunner().invoke(evaluate, [*files, *options, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    cells = {cell["method"]: cell for cell in json.loads(report.read_text())["cells"]}
    assert {"full", "hash", "hotstream"} == cells.keys()
    assert all("infeasible" not in cell and cell["rows"] == 500 for cell in cells.values()), cells
    done = CliRunner().invoke(advise, [*files, "--compression", "2"])
    assert done.exit_code == 0, done.output
    content = json.loads(report.read_text())
    assert content["profile"]["rows"] == content["log_rows"] == ROWS
    assert content["profile"]["fields"][-1]["top"] > 0.04
    assert content["sizes"][0]["infeasible"] is None
