"""Writes blocks to a file whose ending says how: `.tsv`, `.tsv.gz`, `.tsv.zst` or `.parquet`.

A file is written under `NAME.partial` and renamed when it is whole, so a name that exists is a whole file.
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

from streams.errors import ConfigError, StreamsError
from streams.generator.blocks import Block
from streams.generator.text import format_tsv

__all__ = ["ENDINGS", "BlockWriter", "open_writer"]

ENDINGS = (".tsv", ".tsv.gz", ".tsv.zst", ".parquet")
SCHEMA = pa.schema(
    [("label", pa.int8())]
    + [(f"I{number}", pa.int32()) for number in range(1, 14)]
    + [(f"C{number}", pa.string()) for number in range(1, 27)]
)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_SHIFTS = np.arange(28, -1, -4, dtype=np.uint64)
_MISSING = np.uint64((1 << 56) - 1)
_GZIP_LEVEL = 4


class BlockWriter(Protocol):
    """Takes blocks, in order."""

    def write(self, block: Block) -> None:
        """Appends a block's rows."""

    def close(self) -> None:
        """Makes the file whole."""


class _TextWriter:
    """Criteo's TSV, plain or compressed."""

    def __init__(self, path: Path, ending: str) -> None:
        self._streams = ExitStack()
        stream: Any = self._streams.enter_context(path.open("wb"))
        if ending == ".tsv.gz":  # neither name nor time in the header: the same rows give the same bytes
            zipped = gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=stream, mtime=0)
            stream = self._streams.enter_context(zipped)
        elif ending == ".tsv.zst":
            stream = self._streams.enter_context(zstandard.ZstdCompressor().stream_writer(stream, closefd=False))
        self._stream = stream

    def write(self, block: Block) -> None:
        self._stream.write(format_tsv(block))

    def close(self) -> None:
        self._streams.close()


class _ParquetWriter:
    """One row group a block: label int8, I1.. int32, C1.. string, null where missing."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self.close = self._writer.close

    def write(self, block: Block) -> None:
        self._writer.write_batch(as_record_batch(block))


def _token_column(payloads: npt.NDArray[np.uint64]) -> pa.Array:
    """Payloads (B,) as strings of 8 hex digits, null where missing."""
    is_present = payloads != _MISSING
    digits = _HEX[(payloads[is_present, None] >> _SHIFTS) & np.uint64(15)]  # (present, 8)
    offsets = np.append(np.int32(0), np.cumsum(is_present * 8, dtype=np.int32))
    bits = np.packbits(is_present, bitorder="little")
    return pa.StringArray.from_buffers(
        len(payloads), pa.py_buffer(offsets), pa.py_buffer(digits), pa.py_buffer(bits), int((~is_present).sum())
    )


def as_record_batch(block: Block) -> pa.RecordBatch:
    """The block as Arrow columns: label, I1.., C1.. ."""
    columns = [pa.array(block.label)]
    for counts in block.dense.T:
        is_missing = np.isnan(counts)
        columns.append(pa.array(np.where(is_missing, 0, counts).astype(np.int32), mask=is_missing))
    columns += [_token_column(payloads) for payloads in block.payloads.T]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


@contextmanager
def open_writer(path: Path) -> Iterator[BlockWriter]:
    """A writer for `path`; the name appears when the body has ended well, and nothing stays behind when not.

    Raises:
        StreamsError: the file cannot be written.
        ConfigError: the ending is none of `ENDINGS`, or the folder is not there.
    """
    ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), None)
    if ending is None:
        raise ConfigError(f"{path}: got the name {path.name!r}, expected one that ends in {', '.join(ENDINGS)}")
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path}: got no place for a file, expected a name in a folder that exists; make the folder")
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
        raise StreamsError(f"{path}: cannot be written ({error.strerror}); make room or name another place") from error
    finally:
        partial.unlink(missing_ok=True)
