"""Importance records: the scores of the features of one click record that belong to one shard."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.keys import Field, Keys
from streams.records.arrow import column_of, fields_from_metadata, fields_to_json, read_stream, write_stream
from streams.records.headers import (
    ARROW,
    VERSION,
    BadRecord,
    Headers,
    ascii_int,
    check_time,
    check_version,
    header_int,
    read_headers,
)
from streams.records.key_checks import find_invalid

__all__ = ["SIGNALS", "ImportanceBatch", "Source", "decode_importance", "encode_importance"]

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # the names that Kafka allows
_TOPIC_ID = re.compile(rb"[0-9a-f]{32}")
SIGNALS = ("gradient", "frequency")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The click record that an importance record was computed from, and the signal that it was computed by.

    Attributes:
        signal: one of `SIGNALS`.
        topic: the name of the clicks topic.
        partition: the click record's partition.
        offset: its offset, which counts only within the topic of this id.
        topic_id: the id of the clicks topic, 32 hex digits; None if the writer does not know it.
    """

    signal: str
    topic: str
    partition: int
    offset: int
    topic_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImportanceBatch:
    """Scores of the features of one click record that belong to one shard, summed per key.

    Attributes:
        keys: (K,) uint64.
        scores: (K,) float32, summed over the record's rows; unchecked: the sketch rejects scores that are not finite.
        fields: the categorical columns that the keys' field numbers count.
        source: the click record.
        event_time_ms: the newest event time among the record's rows.
        ingest_ms: the Kafka timestamp of the click record.
    """

    keys: Keys
    scores: npt.NDArray[np.float32]
    fields: tuple[Field, ...]
    source: Source
    event_time_ms: int
    ingest_ms: int


@lru_cache(maxsize=64)
def _importance_schema(fields: tuple[Field, ...]) -> pa.Schema:
    return pa.schema(
        [pa.field("key", pa.uint64(), nullable=False), pa.field("score", pa.float32(), nullable=False)],
        metadata={"fields": fields_to_json(fields)},
    )


def encode_importance(batch: ImportanceBatch) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Value and headers of an importance record."""
    headers = [
        ("v", ascii_int(VERSION)),
        ("content-type", ARROW),
        ("signal", batch.source.signal.encode()),
        ("topic", batch.source.topic.encode()),
        ("partition", ascii_int(batch.source.partition)),
        ("offset", ascii_int(batch.source.offset)),
        ("event-time-ms", ascii_int(batch.event_time_ms)),
        ("ingest-ms", ascii_int(batch.ingest_ms)),
    ]
    if batch.source.topic_id is not None:
        headers.append(("topic-id", batch.source.topic_id.encode()))
    columns = [pa.array(batch.keys), pa.array(batch.scores, pa.float32())]
    return write_stream(_importance_schema(batch.fields), columns), headers


def _topic_id(header: bytes | None) -> str | None:
    """The topic id in a header, if there is one.

    Raises:
        ValueError: the header is malformed.
    """
    if header is None:
        return None
    if _TOPIC_ID.fullmatch(header) is None:
        raise ValueError(f"header 'topic-id': got {header[:40]!r}, expected 32 lower-case hex digits")
    return header.decode()


def decode_importance(value: bytes | None, headers: Headers) -> ImportanceBatch | BadRecord:
    """Decodes an importance record."""
    if not value:
        return BadRecord("empty value, expected an Arrow IPC stream")
    try:
        named = read_headers(headers)
        check_version(named)
        signal = (named.get("signal") or b"").decode()  # a Kafka header's value may be null
        if signal not in SIGNALS:
            return BadRecord(f"header 'signal': got {signal!r}, expected one of {', '.join(SIGNALS)}")
        batch = read_stream(value)
        fields = fields_from_metadata(batch.schema.metadata)
        keys = column_of(batch, "key", pa.uint64()).to_numpy()
        decoded = ImportanceBatch(
            keys=keys,
            scores=column_of(batch, "score", pa.float32()).to_numpy(),
            fields=fields,
            source=Source(
                signal=signal,
                topic=(named.get("topic") or b"").decode(),
                partition=header_int(named, "partition"),
                offset=header_int(named, "offset"),
                topic_id=_topic_id(named.get("topic-id")),
            ),
            event_time_ms=header_int(named, "event-time-ms"),
            ingest_ms=header_int(named, "ingest-ms"),
        )
        check_time(decoded.event_time_ms, "header 'event-time-ms'")
    except ValueError as error:
        return BadRecord(f"{type(error).__name__}: {error}")
    if _TOPIC.fullmatch(decoded.source.topic) is None or decoded.source.partition < 0 or decoded.source.offset < 0:
        return BadRecord(
            f"headers 'topic', 'partition', 'offset': got {decoded.source}, expected a click record's address"
        )
    problem = find_invalid(keys, fields)
    return decoded if problem is None else BadRecord(problem)
