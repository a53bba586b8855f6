"""Assignment records: each is one change of one feature's tier, or a digest of a shard's whole table."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sketch.changes import NO_ROW, Changes
from streams.keys import MISSING, PAYLOAD_BITS, Field
from streams.records.change_encoder import ChangeEncoder, Encoded
from streams.records.headers import (
    VERSION,
    BadRecord,
    Headers,
    ascii_int,
    check_time,
    check_version,
    header_int,
    read_headers,
)

__all__ = [
    "MAX_UNIQUE_ROWS",
    "Assignment",
    "Claim",
    "Digest",
    "OtherKind",
    "decode_assignment",
    "encode_assignment",
    "encode_claim",
    "encode_digest",
]

CLAIM_KEY = (1).to_bytes(8, "big")  # of no feature, as its field number is 0
MAX_UNIQUE_ROWS = 1 << 27  # a subscriber keeps 8 bytes for each row of the model

_FEATURE = re.compile(r"[A-Za-z0-9_.-]{1,64}:(?:~([0-9a-f]{14})|([0-9a-f]{8})|missing)")
_DIGEST = re.compile(r"[0-9a-f]{16}")
_MAX_INT64 = (1 << 63) - 1

Tier = Literal["cold", "hot"]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One change of one feature's tier; for cold, a tombstone, the members from `row` to `event_time_ms` are None.

    Attributes:
        generation: the number of the ownership of the shard that wrote the record; 0 if the record has none.
        is_restated: whether this is no change, but repeats the feature's tier as of (epoch, seq); see
            `docs/protocol.md`, "Owners".
    """

    key: int
    tier: Tier
    shard: int
    epoch: int
    seq: int
    row: int | None = None
    feature: str | None = None
    score: float | None = None
    source: tuple[int, int] | None = None  # partition and offset of the importance record that caused the change
    event_time_ms: int | None = None
    ingest_ms: int | None = None
    generation: int = 0
    is_restated: bool = False


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The agent's digest of a shard's whole table as of `seq`."""

    shard: int
    epoch: int
    seq: int
    hot: int
    digest: int
    generation: int = 0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The start of an ownership of a shard: an agent has taken it over at (epoch, seq)."""

    shard: int
    epoch: int
    seq: int
    generation: int


@dataclass(frozen=True)
class OtherKind:
    """A record of a kind that this version does not know; readers ignore it."""

    kind: str


def _control_headers(record: Digest | Claim) -> list[tuple[str, bytes]]:
    numbers = {"v": VERSION, "shard": record.shard, "epoch": record.epoch, "seq": record.seq}
    if record.generation:
        numbers["generation"] = record.generation
    return [(name, ascii_int(number)) for name, number in numbers.items()]


def encode_assignment(change: Assignment, fields: Sequence[Field]) -> Encoded:
    """Kafka key, value and headers of one change; cold is a tombstone.

    Raises:
        ValueError: a hot change has no row, source, score or event time.
    """
    if change.tier == "hot" and None in (change.row, change.source, change.score, change.event_time_ms):
        raise ValueError("hot change: row, source, score or event_time_ms is None, expected all four")
    encoder = ChangeEncoder(
        shard=change.shard,
        epoch=change.epoch,
        source=change.source or (0, 0),
        event_time_ms=change.event_time_ms or 0,
        ingest_ms=change.ingest_ms,
        fields=fields,
        generation=change.generation,
        is_restated=change.is_restated,
    )
    one = Changes(
        np.array([change.key], np.uint64),
        np.array([NO_ROW if change.row is None else change.row], np.int32),
        np.array([change.score or 0.0], np.float32),
    )
    return encoder.encode(one, change.seq)[0]


def encode_digest(digest: Digest) -> Encoded:
    """Kafka key (0), value and headers of a digest record."""
    value = (
        f'{{"v":{VERSION},"kind":"digest","shard":{digest.shard},"epoch":{digest.epoch},"seq":{digest.seq},'
        f'"hot":{digest.hot},"digest":"{digest.digest:016x}"}}'
    )
    return bytes(8), value.encode(), _control_headers(digest)


def encode_claim(claim: Claim) -> Encoded:
    """Kafka key (1), value and headers of a claim."""
    body = {"v": VERSION, "kind": "claim", **dataclasses.asdict(claim)}
    return CLAIM_KEY, json.dumps(body, separators=(",", ":")).encode(), _control_headers(claim)


def decode_assignment(
    key: bytes | None, value: bytes | None, headers: Headers
) -> Assignment | Digest | Claim | OtherKind | BadRecord:
    """Decodes a record of the assignments topic."""
    if key is None or len(key) != 8:
        return BadRecord(f"Kafka key: {0 if key is None else len(key)} bytes, expected 8")
    number = int.from_bytes(key, "big")
    try:
        named = read_headers(headers)
        check_version(named)
        version = _read_version(named)
        ingest_ms = header_int(named, "ingest-ms") if "ingest-ms" in named else None
        if value is None:
            return _tombstone(number, version, ingest_ms)
        if len(value) > 1 << 16:
            return BadRecord(f"{len(value)} bytes, expected at most 65536")
        body = json.loads(value)
        if not isinstance(body, dict):
            return BadRecord("expected a JSON object")
        if (body.get("shard"), body.get("epoch"), body.get("seq")) != (version.shard, version.epoch, version.seq):
            return BadRecord("shard, epoch or seq differ between value and headers, expected the same")
        if number == 0 or "kind" in body:
            return _control_from_json(body, version)
        return _assignment_from_json(body, number, version, ingest_ms)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        return BadRecord(f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Version:
    """The version of a shard's table that a change makes, or, if restated, that holds the feature."""

    shard: int
    epoch: int
    seq: int
    generation: int
    is_restated: bool


def _read_version(named: Mapping[str, bytes | None]) -> Version:
    """The version in a record's headers.

    Raises:
        ValueError: a header is missing, malformed or negative.
    """
    names = ("shard", "epoch", "seq", *(("generation",) if "generation" in named else ()))
    numbers = [header_int(named, name) for name in names]
    if min(numbers) < 0:
        raise ValueError(f"headers {', '.join(map(repr, names))}: got {numbers}, expected 0 or more")
    shard, epoch, seq, generation = [*numbers, 0][:4]
    return Version(shard, epoch, seq, generation, named.get("restated") == b"1")


def _tombstone(key: int, version: Version, ingest_ms: int | None) -> Assignment | OtherKind | BadRecord:
    if key == 0:
        return OtherKind("tombstone of key 0")
    if not key >> PAYLOAD_BITS:
        return BadRecord(f"key {key:016x}: field number 0, expected 1 to 255")
    return Assignment(
        key=key,
        tier="cold",
        shard=version.shard,
        epoch=version.epoch,
        seq=version.seq,
        ingest_ms=ingest_ms,
        generation=version.generation,
        is_restated=version.is_restated,
    )


def _control_from_json(body: dict[str, Any], version: Version) -> Digest | Claim | OtherKind | BadRecord:
    kind, generation = body.get("kind"), version.generation
    if kind == "claim" and generation and body.get("generation") == generation:
        return Claim(shard=version.shard, epoch=version.epoch, seq=version.seq, generation=generation)
    if kind != "digest":
        return OtherKind(str(kind)[:100])
    hot, digest = _integer(body["hot"], "hot", MAX_UNIQUE_ROWS), body["digest"]
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        return BadRecord(f"digest: got {str(digest)[:100]!r}, expected 16 hex digits")
    return Digest(
        shard=version.shard,
        epoch=version.epoch,
        seq=version.seq,
        hot=hot,
        digest=int(digest, 16),
        generation=generation,
    )


def _assignment_from_json(
    body: dict[str, Any], key: int, version: Version, ingest_ms: int | None
) -> Assignment | BadRecord:
    tier, row, source, feature = body["tier"], body["row"], body["source"], body["feature"]
    if tier != "hot":
        return BadRecord(f"tier {tier!r}, expected 'hot' (a cold key has no value)")
    if type(row) is not int or not 0 <= row < MAX_UNIQUE_ROWS:
        return BadRecord(f"row {str(row)[:100]}, expected 0 to 2^27 - 1")
    if not isinstance(feature, str) or _payload_of(feature) != key & MISSING or not key >> PAYLOAD_BITS:
        return BadRecord(f"feature {str(feature)[:100]!r}, expected NAME:TOKEN of key {key:016x}")
    score = body["score"]
    if type(score) not in (int, float) or not 0 <= score < math.inf:
        return BadRecord(f"score {str(score)[:100]!r}, expected a finite number of 0 or more")
    event_time_ms = _integer(body["event_time_ms"], "event_time_ms")
    check_time(event_time_ms, "event_time_ms")
    return Assignment(
        key=key,
        tier=tier,
        row=row,
        feature=feature,
        score=float(score),
        shard=version.shard,
        epoch=version.epoch,
        seq=version.seq,
        source=(_integer(source["partition"], "partition"), _integer(source["offset"], "offset")),
        event_time_ms=event_time_ms,
        ingest_ms=ingest_ms,
        generation=version.generation,
        is_restated=version.is_restated,
    )


def _payload_of(feature: str) -> int | None:
    """The payload of a printed feature; None if it has another form. The field's name cannot be checked here."""
    match = _FEATURE.fullmatch(feature)
    if match is None:
        return None
    digits = match[1] or match[2]
    return MISSING if digits is None else int(digits, 16)


def _integer(number: object, name: str, most: int = _MAX_INT64) -> int:
    """The number.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is negative, or more than `most`.
    """
    if type(number) is not int:
        raise TypeError(f"{name}: got {str(number)[:100]!r}, expected an integer")
    if not 0 <= number <= most:
        raise ValueError(f"{name}: got {str(number)[:30]}, expected 0 to {most}")
    return number
