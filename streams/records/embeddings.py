"""The records of the topic `embeddings`: rows of a trainer's embedding, for replicas that serve it.

key    kind (1 byte) and number (4 bytes, big-endian)
       s shape (JSON)          u unique row       1 rows of one field of level 1     2 block of rows of level 2
       g gates, all fields     x digest (JSON)    m manifest of a dense part (JSON)  c chunk of a dense part
value  of u, 1, 2 and g: 48 bytes, little-endian, of `RowRecord`, then the rows' bytes, then their scales;
       of c: the version, 8 bytes, little-endian, then the bytes; of u nothing (a tombstone): the row is free
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streams.records.headers import VERSION, BadRecord, Headers, ascii_int, check_version, read_headers

__all__ = [
    "ROW_HEADERS",
    "ChunkRecord",
    "EmbeddingKind",
    "EmbeddingRecord",
    "Encoded",
    "NoteRecord",
    "RowRecord",
    "decode_embedding",
    "embedding_key",
    "encode_chunk",
    "encode_note",
    "encode_row",
    "encode_tombstone",
]

EmbeddingKind = str
_ROWS, _NOTES = frozenset("u12g"), frozenset("sxm")
_KEY = struct.Struct(">cI")
_PREFIX = struct.Struct("<QQQQQQ")
_VERSION = struct.Struct("<Q")
_SUM = re.compile("[0-9a-f]{16}")
ROW_HEADERS: list[tuple[str, bytes | None]] = [("v", ascii_int(VERSION))]

Encoded = tuple[bytes, bytes | None, list[tuple[str, bytes | None]]]


@dataclass(frozen=True, kw_only=True)
class RowRecord:
    """A unique row, a block of shared rows, or the gates.

    Attributes:
        kind: `u`, `1`, `2` or `g`.
        number: the unique row, the field counted from 0, the block; 0 for gates.
        model: the fingerprint of the shape that the bytes have.
        feature: the feature key that owns a unique row; 0 for the other kinds, and for a row that is free.
        epoch: the epoch, and
        seq: the number of the newest change of the owner's shard that the trainer had applied.
        step: the rows of clicks that the trainer had trained.
        time_ms: when the row was copied.
        body: the rows' bytes and scales as trained; None if the row is free.
    """

    kind: EmbeddingKind
    number: int
    model: int = 0
    feature: int = 0
    epoch: int = 0
    seq: int = 0
    step: int = 0
    time_ms: int = 0
    body: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class ChunkRecord:
    """A part of the dense part's bytes: chunk `number` of the version in a slot (0 or 1)."""

    slot: int
    number: int
    version: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class NoteRecord:
    """A shape (`s`), a digest (`x`) or a manifest (`m`): a JSON object."""

    kind: EmbeddingKind
    number: int
    content: Mapping[str, Any]


EmbeddingRecord = RowRecord | ChunkRecord | NoteRecord


def embedding_key(kind: EmbeddingKind, number: int) -> bytes:
    """Kafka's key of a record."""
    return _KEY.pack(kind.encode(), number)


def encode_row(record: RowRecord) -> Encoded:
    """Kafka key, value and headers."""
    body = record.body
    if body is None:
        return encode_tombstone(record.number)
    numbers = (record.model, record.feature, record.epoch, record.seq, record.step, record.time_ms)
    return embedding_key(record.kind, record.number), _PREFIX.pack(*numbers) + body, ROW_HEADERS


def encode_tombstone(row: int) -> Encoded:
    """The record of a unique row that is free."""
    return embedding_key("u", row), None, ROW_HEADERS


def encode_chunk(record: ChunkRecord) -> Encoded:
    """Kafka key, value and headers; a slot has 2^16 chunks at most."""
    number = record.slot << 16 | record.number
    return embedding_key("c", number), _VERSION.pack(record.version) + record.data, ROW_HEADERS


def encode_note(record: NoteRecord) -> Encoded:
    """Kafka key, value and headers."""
    value = json.dumps({"v": VERSION, **record.content}, separators=(",", ":")).encode()
    return embedding_key(record.kind, record.number), value, ROW_HEADERS


def decode_embedding(key: bytes | None, value: bytes | None, headers: Headers) -> EmbeddingRecord | BadRecord | None:
    """The record; None for one of a kind that this version does not know."""
    if key is None or len(key) != _KEY.size:
        return BadRecord(f"key: got {0 if key is None else len(key)} bytes, expected {_KEY.size}")
    name, number = _KEY.unpack(key)
    kind = name.decode("latin-1")
    try:
        check_version(read_headers(headers))
        if kind in _ROWS:
            return _decode_row(kind, number, value)
        if kind == "c":
            return _decode_chunk(number, value)
        return _decode_note(kind, number, value) if kind in _NOTES else None
    except (ValueError, RecursionError) as error:
        return BadRecord(str(error))


def _decode_row(kind: str, number: int, value: bytes | None) -> RowRecord:
    if value is None and kind == "u":
        return RowRecord(kind=kind, number=number)
    if value is None or len(value) <= _PREFIX.size:
        raise ValueError(f"value: got {len(value or b'')} bytes, expected more than {_PREFIX.size}")
    model, feature, epoch, seq, step, time_ms = _PREFIX.unpack_from(value)
    if (kind == "u") != (feature != 0):
        raise ValueError(f"feature: got {feature:016x} in a record of kind {kind!r}, expected one in unique rows only")
    return RowRecord(
        kind=kind, number=number, model=model, feature=feature, epoch=epoch, seq=seq, step=step, time_ms=time_ms,
        body=value[_PREFIX.size :],
    )  # fmt: skip


def _decode_chunk(number: int, value: bytes | None) -> ChunkRecord:
    if value is None or len(value) <= _VERSION.size:
        raise ValueError(f"value: got {len(value or b'')} bytes, expected more than {_VERSION.size}")
    (version,) = _VERSION.unpack_from(value)
    return ChunkRecord(slot=number >> 16, number=number & 0xFFFF, version=version, data=value[_VERSION.size :])


def _decode_note(kind: str, number: int, value: bytes | None) -> NoteRecord:
    content = json.loads(value or b"null")
    if not isinstance(content, dict) or content.get("v") != VERSION:
        raise ValueError(f"value: got {value!r:.60}, expected a JSON object with v {VERSION}")
    if kind == "x":
        _check_digest(content)
    return NoteRecord(kind=kind, number=number, content=content)


def _check_digest(content: Mapping[str, Any]) -> None:
    for name in ("number", "step", "time_ms"):
        if type(content.get(name)) is not int or not 0 <= content[name] < 1 << 63:
            raise ValueError(f"{name}: got {content.get(name)!r:.60}, expected 0 to 2^63 - 1")
    if not _SUM.fullmatch(str(content.get("digest"))):
        raise ValueError(f"digest: got {content.get('digest')!r:.60}, expected 16 hex digits")
