"""Reads Parquet files in tables of N rows, of the columns that are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from streams.errors import InputError
from streams.escapes import escape
from streams.logs.locations import LogFile
from streams.logs.table import ARROW_ERRORS

__all__ = ["ParquetFile"]


class ParquetFile:
    """One Parquet file, read once from its start.

    Attributes:
        bytes_read: the size of the file times the fraction of its rows read so far.
    """

    def __init__(self, file: LogFile) -> None:
        self._log = file
        self.bytes_read = 0

    def column_types(self) -> dict[str, pa.DataType]:
        """The file's column names and types.

        Raises:
            InputError: the file is damaged.
        """
        try:
            schema = pq.read_schema(self._log.open_for_arrow())
            return {field.name: field.type for field in schema}
        except ARROW_ERRORS as error:
            reason = escape(str(error))
            raise InputError(f"{self._log.where}: not a readable Parquet file ({reason}); write it again") from error

    def blocks(self, num_rows: int, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """The file as (number of the first row, table of `num_rows` rows); the last table may be shorter.

        Raises:
            InputError: the file is damaged.
        """
        next_row, waiting, size_bytes = 1, [], self._log.size_bytes
        try:
            with pq.ParquetFile(self._log.open_for_arrow()) as file:
                for batch in file.iter_batches(batch_size=num_rows, columns=list(columns)):
                    waiting.append(batch)
                    while sum(len(batch) for batch in waiting) >= num_rows:
                        table = pa.Table.from_batches(waiting)
                        waiting = table.slice(num_rows).to_batches()
                        self.bytes_read = size_bytes * (next_row + num_rows - 1) // max(1, file.metadata.num_rows)
                        yield next_row, table.slice(0, num_rows)
                        next_row += num_rows
        except ARROW_ERRORS as error:
            reason = escape(str(error))
            raise InputError(
                f"{self._log.where}: damaged after row {next_row - 1} ({reason}); write it again"
            ) from error
        self.bytes_read = size_bytes
        if waiting:
            yield next_row, pa.Table.from_batches(waiting)
