"""No bytes make a decoder raise, hang or take memory without bound: encoded records, mutated.

`HOTSTREAM_MUTATIONS` sets the number of mutations a decoder (default 300).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from test_records_decoding import COLD, DIGEST, HOT, make_clicks, make_importance

from benchmarks.poison.mutations import mutate, mutate_headers
from streams.keys import CRITEO_FIELDS
from streams.records import (
    AgentConfiguration,
    AgentMetrics,
    Assignment,
    BadRecord,
    ClickBatch,
    DeadLetter,
    Digest,
    ImportanceBatch,
    MoreValues,
    OtherKind,
    ReplayProgress,
    ShardMetrics,
    SnapshotReader,
    TrainerMetrics,
    decode_assignment,
    decode_clicks,
    decode_configuration,
    decode_fields,
    decode_importance,
    decode_metrics,
    decode_progress,
    decode_value,
    encode_assignment,
    encode_clicks,
    encode_configuration,
    encode_digest,
    encode_fields,
    encode_importance,
    encode_metrics,
    encode_progress,
    encode_value,
    write_snapshot,
)
from streams.records.arrow_messages import MAX_UNPACKED_BYTES

NUM_MUTATIONS = int(os.environ.get("HOTSTREAM_MUTATIONS", "300"))


class Kafka:
    """A record as a client gives it."""

    topic, partition, offset, timestamp = "t", 0, 7, 0

    def __init__(self, key: Any, value: Any, headers: Any) -> None:
        self.key, self.value, self.headers = key, value, headers


def read_snapshot(key: Any, value: Any, headers: Any) -> Any:
    reader = SnapshotReader(3)
    chunks, closing, _ = write_snapshot(3, b"x" * 100, previous=None)
    for record in (*chunks, closing):
        reader.read([(record.key, record.value, record.headers)])
    reader.read([(key, value, headers)])
    assert reader.data == b"x" * 100
    return BadRecord("; ".join(reader.problems))


SHARD = ShardMetrics(**{member.name: 1 for member in dataclasses.fields(ShardMetrics)})
AGENT = AgentMetrics(time_ms=1, capacity=2, bad=0, shards={0: SHARD})
TRAINER = TrainerMetrics(time_ms=1, rows=2, rows_per_s=1.0, lag_records=0, hot=3, auc={"a": 0.5}, windows=[{"x": 1}])
CLOSING = write_snapshot(3, b"y" * 50, previous=None)
SINGLE = b'{"label":1,"dense":{"I1":2.5},"features":{"C1":"68fd1e64"},"event_time_ms":1700000000000}'
JSON_CLICK = [("content-type", b"application/json")]


def compressed_clicks(codec: str, num_rows: int = 64) -> bytes:
    sink = pa.BufferOutputStream()
    reader = pa.ipc.open_stream(encode_clicks(make_clicks(num_rows)))
    with pa.ipc.new_stream(sink, reader.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


MORE = replace(
    make_clicks(20),
    more=MoreValues(offsets=np.minimum(np.arange(21) * 2, 30), keys=np.full(30, make_clicks(1).keys[0, 1])),
)
Decode = Callable[[Any, Any, Any], Any]
CASES: dict[str, tuple[tuple[Any, Any, Any], Decode]] = {
    "clicks": ((None, encode_clicks(make_clicks(20)), []), lambda _, value, named: decode_clicks(value, named)),
    "clicks-more": ((None, encode_clicks(MORE), []), lambda _, value, named: decode_clicks(value, named)),
    "clicks-zstd": ((None, compressed_clicks("zstd"), []), lambda _, value, named: decode_clicks(value, named)),
    "clicks-lz4": ((None, compressed_clicks("lz4"), []), lambda _, value, named: decode_clicks(value, named)),
    "single-click": (
        (None, SINGLE, JSON_CLICK),
        lambda _, value, named: decode_clicks(value, named, fields=CRITEO_FIELDS, dense_names=("I1",)),
    ),
    "importance": (
        (None, *encode_importance(make_importance(30))),
        lambda _, value, named: decode_importance(value, named),
    ),
    "hot": (encode_assignment(HOT, CRITEO_FIELDS), decode_assignment),
    "cold": (encode_assignment(COLD, CRITEO_FIELDS), decode_assignment),
    "digest": (encode_digest(DIGEST), decode_assignment),
    "agent-metrics": ((None, *encode_metrics(AGENT)), lambda _, value, _named: decode_metrics(value)),
    "trainer-metrics": ((None, *encode_metrics(TRAINER)), lambda _, value, _named: decode_metrics(value)),
    "manifest": ((CLOSING[1].key, CLOSING[1].value, CLOSING[1].headers), read_snapshot),
    "chunk": ((b"3/B/0", CLOSING[0][0].value, CLOSING[0][0].headers), read_snapshot),
    "replay": (
        (*encode_progress("00ff", ReplayProgress(run=1, process="ab", batch=2)), []),
        lambda _key, value, _named: decode_progress(value),
    ),
    "configuration": (
        encode_configuration(AgentConfiguration(number=1, settings={"capacity": 7, "signals": ["gradient"]})),
        lambda _key, value, named: decode_configuration(b"agents", value, named),
    ),
    "fields": (encode_fields(CRITEO_FIELDS), lambda _key, value, named: decode_fields(b"fields", value, named)),
    "value": (encode_value(HOT.key, b"example.com"), decode_value),
    "letter": (
        (b"k", b"v", [("dlq-topic", b"t"), ("dlq-partition", b"1"), ("dlq-offset", b"2"), ("dlq-time-ms", b"3")]),
        lambda key, value, named: DeadLetter.of(Kafka(key, value, named)),
    ),
}
DECODED = (
    Assignment | Digest | OtherKind | BadRecord | ClickBatch | ImportanceBatch
    | AgentMetrics | TrainerMetrics | ReplayProgress | DeadLetter | AgentConfiguration | tuple
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_mutated_records_decode_or_are_refused(name):
    (key, value, headers), decode = CASES[name]
    assert not isinstance(decode(key, value, headers), BadRecord) or name in ("manifest", "chunk")
    random = np.random.default_rng(len(name))
    for _ in range(NUM_MUTATIONS):
        mutated = None if value is None else mutate(random, value) if random.integers(0, 4) else value
        other_key = key if key is None or random.integers(0, 2) else mutate(random, key)
        assert isinstance(decode(other_key, mutated, mutate_headers(random, headers)), DECODED)


# ---- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_compressed_batch_is_read_and_one_that_unpacks_to_too_much_is_refused_unread(codec):
    assert isinstance(decode_clicks(compressed_clicks(codec), []), ClickBatch)
    zeros = pa.array(np.zeros(MAX_UNPACKED_BYTES // 4, np.float32))
    batch = pa.record_batch([zeros, zeros.cast(pa.uint64())], names=["score", "key"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(batch)
    bomb = sink.getvalue().to_pybytes()
    assert len(bomb) < 1 << 20
    del zeros, batch
    before = pa.total_allocated_bytes()
    decoded = decode_importance(bomb, encode_importance(make_importance())[1])
    assert isinstance(decoded, BadRecord)
    assert "bytes unpacked, expected at most" in decoded.reason
    assert pa.total_allocated_bytes() <= before


def test_a_column_of_a_type_that_python_cannot_represent_is_refused():
    # Arrow has interval types that pyarrow reads and cannot name; a mutation of the type's number makes one.
    value = encode_clicks(make_clicks(3))
    reasons = set()
    for position in range(len(value)):
        for number in (11, 18, 20, 22, 25):
            decoded = decode_clicks(value[:position] + bytes([number]) + value[position + 1 :], [])
            reasons.add(type(decoded))
    assert reasons == {BadRecord, ClickBatch}


def test_rows_without_bytes_are_refused_before_they_are_validated():
    batch = pa.record_batch([pa.nulls(777_777)], names=["key"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    value = sink.getvalue().to_pybytes().replace((777_777).to_bytes(8, "little"), (1 << 40).to_bytes(8, "little"))
    decoded = decode_importance(value, encode_importance(make_importance())[1])
    assert isinstance(decoded, BadRecord)
    assert "1099511627776 rows, expected at most" in decoded.reason


def test_a_reason_is_one_short_line_whatever_the_record_holds():
    huge = b'{"kind":"' + b"x" * 60_000 + b'"}'
    decoded = decode_clicks(huge, JSON_CLICK)
    assert isinstance(decoded, BadRecord)
    assert len(decoded.reason) <= 500
    assert BadRecord("red \x1b[31m\nforged line").reason == r"red \x1b[31m\nforged line"
    assert len(BadRecord("y" * 8_000_000).reason) == 500


# ---- values that were believed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"feature": "C14:7e0ccccd"}, "of key 0e0000007e0ccccf"),
        ({"feature": "C14:~0000007e0ccccd"}, "of key"),
        ({"feature": "C14:missing"}, "of key"),
        ({"feature": "C\x1b[2J:7e0ccccf"}, "of key"),
        ({"feature": "C14:7e0ccccf\n"}, "of key"),
        ({"score": -1.0}, "score '-1.0'"),
        ({"score": True}, "score 'True'"),
        ({"score": float("inf")}, "score 'inf'"),
        ({"score": float("nan")}, "score 'nan'"),
        ({"event_time_ms": 1 << 48}, "event_time_ms: got 281474976710656"),
        ({"event_time_ms": -1}, "event_time_ms: got -1"),
        ({"event_time_ms": 1.5}, "event_time_ms: got '1.5'"),
        ({"source": {"partition": -1, "offset": 0}}, "partition: got -1"),
        ({"source": {"partition": 0, "offset": 1 << 63}}, "offset: got 9223372036854775808"),
        ({"source": {"partition": "0", "offset": 1}}, "partition: got '0'"),
    ],
)
def test_an_assignment_with_a_value_that_cannot_be_true_is_refused(broken, why):
    key, value, headers = encode_assignment(HOT, CRITEO_FIELDS)
    assert value is not None
    decoded = decode_assignment(key, json.dumps({**json.loads(value), **broken}).encode(), headers)
    assert isinstance(decoded, BadRecord)
    assert why in decoded.reason


def test_a_tombstone_of_field_0_is_refused():
    _, value, headers = encode_assignment(COLD, CRITEO_FIELDS)
    decoded = decode_assignment((5).to_bytes(8, "big"), value, headers)
    assert isinstance(decoded, BadRecord)
    assert "field number 0" in decoded.reason


@pytest.mark.parametrize("feature", ["C14:missing", "device_ip:~0c1d2e3f4a5b6c"])
def test_a_feature_of_another_form_is_its_key(feature):
    _, value, headers = encode_assignment(HOT, CRITEO_FIELDS)
    assert value is not None
    payload = (1 << 56) - 1 if feature.endswith("missing") else 0x0C1D2E3F4A5B6C
    body = json.dumps({**json.loads(value), "feature": feature}).encode()
    decoded = decode_assignment((14 << 56 | payload).to_bytes(8, "big"), body, headers)
    assert isinstance(decoded, Assignment)


@pytest.mark.parametrize(
    "digest", ["-000000000000001", "0x00000000000001", " 000000000000001", "F" * 16, "1_0" * 5 + "1"]
)
def test_a_digest_is_16_hex_digits(digest):
    key, value, headers = encode_digest(DIGEST)
    assert value is not None
    assert isinstance(decode_assignment(key, value.replace(b"f1e2d3c4b5a69788", digest.encode()), headers), BadRecord)


@pytest.mark.parametrize("hot", [-1, (1 << 27) + 1, True])
def test_the_hot_features_of_a_digest_are_a_number_that_can_be(hot):
    key, value, headers = encode_digest(DIGEST)
    assert value is not None
    body = value.replace(b"13505", str(hot).lower().encode())
    assert isinstance(decode_assignment(key, body, headers), BadRecord)


@pytest.mark.parametrize("time_ms", [-1, 1 << 48, (1 << 63) - 1])
def test_a_time_beyond_any_date_is_refused(time_ms):
    clicks = make_clicks(2)
    clicks.event_time_ms[1] = time_ms
    decoded = decode_clicks(encode_clicks(clicks), [])
    assert isinstance(decoded, BadRecord)
    assert "event_time" in decoded.reason
    decoded = decode_importance(*encode_importance(replace(make_importance(), event_time_ms=time_ms)))
    assert isinstance(decoded, BadRecord)
    assert "event-time-ms" in decoded.reason
    single = SINGLE.replace(b"1700000000000", b"%d" % time_ms)
    assert isinstance(decode_clicks(single, JSON_CLICK, dense_names=("I1",)), BadRecord)


@pytest.mark.parametrize("name", ["a\x1b[31m", "two\nlines", "\u2028", 7])
def test_a_dense_name_with_control_characters_is_refused(name):
    clicks = make_clicks(2, dense_names=("I1", "x"))
    schema_names = ["I1", name]
    reader = pa.ipc.open_stream(encode_clicks(clicks))
    batch = reader.read_next_batch()
    metadata = {**batch.schema.metadata, b"dense": json.dumps(schema_names).encode()}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema.with_metadata(metadata)) as writer:
        writer.write_batch(batch.replace_schema_metadata(metadata))
    decoded = decode_clicks(sink.getvalue().to_pybytes(), [])
    assert isinstance(decoded, BadRecord)
    assert "printable" in decoded.reason


@pytest.mark.parametrize("topic", [b"a b", b"x\x1b[2J", b"t" * 250, b"\xe2\x80\xa8"])
def test_a_topic_name_that_kafka_refuses_is_refused(topic):
    value, headers = encode_importance(make_importance())
    headers = [(name, topic if name == "topic" else content) for name, content in headers]
    assert isinstance(decode_importance(value, headers), BadRecord)


def test_a_record_that_the_client_could_not_decode_is_refused_with_its_reason():
    for (key, value, headers), decode in (CASES["hot"], CASES["clicks"], CASES["importance"]):
        decoded = decode(key, value, [*headers, ("dlq-unreadable", b"header name: not UTF-8")])
        assert isinstance(decoded, BadRecord)
        assert "header name: not UTF-8" in decoded.reason
