"""Feature keys in bulk: from columns of raw values, from their printed form, and back to it.

>>> schema = [Field("site"), Field("ad", "hex32")]
>>> batch = keys(schema, {"site": ["a", "b", None], "ad": ["68fd1e64", "", "7e0ccccf"]})  # (B, F)
>>> format_keys(batch[2], schema)
['site:missing', 'ad:7e0ccccf']
>>> bool((parse_keys(["site:missing", "ad:7e0ccccf"], schema) == batch[2]).all())
True
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.errors import ConfigError, InputError
from streams.escapes import escape
from streams.keys import CRITEO_FIELDS, Field, Keys, format_key, parse_key
from streams.logs.schema import LogSchema, load_schema
from streams.logs.table import TableParser
from streams.records import ClickBatch, Weights, no_more

__all__ = ["KeyBags", "Schema", "format_keys", "key_bags", "keys", "parse_keys"]

Schema = LogSchema | str | Sequence[Field]


def keys(schema: Schema, columns: Any) -> Keys:
    """The keys (B, F) uint64 of raw values, as a replay of a Parquet file with these columns gives them.

    Args:
        schema: a log schema, the name or file of one, or its categorical fields. Other columns are not read.
        columns: an Arrow table or record batch, a pandas or polars dataframe, or a mapping of names to arrays (Arrow,
            numpy, pandas, polars) or lists of B values. A null and an empty string are missing values.

    Raises:
        ConfigError: a column is missing, or its type does not fit the field.
        InputError: a value is not of its field's kind; the message names the row and the column.
    """
    wanted = _categorical_part(schema)
    if wanted.lists:
        raise ConfigError(
            f"schema: field {wanted.lists[0]!r} is a list, expected one value a field and row; call key_bags, which "
            "gives the values of each row and field"
        )
    if wanted.weights:
        raise ConfigError(f"schema: field {wanted.weights[0][0]!r} has weights, expected none; call key_bags")
    return _parse(wanted, columns).keys


class KeyBags(NamedTuple):
    """What `AdaptiveEmbeddingBag`, `ServedModel` and `Replica.predict` take.

    Attributes:
        keys: (N,) uint64, those of a row's field in their order.
        offsets: (B F,) int64, where the bag of each row and field begins.
        weights: (N,) float32, the factor of each key's vector; None if the schema names no weights.
    """

    keys: Keys
    offsets: npt.NDArray[np.int64]
    weights: Weights | None


def key_bags(schema: Schema, columns: Any) -> KeyBags:
    """The keys of raw values, some of them lists, and the bags of rows and fields.

    A bag for each field of each row, with one key, that of the missing value, if there is no value.

    Args:
        schema: a log schema, or the file of one, that names the fields that hold lists (`list = true`), and the columns
            of their weights.
        columns: as in `keys`.

    Raises:
        ConfigError: a column is missing, or its type does not fit the field.
        InputError: a value is not of its field's kind; the message names the row and the column.
    """
    batch = _parse(_categorical_part(schema), columns)
    more = no_more(batch.num_rows) if batch.more is None else batch.more
    return KeyBags(*more.to_bags(batch.keys), more.weights_of_bags(batch.key_weights))


def _parse(wanted: LogSchema, columns: Any) -> ClickBatch:
    """The rows of the columns."""
    table = _as_table(columns, wanted)
    types = {column.name: column.type for column in table.schema}
    rows = TableParser(wanted, types, "columns").parse(0, table)
    if rows.bad:
        first = rows.bad[0]
        raise InputError(f"columns, row {first.line} (from 0): {first.reason}; {len(rows.bad)} rows are malformed")
    return rows.batch


def parse_keys(names: Iterable[str], schema: Schema = CRITEO_FIELDS) -> Keys:
    """The keys (K,) uint64 of printed features, such as `C14:7e0ccccf`.

    Raises:
        ValueError: a name is malformed, or of a field that the schema does not have.
    """
    fields = fields_of(schema)
    return np.array([parse_key(name, fields) for name in names], np.uint64)


def format_keys(words: Keys, schema: Schema = CRITEO_FIELDS) -> list[str]:
    """The printed form of keys of any shape, in order.

    Raises:
        ValueError: a key is of a field that the schema does not have.
    """
    fields = fields_of(schema)
    return [format_key(int(word), fields) for word in np.asarray(words, np.uint64).reshape(-1)]


def fields_of(schema: Schema) -> tuple[Field, ...]:
    """The categorical fields of a schema, of a named one, or themselves."""
    if isinstance(schema, str):
        schema = load_schema(schema)
    return schema.categorical if isinstance(schema, LogSchema) else tuple(schema)


def _categorical_part(schema: Schema) -> LogSchema:
    """The schema without its label, weight, dense columns and time."""
    if isinstance(schema, str):
        schema = load_schema(schema)
    if isinstance(schema, LogSchema):
        return replace(schema, name="the columns", label=None, weight=None, dense=(), time=None)
    return LogSchema(name="the columns", categorical=tuple(schema))


def _as_table(columns: Any, schema: LogSchema) -> pa.Table:
    """The columns of the fields as an Arrow table; without a copy where the source is Arrow."""

    def is_read(column: str) -> bool:
        """Whether a field is read from the column, or from a member `a.b` or an element `a[0]` of it."""
        return any(name == column or name.startswith((f"{column}.", f"{column}[")) for name in schema.used_columns)

    try:
        if isinstance(columns, Mapping):
            return pa.table({name: _as_array(column) for name, column in columns.items() if is_read(name)})
        table = columns.to_arrow() if hasattr(columns, "to_arrow") else pa.table(columns)
        return table.select([name for name in table.column_names if is_read(name)])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"columns: got {type(columns).__name__} ({escape(str(error), 200)}), expected an Arrow table, a dataframe, "
            "or a mapping of names to arrays of equal length"
        ) from error


def _as_array(column: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column
    return column.to_arrow() if hasattr(column, "to_arrow") else pa.array(column, from_pandas=True)
