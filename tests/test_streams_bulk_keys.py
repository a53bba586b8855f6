"""Raw values become keys in bulk, as a replay of the same values gives them, and printed features become keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streams.bulk_keys import format_keys, keys, parse_keys
from streams.errors import ConfigError, InputError
from streams.keys import Field, make_key
from streams.logs.reader import read_log
from streams.logs.schema import LogSchema

FIELDS = (Field("site"), Field("ad", "hex32"), Field("age"))
VALUES: dict[str, list[Any]] = {
    "site": ["a", "b", "", None, "a"],
    "ad": ["68fd1e64", None, "0000000a", "7e0ccccf", ""],
    "age": [3, 4, None, 3, 0],
}
EXPECTED = np.array(
    [
        [make_key(number, field.kind, "" if value is None else str(value)) for number, (field, value) in each]
        for row in zip(*VALUES.values(), strict=True)
        for each in [list(enumerate(zip(FIELDS, row, strict=True), 1))]
    ],
    np.uint64,
)


class Frame:
    """A dataframe as polars has it."""

    def to_arrow(self) -> pa.Table:
        return pa.table(VALUES)


@pytest.mark.parametrize(
    "columns",
    [
        VALUES,
        pa.table(VALUES),
        pa.RecordBatch.from_pydict(VALUES),
        Frame(),
        {**VALUES, "site": np.array(VALUES["site"], object), "ad": pa.array(VALUES["ad"]).dictionary_encode()},
        {**VALUES, "site": pa.chunked_array([VALUES["site"][:2], VALUES["site"][2:]]), "more": [1]},
    ],
    ids=["lists", "table", "batch", "frame", "arrays", "chunks"],
)
def test_columns_of_any_kind_give_the_same_keys(columns: Any) -> None:
    found = keys(FIELDS, columns)
    assert found.dtype == np.uint64
    np.testing.assert_array_equal(found, EXPECTED)


def test_keys_are_those_of_the_log_with_these_values(tmp_path: Path) -> None:
    schema = LogSchema(name="mine", label="click", categorical=FIELDS)
    pq.write_table(pa.table({**VALUES, "click": [0, 1, 0, 1, 0]}), tmp_path / "log.parquet")
    (block,) = read_log(tmp_path / "log.parquet", schema, 100)
    np.testing.assert_array_equal(keys(schema, VALUES), block.parse().batch.keys)


def test_numpy_columns_of_a_named_schema_and_integers_of_any_width() -> None:
    columns = {f"C{number}": np.full(2, "68fd1e64") for number in range(1, 27)}
    columns["C3"] = np.array([7, 8], np.uint32)
    found = keys("criteo-kaggle", columns)
    assert found.shape == (2, 26)
    assert found[1, 2] == make_key(3, "hex32", "00000008")


def test_a_missing_column_a_wrong_type_and_a_wrong_value_are_refused_with_their_names() -> None:
    with pytest.raises(ConfigError, match="column 'ad' of schema the columns is missing; got site, age"):
        keys(FIELDS, {name: VALUES[name] for name in ("site", "age")})
    with pytest.raises(
        ConfigError, match=r"column 'site' of .* is list.*, expected strings, numbers, dates or booleans"
    ):
        keys(FIELDS[:1], {"site": [["a"]]})
    with pytest.raises(InputError, match=r"row 1 \(from 0\): column 'ad': got 'xyz', expected 8 hex digits or null"):
        keys(FIELDS[1:2], {"ad": ["68fd1e64", "xyz", "q"]})
    with pytest.raises(InputError, match=r"got int .*expected an Arrow table, a dataframe, or a mapping"):
        keys(FIELDS, 5)
    with pytest.raises(InputError, match="equal length"):
        keys(FIELDS, {**VALUES, "age": [1]})


def test_no_row_is_no_key() -> None:
    assert keys(FIELDS, {name: pa.array([], pa.string()) for name in VALUES}).shape == (0, 3)


def test_printed_features_become_keys_and_back() -> None:
    names = format_keys(EXPECTED, FIELDS)
    assert names[1] == "ad:68fd1e64"
    assert names[9] == "site:missing"
    np.testing.assert_array_equal(parse_keys(names, FIELDS), EXPECTED.reshape(-1))
    assert parse_keys(["C14:7e0ccccf"]).tolist() == [(14 << 56) | 0x7E0CCCCF]
    with pytest.raises(ValueError, match="got field 'nobody', expected one of site, ad, age"):
        parse_keys(["nobody:7e0ccccf"], FIELDS)
