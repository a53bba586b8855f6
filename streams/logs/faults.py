"""The malformed rows of a table, with the first fault of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.escapes import escape
from streams.logs.columns import read_column
from streams.logs.lines import MAX_LINE_BYTES
from streams.logs.log_rows import BadLine, BadRow

__all__ = ["Faults"]


class Faults:
    """The faults of the rows of a table.

    Args:
        table: the rows.
        lines: the bytes of each row's line; None if the rows are no lines.
    """

    def __init__(self, table: pa.Table, lines: Sequence[bytes] | None = None) -> None:
        self._table, self._lines = table, lines
        self._by_row: dict[int, BadRow] = {}

    def add(self, row: int, fault: BadRow) -> None:
        """Records a fault of the row at an index from 0, unless it has one."""
        self._by_row.setdefault(row, fault)

    def mark_bad(self, is_bad: npt.NDArray[np.bool_], name: str, error: str, expected: Callable[[str], str]) -> None:
        """Records a fault in column `name` for each row of a (B,) mask.

        Args:
            is_bad: the mask.
            name: the column.
            error: the kind of fault.
            expected: what was expected instead of a text.
        """
        rows = np.flatnonzero(is_bad).tolist()
        if not rows:
            return
        column = read_column(self._table, name)
        for row in rows:
            if row not in self._by_row:
                cell = escape(_shown(column[row]), 60)
                self.add(row, BadRow(error, name, f"column {name!r}: got {cell!r}, expected {expected(cell)}"))

    def is_good(self) -> npt.NDArray[np.bool_]:
        """(B,) mask of the rows without a fault."""
        mask = np.ones(self._table.num_rows, np.bool_)
        mask[list(self._by_row)] = False
        return mask

    def bad_lines(self, first_row: int) -> tuple[BadLine, ...]:
        """The malformed rows in order; `first_row` is the number of the table's first row."""
        return tuple(
            BadLine(
                line=first_row + row, error=fault.error, column=fault.column, reason=fault.reason, raw=self._raw(row)
            )
            for row, fault in sorted(self._by_row.items())
        )

    def _raw(self, row: int) -> bytes:
        if self._lines is not None:
            return self._lines[row][:MAX_LINE_BYTES]
        columns = zip(self._table.column_names, self._table.columns, strict=True)
        return json.dumps({name: _cell(column[row]) for name, column in columns}, default=str).encode()[:MAX_LINE_BYTES]


def _shown(scalar: pa.Scalar) -> str:
    cell = _cell(scalar)
    if isinstance(cell, list):
        return str([one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in cell])
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def _cell(scalar: pa.Scalar) -> Any:
    """The Python value of a cell, or the text that describes one that Python cannot hold."""
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
    except (ValueError, OverflowError, TypeError):
        return f"{scalar.type} that is no Python value"
