"""Log schemas: the columns of a click log that hold the label, the dense values, the categories and the event time.

Built in: `criteo-kaggle`, `criteo-terabyte`, `avazu`. Any other log needs a TOML file of a few lines:

    [log]
    label = "click"
    dense = ["price"]
    categorical = ["site", { name = "ad", kind = "hex32" }]   # kind: hash (default) or hex32
    time = "ts"                 # optional; without it, the event time of a row is the time of its replay
    time_format = "ms"          # s (default), ms, or a strptime format such as "%y%m%d%H", in UTC
    # the following are for delimited files only
    delimiter = ","             # default ","
    header = true               # default true: the first line names the columns
    columns = ["ts", "click"]   # required if header = false: all columns of a line, in order

The first bytes of a file decide whether it is read as Parquet, gzip, zstd or plain text. Delimited files have no
quoting, so a cell cannot hold the delimiter or a line break.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from streams.errors import ConfigError
from streams.escapes import escape
from streams.keys import CRITEO_FIELDS, MAX_FIELDS, Field
from streams.records.headers import MAX_TIME_MS
from streams.toml_parser import parse_toml

__all__ = ["SCHEMAS", "LogSchema", "load_schema"]

MAX_DENSE = 4096
_SOME_TIME = datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
_MS_PER_UNIT = {"s": 1000, "ms": 1}


@dataclass(frozen=True, kw_only=True)
class LogSchema:
    """The roles of the columns of a click log; the time column may also be a categorical one.

    Args:
        name: the name in messages.
        label: the column of 0 or 1.
        categorical: the F categorical columns, in the order of their field numbers.
        dense: the D dense columns.
        time: the column of the event time; None if the log has none.
        time_format: `s` or `ms` since 1970, or a strptime format, in UTC.
        delimiter: one ASCII character.
        header: whether the first line of a delimited file names the columns.
        columns: all columns of a line in order, for delimited files without a header.

    Raises:
        ConfigError: an argument is invalid; the message names it.
    """

    name: str
    label: str
    categorical: tuple[Field, ...]
    dense: tuple[str, ...] = ()
    time: str | None = None
    time_format: str = "s"
    delimiter: str = ","
    header: bool = True
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.categorical) <= MAX_FIELDS:
            raise ConfigError(f"{self}: {len(self.categorical)} categorical columns, expected 1 to {MAX_FIELDS}")
        if len(self.dense) > MAX_DENSE:
            raise ConfigError(f"{self}: {len(self.dense)} dense columns, expected at most {MAX_DENSE}")
        values = [self.label, *self.dense, *(field.name for field in self.categorical)]
        for names, where in ((values, "label, dense and categorical"), (self.columns, "columns")):
            repeated = {name for name, count in Counter(names).items() if count > 1}
            if repeated:
                raise ConfigError(f"{self}: column {min(repeated)!r} is repeated in {where}, expected it once")
        if len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '\r\n"':
            raise ConfigError(f"{self}: delimiter {self.delimiter!r}, expected one ASCII character, such as ',' or tab")
        if self.time_format not in _MS_PER_UNIT and "%" not in self.time_format:
            raise ConfigError(
                f"{self}: time_format {self.time_format!r}, expected 's', 'ms' or a strptime format like '%y%m%d%H'"
            )
        if self.time_format not in _MS_PER_UNIT:
            self._check_format()
        if self.columns:
            self.require_columns(self.columns, "columns")
        elif not self.header:
            raise ConfigError(
                f"{self}: header is false and 'columns' is empty, expected every column of a line, in order"
            )

    def _check_format(self) -> None:
        """Refuses a strptime format that cannot read what it writes: a time of it would raise, or be another one."""
        try:
            datetime.strptime(_SOME_TIME.strftime(self.time_format), self.time_format).replace(tzinfo=timezone.utc)
        except (ValueError, re.error) as error:
            raise ConfigError(
                f"{self}: time_format {escape(self.time_format)!r} ({error}), expected a strptime format"
            ) from error

    def __str__(self) -> str:
        return f"schema {self.name}"

    @property
    def used_columns(self) -> tuple[str, ...]:
        """Every column that a parser reads, once."""
        time = () if self.time is None else (self.time,)
        named = (self.label, *self.dense, *(field.name for field in self.categorical), *time)
        return tuple(dict.fromkeys(named))

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
            got = ", ".join(columns)
            raise ConfigError(
                f"{where}: column {missing[0]!r} of {self} is missing; got {got[:200]}{'...' if len(got) > 200 else ''}"
            )

    def parse_time_ms(self, cell: str) -> int | None:
        """Milliseconds since 1970 of a cell of the time column; None if it is no time from 1970 to 9999."""
        unit_ms = _MS_PER_UNIT.get(self.time_format)
        try:
            if unit_ms is not None:
                if not cell.isdecimal():  # Python's int accepts underscores and spaces
                    return None
                time_ms = int(cell) * unit_ms
            else:
                parsed = datetime.strptime(cell, self.time_format)
                time_ms = int((parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp() * 1000)
        except (ValueError, OverflowError):
            return None
        return time_ms if 0 <= time_ms <= MAX_TIME_MS else None

    def fingerprint(self) -> str:
        """16 hex digits that identify how files are read: they depend on every argument but `name`."""
        content = {**asdict(self), "name": ""}
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
        header=False,
        columns=("label", *_CRITEO_DENSE, *(field.name for field in CRITEO_FIELDS)),
    )


SCHEMAS = {
    "criteo-kaggle": _criteo("criteo-kaggle"),
    "criteo-terabyte": _criteo("criteo-terabyte"),  # the day files have the same columns
    "avazu": LogSchema(
        name="avazu",
        label="click",
        categorical=tuple(Field(name) for name in _AVAZU_FIELDS),
        time="hour",
        time_format="%y%m%d%H",
    ),
}
# key of [log] -> type of its value
_KEYS: dict[str, type] = {
    "label": str,
    "dense": list,
    "categorical": list,
    "time": str,
    "time_format": str,
    "delimiter": str,
    "header": bool,
    "columns": list,
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
    try:
        document = parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--schema {path}: cannot be read ({error.strerror}); name a file") from error
    except ValueError as error:
        raise ConfigError(f"--schema {path}: not valid TOML ({error}); correct the file") from error
    return _from_document(path, document)


def _from_document(path: Path, document: dict[str, Any]) -> LogSchema:
    where = f"--schema {path}"
    unknown = [key for key in document if key != "log"]
    log = document.get("log")
    if unknown or not isinstance(log, dict):
        raise ConfigError(
            f"{where}: got {escape(', '.join(unknown)) or 'no table'}, expected one table [log] and nothing else"
        )
    for key, value in log.items():
        if key not in _KEYS:
            raise ConfigError(f"{where}: got key {escape(key)!r}, expected one of {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise ConfigError(f"{where}: {key} is {escape(repr(value))}, expected a {_KEYS[key].__name__}")
    for key in ("label", "categorical"):
        if key not in log:
            raise ConfigError(f"{where}: key {key!r} is missing; add it to [log]")
    for key in ("dense", "columns"):
        if not all(isinstance(name, str) for name in log.get(key, [])):
            raise ConfigError(f"{where}: {key} is {escape(repr(log[key]))}, expected a list of column names")
    fields = tuple(_field(where, entry) for entry in log["categorical"])
    dense, columns = tuple(log.get("dense", ())), tuple(log.get("columns", ()))
    return LogSchema(**{**log, "name": path.stem, "categorical": fields, "dense": dense, "columns": columns})


def _field(where: str, entry: object) -> Field:
    """A categorical column: its name, or `{name, kind}`."""
    if isinstance(entry, str):
        return Field(entry)
    if isinstance(entry, dict) and set(entry) <= {"name", "kind"} and isinstance(entry.get("name"), str):
        return Field(**entry)
    raise ConfigError(
        f'{where}: categorical holds {escape(repr(entry))}, expected "NAME" or {{ name = "NAME", kind = "hex32" }}'
    )
