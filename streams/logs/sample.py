"""The first rows of a log of an unknown schema, as columns of texts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from streams.errors import InputError
from streams.logs.chunks import CountedFile
from streams.logs.columns import distinct_texts, is_list, read_column
from streams.logs.lines import LineFile
from streams.logs.locations import LogFile
from streams.logs.parquet import ParquetFile
from streams.logs.texts import split_cells

__all__ = ["Sample", "take_sample"]

_PARQUET = b"PAR1"
_ROWS = 1000
_DELIMITERS = ("\t", ",", ";", "|", "\x01", "::", " ")
_JSON_ARRAY = re.compile(rb"\s*\[\s*(\{|$)")
_SPARSE = re.compile(rb"\S+( \S+)??( [^\s:]+:\S+)+\s*")
_ONES = ("1", "1.0")
_NUMBER_OR_HEX = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?|[0-9a-f]{8}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The first rows of a log.

    Attributes:
        format: `parquet`, `json`, `libsvm`, `ffm` or `delimited`.
        columns: the texts of each column, empty where a value is missing.
        times: the columns that hold timestamps or dates.
        lists: the columns that hold several values, with the texts of these; without texts if they are no texts.
        leading: the columns before the pairs of libsvm and ffm.
        delimiter: that of a delimited file.
        has_header: whether its first line names the columns.
        is_quoted: whether its cells are quoted.
        has_pair_values: whether pairs of libsvm or ffm have other values than 1.
    """

    format: str
    columns: Mapping[str, list[str]]
    times: tuple[str, ...] = ()
    lists: Mapping[str, list[str]] = field(default_factory=dict)
    leading: tuple[str, ...] = ()
    delimiter: str = ","
    has_header: bool = True
    is_quoted: bool = field(default=True)
    has_pair_values: bool = False


def take_sample(file: LogFile) -> Sample:
    """The first 1000 rows.

    Raises:
        InputError: the file cannot be read, holds no rows, or is of a format that is not read.
    """
    with file.open() as raw:
        counted = CountedFile(raw, file.where)
        if counted.peek(len(_PARQUET)) != _PARQUET:
            block = next(LineFile(counted).blocks(_ROWS), None)
            lines = [] if block is None else [block.line(position) for position in range(block.num_lines)]
            if not lines:
                raise InputError(f"{file.where}: no rows in it, expected at least one; name another file")
            _require_known_format(lines, file.where)
            return _of_lines(lines, file.where)
    return _of_parquet(file)


def _of_parquet(file: LogFile) -> Sample:
    parquet = ParquetFile(file)
    types = parquet.column_types()
    found = next(parquet.blocks(_ROWS, list(types)), None)
    if found is None:
        raise InputError(f"{file.where}: no rows in it, expected at least one; name another file")
    leaves = {name: kind for top, kind in types.items() for name, kind in _leaves(top, kind)}
    columns = {name: _texts(read_column(found[1], name)) for name, kind in leaves.items() if not is_list(kind)}
    dates = [name for name, kind in leaves.items() if pa.types.is_date(kind)]
    times = [name for name, kind in leaves.items() if pa.types.is_timestamp(kind)]
    lists = {name: _list_texts(read_column(found[1], name)) for name, kind in leaves.items() if is_list(kind)}
    return Sample(format="parquet", columns=columns, times=(*times, *dates), lists=lists)


def _leaves(name: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """A column, or the members of a struct."""
    if not pa.types.is_struct(kind):
        yield name, kind
        return
    for index in range(kind.num_fields):
        yield from _leaves(f"{name}.{kind.field(index).name}", kind.field(index).type)


def _list_texts(column: pa.Array) -> list[str]:
    kind = column.type.value_type
    return [] if is_list(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind) else _texts(column.flatten())


def _texts(column: pa.Array) -> list[str]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.string())
    texts, indices = distinct_texts(column)
    decoded = [text.decode("utf-8", "replace") for text in texts]
    return [decoded[index] for index in indices.tolist()]


def _require_known_format(lines: Sequence[bytes], where: str) -> None:
    """Refuses what is no log of lines."""
    if _JSON_ARRAY.match(lines[0]):
        raise InputError(f"{where}: a JSON array, expected one object a line; convert it with: jq -c '.[]'")
    if any(b"\0" in line for line in lines):
        raise InputError(f"{where}: binary data of an unknown format, expected text or Parquet; convert it")


def _of_lines(lines: Sequence[bytes], where: str) -> Sample:
    if lines[0].lstrip().startswith(b"{"):
        return _of_json(lines)
    if all(_SPARSE.fullmatch(line) for line in lines):
        return _of_sparse(lines)
    if len(lines) == 1:
        raise InputError(f"{where}: one line, expected at least two, as it may name the columns; name a longer file")
    return _of_delimited(lines)


def _of_json(lines: Sequence[bytes]) -> Sample:
    rows: list[dict[str, Any]] = []
    lists: dict[str, list[str]] = {}
    for line in lines:
        try:
            row = json.loads(line, parse_float=str, parse_int=str)
        except ValueError:
            continue
        flat = dict(_flat("", row)) if isinstance(row, dict) else {}
        for name, value in flat.items():
            if isinstance(value, list):
                lists.setdefault(name, []).extend(_shown(one) for one in value if not isinstance(one, list | dict))
        rows.append(flat)
    names = dict.fromkeys(name for row in rows for name in row if name not in lists)
    columns = {name: [_shown(row.get(name)) for row in rows] for name in names}
    return Sample(format="json", columns=columns, lists=dict(sorted(lists.items())))


def _flat(prefix: str, row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _of_sparse(lines: Sequence[bytes]) -> Sample:
    rows = [line.decode("utf-8", "replace").split() for line in lines]
    leading = {f"c{number}": cells for number, cells in enumerate(_leading(rows))}
    pairs = [[cell for cell in row if ":" in cell] for row in rows]
    has_values = any(pair.rpartition(":")[2] not in _ONES for row in pairs for pair in row)
    if all(pair.count(":") == 2 for row in pairs for pair in row):
        names = sorted({pair.split(":")[0] for row in pairs for pair in row}, key=lambda name: (len(name), name))
        tokens = [dict(pair.split(":")[:2] for pair in row) for row in pairs]
        columns = {name: [row.get(name, "") for row in tokens] for name in names}
        all_columns = {**leading, **columns}
        return Sample(format="ffm", columns=all_columns, leading=tuple(leading), has_pair_values=has_values)
    most = max(map(len, pairs))
    columns = {f"f{n + 1}": [row[n].split(":")[0] if n < len(row) else "" for row in pairs] for n in range(most)}
    all_columns = {**leading, **columns}
    return Sample(format="libsvm", columns=all_columns, leading=tuple(leading), has_pair_values=has_values)


def _leading(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The columns before the pairs."""
    num_leading = min(sum(":" not in cell for cell in row) for row in rows)
    return [[row[number] for row in rows] for number in range(num_leading)]


def _of_delimited(lines: Sequence[bytes]) -> Sample:
    choices = [(delimiter, is_quoted) for is_quoted in (True, False) for delimiter in _DELIMITERS]
    delimiter, is_quoted = max(choices, key=lambda choice: _fit(lines, choice[0], is_quoted=choice[1]))
    if _is_doubled(lines, delimiter, is_quoted=is_quoted):
        delimiter = 2 * delimiter
    rows = [
        [cell.decode("utf-8", "replace") for cell in split_cells(line, delimiter.encode(), is_quoted=is_quoted)]
        for line in lines
    ]
    has_header = len(rows) > 1 and _is_header(rows[0])
    names = rows[0] if has_header else [f"c{n}" for n in range(len(rows[0]))]
    body = [row for row in rows[has_header:] if len(row) == len(names)]
    columns = {name: [row[number] for row in body] for number, name in enumerate(names)}
    return Sample(format="delimited", columns=columns, delimiter=delimiter, has_header=has_header, is_quoted=is_quoted)


def _fit(lines: Sequence[bytes], delimiter: str, *, is_quoted: bool) -> tuple[float, int]:
    """How well a delimiter fits: the share of lines that have the usual number of cells, and that number."""
    counts = Counter(len(split_cells(line, delimiter.encode(), is_quoted=is_quoted)) for line in lines[:100])
    cells, most = counts.most_common(1)[0]
    return (most / min(len(lines), 100) if cells > 1 else 0.0), cells


def _is_doubled(lines: Sequence[bytes], delimiter: str, *, is_quoted: bool) -> bool:
    """Whether the delimiter always comes in pairs, as in `a||b||c`."""
    share, cells = _fit(lines, delimiter, is_quoted=is_quoted)
    return _fit(lines, 2 * delimiter, is_quoted=is_quoted) >= (share, cells // 2 + 1)


def _is_header(cells: Sequence[str]) -> bool:
    """Whether cells are names: all different, none a number."""
    return len(set(cells)) == len(cells) and all(cell and not _NUMBER_OR_HEX.fullmatch(cell) for cell in cells)
