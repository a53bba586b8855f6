"""Assignment records: each is one change of one feature's tier, or a digest of a shard's whole table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from streams.keys import Field, format_key
from streams.records.headers import VERSION, BadRecord, Headers, ascii_int, check_version, header_int

__all__ = [
    "MAX_UNIQUE_ROWS",
    "Assignment",
    "ChangeEncoder",
    "Digest",
    "Encoded",
    "OtherKind",
    "decode_assignment",
    "encode_assignment",
    "encode_digest",
    "encode_key",
    "version_of",
]

MAX_UNIQUE_ROWS = 1 << 27  # a subscriber keeps 8 bytes for each row of the model

Tier = Literal["cold", "hot"]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One change of one feature's tier; for cold, a tombstone, the members after `seq` are None but for `ingest_ms`."""

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


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The agent's digest of a shard's whole table as of `seq`."""

    shard: int
    epoch: int
    seq: int
    hot: int
    digest: int


@dataclass(frozen=True)
class OtherKind:
    """A record of a kind that this version does not know; readers ignore it."""

    kind: str


def version_of(headers: Headers) -> tuple[int, int]:
    """The (epoch, seq) in the headers of an assignments record, without decoding the rest of it.

    (-1, -1) if a header is missing or malformed.
    """
    named = dict(headers)
    try:
        return header_int(named, "epoch"), header_int(named, "seq")
    except ValueError:
        return -1, -1


def encode_key(key: int) -> bytes:
    """The Kafka key of a feature: 8 bytes, big-endian."""
    return key.to_bytes(8, "big")


def _assignment_headers(shard: int, epoch: int, seq: int) -> list[tuple[str, bytes]]:
    return [
        ("v", ascii_int(VERSION)),
        ("shard", ascii_int(shard)),
        ("epoch", ascii_int(epoch)),
        ("seq", ascii_int(seq)),
    ]


Encoded = tuple[bytes, bytes | None, list[tuple[str, bytes]]]


class ChangeEncoder:
    """Encodes the changes that one importance record caused; their common parts are formatted once.

    Args:
        shard: the shard of the changes.
        epoch: the epoch of its configuration.
        source: partition and offset of the importance record.
        event_time_ms: the event time of the importance record.
        ingest_ms: the click record's Kafka timestamp; None omits the header.
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
        self._before = [("v", ascii_int(VERSION)), ("shard", ascii_int(shard)), ("epoch", ascii_int(epoch))]
        self._after = [] if ingest_ms is None else [("ingest-ms", ascii_int(ingest_ms))]
        self._version = f'"shard":{shard},"epoch":{epoch},"seq":'
        self._end = f',"source":{{"partition":{source[0]},"offset":{source[1]}}},"event_time_ms":{event_time_ms}}}'

    def encode(self, key: int, row: int, score: float, seq: int) -> Encoded:
        """Kafka key, value and headers of one change; a `row` of -1 makes the key cold: a tombstone."""
        headers = [*self._before, ("seq", b"%d" % seq), *self._after]
        if row < 0:
            return encode_key(key), None, headers
        # Six times faster than json.dumps; no field can hold a character that needs escaping.
        value = (
            f'{{"v":{VERSION},"feature":"{format_key(key, self._fields)}","tier":"hot","row":{row},'
            f'"score":{score:.9g},{self._version}{seq}{self._end}'
        )
        return encode_key(key), value.encode(), headers


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
    )
    row = -1 if change.row is None else change.row
    return encoder.encode(change.key, row, change.score or 0.0, change.seq)


def encode_digest(digest: Digest) -> Encoded:
    """Kafka key (0), value and headers of a digest record."""
    value = (
        f'{{"v":{VERSION},"kind":"digest","shard":{digest.shard},"epoch":{digest.epoch},"seq":{digest.seq},'
        f'"hot":{digest.hot},"digest":"{digest.digest:016x}"}}'
    )
    return encode_key(0), value.encode(), _assignment_headers(digest.shard, digest.epoch, digest.seq)


def decode_assignment(
    key: bytes | None, value: bytes | None, headers: Headers
) -> Assignment | Digest | OtherKind | BadRecord:
    """Decodes a record of the assignments topic."""
    if key is None or len(key) != 8:
        return BadRecord(f"Kafka key: {0 if key is None else len(key)} bytes, expected 8")
    number = int.from_bytes(key, "big")
    try:
        named = dict(headers)
        check_version(named)
        shard, epoch, seq = (header_int(named, name) for name in ("shard", "epoch", "seq"))
        if min(shard, epoch, seq) < 0:
            return BadRecord(f"headers 'shard', 'epoch', 'seq': got {shard}, {epoch}, {seq}, expected 0 or more")
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
        if (body.get("shard"), body.get("epoch"), body.get("seq")) != (shard, epoch, seq):
            return BadRecord("shard, epoch or seq differ between value and headers, expected the same")
        if number == 0 or "kind" in body:
            return _control_from_json(body, shard, epoch, seq)
        return _assignment_from_json(body, number, Version(shard, epoch, seq), ingest_ms)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        return BadRecord(f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Version:
    """The version of a shard's table that a change makes."""

    shard: int
    epoch: int
    seq: int


def _control_from_json(body: dict[str, Any], shard: int, epoch: int, seq: int) -> Digest | OtherKind | BadRecord:
    kind = body.get("kind")
    if kind != "digest":
        return OtherKind(str(kind)[:100])
    hot, digest = body["hot"], body["digest"]
    if type(hot) is not int or not isinstance(digest, str) or len(digest) != 16:
        return BadRecord("digest: expected an integer 'hot' and 16 hex digits 'digest'")
    return Digest(shard=shard, epoch=epoch, seq=seq, hot=hot, digest=int(digest, 16))


def _assignment_from_json(
    body: dict[str, Any], key: int, version: Version, ingest_ms: int | None
) -> Assignment | BadRecord:
    tier, row, source, feature = body["tier"], body["row"], body["source"], body["feature"]
    if tier != "hot":
        return BadRecord(f"tier {tier!r}, expected 'hot' (a cold key has no value)")
    if type(row) is not int or not 0 <= row < MAX_UNIQUE_ROWS:
        return BadRecord(f"row {row!r}, expected 0 to 2^27 - 1")
    if not isinstance(feature, str) or ":" not in feature:
        return BadRecord(f"feature {str(feature)[:100]!r}, expected NAME:TOKEN")
    return Assignment(
        key=key,
        tier=tier,
        row=row,
        feature=feature,
        score=float(body["score"]),
        shard=version.shard,
        epoch=version.epoch,
        seq=version.seq,
        source=(int(source["partition"]), int(source["offset"])),
        event_time_ms=int(body["event_time_ms"]),
        ingest_ms=ingest_ms,
    )
