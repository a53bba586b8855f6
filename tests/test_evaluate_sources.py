"""The rows of an evaluation that come from logs: weights, and the malformed lines, which are never dropped unsaid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from streams.errors import ConfigError, InputError
from trainer.commands.evaluate import command
from trainer.demo.view import _bad_lines
from trainer.evaluate.cell import Cell, run_cell
from trainer.evaluate.methods.registry import METHODS
from trainer.evaluate.presets import PRESETS
from trainer.evaluate.sources.stream import FileSource, load_stream


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    (tmp_path / "log.toml").write_text('[log]\nlabel = "y"\nweight = "w"\ncategorical = ["a"]\n')
    for part in range(2):
        good = "".join(f"{row % 2},x{row},{row}.5\n" for row in range(10))
        (tmp_path / f"part-{part}.csv").write_text("y,a,w\n" + good + "3,x,1\n" * part)
    return FileSource(paths=(f"{tmp_path}/part-*.csv",), schema=str(tmp_path / "log.toml"))


def test_the_rows_of_all_part_files_have_weights_and_malformed_lines_are_counted(source: FileSource) -> None:
    stream = load_stream(source, None)
    assert (stream.num_rows, stream.label.tolist()) == (20, [0, 1] * 10)
    assert stream.weight is not None
    np.testing.assert_array_equal(stream.weight, np.tile(np.arange(10) + 0.5, 2).astype(np.float32))
    assert stream.bad_lines is not None
    assert (stream.bad_lines.num_lines, stream.bad_lines.num_bad) == (21, 1)


def test_an_evaluation_of_a_log_with_too_many_malformed_lines_ends_before_it_trains(source: FileSource) -> None:
    done = CliRunner().invoke(command, [*source.paths, "--schema", source.schema])
    assert isinstance(done.exception, InputError)
    assert "1 of 21 lines are malformed (4.76%), expected at most 1.00%" in str(done.exception)
    assert "part-1.csv, line 12: column 'y': got '3', expected 0 or 1" in str(done.exception)


def test_an_evaluation_without_labels_says_what_it_needs(tmp_path: Path, source: FileSource) -> None:
    (tmp_path / "log.toml").write_text('[log]\ncategorical = ["a"]\n')
    with pytest.raises(ConfigError, match="has no label, and an evaluation needs one"):
        load_stream(FileSource(paths=source.paths, schema=source.schema), None)


def test_the_demo_names_what_it_dropped() -> None:
    reasons = [{"error": "Label", "column": "y", "lines": 4000, "first": "log, line 2: got [x], expected 0 or 1"}]
    ((name, text),) = _bad_lines({"read": 10_000, "bad": 4000, "sent": 6000, "reasons": reasons})
    assert (name, text.split("\n")[0]) == ("malformed lines", "4,000 of 10,000 (40.0%)")
    assert "4,000 x Label: log, line 2: got \\[x]" in text
    assert _bad_lines({"read": 10, "bad": 0, "sent": 10, "reasons": []}) == []


def test_an_evaluation_weighs_its_rows(tmp_path: Path) -> None:
    schema = '[log]\nlabel = "y"\nweight = "w"\ncategorical = ["a"]\ndense = ["p"]\n'
    results = {}
    for name, weights in {"none": None, "ones": [1] * 300, "later": [0] * 200 + [1] * 100}.items():
        (tmp_path / f"{name}.toml").write_text(schema if weights else schema.replace('weight = "w"\n', ""))
        rows = [f"{row % 2},x{row % 5},{row},{1 if weights is None else weights[row]}\n" for row in range(300)]
        (tmp_path / f"{name}.csv").write_text("y,a,p,w\n" + "".join(rows))
        source = FileSource(paths=(str(tmp_path / f"{name}.csv"),), schema=str(tmp_path / f"{name}.toml"))
        cell = Cell(
            source=source, num_rows=None, preset=replace(PRESETS["reference"], batch_rows=100), model="dlrm",
            method="full", compression=1.0, seed=0, knobs=METHODS["full"].default,
        )  # fmt: skip
        results[name] = run_cell(cell)["curve"]
    assert results["none"] == results["ones"]
    assert results["none"] != results["later"]  # rows of weight 0 teach nothing
