"""The wire contract, version 1: every record that hotstream writes or reads is encoded and decoded here only.

Decoders never raise for what the wire holds: they check type, shape, length and size before they believe a byte, and
return a `BadRecord` that says why. Header values are ASCII, so that any Kafka tool shows them legibly.
`docs/protocol.md` is this file in prose, for programs in other languages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.errors import ConfigError
from streams.key_kernels import find_invalid, find_misplaced
from streams.keys import CRITEO_FIELDS, Field, Keys, format_key, make_key

__all__ = [
    "ARROW",
    "JSON",
    "MAX_RECORD_BYTES",
    "MAX_ROWS",
    "MAX_UNIQUE_ROWS",
    "TIERS",
    "VERSION",
    "Assignment",
    "BadRecord",
    "ChangeEncoder",
    "ClickBatch",
    "Digest",
    "Headers",
    "ImportanceBatch",
    "OtherKind",
    "Source",
    "dead_letter_headers",
    "decode_assignment",
    "decode_clicks",
    "decode_importance",
    "encode_assignment",
    "encode_clicks",
    "encode_digest",
    "encode_importance",
    "header_int",
    "place_of",
]

VERSION = 1
MAX_ROWS = 8192  # of a click record
MAX_UNIQUE_ROWS = 1 << 27  # of a model: a subscriber keeps 8 bytes for each
MAX_RECORD_BYTES = 8 << 20
ARROW = b"application/vnd.apache.arrow.stream"
JSON = b"application/json"
TIERS = ("cold", "warm", "hot")  # a tier's number, 0..2, is its index
_MAX_FIELDS_BYTES = 1 << 16  # 255 names of 64 characters take half of it
SIGNALS = ("gradient", "frequency")
_MAX_FLOAT32 = float(np.finfo(np.float32).max)

Headers = Sequence[tuple[str, bytes]]
Tier = Literal["cold", "warm", "hot"]


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be believed; `reason` says what, got and expected."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class ClickBatch:
    """Rows of a click log.

    Attributes:
        label: (B,) int8, 0 or 1.
        dense: (B, D) float32, NaN where missing.
        keys: (B, F) uint64 feature keys; column f holds field number f + 1.
        event_time_ms: (B,) int64, milliseconds since 1970, UTC.
        fields: F categorical columns.
        dense_names: D dense columns.
    """

    label: npt.NDArray[np.int8]
    dense: npt.NDArray[np.float32]
    keys: Keys
    event_time_ms: npt.NDArray[np.int64]
    fields: tuple[Field, ...]
    dense_names: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.label)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The one click record that an importance record was computed from, and by what signal."""

    signal: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class ImportanceBatch:
    """Scores of the features of one click record that belong to one shard, summed per key.

    Attributes:
        keys: (K,) uint64.
        scores: (K,) float32, summed over the record's rows. Not yet checked: the sketch rejects what is not finite.
        fields: the categorical columns that the keys' field numbers count.
        source: the click record.
        event_time_ms: the newest event time among the record's rows.
        ingest_ms: when the click record was written to Kafka, by its timestamp.
    """

    keys: Keys
    scores: npt.NDArray[np.float32]
    fields: tuple[Field, ...]
    source: Source
    event_time_ms: int
    ingest_ms: int


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One change of one feature's tier. `row`, `score` and what follows `seq` are None for cold (a tombstone)."""

    key: int
    tier: Tier
    shard: int
    epoch: int
    seq: int
    row: int | None = None
    feature: str | None = None
    score: float | None = None
    source: tuple[int, int] | None = None  # partition and offset of the importance record that decided it
    event_time_ms: int | None = None
    ingest_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The agent's word on a shard's whole table as it stands at `seq`."""

    shard: int
    epoch: int
    seq: int
    hot: int
    warm: int
    digest: int


@dataclass(frozen=True)
class OtherKind:
    """A record of a kind that this version does not know: to be ignored."""

    kind: str


# ---- headers -------------------------------------------------------------------------------------------------------


def header_int(headers: Mapping[str, bytes], name: str) -> int:
    """The integer in header `name`.

    Raises:
        ValueError: the header is missing or no ASCII integer below 2^63 in size.
    """
    raw = headers.get(name)
    if raw is None:
        raise ValueError(f"header {name!r} is missing")
    if len(raw) <= 18 and raw.isdigit():  # nearly always
        return int(raw)
    if len(raw) > 20:
        raise ValueError(f"header {name!r}: {len(raw)} bytes, expected an integer")
    number = int(raw.decode("ascii"))
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"header {name!r}: {number} does not fit 64 bits")
    return number


def place_of(headers: Headers) -> tuple[int, int]:
    """The (epoch, seq) in the headers of an assignments record, before anything else of it is looked at.

    (-1, -1) if they say nothing that can be read.
    """
    named = dict(headers)
    try:
        return header_int(named, "epoch"), header_int(named, "seq")
    except ValueError:
        return -1, -1


def _ascii(number: int) -> bytes:
    return b"%d" % number


def _check_version(headers: Mapping[str, bytes]) -> None:
    version = header_int(headers, "v")
    if version != VERSION:
        raise ValueError(f"version {version}, expected {VERSION}; upgrade the reader")


def dead_letter_headers(
    *, topic: str, partition: int, offset: int, error: str, message: str, time_ms: int
) -> list[tuple[str, bytes]]:
    """What a dead-lettered record says of itself; its key and value are the original bytes."""
    return [
        ("dlq-topic", topic.encode()),
        ("dlq-partition", _ascii(partition)),
        ("dlq-offset", _ascii(offset)),
        ("dlq-error", error.encode()),
        ("dlq-message", message.encode()[:2000]),
        ("dlq-time-ms", _ascii(time_ms)),
    ]


# ---- Arrow ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _fields_to_json(fields: tuple[Field, ...]) -> str:
    return json.dumps([[field.name, field.kind] for field in fields], separators=(",", ":"))


@lru_cache(maxsize=64)
def _fields_from_json(listed: bytes) -> tuple[Field, ...]:
    if len(listed) > _MAX_FIELDS_BYTES:
        raise ValueError(f"{len(listed)} bytes")
    return tuple(Field(name, kind) for name, kind in json.loads(listed))


def _fields_from_metadata(metadata: Mapping[bytes, bytes] | None) -> tuple[Field, ...]:
    try:
        return _fields_from_json((metadata or {})[b"fields"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ValueError(f"schema metadata 'fields': {error!r}, expected a JSON list of [name, kind]") from error


def _write_stream(schema: pa.Schema, columns: list[pa.Array]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue().to_pybytes()


def _read_stream(value: bytes) -> pa.RecordBatch:
    """The single record batch of an Arrow IPC stream, validated."""
    if len(value) > MAX_RECORD_BYTES:
        raise ValueError(f"{len(value)} bytes, expected at most {MAX_RECORD_BYTES}")
    with pa.ipc.open_stream(pa.py_buffer(value)) as reader:
        batches = []
        for batch in reader:
            batches.append(batch)
            if len(batches) > 1:
                break
    if len(batches) != 1:
        raise ValueError("expected exactly one record batch")
    batches[0].validate(full=True)
    return batches[0]


def _column(batch: pa.RecordBatch, name: str, expected: pa.DataType) -> pa.Array:
    index = batch.schema.get_field_index(name)
    if index < 0:
        raise ValueError(f"column {name!r} is missing")
    column = batch.column(index)
    if column.type != expected:
        raise ValueError(f"column {name!r}: got {column.type}, expected {expected}")
    if column.null_count:
        raise ValueError(f"column {name!r}: {column.null_count} nulls, expected none")
    return column


def _matrix(batch: pa.RecordBatch, name: str, item: pa.DataType, max_width: int) -> npt.NDArray[Any]:
    """A fixed-size-list column as a (B, width) array that shares the record's memory."""
    index = batch.schema.get_field_index(name)
    if index < 0:
        raise ValueError(f"column {name!r} is missing")
    kind = batch.schema.field(index).type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != item:
        raise ValueError(f"column {name!r}: got {kind}, expected fixed_size_list<{item}>[n]")
    if kind.list_size > max_width:
        raise ValueError(f"column {name!r}: {kind.list_size} a row, expected at most {max_width}")
    flat = _column(batch, name, kind).flatten()
    if flat.null_count:
        raise ValueError(f"column {name!r}: nulls inside the lists, expected none")
    return flat.to_numpy().reshape(batch.num_rows, kind.list_size)


_TIME = pa.timestamp("ms", tz="UTC")


def _fixed_lists(flat: npt.NDArray[Any], kind: pa.DataType, num_rows: int) -> pa.Array:
    """The rows of a flat (B * width,) array as lists; of width 0, from_arrays divides by it (SIGFPE in pyarrow 26)."""
    if not kind.list_size:
        return pa.array([[]] * num_rows, kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)


@lru_cache(maxsize=64)
def _clicks_schema(fields: tuple[Field, ...], dense_names: tuple[str, ...]) -> pa.Schema:
    return pa.schema(
        [
            pa.field("label", pa.int8(), nullable=False),
            pa.field("dense", pa.list_(pa.float32(), len(dense_names)), nullable=False),
            pa.field("keys", pa.list_(pa.uint64(), len(fields)), nullable=False),
            pa.field("event_time", _TIME, nullable=False),
        ],
        metadata={"fields": _fields_to_json(fields), "dense": json.dumps(dense_names)},
    )


def encode_clicks(batch: ClickBatch) -> bytes:
    """The rows as one Arrow IPC stream (columns and metadata as in the protocol)."""
    num_rows = batch.num_rows
    num_dense, num_fields = len(batch.dense_names), len(batch.fields)
    schema = _clicks_schema(batch.fields, batch.dense_names)
    dense = np.ascontiguousarray(batch.dense, np.float32).reshape(num_rows * num_dense)
    keys = np.ascontiguousarray(batch.keys, np.uint64).reshape(num_rows * num_fields)
    columns = [
        pa.array(batch.label, pa.int8()),
        _fixed_lists(dense, schema.field("dense").type, num_rows),
        _fixed_lists(keys, schema.field("keys").type, num_rows),
        pa.array(batch.event_time_ms).cast(_TIME),
    ]
    return _write_stream(schema, columns)


def decode_clicks(
    value: bytes | None,
    headers: Headers,
    *,
    fields: tuple[Field, ...] = CRITEO_FIELDS,
    dense_names: tuple[str, ...] = (),
) -> ClickBatch | BadRecord:
    """The rows of a clicks record: an Arrow batch, or a single click as JSON.

    Args:
        value: the record's value.
        headers: the record's headers; `content-type: application/json` says that it is a single click.
        fields: how to read a single click's features (an Arrow batch brings its own).
        dense_names: likewise its dense values.
    """
    if not value:
        return BadRecord("empty value, expected an Arrow IPC stream or a JSON click")
    try:
        if dict(headers).get("content-type") == JSON:
            return _click_from_json(value, fields, dense_names)
        batch = _read_stream(value)
        if not 1 <= batch.num_rows <= MAX_ROWS:
            return BadRecord(f"{batch.num_rows} rows, expected 1 to {MAX_ROWS}")
        named = _fields_from_metadata(batch.schema.metadata)
        dense = _matrix(batch, "dense", pa.float32(), 4096)
        listed = json.loads((batch.schema.metadata or {}).get(b"dense", b"null"))
        if listed is None:
            listed = [f"I{number}" for number in range(1, dense.shape[1] + 1)]
        if not isinstance(listed, list) or len(listed) != dense.shape[1]:
            return BadRecord(f"metadata 'dense' names {listed!r}, the column has {dense.shape[1]} a row")
        keys = _matrix(batch, "keys", pa.uint64(), 255)
        label = _column(batch, "label", pa.int8()).to_numpy()
        event_time = _column(batch, "event_time", _TIME).cast(pa.int64()).to_numpy()
    except (pa.ArrowException, ValueError, OSError, RecursionError) as error:
        return BadRecord(f"{type(error).__name__}: {error}")
    problem = _problem_with_clicks(named, keys, label)
    if problem is not None:
        return BadRecord(problem)
    return ClickBatch(
        label=label,
        dense=dense,
        keys=keys,
        event_time_ms=event_time,
        fields=named,
        dense_names=tuple(str(name) for name in listed),
    )


def _problem_with_clicks(fields: tuple[Field, ...], keys: Keys, label: npt.NDArray[np.int8]) -> str | None:
    """Why keys (B, F) and labels (B,) cannot be rows of a log with these fields; None if they can."""
    if len(fields) != keys.shape[1]:
        return f"metadata names {len(fields)} fields, the keys column has {keys.shape[1]} a row"
    problem = find_misplaced(keys, fields)
    if problem is not None:
        return problem
    if np.any((label != 0) & (label != 1)):
        return "label: expected 0 or 1"
    return None


def _click_from_json(value: bytes, fields: tuple[Field, ...], dense_names: tuple[str, ...]) -> ClickBatch:
    """One row from `{"label":1,"dense":{"I1":2.0},"features":{"C1":"68fd1e64"},"event_time_ms":1700000000000}`."""
    if len(value) > 1 << 16:
        raise ValueError(f"{len(value)} bytes, expected a single click of at most 65536")
    click = json.loads(value)
    if not isinstance(click, dict) or click.get("label") not in (0, 1):
        raise ValueError('expected an object with "label": 0 or 1')
    dense, features = click.get("dense", {}), click.get("features")
    if not isinstance(dense, dict) or not isinstance(features, dict):
        raise ValueError('expected objects "dense" and "features" of name: value')
    unknown = (set(dense) - set(dense_names)) | (set(features) - {field.name for field in fields})
    if unknown:
        raise ValueError(f"column {min(unknown)!r} is not in the schema")
    event_time_ms = click.get("event_time_ms")
    if type(event_time_ms) is not int or not 0 <= event_time_ms < 1 << 53:
        raise ValueError('expected an integer "event_time_ms"')
    numbers = [dense.get(name) for name in dense_names]
    if not all(
        number is None or (isinstance(number, int | float) and not abs(number) > _MAX_FLOAT32) for number in numbers
    ):
        raise ValueError('"dense": expected numbers of float32 or null')
    tokens = ["" if (token := features.get(field.name)) is None else token for field in fields]
    if not all(isinstance(token, str) for token in tokens):
        raise ValueError('"features": expected strings or null')
    keys = [make_key(n, field.kind, token) for n, (field, token) in enumerate(zip(fields, tokens, strict=True), 1)]
    return ClickBatch(
        label=np.array([click["label"]], np.int8),
        dense=np.array([[np.nan if x is None else x for x in numbers]], np.float32).reshape(1, len(numbers)),
        keys=np.array([keys], np.uint64),
        event_time_ms=np.array([event_time_ms], np.int64),
        fields=fields,
        dense_names=dense_names,
    )


@lru_cache(maxsize=64)
def _importance_schema(fields: tuple[Field, ...]) -> pa.Schema:
    return pa.schema(
        [pa.field("key", pa.uint64(), nullable=False), pa.field("score", pa.float32(), nullable=False)],
        metadata={"fields": _fields_to_json(fields)},
    )


def encode_importance(batch: ImportanceBatch) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Value and headers of an importance record."""
    headers = [
        ("v", _ascii(VERSION)),
        ("content-type", ARROW),
        ("signal", batch.source.signal.encode()),
        ("topic", batch.source.topic.encode()),
        ("partition", _ascii(batch.source.partition)),
        ("offset", _ascii(batch.source.offset)),
        ("event-time-ms", _ascii(batch.event_time_ms)),
        ("ingest-ms", _ascii(batch.ingest_ms)),
    ]
    columns = [pa.array(batch.keys), pa.array(batch.scores, pa.float32())]
    return _write_stream(_importance_schema(batch.fields), columns), headers


def decode_importance(value: bytes | None, headers: Headers) -> ImportanceBatch | BadRecord:
    """The scores of an importance record."""
    if not value:
        return BadRecord("empty value, expected an Arrow IPC stream")
    try:
        named = dict(headers)
        _check_version(named)
        signal = (named.get("signal") or b"").decode()  # a Kafka header's value may be null
        if signal not in SIGNALS:
            return BadRecord(f"header 'signal': got {signal!r}, expected one of {', '.join(SIGNALS)}")
        batch = _read_stream(value)
        fields = _fields_from_metadata(batch.schema.metadata)
        keys = _column(batch, "key", pa.uint64()).to_numpy()
        decoded = ImportanceBatch(
            keys=keys,
            scores=_column(batch, "score", pa.float32()).to_numpy(),
            fields=fields,
            source=Source(
                signal=signal,
                topic=(named.get("topic") or b"").decode(),
                partition=header_int(named, "partition"),
                offset=header_int(named, "offset"),
            ),
            event_time_ms=header_int(named, "event-time-ms"),
            ingest_ms=header_int(named, "ingest-ms"),
        )
    except (pa.ArrowException, ValueError, OSError, RecursionError) as error:
        return BadRecord(f"{type(error).__name__}: {error}")
    if not decoded.source.topic or decoded.source.partition < 0 or decoded.source.offset < 0:
        return BadRecord("headers 'topic', 'partition' and 'offset': expected the click record's place")
    problem = find_invalid(keys, fields)
    return decoded if problem is None else BadRecord(problem)


# ---- assignments ---------------------------------------------------------------------------------------------------


def encode_key(key: int) -> bytes:
    """The Kafka key of a feature: 8 bytes, big-endian."""
    return key.to_bytes(8, "big")


def _assignment_headers(shard: int, epoch: int, seq: int) -> list[tuple[str, bytes]]:
    return [("v", _ascii(VERSION)), ("shard", _ascii(shard)), ("epoch", _ascii(epoch)), ("seq", _ascii(seq))]


Encoded = tuple[bytes, bytes | None, list[tuple[str, bytes]]]


class ChangeEncoder:
    """Encodes the changes that one importance record made; what they have in common is written once.

    Args:
        shard: whose changes they are.
        epoch: its configuration.
        source: partition and offset of the importance record.
        event_time_ms: its event time.
        ingest_ms: the click record's Kafka timestamp; None leaves the header out.
        fields: the categorical columns that the keys' field numbers count.
    """

    def __init__(
        self,
        *,
        shard: int,
        epoch: int,
        source: tuple[int, int],
        event_time_ms: int,
        ingest_ms: int | None,
        fields: Sequence[Field],
    ) -> None:
        self._fields = fields
        self._before = [("v", _ascii(VERSION)), ("shard", _ascii(shard)), ("epoch", _ascii(epoch))]
        self._after = [] if ingest_ms is None else [("ingest-ms", _ascii(ingest_ms))]
        self._place = f'"shard":{shard},"epoch":{epoch},"seq":'
        self._end = f',"source":{{"partition":{source[0]},"offset":{source[1]}}},"event_time_ms":{event_time_ms}}}'

    def encode(self, key: int, tier: int, row: int, score: float, seq: int) -> Encoded:
        """Kafka key, value and headers of one change; cold (0) is a tombstone, and `row` counts for hot (2) only."""
        headers = [*self._before, ("seq", b"%d" % seq), *self._after]
        if tier == 0:
            return encode_key(key), None, headers
        # Written by hand: six times faster than json.dumps, and no field can hold a character that needs escaping.
        value = (
            f'{{"v":{VERSION},"feature":"{format_key(key, self._fields)}","tier":"{TIERS[tier]}",'
            f'"row":{row if row >= 0 else "null"},"score":{score:.9g},{self._place}{seq}{self._end}'
        )
        return encode_key(key), value.encode(), headers


def encode_assignment(change: Assignment, fields: Sequence[Field]) -> Encoded:
    """Kafka key, value and headers of one change; cold is a tombstone."""
    if change.tier != "cold" and (change.source is None or change.score is None or change.event_time_ms is None):
        raise ValueError("a hot or warm change needs source, score and event_time_ms")
    encoder = ChangeEncoder(
        shard=change.shard,
        epoch=change.epoch,
        source=change.source or (0, 0),
        event_time_ms=change.event_time_ms or 0,
        ingest_ms=change.ingest_ms,
        fields=fields,
    )
    row = -1 if change.row is None else change.row
    return encoder.encode(change.key, TIERS.index(change.tier), row, change.score or 0.0, change.seq)


def encode_digest(digest: Digest) -> Encoded:
    """Kafka key (0), value and headers of a digest record."""
    value = (
        f'{{"v":{VERSION},"kind":"digest","shard":{digest.shard},"epoch":{digest.epoch},"seq":{digest.seq},'
        f'"hot":{digest.hot},"warm":{digest.warm},"digest":"{digest.digest:016x}"}}'
    )
    return encode_key(0), value.encode(), _assignment_headers(digest.shard, digest.epoch, digest.seq)


def decode_assignment(
    key: bytes | None, value: bytes | None, headers: Headers
) -> Assignment | Digest | OtherKind | BadRecord:
    """What a record of the assignments topic says."""
    if key is None or len(key) != 8:
        return BadRecord(f"Kafka key: {0 if key is None else len(key)} bytes, expected 8")
    number = int.from_bytes(key, "big")
    try:
        named = dict(headers)
        _check_version(named)
        shard, epoch, seq = (header_int(named, name) for name in ("shard", "epoch", "seq"))
        if min(shard, epoch, seq) < 0:
            return BadRecord("headers 'shard', 'epoch', 'seq': expected no negative number")
        ingest_ms = header_int(named, "ingest-ms") if "ingest-ms" in named else None
        if value is None:
            if number == 0:
                return OtherKind("tombstone of key 0")
            return Assignment(key=number, tier="cold", shard=shard, epoch=epoch, seq=seq, ingest_ms=ingest_ms)
        if len(value) > 1 << 16:
            return BadRecord(f"{len(value)} bytes, expected at most 65536")
        body = json.loads(value)
        if not isinstance(body, dict):
            return BadRecord("expected a JSON object")
        if any(body.get(name) != said for name, said in (("shard", shard), ("epoch", epoch), ("seq", seq))):
            return BadRecord("value and headers disagree on shard, epoch or seq")
        if number == 0 or "kind" in body:
            return _control_from_json(body, shard, epoch, seq)
        return _assignment_from_json(body, number, Place(shard, epoch, seq), ingest_ms)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        return BadRecord(f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Place:
    """Where a change stands in its shard's history."""

    shard: int
    epoch: int
    seq: int


def _control_from_json(body: dict[str, Any], shard: int, epoch: int, seq: int) -> Digest | OtherKind | BadRecord:
    kind = body.get("kind")
    if kind != "digest":
        return OtherKind(str(kind)[:100])
    hot, warm, digest = body["hot"], body["warm"], body["digest"]
    if type(hot) is not int or type(warm) is not int or not isinstance(digest, str) or len(digest) != 16:
        return BadRecord("digest: expected integers 'hot' and 'warm' and 16 hex digits 'digest'")
    return Digest(shard=shard, epoch=epoch, seq=seq, hot=hot, warm=warm, digest=int(digest, 16))


def _assignment_from_json(
    body: dict[str, Any], key: int, place: Place, ingest_ms: int | None
) -> Assignment | BadRecord:
    tier, row, source, feature = body["tier"], body["row"], body["source"], body["feature"]
    if tier not in ("hot", "warm"):
        return BadRecord(f"tier {tier!r}, expected 'hot' or 'warm'")
    if (type(row) is int and 0 <= row < MAX_UNIQUE_ROWS) != (tier == "hot") or (tier == "warm" and row is not None):
        return BadRecord(f"row {row!r}, expected 0 to 2^27 - 1 for a hot key and null for a warm one")
    if not isinstance(feature, str) or ":" not in feature:
        return BadRecord(f"feature {str(feature)[:100]!r}, expected NAME:TOKEN")
    return Assignment(
        key=key,
        tier=tier,
        row=row,
        feature=feature,
        score=float(body["score"]),
        shard=place.shard,
        epoch=place.epoch,
        seq=place.seq,
        source=(int(source["partition"]), int(source["offset"])),
        event_time_ms=int(body["event_time_ms"]),
        ingest_ms=ingest_ms,
    )
