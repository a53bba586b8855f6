"""Click logs in blocks of rows: every file kind, every fault, and the kernel against a slow, obvious oracle."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import ConfigError, InputError
from streams.keys import MISSING, Field, format_key, make_key
from streams.logs.delimited import DelimitedParser
from streams.logs.lines import MAX_LINE_BYTES, LineBlock, LineBuffer
from streams.logs.log_rows import LogRows
from streams.logs.reader import check_logs, read_log
from streams.logs.schema import SCHEMAS, LogSchema

KAGGLE = SCHEMAS["criteo-kaggle"]
SMALL = LogSchema(
    name="small",
    label="y",
    dense=("p", "q"),
    categorical=(Field("a", "hex32"), Field("b"), Field("t")),
    time="t",
    delimiter=",",
    header=False,
    columns=("a", "p", "y", "skipped", "t", "b", "q"),
)
DATA = Path(__file__).parents[2] / "shared" / "data"


def oracle(schema: LogSchema, line: bytes) -> tuple[int, list[float], list[int], int] | str:
    """A row as (label, dense, keys, time), or the fault of the line."""
    cells = line.split(schema.delimiter.encode())
    if len(line) > MAX_LINE_BYTES:
        return "Length"
    if len(cells) != len(schema.columns):
        return "Columns"
    named = dict(zip(schema.columns, cells, strict=True))
    if named[schema.label] not in (b"0", b"1", b"0.0", b"1.0"):
        return "bad"
    dense = []
    for name in schema.dense:
        text = named[name].decode("latin1")
        try:
            value = float(text) if text and text != "nan" else math.nan
        except ValueError:
            return "bad"
        if (
            text
            and text != "nan"
            and (
                not math.isfinite(value)
                or abs(value) > float(np.finfo(np.float32).max)
                or set(text) & set("_ \t\r\v\f")
            )
        ):
            return "bad"
        dense.append(value)
    keys = []
    for number, field in enumerate(schema.categorical, 1):
        token = named[field.name]
        if field.kind == "hex32" and token and (len(token) != 8 or set(token) - set(b"0123456789abcdefABCDEF")):
            return "bad"
        text = token.decode("latin1") if field.kind == "hex32" else token.decode("utf-8", "surrogateescape")
        keys.append(make_key(number, field.kind, text) if text.isascii() else 0)
    time_ms = None if schema.time is None else schema.parse_time_ms(named[schema.time].decode("latin1"))
    return "bad" if time_ms is None else (int(named[schema.label]), dense, keys, time_ms)


def parse(data: bytes, schema: LogSchema = SMALL, first_line: int = 1) -> LogRows:
    return DelimitedParser(schema, schema.columns).parse(LineBlock.split(data, first_line))


CELLS = """
0 1 7e0ccccf ABCDEF01 7e0cccc 7e0ccccg 12 -3 1.5 .5 - . 1e3 1e40 nan inf 1_0 0x10 123456789012345678 2.5.1 +4
0.1234567890123456789 1413849600
"""
cell = st.sampled_from(["", " 1", "x y", *CELLS.split()])
good_line = st.tuples(
    st.sampled_from(["", "7e0ccccf", "0000000f"]),
    st.decimals(-1000, 1000, places=3).map(str),
    st.sampled_from("01"),
    cell,
    st.integers(0, 1 << 40).map(str),
    cell,
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
).map(",".join)
any_line = st.one_of(good_line, good_line, st.lists(cell, min_size=1, max_size=9).map(",".join))


@settings(max_examples=300, deadline=None)
@given(st.lists(any_line, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_the_kernel_parses_lines_as_the_oracle_does(lines: list[str], newline: str, ends_with_newline: bool) -> None:
    data = newline.join(lines).encode() + (newline.encode() if lines and ends_with_newline else b"")
    expected = {number: oracle(SMALL, line.encode()) for number, line in enumerate(lines, 1)}
    if lines and not lines[-1] and not ends_with_newline:
        del expected[len(lines)]  # an empty rest behind the last newline is not a line
    rows = parse(data)
    assert rows.lines.tolist() == [number for number, row in expected.items() if not isinstance(row, str)]
    assert [bad.line for bad in rows.bad] == [number for number, row in expected.items() if isinstance(row, str)]
    for position, number in enumerate(rows.lines.tolist()):
        label, dense, keys, time_ms = expected[number]
        assert rows.batch.label[position] == label
        np.testing.assert_array_equal(rows.batch.dense[position], np.array(dense, np.float32))
        assert rows.batch.keys[position].tolist() == keys
        assert rows.batch.event_time_ms[position] == time_ms
    for bad in rows.bad:
        assert bad.raw == lines[bad.line - 1].encode()
        assert expected[bad.line] in ("bad", bad.error)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300).map(lambda data: data.replace(b"a", b"\n")), st.integers(1, 7), st.integers(1, 50))
def test_blocks_do_not_depend_on_how_the_bytes_arrive(data: bytes, num_lines: int, chunk_bytes: int) -> None:
    buffer, blocks = LineBuffer(), []
    for start in range(0, len(data), chunk_bytes):
        buffer.feed(data[start : start + chunk_bytes])
        while (taken := buffer.take(num_lines)) is not None:
            blocks.append(taken)
    blocks.append(buffer.take_rest())
    assert b"".join(blocks) == data
    assert all(block.count(b"\n") == num_lines for block in blocks[:-1])
    assert blocks[-1].count(b"\n") < num_lines


def test_the_reason_of_every_fault_names_the_found_and_the_expected_value() -> None:
    good = b"7e0ccccf,1,0,,5,b,2\n"
    malformed = {
        b"7e0ccccf,1,0\n": ("Columns", "3 columns, expected 7; the first missing is 'skipped'"),
        b"7e0ccccf,1,0,,5,b,2,9\n": ("Columns", "8 columns, expected 7"),
        b"\n": ("Columns", "1 columns, expected 7; the first missing is 'p'"),
        b"7e0ccccf,1,2,,5,b,2\n": ("Label", "column 'y': got '2', expected 0 or 1"),
        b"7e0ccccf,1,,,5,b,2\n": ("Label", "column 'y': got '', expected 0 or 1"),
        b"7e0ccccf,x1,0,,5,b,2\n": (
            "Number",
            "column 'p': got 'x1', expected a finite decimal number",
        ),
        b"7e0,1,0,,5,b,2\n": ("Token", "column 'a': got '7e0', expected 8 hex digits or an empty cell"),
        b"7e0ccccf,1,0,,now,b,2\n": ("Time", "column 't': got 'now', expected a time of format 's' from 1970 to 2099"),
        b"7e0ccccf,1,0,,5," + b"b" * (3 << 20) + b",2\n": ("Length", "more than 65536 bytes"),
    }
    rows = parse(good + b"".join(line + good for line in malformed), first_line=11)
    assert rows.lines.tolist() == list(range(11, 11 + 2 * len(malformed) + 1, 2))
    for bad, (line, (error, reason)) in zip(rows.bad, malformed.items(), strict=True):
        assert bad.error == error
        assert bad.reason.startswith(reason)
        assert bad.raw == line.rstrip(b"\n")[:MAX_LINE_BYTES]


def test_an_oversized_line_is_one_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    good = b"7e0ccccf,1,0,,5,b,2\n"
    path.write_bytes(gzip.compress(good + b"x" * (20 << 20) + b"\n" + good, 1))
    (block,) = read_log(path, SMALL, 100)
    rows = block.parse()
    assert (rows.lines.tolist(), [(bad.line, bad.error) for bad in rows.bad]) == ([1, 3], [(2, "Length")])


def test_tokens_need_not_be_utf8() -> None:
    rows = parse(b",,1,,5,\xff\xfe,\n")
    assert not rows.bad
    assert format_key(int(rows.batch.keys[0, 1]), SMALL.categorical).startswith("b:~")
    assert rows.batch.keys[0, 0] == (1 << 56 | MISSING)
    assert np.isnan(rows.batch.dense).all()


def criteo_lines(num_rows: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(num_rows):
        dense = ["" if rng.random() < 0.2 else str(rng.integers(-2, 1000)) for _ in range(13)]
        tokens = ["" if rng.random() < 0.1 else f"{rng.integers(1 << 32):08x}" for _ in range(26)]
        lines.append("\t".join([str(rng.integers(2)), *dense, *tokens]))
    return lines


@pytest.mark.parametrize("kind", ["plain", "gz", "zst", "two members", "two frames"])
def test_every_compression_gives_the_same_blocks(tmp_path: Path, kind: str) -> None:
    lines = criteo_lines(1000)
    data = "\n".join(lines).encode()  # the last line has no line break
    half = len(data) // 2
    path = tmp_path / "log"  # no suffix: the first bytes decide
    path.write_bytes(
        {
            "plain": lambda: data,
            "gz": lambda: gzip.compress(data) + b"\0" * 512,
            "zst": lambda: zstandard.compress(data),
            "two members": lambda: gzip.compress(data[:half]) + gzip.compress(data[half:]),
            "two frames": lambda: zstandard.compress(data[:half]) + zstandard.compress(data[half:]),
        }[kind]()
    )
    blocks = list(read_log(path, KAGGLE, 300))
    assert [(b.first_line, b.last_line) for b in blocks] == [(1, 300), (301, 600), (601, 900), (901, 1000)]
    assert blocks[-1].bytes_read == path.stat().st_size
    for block in blocks:
        rows = block.parse()
        expected = parse("\n".join(lines[block.first_line - 1 : block.last_line]).encode(), KAGGLE, block.first_line)
        np.testing.assert_array_equal(rows.batch.keys, expected.batch.keys)
        np.testing.assert_array_equal(rows.batch.dense, expected.batch.dense)


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_file_yields_the_complete_blocks_before_the_damage(tmp_path: Path, kind: str, damage: str) -> None:
    data = "\n".join(criteo_lines(3000)).encode()
    compressed = bytearray(
        gzip.compress(data) if kind == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(data)
    )
    if damage == "cut":
        del compressed[-len(compressed) // 4 :]
    else:
        compressed[-len(compressed) // 4] ^= 0x55
    path = tmp_path / f"log.{kind}"
    path.write_bytes(compressed)
    lines_read = 0
    blocks = read_log(path, KAGGLE, 100)
    with pytest.raises(InputError, match=rf"log\.{kind}: damaged or cut off after line \d+"):  # noqa: PT012  the loop raises
        for block in blocks:
            lines_read = block.last_line
    assert lines_read % 100 == 0
    if damage == "cut":
        assert 1000 < lines_read < 3000


def test_missing_files_directories_and_empty_files_have_errors_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        check_logs([tmp_path / "none"], KAGGLE)
    with pytest.raises(ConfigError, match="no file in this folder"):
        check_logs([tmp_path], KAGGLE)
    for name, content in {"empty": b"", "empty.gz": gzip.compress(b"")}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: no rows in it"):
            check_logs([tmp_path / name], KAGGLE)
    (tmp_path / "header").write_bytes(b"id,click,hour\n")
    with pytest.raises(ConfigError, match="column 'C1' of schema avazu is missing"):
        check_logs([tmp_path / "header"], SCHEMAS["avazu"])


def test_the_error_for_a_log_of_another_schema_names_a_column(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("0,1,2\n" * 5)
    with pytest.raises(
        ConfigError, match=r"does not fit schema criteo-kaggle: 5 of the first 5 lines.*1 columns.*missing is 'I1'"
    ):
        check_logs([path], KAGGLE)
    path.write_text("\n".join(line[2:] + "\tx" for line in criteo_lines(3)))
    with pytest.raises(ConfigError, match=r"line 1: column 'label': got .*, expected 0 or 1"):
        check_logs([path], KAGGLE)


def test_an_avazu_file_is_read_by_its_header(tmp_path: Path) -> None:
    schema = SCHEMAS["avazu"]
    names = ["id", "click", *(field.name for field in schema.categorical)]
    path = tmp_path / "avazu.csv"
    rows = [["10000169", str(n % 2), f"141021{n % 24:02d}", *(f"v{n}-{c}" for c in range(21))] for n in range(50)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(",".join(row) for row in [names, *rows]).encode())
    first, second = (block.parse() for block in read_log(path, schema, 40))
    assert first.lines[0] == 2  # the header is line 1
    assert (first.batch.num_rows, second.batch.num_rows) == (40, 10)
    assert first.batch.event_time_ms[:2].tolist() == [1413849600_000, 1413853200_000]
    assert first.batch.keys[7].tolist() == [make_key(n, "hash", token) for n, token in enumerate(rows[7][2:], 1)]


def test_a_repeated_column_in_the_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("y,a,a\n1,2,3\n")
    with pytest.raises(ConfigError, match="header repeats column 'a'"):
        check_logs([path], LogSchema(name="s", label="y", categorical=(Field("a"),)))


def test_rows_without_a_time_column_have_the_time_of_the_clock() -> None:
    parser = DelimitedParser(KAGGLE, KAGGLE.columns, clock_ms=lambda: 1234)
    rows = parser.parse(LineBlock.split("\n".join(criteo_lines(3)).encode(), 1))
    assert rows.batch.event_time_ms.tolist() == [1234] * 3


def test_parquet_gives_the_rows_of_the_delimited_file(tmp_path: Path) -> None:
    lines = criteo_lines(500)
    columns = dict(zip(KAGGLE.columns, zip(*(line.split("\t") for line in lines), strict=True), strict=True))
    table: dict[str, pa.Array] = {"label": pa.array([int(x) for x in columns["label"]])}
    for name in KAGGLE.dense:
        table[name] = pa.array([float(x) if x else None for x in columns[name]])
    for column, field in enumerate(KAGGLE.categorical):
        tokens = [token or None for token in columns[field.name]]
        table[field.name] = (
            pa.array([None if token is None else int(token, 16) for token in tokens])
            if column % 3 == 0
            else pa.array(tokens).dictionary_encode()
            if column % 3 == 1
            else pa.array([token or "" for token in tokens])
        )
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(table), path, row_group_size=70)
    blocks = list(read_log(path, KAGGLE, 200))
    assert [(b.first_line, b.last_line) for b in blocks] == [(1, 200), (201, 400), (401, 500)]
    assert blocks[-1].bytes_read == path.stat().st_size
    for block in blocks:
        rows = block.parse()
        expected = parse("\n".join(lines[block.first_line - 1 : block.last_line]).encode(), KAGGLE)
        np.testing.assert_array_equal(rows.batch.keys, expected.batch.keys)
        np.testing.assert_array_equal(rows.batch.dense, expected.batch.dense)
        np.testing.assert_array_equal(rows.batch.label, expected.batch.label)


def test_between_keeps_the_rows_and_bad_lines_of_a_range() -> None:
    rows = parse(b"7e0ccccf,1,0,,5,b,2\nbad\n" * 5).between(3, 6)
    assert rows.lines.tolist() == [3, 5]
    assert rows.batch.num_rows == 2
    assert [bad.line for bad in rows.bad] == [4, 6]


@pytest.mark.parametrize(
    ("name", "schema", "num_rows"),
    [
        ("criteo_kaggle_head.tsv", "criteo-kaggle", 10_001),
        ("criteo_tb_day0_head.tsv", "criteo-terabyte", 10_000),
    ],
)
def test_real_rows_are_valid_and_their_keys_are_formatted_as_their_tokens(
    name: str, schema: str, num_rows: int
) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{name}, the head of a real log, which is not part of the project")
    parsed = [block.parse() for block in read_log(path, SCHEMAS[schema], 2048)]
    assert sum(rows.batch.num_rows for rows in parsed) == num_rows
    assert not any(rows.bad for rows in parsed)
    keys = np.concatenate([rows.batch.keys for rows in parsed])
    lines = path.read_text().splitlines()
    for row in range(0, num_rows, 97):
        tokens = lines[row].split("\t")[14:]
        expected = [f"C{number}:{token or 'missing'}" for number, token in enumerate(tokens, 1)]
        assert [format_key(int(key)) for key in keys[row]] == expected
