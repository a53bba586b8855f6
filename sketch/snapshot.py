"""Snapshots: parameters and arrays as bytes. Magic, header length, JSON header, arrays, CRC-32."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch.errors import SnapshotError

__all__ = ["Packed", "pack", "unpack"]

Packed = bytes | memoryview | npt.NDArray[np.uint8]

_VERSION = 5
_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int32", "int64", "float32", "float64")


def pack(magic: bytes, parameters: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Serializes parameters (JSON) and arrays; `unpack` with the same magic reads them back."""
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    header = json.dumps({"version": _VERSION, "parameters": parameters, "arrays": listed}).encode()
    body = b"".join([magic, len(header).to_bytes(4, "little"), header, *(array.tobytes() for array in arrays.values())])
    return body + zlib.crc32(body).to_bytes(4, "little")


def _length(length: object) -> int:
    if type(length) is not int or length < 0:
        raise SnapshotError(f"snapshot: a length of {str(length)[:50]}, expected an integer of 0 or more")
    return length


def unpack(magic: bytes, data: Packed) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The parameters and arrays, which are read-only views of `data`, and not aligned.

    Raises:
        SnapshotError: another magic or version, a wrong length, or a wrong checksum.
    """
    start = len(magic) + 4
    data = memoryview(data).cast("B").toreadonly()  # type: ignore[arg-type]  # arrays are buffers, whatever stubs say
    if len(data) < start + 4 or data[: len(magic)] != magic:
        raise SnapshotError(f"{len(data)} bytes without the magic of a {magic.decode()} snapshot")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise SnapshotError(f"damaged {magic.decode()} snapshot: the checksum of {len(data)} bytes does not match")
    stop = start + int.from_bytes(data[len(magic) : start], "little")
    try:
        header = json.loads(bytes(data[start:stop]))
        if header["version"] != _VERSION:
            raise SnapshotError(f"{magic.decode()} snapshot of version {header['version']}, expected {_VERSION}")
        arrays = {}
        for name, dtype, shape in header["arrays"]:
            if dtype not in _DTYPES:
                raise SnapshotError(f"{magic.decode()} snapshot: array {name} of {dtype}")
            count = math.prod(_length(length) for length in shape)
            arrays[name] = np.frombuffer(data, dtype, count, stop).reshape(shape)
            stop += arrays[name].nbytes
        parameters = header["parameters"]
        if not isinstance(parameters, dict):
            raise SnapshotError(f"{magic.decode()} snapshot: parameters of type {type(parameters).__name__}")
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise SnapshotError(f"{magic.decode()} snapshot: malformed header: {error}") from error
    if stop != len(data) - 4:
        raise SnapshotError(f"{magic.decode()} snapshot: {len(data) - 4 - stop} bytes after the last array")
    return parameters, arrays
