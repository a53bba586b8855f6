"""Parquet logs: column types that do not fit the schema, and malformed rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pyarrow as pa
import pytest

from streams.errors import ConfigError
from streams.keys import Field, make_key
from streams.logs.schema import LogSchema
from streams.logs.table import TableParser


def test_malformed_parquet_rows_are_bad_lines_with_the_fault() -> None:
    table = pa.table(
        {
            "y": pa.array([1, 2, 0, None, 0]),
            "p": pa.array([1.5, 1, math.inf, 1, 1]),
            "a": pa.array(["7e0ccccf", None, None, None, "7e0"]),
            "b": pa.array([5, None, 6, 7, 8]),
            "t": pa.array([1_000, 2_000, 3_000, 4_000, 5_000], pa.timestamp("ms")),
        }
    )
    types = {field.name: field.type for field in table.schema}
    schema = LogSchema(
        name="small",
        label="y",
        dense=("p",),
        categorical=(Field("a", "hex32"), Field("b"), Field("t")),
        time="t",
    )
    with pytest.raises(ConfigError, match="column 't' of schema small is timestamp"):  # a time is no category
        TableParser(schema, types, "log")
    schema = replace(schema, categorical=schema.categorical[:2])
    parser = TableParser(schema, types, "log")
    rows = parser.parse(101, table)
    assert rows.lines.tolist() == [101]
    assert rows.batch.keys[0].tolist() == [make_key(1, "hex32", "7e0ccccf"), make_key(2, "hash", "5")]
    assert rows.batch.event_time_ms.tolist() == [1_000]
    assert [(bad.line, bad.error) for bad in rows.bad] == [
        (102, "Label"),
        (103, "Number"),
        (104, "Label"),
        (105, "Token"),
    ]
    assert b'"a": "7e0"' in rows.bad[-1].raw
