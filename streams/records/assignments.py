"""Assignment records: one change of one feature's tier each, and the digests of a shard's whole table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from streams.keys import Field, format_key
from streams.records.headers import VERSION, BadRecord, Headers, ascii_int, check_version, header_int

__all__ = [
    "MAX_UNIQUE_ROWS",
    "TIERS",
    "Assignment",
    "ChangeEncoder",
    "Digest",
    "Encoded",
    "OtherKind",
    "decode_assignment",
    "encode_assignment",
    "encode_digest",
    "encode_key",
    "place_of",
]

MAX_UNIQUE_ROWS = 1 << 27  # of a model: a subscriber keeps 8 bytes for each
TIERS = ("cold", "warm", "hot")  # a tier's number, 0..2, is its index

Tier = Literal["cold", "warm", "hot"]


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


def place_of(headers: Headers) -> tuple[int, int]:
    """The (epoch, seq) in the headers of an assignments record, before anything else of it is looked at.

    (-1, -1) if they say nothing that can be read.
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
        self._before = [("v", ascii_int(VERSION)), ("shard", ascii_int(shard)), ("epoch", ascii_int(epoch))]
        self._after = [] if ingest_ms is None else [("ingest-ms", ascii_int(ingest_ms))]
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
        check_version(named)
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
