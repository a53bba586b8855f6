"""Damaged and hostile log files: only our own errors, and memory and time within bounds.

`HOTSTREAM_MUTATIONS` sets the number of mutations a file (default 300; here a fifth of it).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from test_records_mutations import mutate

from streams.errors import ConfigError, InputError
from streams.keys import MISSING, Field
from streams.logs.chunks import CountedFile, unpack
from streams.logs.lines import LineBuffer, LineFile
from streams.logs.log_rows import LogRows
from streams.logs.reader import check_logs, read_log
from streams.logs.schema import LogSchema, load_schema

NUM_MUTATIONS = int(os.environ.get("HOTSTREAM_MUTATIONS", "300")) // 5
SCHEMA = LogSchema(
    name="small", label="y", dense=("p",), categorical=(Field("a", "hex32"), Field("b")), time="t", time_format="ms"
)
TEXT = b"y,p,a,b,t\n" + b"".join(
    b"%d,%d.5,%08x,token%d,%d\n" % (i % 2, i, i * 77, i % 9, 1_700_000_000_000 + i) for i in range(400)
)
SKIPPABLE = b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"size"


def pack_zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def rows_of(path: Path, schema: LogSchema = SCHEMA, num_lines: int = 64) -> list[LogRows]:
    return [block.parse() for block in read_log(path, schema, num_lines)]


def reason_of(read: Callable[[Any], Any], path: Any) -> str | None:
    """The error that reading raises, which must be one of ours, short, and name the file or the schema."""
    try:
        read(path)
    except (InputError, ConfigError) as error:
        reason = str(error)
    else:
        return None
    assert len(reason) < 2000
    assert str(path) in reason or "schema s:" in reason or "field" in reason
    return reason


def parquet_table() -> pa.Table:
    number = np.arange(400)
    return pa.table(
        {
            "y": pa.array(number % 2),
            "p": pa.array(number + 0.5),
            "a": [f"{i * 77:08x}" for i in number],
            "b": pa.array([f"token{i % 9}" for i in number]).dictionary_encode(),
            "t": pa.array(1_700_000_000_000 + number, pa.timestamp("ms")),
        }
    )


def write_parquet(path: Path, table: pa.Table, **options: Any) -> bytes:
    pq.write_table(table, path, row_group_size=150, **options)
    return path.read_bytes()


def pack_lz4(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def pack_zip(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", b"")
        archive.writestr("__MACOSX/._train.csv", b"x")
        archive.writestr("train.csv", data)
    return packed.getvalue()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": pack_zstd,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lz4": pack_lz4,
    "zip": pack_zip,
    "pzstd": lambda data: b"".join(SKIPPABLE + pack_zstd(data[i : i + 5000]) for i in range(0, len(data), 5000)),
}


@pytest.mark.parametrize("kind", PACK)
def test_mutated_files_of_lines_raise_only_input_errors(kind, tmp_path):
    path, random = tmp_path / "log", np.random.default_rng(len(kind))
    path.write_bytes(PACK[kind](TEXT))
    assert sum(rows.batch.num_rows for rows in rows_of(path)) == 400
    for _ in range(NUM_MUTATIONS):
        path.write_bytes(mutate(random, PACK[kind](TEXT)))
        reason_of(rows_of, path)


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"use_dictionary": False, "compression": "none"}])
def test_mutated_parquet_files_raise_only_input_errors(options, tmp_path):
    path, random = tmp_path / "log.parquet", np.random.default_rng(len(options))
    data = write_parquet(path, parquet_table(), **options)
    assert sum(rows.batch.num_rows for rows in rows_of(path)) == 400
    reasons = set()
    for _ in range(NUM_MUTATIONS):
        path.write_bytes(mutate(random, data))
        reasons.add(reason_of(rows_of, path))
    assert len(reasons) > 2


# ---- what compressed files unpack to ---------------------------------------------------------------------------------


def test_skippable_frames_are_skipped(tmp_path):
    path = tmp_path / "log.zst"
    for data in (
        SKIPPABLE + pack_zstd(TEXT),
        pack_zstd(TEXT[:100]) + SKIPPABLE + pack_zstd(TEXT[100:]) + SKIPPABLE,
        b"\x5f" + SKIPPABLE[1:] + pack_zstd(TEXT),
    ):
        path.write_bytes(data)
        assert sum(rows.batch.num_rows for rows in rows_of(path)) == 400


@pytest.mark.parametrize("kind", PACK)
def test_files_are_unpacked_in_bounded_chunks(kind, tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(PACK[kind](bytes(4 << 20)))
    with path.open("rb") as file:
        chunks = list(unpack(CountedFile(file, "f")))
    assert sum(map(len, chunks)) == 4 << 20
    assert max(map(len, chunks)) <= 1 << 20


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_file_that_unpacks_to_a_thousand_times_its_size_is_read_in_bounded_memory(kind, tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(PACK[kind](b"\n" * (40 << 20)))
    assert path.stat().st_size < 1 << 16
    tracemalloc.start()
    with path.open("rb") as file:
        lines = sum(block.num_lines for block in LineFile(CountedFile(file, "f")).blocks(8192))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lines == 40 << 20
    assert peak < 64 << 20


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz", "lz4"])
@pytest.mark.parametrize("cut", [1, 3, 20])
def test_a_compressed_file_that_is_cut_off_is_refused(kind, cut, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(PACK[kind](TEXT)[:-cut])
    with pytest.raises(InputError, match="damaged or cut off"):
        rows_of(path)


def test_gzip_members_and_their_padding_are_read(tmp_path):
    path = tmp_path / "log.gz"
    for padding in (b"", b"\0" * 7, b"\0" * (1 << 18)):
        path.write_bytes(gzip.compress(TEXT[:77]) + padding + gzip.compress(TEXT[77:]) + padding)
        assert sum(rows.batch.num_rows for rows in rows_of(path)) == 400


def test_small_blocks_of_a_chunk_of_many_lines_cost_no_more_than_its_bytes():
    buffer, copied = LineBuffer(), 0
    buffer.feed(b"\n" * (1 << 20))
    ends = buffer._ends  # noqa: SLF001
    while buffer.take(64) is not None:
        copied += 1
    assert copied == 1 << 14
    assert buffer._ends is ends  # noqa: SLF001  not copied at every block, which took minutes


# ---- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b", "p"])
def test_a_column_of_nulls_is_a_column_of_missing_values(name, tmp_path):
    table = parquet_table()
    index = table.column_names.index(name)
    write_parquet(tmp_path / "log", table.set_column(index, name, pa.nulls(400)))
    rows = rows_of(tmp_path / "log")
    assert sum(part.batch.num_rows for part in rows) == 400
    batch = rows[0].batch
    if name == "p":
        assert np.isnan(batch.dense).all()
    else:
        assert (batch.keys[:, "ab".index(name)] & np.uint64(MISSING) == MISSING).all()


@pytest.mark.parametrize("name", ["y", "t"])
def test_a_label_or_time_column_of_nulls_makes_every_row_bad(name, tmp_path):
    table = parquet_table()
    write_parquet(tmp_path / "log", table.set_column(table.column_names.index(name), name, pa.nulls(400)))
    assert sum(len(part.bad) for part in rows_of(tmp_path / "log")) == 400


def test_strings_that_are_not_utf8_are_hashed_as_their_bytes_or_are_bad_rows(tmp_path):
    raw = pa.array([b"\xff\xfe", b"0000004d", b"\x80"] + [b"00000000"] * 397, pa.binary())
    text = pa.Array.from_buffers(pa.string(), 400, raw.buffers())
    for name in "ab":
        table = parquet_table()
        write_parquet(tmp_path / "log", table.set_column(table.column_names.index(name), name, text))
        rows = rows_of(tmp_path / "log")
        assert sum(part.batch.num_rows for part in rows) == (398 if name == "a" else 400)
        if name == "a":
            assert [bad.line for bad in rows[0].bad] == [1, 3]
            assert r"got '\\xff\\xfe'" in rows[0].bad[0].reason
            assert rb"\\xff\\xfe" in rows[0].bad[0].raw


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("ms", -1), ("ms", (1 << 63) - 1), ("ms", -(1 << 63) + 1), ("s", -1), ("s", 1 << 50),
        ("us", -5000), ("us", 1 << 62), ("us", -(1 << 63) + 1), ("ns", -(1 << 63) + 1),
    ],
)  # fmt: skip
def test_times_beyond_any_date_are_bad_rows(unit, value, tmp_path):
    table = parquet_table()
    times = pa.array([value, 5] + [7] * 398, pa.timestamp(unit))
    write_parquet(tmp_path / "log", table.set_column(4, "t", times))
    rows = rows_of(tmp_path / "log")
    assert [bad.line for bad in rows[0].bad] == [1]
    assert "expected a time" in rows[0].bad[0].reason


@pytest.mark.parametrize("cell", ["4102444800000", "-1", "1_000", " 5", "9" * 5000, "1e3", ""])
def test_a_cell_that_is_no_time_is_a_bad_line(cell, tmp_path):
    path = tmp_path / "log"
    path.write_text(f"y,p,a,b,t\n0,1,00000001,x,{cell}\n1,1,00000001,x,4102444799999\n")
    (rows,) = rows_of(path)
    assert [bad.line for bad in rows.bad] == [2]
    assert rows.batch.num_rows == 1


def test_a_header_of_many_columns_is_read_in_linear_time(tmp_path):
    path = tmp_path / "log"
    names = ",".join(["y", "p", "a", "b", "t", *["x"] * 30_000])
    path.write_text(names + "\n" + ",".join(["0", "1", "00000001", "x", "5", *["7"] * 30_000]) + "\n")
    started = datetime.now()
    assert sum(rows.batch.num_rows for rows in rows_of(path)) == 1
    assert (datetime.now() - started).total_seconds() < 30


# ---- schema files ----------------------------------------------------------------------------------------------------

TOML = b'[log]\nlabel = "y"\ncategorical = ["a", { name = "b", kind = "hex32" }]\ntime = "t"\ntime_format = "%y%m%d"\n'


def test_mutated_schema_files_raise_only_config_errors(tmp_path):
    path, random = tmp_path / "s.toml", np.random.default_rng(0)
    path.write_bytes(TOML)
    assert load_schema(str(path)).label == "y"
    for _ in range(NUM_MUTATIONS * 5):
        path.write_bytes(mutate(random, TOML))
        reason_of(load_schema, str(path))


@pytest.mark.parametrize(
    "text",
    [
        b"a = " + b"[" * 100_000,
        b"[" + b"a." * 5000 + b"b]",
        b'[log]\nlabel = "y"\ncategorical = ["a", ' + b"[" * 5000 + b"]" * 5000 + b"]",
        b'[log]\nlabel = "y"\ncategorical = ["a"]\ntime = "t"\ntime_format = "%y%y"',
        b'[log]\nlabel = "y"\ncategorical = ["a"]\ntime = "t"\ntime_format = "%Q"',
        b'[log]\nlabel = "y"\ncategorical = ["a"]\ntime = "t"\ntime_format = "%"',
        b"\xff",
        bz2.compress(TOML),
    ],
)
def test_a_schema_file_of_any_contents_is_a_config_error(text, tmp_path):
    path = tmp_path / "s.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError):
        load_schema(str(path))


def test_a_schema_of_many_columns_is_checked_in_linear_time():
    with pytest.raises(ConfigError, match="is repeated"):
        LogSchema(name="x", label="y", categorical=(Field("a"),), columns=("y", "a", *map(str, range(200_000)), "7"))


def test_a_file_of_newlines_alone_is_refused_at_once(tmp_path):
    path = tmp_path / "bomb.zst"
    path.write_bytes(pack_zstd(b"\n" * (64 << 20)))
    with pytest.raises(ConfigError, match="100 of the first 100 lines are malformed"):
        check_logs([path], LogSchema(name="x", label="y", categorical=(Field("a"),), header=False, columns=("y", "a")))
