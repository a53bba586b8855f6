"""Reads the TOML file of a log schema: types, unknown keys, and the entries of `categorical`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streams.errors import ConfigError
from streams.escapes import escape
from streams.keys import Field
from streams.logs.labels import LabelRule
from streams.toml_parser import parse_toml

__all__ = ["PAIR_VALUES", "read_schema_file"]

PAIR_VALUES = ":value"  # behind a column's name: the values of its pairs in a libsvm or ffm file

# key of [log] -> type of its value
_KEYS: dict[str, type | tuple[type, ...]] = {
    "label": str,
    "label_positive": list,
    "label_negative": list,
    "label_above": (int, float),
    "weight": str,
    "dense": list,
    "categorical": list,
    "time": str,
    "time_format": str,
    "missing": list,
    "format": str,
    "delimiter": str,
    "quote": bool,
    "header": bool,
    "columns": list,
    "list_separator": str,
}
_LISTS_OF_TEXTS = ("label_positive", "label_negative", "dense", "missing", "columns")


def read_schema_file(path: Path) -> dict[str, Any]:
    """The arguments of `LogSchema` that the file holds.

    Raises:
        ConfigError: the file cannot be read, or holds an unknown key or an invalid value.
    """
    where = f"--schema {path}"
    try:
        document = parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror}); name a file") from error
    except ValueError as error:
        raise ConfigError(f"{where}: not valid TOML ({error}); correct the file") from error
    log = _log_of(where, document)
    _check(where, log)
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in log.items()}
    rule: dict[str, Any] = {
        name: arguments.pop(f"label_{name}") for name in ("positive", "negative", "above") if f"label_{name}" in log
    }
    if rule and "label" not in log:
        raise ConfigError(f"{where}: label_{min(rule)} without a label; add the label's column to [log]")
    named = [_field(where, entry) for entry in log["categorical"]]
    weights = [
        (field.name, _weights(where, entry)) for (_, field, _), entry in zip(named, log["categorical"], strict=True)
    ]
    return {
        **arguments,
        "name": path.stem,
        "label_rule": LabelRule(**rule),
        "categorical": tuple(field for _, field, _ in named),
        "renamed": tuple((field.name, column) for column, field, _ in named if field.name != column),
        "lists": tuple(field.name for _, field, is_list in named if is_list),
        "weights": tuple((name, column) for name, column in weights if column is not None),
    }


def _log_of(where: str, document: dict[str, Any]) -> dict[str, Any]:
    unknown = [key for key in document if key != "log"]
    log = document.get("log")
    if unknown or not isinstance(log, dict):
        raise ConfigError(
            f"{where}: got {escape(', '.join(unknown)) or 'no table'}, expected one table [log] and nothing else"
        )
    return log


def _check(where: str, log: dict[str, Any]) -> None:
    """Refuses unknown keys and values of a wrong type."""
    for key, value in log.items():
        if key not in _KEYS:
            raise ConfigError(f"{where}: got key {escape(key)!r}, expected one of {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or (key == "label_above" and isinstance(value, bool)):
            kind = _KEYS[key]
            name = "number" if isinstance(kind, tuple) else kind.__name__
            raise ConfigError(f"{where}: {key} is {escape(repr(value))}, expected a {name}")
    if not log.get("categorical"):
        raise ConfigError(f"{where}: key 'categorical' is missing or empty; add it to [log]")
    for key in _LISTS_OF_TEXTS:
        if not all(isinstance(text, str) for text in log.get(key, [])):
            expected = "column names" if key in ("dense", "columns") else "texts in quotes"
            raise ConfigError(f"{where}: {key} is {escape(repr(log[key]))}, expected a list of {expected}")


def _field(where: str, entry: object) -> tuple[str, Field, bool]:
    """A categorical column, its field, and whether it holds lists: its name, or `{name, kind, column, list}`."""
    if isinstance(entry, str):
        return entry, _named(where, entry, "hash"), False
    if isinstance(entry, dict) and set(entry) <= {"name", "kind", "column", "list", "weights"}:
        name, is_list = entry.get("name"), entry.get("list", False)
        column = entry.get("column", name)
        if isinstance(name, str) and isinstance(column, str) and isinstance(is_list, bool):
            return column, _named(where, name, entry.get("kind", "hash")), is_list
    raise ConfigError(
        f'{where}: categorical holds {escape(repr(entry))}, expected "NAME" or '
        '{ name = "NAME", kind = "hex32", column = "COLUMN", list = true, weights = "COLUMN" }'
    )


def _weights(where: str, entry: Any) -> str | None:
    """The column of the weights of a categorical column's values; `true` in a file of pairs."""
    weights = entry.get("weights", False) if isinstance(entry, dict) else False
    if isinstance(weights, bool):
        return f"{entry.get('column', entry['name'])}{PAIR_VALUES}" if weights else None
    if not isinstance(weights, str):
        raise ConfigError(
            f"{where}: weights of {entry['name']!r}: got {escape(repr(weights))}, expected a column's name"
        )
    return weights


def _named(where: str, name: str, kind: Any) -> Field:
    try:
        return Field(name, kind)
    except ConfigError as error:
        hint = f'; to read a column of another name: {{ name = "NAME", column = {escape(name)!r} }}'
        raise ConfigError(f"{where}: {error}{hint if 'field name' in str(error) else ''}") from error
