"""The logs of others: each kind of file that a user has gives the keys of the same rows as plain CSV, or a remedy."""

from __future__ import annotations

import bz2
import csv
import datetime as dt
import gzip
import io
import json
import lzma
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import ConfigError, InputError
from streams.keys import MISSING, Field, make_key
from streams.logs.bad_lines import BadLines
from streams.logs.labels import LabelRule
from streams.logs.lines import LineBlock
from streams.logs.locations import RemoteFile, find_logs
from streams.logs.log_rows import LogRows
from streams.logs.reader import check_logs, read_log
from streams.logs.schema import SCHEMAS, LogSchema
from streams.logs.table import TableParser
from streams.logs.texts import split_cells

SCHEMA = LogSchema(name="s", label="y", dense=("p",), categorical=(Field("a"), Field("b")))
ROWS = [("1", "x", "u1", "0.5"), ("0", "y z", "u2", "1.5"), ("0", "x", "u3", "")]
KEYS = [[make_key(1, "hash", a), make_key(2, "hash", b)] for _, a, b, _ in ROWS]
CSV = "y,a,b,p\n" + "".join(",".join(row) + "\n" for row in ROWS)


def read(path: Path, schema: LogSchema = SCHEMA) -> LogRows:
    (block,) = read_log(path, schema, 100)
    return block.parse()


def read_text(tmp_path: Path, text: str | bytes, schema: LogSchema = SCHEMA) -> LogRows:
    path = tmp_path / "log"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read(path, schema)


def assert_same_rows(rows: LogRows) -> None:
    assert rows.bad == ()
    assert rows.batch.keys.tolist() == KEYS
    assert rows.batch.label is not None
    assert rows.batch.label.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(rows.batch.dense[:, 0], np.array([0.5, 1.5, np.nan], np.float32))


# ---- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_MINIMAL])
def test_quoted_cells_have_the_keys_of_unquoted_ones(quoting: Any, tmp_path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting, lineterminator="\r\n")
    writer.writerows([["y", "a", "b", "p"], *ROWS])
    assert_same_rows(read_text(tmp_path, text.getvalue()))


cell = st.text('ab"",; 1', max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=5), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_cells_with_delimiters_and_quotes_are_those_that_the_csv_module_wrote(cells: Any, quoting: Any) -> None:
    from streams.logs.delimited import DelimitedParser  # noqa: PLC0415

    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator="\n").writerows([("1", *row) for row in cells])
    schema = LogSchema(name="s", label="y", categorical=(Field("a"), Field("b")), header=False, columns=("y", "a", "b"))
    rows = DelimitedParser(schema, schema.columns).parse(LineBlock.split(text.getvalue().encode(), 1))
    assert rows.bad == ()
    assert rows.batch.keys.tolist() == [[make_key(1, "hash", a), make_key(2, "hash", b)] for a, b in cells]
    for line, row in zip(text.getvalue().splitlines(), cells, strict=True):
        assert split_cells(line.encode(), b",", is_quoted=True) == [b"1", *(text.encode() for text in row)]


@pytest.mark.parametrize(
    ("line", "column"),
    [('1,"x,u1,0.5', "a"), ('1,x,"u"1,0.5', "b"), ('1,x,u1,"0.5""', "p"), ('1,x,u1,"', "p")],
)
def test_a_quote_that_is_not_closed_is_a_fault_of_its_line_alone(line: str, column: str, tmp_path: Path) -> None:
    rows = read_text(tmp_path, CSV + line + "\n1,x,u1,0.5\n")
    assert rows.batch.num_rows == 4
    assert [(bad.line, bad.error, bad.column) for bad in rows.bad] == [(5, "Quote", column)]
    assert "write quote = false" in rows.bad[0].reason


def test_quotes_without_a_meaning_are_part_of_the_value(tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", categorical=(Field("a"),), quote=False)
    rows = read_text(tmp_path, 'y,a\n1,"x"\n0,5" screen\n', schema)
    assert rows.batch.keys[:, 0].tolist() == [make_key(1, "hash", '"x"'), make_key(1, "hash", '5" screen')]


@pytest.mark.parametrize("delimiter", ["||", "\x01", "::", "; "])
def test_delimiters_have_one_or_more_characters(delimiter: str, tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", dense=("p",), categorical=SCHEMA.categorical, delimiter=delimiter)
    assert_same_rows(read_text(tmp_path, CSV.replace(",", delimiter), schema))


def test_a_part_of_a_delimiter_is_part_of_a_value(tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", categorical=SCHEMA.categorical, delimiter="||")
    rows = read_text(tmp_path, 'y||a||b\n1||x|y||"u||v"\n', schema)
    assert rows.batch.keys.tolist() == [[make_key(1, "hash", "x|y"), make_key(2, "hash", "u||v")]]


def test_json_lines_are_known_by_their_first_byte(tmp_path: Path) -> None:
    rows = [dict(zip(("y", "a", "b"), row, strict=False), p=float(row[3]) if row[3] else None) for row in ROWS]
    assert_same_rows(read_text(tmp_path, "".join(json.dumps(row) + "\n" for row in rows)))
    typed = [{**row, "y": bool(int(row["y"])), "more": [1]} for row in rows]
    assert_same_rows(read_text(tmp_path, "\n".join(json.dumps(row) for row in typed)))


def test_malformed_json_lines_are_bad_lines(tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", categorical=(Field("a"),), renamed=(("a", "user.ids[1]"),))
    lines = [
        '{"y": 1, "user": {"ids": [7, 8]}}',
        '{"y": 1, "user": {"ids": [7]}}',  # no second one: missing
        '{"y": 1, "user": {"ids": [7, [8]]}}',
        '{"y": 1',
        "[1]",
        '{"y": 2}',
        '{"y": 1, "user": {"ids": [7, 8.0]}}',
    ]
    rows = read_text(tmp_path, "\n".join(lines), schema)
    eight = make_key(1, "hash", "8")
    assert rows.batch.keys[:, 0].tolist() == [eight, 1 << 56 | MISSING, eight]
    assert [(bad.line, bad.error) for bad in rows.bad] == [(3, "Values"), (4, "Text"), (5, "Text"), (6, "Label")]
    assert rows.bad[1].raw == b'{"y": 1'


def test_the_pairs_of_libsvm_are_fields_by_their_position(tmp_path: Path) -> None:
    schema = LogSchema(
        name="s", label="y", dense=("99",), categorical=(Field("a"), Field("b")), format="libsvm",
        label_rule=LabelRule(negative=("-1",)),
    )  # fmt: skip
    text = "+1 3:1 17:1 99:0.5\n-1 99:2 4:1 # comment\n-1 1:1 2:1 3:1\n1 x:1\n\n"
    rows = read_text(tmp_path, text, schema)
    assert rows.batch.label is not None
    assert rows.batch.label.tolist() == [1, 0]
    assert rows.batch.dense[:, 0].tolist() == [0.5, 2.0]
    expected = [make_key(1, "hash", "3"), make_key(2, "hash", "17"), make_key(1, "hash", "4"), 2 << 56 | MISSING]
    assert rows.batch.keys.reshape(-1).tolist() == expected
    assert [(bad.line, bad.error) for bad in rows.bad] == [(3, "Columns"), (4, "Text"), (5, "Columns")]
    leading = LogSchema(
        name="s", label="y", dense=("price",), categorical=(Field("a"),), format="libsvm", columns=("y", "price")
    )
    rows = read_text(tmp_path, "0 227 5:1\n1 300 6:1\n", leading)  # as iPinYou's logs are made
    assert rows.batch.dense[:, 0].tolist() == [227, 300]
    assert rows.batch.keys[:, 0].tolist() == [make_key(1, "hash", "5"), make_key(1, "hash", "6")]


@pytest.mark.parametrize("kind", ["libsvm", "ffm"])
def test_a_column_before_the_pairs_may_be_a_field_and_takes_no_pair(kind: str, tmp_path: Path) -> None:
    schema = LogSchema(
        name="s", label="y", categorical=(Field("day"), Field("a"), Field("7")), format=kind, columns=("y", "day")
    )
    text = "0 monday 5:1 6:1\n" if kind == "libsvm" else "0 monday a:5:1 7:6:1 day:9:1\n"
    expected = [make_key(1, "hash", "monday"), make_key(2, "hash", "5"), make_key(3, "hash", "6")]
    assert read_text(tmp_path, text, schema).batch.keys.tolist() == [expected]


def test_the_fields_of_ffm_are_those_of_its_triples(tmp_path: Path) -> None:
    schema = LogSchema(
        name="s", label="y", dense=("0",), categorical=(Field("site"), Field("b")), renamed=(("site", "2"), ("b", "1")),
        format="ffm",
    )  # fmt: skip
    rows = read_text(tmp_path, "1 0:9:0.5 2:33:1 1:17:0.3\n0 2:34:1 7:1:1\n1 2:34:1 2:35:1\n1 2:34\n", schema)
    site, b = 1 << 56, 2 << 56 | MISSING
    assert rows.batch.keys.tolist() == [
        [make_key(1, "hash", "33"), make_key(2, "hash", "17")],
        [make_key(1, "hash", "34"), b],
    ]
    assert rows.batch.dense[:, 0].tolist() == [0.5, 0]
    assert rows.batch.keys[0, 0] > site
    assert [(bad.line, bad.error) for bad in rows.bad] == [(3, "Values"), (4, "Text")]


def test_utf16_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is UTF-16.*iconv"):
        read_text(tmp_path, CSV.encode("utf-16"))


def test_words_for_missing_values(tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", dense=("p",), categorical=SCHEMA.categorical, missing=("NULL", "-"))
    rows = read_text(tmp_path, "y,a,b,p\n1,NULL,x,NaN\n0,-,,NULL\n", schema)
    assert rows.bad == ()
    assert np.isnan(rows.batch.dense).all()
    missing = [1 << 56 | MISSING, 2 << 56 | MISSING]
    assert rows.batch.keys.tolist() == [[missing[0], make_key(2, "hash", "x")], missing]
    hexes = LogSchema(name="s", label="y", categorical=(Field("a", "hex32"),), missing=("NULL",))
    rows = read_text(tmp_path, "y,a\n1,NULL\n1,0000000f\n1,f\n", hexes)
    assert rows.batch.keys[:, 0].tolist() == [missing[0], 1 << 56 | 15]
    assert [bad.error for bad in rows.bad] == ["Token"]


# ---- labels, weights, times ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "texts", "expected"),
    [
        ({}, ["0", "1", "1.0", "True", "false", "-1", "2", "", "nan"], [0, 1, 1, 1, 0, None, None, None, None]),
        ({"negative": ("-1",)}, ["-1", "+1", "1", "0"], [0, 1, 1, 0]),
        ({"positive": ("yes", "0"), "negative": ("no",)}, ["yes", "no", "0", "1", "maybe"], [1, 0, 1, 1, None]),
        ({"above": 3}, ["0", "3", "3.5", "17", "x", ""], [0, 0, 1, 1, None, None]),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_are_mapped_by_the_schema(rule: Any, texts: Any, expected: Any, kind: str, tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", categorical=(Field("a"),), label_rule=LabelRule(**rule))
    if kind == "csv":
        rows = read_text(tmp_path, "y,a\n" + "".join(f"{text},x\n" for text in texts), schema)
    else:
        table = pa.table({"y": texts, "a": ["x"] * len(texts)})
        rows = TableParser(schema, {field.name: field.type for field in table.schema}, "log").parse(2, table)
    assert rows.batch.label is not None
    assert rows.batch.label.tolist() == [label for label in expected if label is not None]
    assert [bad.line for bad in rows.bad] == [2 + row for row, label in enumerate(expected) if label is None]
    assert all("expected" in bad.reason and bad.error == "Label" for bad in rows.bad)


@pytest.mark.parametrize(("cell", "remedy"), [("-1", 'label_negative = ["-1"]'), ("7", "label_above = 0")])
def test_the_reason_of_an_unusual_label_names_the_remedy(cell: str, remedy: str, tmp_path: Path) -> None:
    assert remedy in read_text(tmp_path, f"y,a,b,p\n{cell},x,x,1\n").bad[0].reason


@pytest.mark.parametrize("kind", [pa.int8(), pa.float64(), pa.bool_(), pa.string(), pa.decimal128(3, 1)])
def test_labels_of_every_parquet_type_are_read(kind: pa.DataType, tmp_path: Path) -> None:
    labels = (
        pa.array([1, 0, 1], pa.int64()).cast(kind) if kind != pa.decimal128(3, 1) else [Decimal("1"), Decimal(0)] * 2
    )
    table = pa.table({"y": pa.array(labels, kind)[:3], "a": ["x", "y", "x"]})
    pq.write_table(table, tmp_path / "log")
    rows = read(tmp_path / "log", LogSchema(name="s", label="y", categorical=(Field("a"),)))
    assert rows.batch.label is not None
    assert rows.batch.label.tolist() == [1, 0, 1]


def test_a_log_without_labels_is_read(tmp_path: Path) -> None:
    schema = LogSchema(name="s", categorical=(Field("a"),))
    assert read_text(tmp_path, "a\nx\n", schema).batch.label is None
    assert read_text(tmp_path, '{"a": "x"}\n', schema).batch.label is None
    test = SCHEMAS["criteo-kaggle-test"]
    line = "\t".join(["5"] * 13 + ["0000000f"] * 26)
    rows = read_text(tmp_path, line + "\n", test)
    assert (rows.batch.label, rows.batch.num_rows) == (None, 1)
    (bad,) = read_text(tmp_path, line + "\n", SCHEMAS["criteo-kaggle"]).bad
    assert "39 columns, expected 40" in bad.reason
    assert "criteo-kaggle-test" in bad.reason
    with pytest.raises(ConfigError, match="if the log has no labels, leave 'label' out"):
        read_text(tmp_path, "a,b,p\nx,y,1\n")


def test_weights_are_read_and_checked(tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", dense=("p",), weight="w", categorical=(Field("a"),))
    text = "y,a,p,w\n1,x,5,0.5\n0,x,6,2e0\n0,x,7,-1\n0,x,7,\n0,x,7,nan\n"
    rows = read_text(tmp_path, text, schema)
    assert rows.batch.weight is not None
    assert (rows.batch.weight.tolist(), rows.batch.dense[:, 0].tolist()) == ([0.5, 2.0], [5, 6])
    assert [bad.error for bad in rows.bad] == ["Weight"] * 3
    pq.write_table(pa.table({"y": [1, 0], "a": ["x"] * 2, "p": [1, 2], "w": [0.25, None]}), tmp_path / "log")
    rows = read(tmp_path / "log", schema)
    assert rows.batch.weight is not None
    assert (rows.batch.weight.tolist(), [bad.error for bad in rows.bad]) == ([0.25], ["Weight"])


TIMED = {"label": "y", "categorical": (Field("a"),), "time": "t"}


@pytest.mark.parametrize(
    ("unit", "cells", "expected"),
    [
        ("s", ["1700000000", "1700000000.5", "1700000000.1239"], [0, 500, 123]),
        ("ms", ["1700000000000", "1700000000000.9"], [0, 0]),
        ("us", ["1700000000000000", "1700000000999999"], [0, 999]),
        ("ns", ["1700000000000000000"], [0]),
    ],
)
def test_times_of_every_unit_are_read(unit: str, cells: list[str], expected: list[int], tmp_path: Path) -> None:
    schema = LogSchema(name="s", time_format=unit, **TIMED)  # type: ignore[arg-type]
    rows = read_text(tmp_path, "y,a,t\n" + "".join(f"1,x,{cell}\n" for cell in cells), schema)
    assert (rows.batch.event_time_ms - 1_700_000_000_000).tolist() == expected
    numbers = [float(cell) if "." in cell else int(cell) for cell in cells]
    if all(isinstance(number, int) for number in numbers) or unit == "s":
        pq.write_table(pa.table({"y": [1] * len(cells), "a": ["x"] * len(cells), "t": numbers}), tmp_path / "log")
        assert (read(tmp_path / "log", schema).batch.event_time_ms - 1_700_000_000_000).tolist() == expected


def test_iso_times_with_and_without_fractions_are_read_from_one_column(tmp_path: Path) -> None:
    cells = {
        "2023-11-14T22:13:20": 0,
        "2023-11-14T22:13:20.1": 100,
        "2023-11-14 22:13:20,123": 123,
        "2023-11-14T22:13:20.123999999Z": 123,
        "2023-11-14 22:13:20.5 UTC": 500,
        "2023-11-15T00:13:20.25+02:00": 250,
        "2023-11-14 14:43:20-0730": 0,
        "2023-11-14T22:13": -20_000,
        "2023-11-14": -80_000_000,
    }
    schema = LogSchema(name="s", time_format="iso", **TIMED)  # type: ignore[arg-type]
    malformed = ["2023-11-31", "2023-11-14T22", "2023-11-14T24:00", "2023-11-14T22:13:20.", "0000-00-00", "1969-12-31"]
    rows = read_text(tmp_path, "y,a,t\n" + "".join(f'1,x,"{cell}"\n' for cell in [*cells, *malformed]), schema)
    assert (rows.batch.event_time_ms - 1_700_000_000_000).tolist() == list(cells.values())
    assert [bad.error for bad in rows.bad] == ["Time"] * len(malformed)


@pytest.mark.parametrize(
    ("time_format", "cell", "remedy"),
    [
        ("%Y-%m-%d %H:%M:%S.%f", "2023-11-14 22:13:20", "iso"),
        ("%Y-%m-%d %H:%M:%S", "2023-11-14 22:13:20.5", "iso"),
        ("s", "2023-11-14T22:13:20Z", "iso"),
        ("s", "20231114221320", "%Y%m%d%H%M%S"),
        ("ms", "14/Nov/2023:22:13:20 +0000", "%d/%b/%Y:%H:%M:%S %z"),
        ("iso", "1700000000", "s"),
    ],
)
def test_a_time_of_another_format_is_refused_with_the_format(
    time_format: str, cell: str, remedy: str, tmp_path: Path
) -> None:
    schema = LogSchema(name="s", time_format=time_format, **TIMED)  # type: ignore[arg-type]
    (bad,) = read_text(tmp_path, f"y,a,t\n1,x,{cell}\n", schema).bad
    assert f"got '{cell}', expected a time" in bad.reason
    assert bad.reason.endswith(f'; write time_format = "{remedy}" in the schema')


@pytest.mark.parametrize(
    ("cell", "remedy"),
    [
        ("1,234", "write it without separators of thousands"),
        ("-1.234.567,5", "write it without separators of thousands"),
        ("12 345", "write it without separators of thousands"),
        ("1_000", "write it without separators of thousands"),
        ("0,5", "write 0.5"),
        (" 5", "remove the spaces"),
        ("cheap", "a column of texts belongs in 'categorical'"),
    ],
)
def test_a_number_of_another_notation_is_refused_with_the_remedy(cell: str, remedy: str, tmp_path: Path) -> None:
    rule = LabelRule(above=0)
    schema = LogSchema(name="s", label="y", dense=("p",), categorical=(Field("a"),), weight="w", label_rule=rule)
    (bad,) = read_text(tmp_path, f'y,a,p,w\n1,x,"{cell}",1\n', schema).bad
    assert bad.reason.startswith(f"column 'p': got '{cell}', expected a finite decimal number")
    assert remedy in bad.reason
    faults = [{"p": cell}, {"w": cell}, {"y": cell}]
    text = "".join(json.dumps({"y": 1, "a": "x", "p": 1, "w": 1, **fault}) + "\n" for fault in faults)
    bad_number, bad_weight, bad_label = read_text(tmp_path, text, schema).bad
    assert remedy in bad_number.reason
    if cell != "cheap":  # neither labels nor weights can be texts
        assert remedy in bad_weight.reason
        assert remedy in bad_label.reason


@pytest.mark.parametrize(("cell", "unit"), [("1700000000000", "ms"), ("1700000000000000", "us")])
def test_a_time_of_a_smaller_unit_is_refused_with_the_unit(cell: str, unit: str, tmp_path: Path) -> None:
    schema = LogSchema(name="s", **TIMED)  # type: ignore[arg-type]
    (bad,) = read_text(tmp_path, f"y,a,t\n1,x,{cell}\n", schema).bad
    assert f"got '{cell}', expected a time before 2100 in s; write time_format = \"{unit}\"" in bad.reason
    pq.write_table(pa.table({"y": [1], "a": ["x"], "t": [int(cell)]}), tmp_path / "log")
    (bad,) = read(tmp_path / "log", schema).bad
    assert f'time_format = "{unit}"' in bad.reason


# ---- Parquet ---------------------------------------------------------------------------------------------------------

NAME = uuid.UUID("12345678-1234-5678-1234-567812345678")
INTEGERS: list[tuple[pa.Array, list[str]]] = [
    (pa.array([5, None, 7], pa.int8()), ["5", "", "7"]),
    (pa.array([5.0, None, 7.25]), ["5", "", "7.25"]),
    (pa.array([5.0, float("nan"), 1e15]), ["5", "", "1000000000000000"]),
    (pa.array([0.1, 5, None], pa.float32()), ["0.1", "5", ""]),
    (pa.array([Decimal("5"), Decimal("7"), None], pa.decimal128(18, 0)), ["5", "7", ""]),
    (pa.array([Decimal("5.00"), Decimal("7.50"), None], pa.decimal128(9, 2)), ["5", "7.5", ""]),
    (pa.array([dt.date(2023, 11, 14), None, None], pa.date32()), ["2023-11-14", "", ""]),
    (pa.array(["x", None, ""], pa.large_string()), ["x", "", ""]),
    (pa.array([b"x", None, b"\xff"], pa.large_binary()), ["x", "", "\udcff"]),
    (pa.array(["x", None, "y"], pa.string_view()), ["x", "", "y"]),
    (pa.array([b"x", None, b"y"], pa.binary_view()), ["x", "", "y"]),
    (pa.array(["x", None, "x"]).dictionary_encode(), ["x", "", "x"]),
    (pa.array([5, None, 5]).dictionary_encode(), ["5", "", "5"]),
    (pa.array([True, None, False]), ["true", "", "false"]),
    (pa.array([NAME.bytes, None, NAME.bytes], pa.uuid()), [str(NAME), "", str(NAME)]),
    (pa.array([b"ab", None, b"cd"], pa.binary(2)), ["ab", "", "cd"]),
    (pa.nulls(3), ["", "", ""]),
]


@pytest.mark.parametrize(("column", "texts"), INTEGERS, ids=[str(column.type) for column, _ in INTEGERS])
def test_a_value_of_every_parquet_type_has_the_key_of_its_text(
    column: pa.Array, texts: list[str], tmp_path: Path
) -> None:
    table = pa.table({"y": [1, 0, 0], "a": column})
    schema = LogSchema(name="s", label="y", categorical=(Field("a"),))
    expected = [
        make_key(1, "hash", text.encode("utf-8", "surrogateescape")) if text else 1 << 56 | MISSING for text in texts
    ]  # type: ignore[arg-type]
    rows = TableParser(schema, {field.name: field.type for field in table.schema}, "log").parse(1, table)
    assert (rows.batch.keys[:, 0].tolist(), rows.bad) == (expected, ())
    pq.write_table(table, tmp_path / "log")
    assert read(tmp_path / "log", schema).batch.keys[:, 0].tolist() == expected


def test_hex_ids_that_are_stored_as_signed_numbers_have_the_same_bits(tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", categorical=(Field("a", "hex32"),))
    signed = pa.array([-1, 5, None, -(1 << 31)], pa.int32())
    pq.write_table(pa.table({"y": [1] * 4, "a": signed}), tmp_path / "log")
    expected = [1 << 56 | 0xFFFFFFFF, 1 << 56 | 5, 1 << 56 | MISSING, 1 << 56 | 0x80000000]
    assert read(tmp_path / "log", schema).batch.keys[:, 0].tolist() == expected
    pq.write_table(pa.table({"y": [1] * 3, "a": [-1, 1 << 32, 0xFFFFFFFF]}), tmp_path / "log")
    rows = read(tmp_path / "log", schema)
    assert rows.batch.keys[:, 0].tolist() == [1 << 56 | 0xFFFFFFFF]
    assert [bad.error for bad in rows.bad] == ["Token"] * 2


def test_members_of_structs_and_elements_of_lists_are_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "y": [1, 0],
            "user": [{"id": "u1", "geo": {"city": "c1"}}, {"id": "u2", "geo": None}],
            "genres": [[7, 8], [9]],
            "a.b": ["literal", "name"],
        }
    )
    pq.write_table(table, tmp_path / "log")
    columns = {"user.id": "user.id", "city": "user.geo.city", "g1": "genres[0]", "g2": "genres[1]", "a.b": "a.b"}
    fields = tuple(map(Field, columns))
    renamed = tuple((name, column) for name, column in columns.items() if name != column)
    rows = read(tmp_path / "log", LogSchema(name="s", label="y", categorical=fields, renamed=renamed))
    texts = [["u1", "c1", "7", "8", "literal"], ["u2", "", "9", "", "name"]]
    assert rows.batch.keys.tolist() == [[make_key(n, "hash", text) for n, text in enumerate(row, 1)] for row in texts]


@pytest.mark.parametrize(
    ("value", "remedy"),
    [([7, 8], r'\{ name = "a_1", column = "a\[0\]" \}'), ({"id": 5}, r'\{ name = "a.id", column = "a.id" \}')],
)
def test_a_whole_list_or_struct_is_refused_with_the_remedy(value: Any, remedy: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"y": [1], "a": [value]}), tmp_path / "log")
    with pytest.raises(ConfigError, match=remedy):
        check_logs([tmp_path / "log"], LogSchema(name="s", label="y", categorical=(Field("a"),)))


def test_a_column_of_another_name_is_read(tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", categorical=(Field("site_id"),), renamed=(("site_id", "site id"),))
    assert read_text(tmp_path, "site id,y\nx,1\n", schema).batch.keys[0, 0] == make_key(1, "hash", "x")


# ---- where the files are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_log_comes_from_standard_input(pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(io.TextIOWrapper):
        pass

    monkeypatch.setattr(sys, "stdin", Stream(io.BytesIO(pack(CSV.encode()))))
    (log,) = find_logs(["-"])
    check_logs(["-"], SCHEMA)  # does not read it
    (block,) = read_log(log, SCHEMA, 100)
    assert_same_rows(block.parse())
    with pytest.raises(InputError, match="standard input: can be read once only"):
        next(read_log(log, SCHEMA, 100))


def test_parquet_and_zip_on_standard_input_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pq.write_table(pa.table({"y": [1]}), tmp_path / "log")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "log").read_bytes())))
    with pytest.raises(InputError, match="standard input: holds Parquet"):
        next(read_log(find_logs(["-"])[0], SCHEMA, 100))


def test_folders_and_patterns_give_their_part_files_in_order(tmp_path: Path) -> None:
    for name in ("day=2/part-1.csv", "day=1/part-1.csv", "day=1/part-0.csv", "_SUCCESS", "day=1/.part-0.csv.crc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(CSV)
    parts = ["day=1/part-0.csv", "day=1/part-1.csv", "day=2/part-1.csv"]
    assert [file.where for file in find_logs([tmp_path])] == [str(tmp_path / part) for part in parts]
    found = find_logs([f"{tmp_path}/day=*/part-1.csv"])
    assert [file.where for file in found] == [str(tmp_path / part) for part in parts[1:]]
    with pytest.raises(ConfigError, match="no such file"):
        find_logs([f"{tmp_path}/hour=*/part-1.csv"])


def test_an_empty_part_file_is_skipped(tmp_path: Path) -> None:
    pq.write_table(pa.table({"y": [1], "a": ["x"], "b": ["x"], "p": [1.0]}), tmp_path / "part-0")
    pq.write_table(pq.read_table(tmp_path / "part-0").slice(0, 0), tmp_path / "part-1")
    (tmp_path / "part-2").write_bytes(b"")
    (tmp_path / "part-3").write_text("y,a,b,p\n")
    check_logs([tmp_path], SCHEMA)
    assert [len(list(read_log(file, SCHEMA, 10))) for file in find_logs([tmp_path])] == [1, 0, 0, 0]
    with pytest.raises(InputError, match="part-1: no rows in it"):
        check_logs([tmp_path / "part-1"], SCHEMA)


def test_object_stores_are_read_through_arrow_and_fsspec(tmp_path: Path) -> None:
    (tmp_path / "part-0.csv").write_text(CSV)
    pq.write_table(pa.table({"y": [1], "a": ["x"], "b": ["x"], "p": [1.0]}), tmp_path / "part-1.parquet")
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").put(str(tmp_path), f"/{tmp_path.name}", recursive=True)
    for uri in (f"file://{tmp_path}", f"memory://{tmp_path.name}"):
        files = find_logs([uri])
        assert [file.name for file in files] == ["part-0.csv", "part-1.parquet"]
        assert isinstance(files[0], RemoteFile)
        assert files[0].size_bytes == len(CSV)
        assert [sum(block.num_lines for block in read_log(file, SCHEMA, 2)) for file in files] == [3, 1]
        assert [file.name for file in find_logs([f"{uri}/*.csv"])] == ["part-0.csv"]
        with pytest.raises(ConfigError, match="no such file"):
            find_logs([f"{uri}/none"])
    with pytest.raises(ConfigError, match="nothing://x"):
        find_logs(["nothing://x"])


def test_a_secret_in_an_address_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="nothing://host/x") as caught:
        find_logs(["nothing://user:secret@host/x"])
    assert "secret" not in str(caught.value)


# ---- malformed lines -------------------------------------------------------------------------------------------------


def test_malformed_lines_are_counted_by_reason_the_most_frequent_first(tmp_path: Path) -> None:
    counts = BadLines()
    text = CSV + "2,x,u,1\n" + "1,x,u,z\n" * 3 + "1,x\n"
    counts.add(read_text(tmp_path, text), "log.csv")
    assert (counts.num_lines, counts.num_bad, counts.share) == (8, 5, 5 / 8)
    assert [(one["error"], one["column"], one["lines"]) for one in counts.reasons()] == [
        ("Number", "p", 3), ("Label", "y", 1), ("Columns", "", 1),
    ]  # fmt: skip
    counts.require_few(0.7)
    message = r"5 of 8 lines are malformed \(62.50%\), expected at most 1.00% .*3 x Number: log.csv, line 6: column 'p'"
    with pytest.raises(InputError, match=message):
        counts.require_few(0.01)


def test_more_than_255_fields_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"256 categorical columns, expected at most 255.*list those of them"):
        LogSchema(name="s", categorical=tuple(Field(f"f{number}") for number in range(256)))
