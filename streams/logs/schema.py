"""Log schemas: the columns of a click log that hold the label, the dense values, the categories and the event time.

Built in: `criteo-kaggle`, `criteo-terabyte`, `avazu`, and `criteo-kaggle-test` and `avazu-test`, which have no label.
Any other log needs a TOML file of a few lines, which `hotstream schema infer` writes from a sample: docs/schema.md.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from streams.errors import ConfigError
from streams.escapes import escape
from streams.keys import CRITEO_FIELDS, MAX_FIELDS, Field
from streams.logs.labels import LabelRule
from streams.logs.schema_file import PAIR_VALUES, read_schema_file
from streams.logs.times import check_time_format, parse_time_ms

__all__ = ["SCHEMAS", "LogSchema", "load_schema"]

MAX_DENSE = 4096
FORMATS = ("auto", "delimited", "json", "libsvm", "ffm")
_MAX_DELIMITER = 8


@dataclass(frozen=True, kw_only=True)
class LogSchema:
    """The roles of the columns of a click log; the time column may also be a categorical one.

    Args:
        name: the name in messages.
        categorical: the F categorical columns, in the order of their field numbers.
        renamed: pairs of the name of a categorical column and the column that it is read from, if it has another name.
        label: the column of the label; None if the log has none.
        label_rule: which cells of it are 0 and 1.
        weight: the column of the rows' weights; None if all weigh the same.
        dense: the D dense columns.
        time: the column of the event time; None if the log has none.
        time_format: `s`, `ms`, `us` or `ns` since 1970, `iso`, or a strptime format, in UTC.
        missing: texts of a categorical cell that mean that its value is missing, as an empty cell does.
        format: `auto`: JSON if the text begins with `{`, else delimited. A Parquet file is known by its first bytes.
        delimiter: 1 to 8 ASCII characters.
        quote: whether a cell that begins with `"` ends at the next one, as RFC 4180 has it.
        header: whether the first line of a delimited file names the columns.
        columns: all columns of a line in order, for delimited files without a header; in libsvm and ffm files the
            columns before the pairs, by default the label.
        lists: the names of the categorical columns that hold lists of values.
        weights: pairs of the name of a categorical column and the column of its values' weights: a number for a value,
            a list of numbers for a list. In libsvm and ffm files the second is the name and `PAIR_VALUES`: the weights
            are the pairs' values.
        list_separator: the text between the values of a list in a delimited file.

    Raises:
        ConfigError: an argument is invalid; the message names it.
    """

    name: str
    categorical: tuple[Field, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    label: str | None = None
    label_rule: LabelRule = field(default_factory=LabelRule)
    weight: str | None = None
    dense: tuple[str, ...] = ()
    time: str | None = None
    time_format: str = "s"
    missing: tuple[str, ...] = ()
    format: Literal["auto", "delimited", "json", "libsvm", "ffm"] = "auto"
    delimiter: str = ","
    quote: bool = True
    header: bool = True
    columns: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    weights: tuple[tuple[str, str], ...] = ()
    list_separator: str = "|"

    def __post_init__(self) -> None:
        if not self.categorical:
            raise ConfigError(f"{self}: no categorical columns, expected 1 to {MAX_FIELDS}")
        if len(self.categorical) > MAX_FIELDS:
            raise ConfigError(
                f"{self}: {len(self.categorical)} categorical columns, expected at most {MAX_FIELDS}, because a key "
                "has 8 bits for its field; list those of them in 'categorical' that matter, best one column for each "
                "meaning, and the numbers among them in 'dense'"
            )
        if len(self.dense) > MAX_DENSE:
            raise ConfigError(f"{self}: {len(self.dense)} dense columns, expected at most {MAX_DENSE}")
        self._check_names()
        self._check_text_format()
        self._check_lists()
        self._check_weights()
        check_time_format(self.time_format, str(self))

    def _check_names(self) -> None:
        single = [name for name in (self.label, self.weight) if name is not None]
        values = [*single, *self.dense, *self.field_columns]
        listed = [
            (values, "label, weight, dense and categorical"),
            ([one.name for one in self.categorical], "categorical"),
            (self.columns, "columns"),
        ]
        for names, where in listed:
            repeated = {name for name, count in Counter(names).items() if count > 1}
            if repeated:
                raise ConfigError(f"{self}: column {min(repeated)!r} is repeated in {where}, expected it once")

    def _check_text_format(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"{self}: format {escape(self.format)!r}, expected one of {', '.join(FORMATS)}")
        if (
            not 1 <= len(self.delimiter) <= _MAX_DELIMITER
            or not self.delimiter.isascii()
            or set(self.delimiter) & {*'\r\n"'}
        ):
            raise ConfigError(
                f"{self}: delimiter {self.delimiter!r}, expected 1 to {_MAX_DELIMITER} ASCII characters, such as ','"
            )
        if self.format in ("libsvm", "ffm", "json"):
            return
        if self.columns:
            self.require_columns(self.columns, "columns")
        elif not self.header:
            raise ConfigError(
                f"{self}: header is false and 'columns' is empty, expected every column of a line, in order"
            )

    def _check_lists(self) -> None:
        if not self.lists:
            return
        unknown = set(self.lists) - {one.name for one in self.categorical}
        if unknown:
            raise ConfigError(f"{self}: list {min(unknown)!r} is not a categorical column, expected one")
        if self.format == "libsvm" and self.lists != (self.categorical[-1].name,):
            raise ConfigError(
                f"{self}: {self.lists[0]!r} is a list, but a libsvm file has one value at each position but the last, "
                "whose field may have all pairs that are left; write it as ffm, where pairs of one field are its values"
            )
        if not self.list_separator or set(self.list_separator) & {*'\r\n"', *self.delimiter}:
            raise ConfigError(
                f"{self}: list_separator {self.list_separator!r}, expected characters that the delimiter "
                f"{self.delimiter!r} lacks; set list_separator, such as ';'"
            )

    def _check_weights(self) -> None:
        has_pairs = self.format in ("libsvm", "ffm")
        for name, column in self.weights:
            if name not in {one.name for one in self.categorical}:
                raise ConfigError(f"{self}: weights of {name!r}, which is not a categorical column, expected one")
            if has_pairs != column.endswith(PAIR_VALUES):
                expected = "true, for the pairs' values" if has_pairs else "the name of a column of numbers"
                raise ConfigError(f"{self}: weights of {name!r}: expected {expected}")

    def __str__(self) -> str:
        return f"schema {self.name}"

    @cached_property
    def field_columns(self) -> tuple[str, ...]:
        """The F columns that the categorical ones are read from."""
        renamed = dict(self.renamed)
        return tuple(renamed.get(one.name, one.name) for one in self.categorical)

    @cached_property
    def list_columns(self) -> frozenset[str]:
        """The columns that hold lists of values, or of their weights."""
        pairs = zip(self.categorical, self.field_columns, strict=True)
        weights = frozenset(column for name, column in self.weights if name in self.lists)
        return weights | frozenset(column for one, column in pairs if one.name in self.lists)

    @cached_property
    def weight_columns(self) -> dict[int, str]:
        """The column of the values' weights, by the index of the field."""
        named = dict(self.weights)
        return {index: named[one.name] for index, one in enumerate(self.categorical) if one.name in named}

    @cached_property
    def used_columns(self) -> tuple[str, ...]:
        """Every column that a parser reads, once."""
        weights = self.weight_columns.values()
        named = (self.label, self.weight, *self.dense, *self.field_columns, *weights, self.time)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def require_columns(self, columns: Sequence[str], where: str) -> None:
        """Refuses columns that lack one of the schema's.

        Args:
            columns: the columns of a file.
            where: the file's name, for the message.

        Raises:
            ConfigError: a column is missing; the message names it.
        """
        present = set(columns)
        missing = [name for name in self.used_columns if name not in present]
        if missing:
            hint = ""
            if len(columns) == 1:
                hint = f"; if there are more columns in it, the delimiter is not {self.delimiter!r}"
            elif missing[0] == self.label:
                hint = "; if the log has no labels, leave 'label' out of the schema"
            raise ConfigError(
                f"{where}: column {missing[0]!r} of {self} is missing; got {escape(', '.join(columns), 200)}{hint}"
            )

    def parse_time_ms(self, cell: str) -> int | None:
        """Milliseconds since 1970 of a cell of the time column; None if it is no time from 1970 to 2099."""
        return parse_time_ms(cell, self.time_format)

    def fingerprint(self) -> str:
        """16 hex digits that identify how files are read: they depend on every argument but `name`."""
        content = {**asdict(self), "name": ""}
        if not self.lists:  # as before there were lists
            del content["lists"], content["list_separator"]
        if not self.weights:
            del content["weights"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


_CRITEO_DENSE = tuple(f"I{number}" for number in range(1, 14))
_AVAZU_FIELDS = (
    *("hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{number}" for number in range(14, 22)),
)


def _criteo(name: str) -> LogSchema:
    return LogSchema(
        name=name,
        label="label",
        dense=_CRITEO_DENSE,
        categorical=CRITEO_FIELDS,
        delimiter="\t",
        quote=False,
        header=False,
        columns=("label", *_CRITEO_DENSE, *(one.name for one in CRITEO_FIELDS)),
    )


def _without_label(schema: LogSchema) -> LogSchema:
    """The schema of the test file of a competition."""
    columns = tuple(name for name in schema.columns if name != schema.label)
    return replace(schema, name=f"{schema.name}-test", label=None, columns=columns)


_BUILT_IN = (
    _criteo("criteo-kaggle"),
    _criteo("criteo-terabyte"),  # the day files have the same columns
    LogSchema(
        name="avazu",
        label="click",
        categorical=tuple(Field(name) for name in _AVAZU_FIELDS),
        time="hour",
        time_format="%y%m%d%H",
    ),
)
SCHEMAS = {
    **{schema.name: schema for schema in _BUILT_IN},
    **{schema.name: schema for schema in (_without_label(_BUILT_IN[0]), _without_label(_BUILT_IN[2]))},
}


def load_schema(name_or_path: str) -> LogSchema:
    """The built-in schema of this name, or the schema in this TOML file.

    Raises:
        ConfigError: the schema does not exist, or the file holds an unknown key or an invalid value.
    """
    if name_or_path in SCHEMAS:
        return SCHEMAS[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".toml":
        raise ConfigError(f"--schema: got {name_or_path!r}, expected {', '.join(SCHEMAS)} or the path of a .toml file")
    return LogSchema(**read_schema_file(path))
