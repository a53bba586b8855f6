"""Files of generated rows: the formats hold the same rows, and a file appears only when it is complete."""

from __future__ import annotations

import errno
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner

from streams.commands.generate import command
from streams.errors import ConfigError, StreamsError
from streams.generator import Generator, GeneratorConfig, RowBlock
from streams.generator.files import open_writer
from streams.keys import MISSING_WORD


def draw(num_rows: int, config: GeneratorConfig | None = None) -> RowBlock:
    return next(Generator(config or GeneratorConfig()).blocks(num_rows))


def expected_line(block: RowBlock, row: int) -> str:
    counts = ["" if np.isnan(count) else str(int(count)) for count in block.dense[row]]
    tokens = ["" if payload == MISSING_WORD else f"{int(payload):08x}" for payload in block.payloads[row]]
    return "\t".join([str(block.label[row]), *counts, *tokens])


def write(path: Path, num_rows: int = 500) -> Path:
    with open_writer(path) as writer:
        for block in Generator(GeneratorConfig()).blocks(num_rows, 128):
            writer.write(block)
    return path


def test_every_format_holds_the_same_rows(tmp_path: Path) -> None:
    block = draw(500)
    text = write(tmp_path / "log.tsv").read_bytes()
    assert text.decode().split("\n") == [expected_line(block, row) for row in range(500)] + [""]
    assert gzip.decompress(write(tmp_path / "log.tsv.gz").read_bytes()) == text
    with zstandard.open(write(tmp_path / "log.tsv.zst")) as stream:
        assert stream.read() == text
    table = pq.read_table(write(tmp_path / "log.parquet"))
    table.validate(full=True)
    cells = zip(*table.to_pydict().values(), strict=True)
    assert ["\t".join("" if cell is None else str(cell) for cell in row) for row in cells] == text.decode().split("\n")[
        :-1
    ]


@pytest.mark.parametrize("ending", [".tsv", ".tsv.gz", ".tsv.zst", ".parquet"])
def test_an_incomplete_file_never_has_its_final_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"log{ending}"
    block = draw(100)

    def write_and_stop() -> None:
        with open_writer(path) as writer:
            writer.write(block)
            assert [file.name for file in tmp_path.iterdir()] == [path.name + ".partial"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_clear_error_and_leaves_no_file(tmp_path: Path) -> None:
    def write_until_full() -> None:
        with open_writer(tmp_path / "log.tsv") as writer:
            writer.write(draw(10))
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StreamsError, match=r"log\.tsv: cannot be written \(No space left"):
        write_until_full()
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_file_and_a_report(tmp_path: Path) -> None:
    out, report_path = tmp_path / "log.tsv.gz", tmp_path / "report.json"
    arguments = [str(out), "--rows", "2000", "--seed", "3", "--rotate-at", "1000", "--json", str(report_path)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads(report_path.read_text())
    assert (report["command"], report["ok"], report["rows"]) == ("generate", True, 2000)
    lines = gzip.decompress(out.read_bytes()).decode().splitlines()
    block = draw(2000, GeneratorConfig(seed=3, rotate_at=1000, rows_per_day=2000 / 7))
    assert lines == [expected_line(block, row) for row in range(2000)]
    assert report["click_rate"] == pytest.approx(block.label.mean())


@pytest.mark.parametrize(
    ("name", "message"),
    [("log.csv", "ends in .tsv"), ("nowhere/log.tsv", "nowhere does not exist"), (".tsv", "folder")],
)
def test_the_error_of_an_invalid_path_names_the_fault(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / ".tsv").mkdir()
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(command, [str(tmp_path / name), "--rows", "10"], catch_exceptions=False)
