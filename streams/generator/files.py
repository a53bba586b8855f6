"""Writes generated rows to a file; its name's ending selects the format: `.tsv`, `.tsv.gz`, `.tsv.zst` or `.parquet`.

A file is written as `NAME.partial` and renamed when it is complete, so that a file named NAME is always complete.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from streams.digits import HEX_DIGITS
from streams.errors import ConfigError, StreamsError
from streams.generator.blocks import RowBlock
from streams.generator.text import format_tsv
from streams.keys import MISSING_WORD

__all__ = ["ENDINGS", "BlockWriter", "open_writer"]

ENDINGS = (".tsv", ".tsv.gz", ".tsv.zst", ".parquet")
SCHEMA = pa.schema(
    [("label", pa.int8())]
    + [(f"I{number}", pa.int32()) for number in range(1, 14)]
    + [(f"C{number}", pa.string()) for number in range(1, 27)]
)
_SHIFTS = np.arange(28, -1, -4, dtype=np.uint64)
_GZIP_LEVEL = 4


class BlockWriter(Protocol):
    """Writes blocks of rows to one file, in order."""

    def write(self, block: RowBlock) -> None:
        """Appends the rows of a block."""

    def close(self) -> None:
        """Writes what is buffered and closes the file."""


class _TextWriter:
    """Writes Criteo's TSV, plain or compressed."""

    def __init__(self, path: Path, ending: str) -> None:
        self._streams = ExitStack()
        stream: Any = self._streams.enter_context(path.open("wb"))
        if ending == ".tsv.gz":  # the header holds no name and no time, so that the same rows give the same bytes
            zipped = gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=stream, mtime=0)
            stream = self._streams.enter_context(zipped)
        elif ending == ".tsv.zst":
            stream = self._streams.enter_context(zstandard.ZstdCompressor().stream_writer(stream, closefd=False))
        self._stream = stream

    def write(self, block: RowBlock) -> None:
        self._stream.write(format_tsv(block))

    def close(self) -> None:
        self._streams.close()


class _ParquetWriter:
    """Writes one row group per block: label int8, I1.. int32, C1.. string, null where missing."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self.close = self._writer.close

    def write(self, block: RowBlock) -> None:
        self._writer.write_batch(_record_batch(block))


def _token_column(payloads: npt.NDArray[np.uint64]) -> pa.Array:
    """(B,) payloads as strings of 8 hex digits, null where missing."""
    is_present = payloads != MISSING_WORD
    digits = HEX_DIGITS[(payloads[is_present, None] >> _SHIFTS) & np.uint64(15)]  # (present, 8)
    offsets = np.append(np.int32(0), np.cumsum(is_present * 8, dtype=np.int32))
    bits = np.packbits(is_present, bitorder="little")
    return pa.StringArray.from_buffers(
        len(payloads), pa.py_buffer(offsets), pa.py_buffer(digits), pa.py_buffer(bits), int((~is_present).sum())
    )


def _record_batch(block: RowBlock) -> pa.RecordBatch:
    """A block as an Arrow record batch of `SCHEMA`."""
    columns = [pa.array(block.label)]
    for counts in block.dense.T:
        is_missing = np.isnan(counts)
        columns.append(pa.array(np.where(is_missing, 0, counts).astype(np.int32), mask=is_missing))
    columns += [_token_column(payloads) for payloads in block.payloads.T]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


@contextmanager
def open_writer(path: Path) -> Iterator[BlockWriter]:
    """A writer for `path`; the file appears when the body ends without an error, and no file is left otherwise.

    Raises:
        StreamsError: the file cannot be written.
        ConfigError: the name has none of `ENDINGS`, or its folder does not exist.
    """
    ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), None)
    if ending is None:
        raise ConfigError(f"{path}: got the name {path.name!r}, expected one that ends in {', '.join(ENDINGS)}")
    if path.is_dir():
        raise ConfigError(f"{path}: got a folder, expected the name of a file; choose another name")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: folder {path.parent} does not exist, expected an existing one; create it")
    partial = path.with_name(path.name + ".partial")
    try:
        writer = _ParquetWriter(partial) if ending == ".parquet" else _TextWriter(partial, ending)
        try:
            yield writer
        finally:
            writer.close()
        partial.replace(path)
    except OSError as error:
        if isinstance(error, StreamsError):
            raise
        raise StreamsError(
            f"{path}: cannot be written ({error.strerror}); free space or choose another path"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
