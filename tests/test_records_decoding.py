"""The wire contract: records survive a round trip, and invalid ones decode to a `BadRecord` with the reason."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.keys import CRITEO_FIELDS, MISSING, Field, make_key
from streams.records import (
    ARROW,
    JSON,
    MAX_RECORD_BYTES,
    MAX_ROWS,
    Assignment,
    BadRecord,
    ClickBatch,
    Digest,
    ImportanceBatch,
    OtherKind,
    Source,
    decode_assignment,
    decode_clicks,
    decode_importance,
    encode_assignment,
    encode_clicks,
    encode_digest,
    encode_importance,
    header_int,
)

FIELDS = (Field("C1", "hex32"), Field("device_ip"))
DENSE = ("I1", "I2", "I3")
TIME = pa.timestamp("ms", tz="UTC")


def make_clicks(num_rows: int = 3, fields: tuple[Field, ...] = FIELDS, dense_names: tuple[str, ...] = DENSE):
    random = np.random.default_rng(num_rows)
    keys = random.integers(0, 1 << 32, (num_rows, len(fields)), np.uint64)
    keys |= np.arange(1, len(fields) + 1, dtype=np.uint64) << np.uint64(56)
    dense = random.normal(size=(num_rows, len(dense_names))).astype(np.float32)
    dense[::2] = np.nan
    return ClickBatch(
        label=random.integers(0, 2, num_rows).astype(np.int8),
        dense=dense,
        keys=keys,
        event_time_ms=1_700_000_000_000 + np.arange(num_rows),
        fields=fields,
        dense_names=dense_names,
    )


def make_importance(num_keys: int = 3) -> ImportanceBatch:
    return ImportanceBatch(
        keys=np.arange(num_keys, dtype=np.uint64) | np.uint64(1 << 56),
        scores=np.array([0.5, np.nan, -1.0, 3e38], np.float32)[np.arange(num_keys) % 4],
        fields=FIELDS,
        source=Source(signal="gradient", topic="t.clicks", partition=2, offset=4711),
        event_time_ms=1_700_000_000_000,
        ingest_ms=1_700_000_000_005,
    )


HOT = Assignment(
    key=14 << 56 | 0x7E0CCCCF,
    tier="hot",
    row=123,
    feature="C14:7e0ccccf",
    score=17.25,
    shard=0,
    epoch=3,
    seq=889,
    source=(0, 4711),
    event_time_ms=1_700_000_000_000,
    ingest_ms=1_700_000_000_005,
)
COLD = Assignment(key=HOT.key, tier="cold", shard=0, epoch=3, seq=889, ingest_ms=7)
DIGEST = Digest(shard=0, epoch=3, seq=889, hot=13505, digest=0xF1E2D3C4B5A69788)


def reason(decoded: object) -> str:
    assert isinstance(decoded, BadRecord), decoded
    assert decoded.reason
    return decoded.reason


# ---- clicks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [1, 2, 257, MAX_ROWS])
@pytest.mark.parametrize(("fields", "dense_names"), [(FIELDS, DENSE), (FIELDS, ()), (CRITEO_FIELDS, DENSE)])
def test_click_batches_read_back_as_they_were_written(num_rows, fields, dense_names):
    batch = make_clicks(num_rows, fields, dense_names)
    decoded = decode_clicks(encode_clicks(batch), [("content-type", ARROW)])
    assert isinstance(decoded, ClickBatch)
    assert (decoded.fields, decoded.dense_names, decoded.num_rows) == (fields, dense_names, num_rows)
    for name in ("label", "dense", "keys", "event_time_ms"):
        expected, got = getattr(batch, name), getattr(decoded, name)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got, expected)


def test_missing_values_and_hashed_tokens_survive_the_wire():
    batch = make_clicks(2)
    batch.keys[0] = [1 << 56 | MISSING, make_key(2, "hash", "10.0.0.1")]
    decoded = decode_clicks(encode_clicks(batch), [])
    assert isinstance(decoded, ClickBatch)
    assert decoded.keys.tolist() == batch.keys.tolist()


def clicks_table(**columns: pa.Array) -> dict[str, pa.Array]:
    batch = make_clicks(2)
    plain = {
        "label": pa.array(batch.label),
        "dense": pa.FixedSizeListArray.from_arrays(pa.array(batch.dense.reshape(-1)), 3),
        "keys": pa.FixedSizeListArray.from_arrays(pa.array(batch.keys.reshape(-1)), 2),
        "event_time": pa.array(batch.event_time_ms).cast(TIME),
    }
    return {**plain, **columns}


def write_arrow(columns: dict[str, pa.Array], metadata: dict[str, str], num_batches: int = 1) -> bytes:
    batch = pa.record_batch(list(columns.values()), names=list(columns)).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(num_batches):
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


METADATA = {"fields": '[["C1","hex32"],["device_ip","hash"]]', "dense": '["I1","I2","I3"]'}


def lists(values: list[object], item: pa.DataType, width: int) -> pa.Array:
    return pa.array(values, pa.list_(item, width))


def test_the_plain_table_of_these_tests_is_a_good_record():
    assert isinstance(decode_clicks(write_arrow(clicks_table(), METADATA), []), ClickBatch)


def test_dense_names_may_be_left_out():
    decoded = decode_clicks(write_arrow(clicks_table(), {"fields": METADATA["fields"]}), [])
    assert isinstance(decoded, ClickBatch)
    assert decoded.dense_names == DENSE


K1, K2 = 1 << 56 | 5, 2 << 56 | 6


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"label": pa.array([0, 1], pa.int64())}, "'label': got int64, expected int8"),
        ({"label": pa.array([0, None], pa.int8())}, "'label': 1 nulls"),
        ({"label": pa.array([0, 2], pa.int8())}, "label.*expected 0 or 1"),
        ({"label": pa.array([0, -1], pa.int8())}, "label.*expected 0 or 1"),
        ({"dense": lists([[1, 2, 3]] * 2, pa.float64(), 3)}, r"'dense': got fixed_size_list<.*double>\[3\]"),
        ({"dense": pa.array([[1.0, 2.0, 3.0]] * 2, pa.list_(pa.float32()))}, "'dense': got list<"),
        ({"dense": lists([[1, 2, 3], None], pa.float32(), 3)}, "'dense': 1 nulls"),
        ({"dense": lists([[1, 2, None]] * 2, pa.float32(), 3)}, "'dense': nulls inside the lists"),
        ({"dense": lists([[0.0] * 4097] * 2, pa.float32(), 4097)}, "'dense': 4097 values a row, expected at most 4096"),
        ({"dense": lists([[1.0]] * 2, pa.float32(), 1)}, "metadata 'dense': got"),
        ({"keys": lists([[K1, K2]] * 2, pa.int64(), 2)}, "'keys': got fixed_size_list"),
        ({"keys": lists([[K1, K2], None], pa.uint64(), 2)}, "'keys': 1 nulls"),
        ({"keys": lists([[K1, None]] * 2, pa.uint64(), 2)}, "'keys': nulls inside the lists"),
        ({"keys": lists([[K1, K2], [K2, K1]], pa.uint64(), 2)}, "another field than its column's"),
        ({"keys": lists([[K1, K2], [0, 0]], pa.uint64(), 2)}, "another field than its column's"),
        ({"keys": lists([[K1]] * 2, pa.uint64(), 1)}, "column 'keys': 1 values a row, expected 2"),
        ({"keys": lists([[K1] * 256] * 2, pa.uint64(), 256)}, "'keys': 256 values a row, expected at most 255"),
        ({"event_time": pa.array([1, 2], pa.int64())}, "'event_time': got int64"),
        ({"event_time": pa.array([1, 2], pa.timestamp("ms"))}, r"'event_time': got timestamp\[ms\], expected"),
        ({"event_time": pa.array([1, None], TIME)}, "'event_time': 1 nulls"),
    ],
)
def test_a_click_column_that_breaks_a_rule_is_refused_with_the_reason(columns, why):
    assert re.search(why, reason(decode_clicks(write_arrow(clicks_table(**columns), METADATA), [])))


@pytest.mark.parametrize("has_label", [True, False])
@pytest.mark.parametrize("has_weight", [True, False])
def test_a_click_record_has_labels_and_weights_or_none(has_label, has_weight):
    batch = make_clicks(3)
    batch = replace(
        batch,
        label=batch.label if has_label else None,
        weight=np.array([0, 0.5, 2], np.float32) if has_weight else None,
    )
    decoded = decode_clicks(encode_clicks(batch), [])
    assert isinstance(decoded, ClickBatch)
    np.testing.assert_array_equal(decoded.label, batch.label)
    np.testing.assert_array_equal(decoded.weight, batch.weight)
    if not has_label:
        with pytest.raises(ValueError, match="the rows have no labels, expected 0 or 1"):
            decoded.require_labels()


def test_a_single_click_has_a_label_and_a_weight_or_none():
    click = decode_click(json.dumps({**CLICK, "label": None, "weight": 2}).encode())
    assert (click.label, click.weight.tolist()) == (None, [2])


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_a_share_is_refused(weight):
    broken = replace(make_clicks(2), weight=np.full(2, weight, np.float32))
    assert "column 'weight': got other values" in reason(decode_clicks(encode_clicks(broken), []))


@pytest.mark.parametrize("name", ["dense", "keys", "event_time"])
def test_a_missing_click_column_is_named(name):
    columns = clicks_table()
    del columns[name]
    assert f"column '{name}' is missing" in reason(decode_clicks(write_arrow(columns, METADATA), []))


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({}, "schema metadata 'fields'"),
        ({"fields": "nonsense"}, "schema metadata 'fields'"),
        ({"fields": '{"C1": "hex32"}'}, "schema metadata 'fields'"),
        ({"fields": "[[1, 2], [3, 4]]"}, "schema metadata 'fields'"),
        ({"fields": '[["C1","hex32"],["a b","hash"]]'}, "field name 'a b'"),
        ({"fields": '[["C1","hex32"],["b","int"]]'}, "got kind 'int'"),
        ({"fields": '[["C1","hex32"]]'}, "column 'keys': 2 values a row, expected 1"),
        ({**METADATA, "dense": '["I1"]'}, "metadata 'dense': got"),
        ({**METADATA, "dense": '{"I1": 1}'}, "metadata 'dense': got"),
        ({**METADATA, "dense": "["}, "JSONDecodeError"),
        ({"fields": "[" * 60_000}, "RecursionError"),
        ({"fields": "[" * 100_000}, "100000 bytes"),
    ],
)
def test_schema_metadata_that_is_malformed_is_refused(metadata, why):
    assert why in reason(decode_clicks(write_arrow(clicks_table(), metadata), []))


@pytest.mark.parametrize("num_rows", [0, MAX_ROWS + 1])
def test_a_batch_has_1_to_8192_rows(num_rows):
    value = encode_clicks(make_clicks(num_rows))
    assert f"{num_rows} rows, expected 1 to 8192" in reason(decode_clicks(value, []))


@pytest.mark.parametrize("num_batches", [0, 2])
def test_a_record_holds_exactly_one_record_batch(num_batches):
    value = write_arrow(clicks_table(), METADATA, num_batches)
    assert "exactly one record batch" in reason(decode_clicks(value, []))


@pytest.mark.parametrize("value", [None, b""])
def test_an_empty_record_is_refused(value):
    assert "empty value" in reason(decode_clicks(value, []))
    assert "empty value" in reason(decode_importance(value, []))


def test_a_record_over_the_size_limit_is_refused_before_it_is_read():
    value = encode_clicks(make_clicks()) + bytes(MAX_RECORD_BYTES)
    assert f"expected at most {MAX_RECORD_BYTES}" in reason(decode_clicks(value, []))
    assert f"expected at most {MAX_RECORD_BYTES}" in reason(
        decode_importance(value, encode_importance(make_importance())[1])
    )


# ---- single clicks -------------------------------------------------------------------------------------------------

JSON_HEADERS = [("content-type", JSON)]
CLICK = {
    "label": 1,
    "dense": {"I1": 2.5, "I3": None},
    "features": {"C1": "68fd1e64", "device_ip": None},
    "event_time_ms": 1_700_000_000_000,
}


def decode_click(value: bytes):
    return decode_clicks(value, JSON_HEADERS, fields=FIELDS, dense_names=DENSE)


def test_a_single_click_in_json_is_a_batch_of_one_row():
    click = decode_click(json.dumps(CLICK).encode())
    assert isinstance(click, ClickBatch)
    assert click.label.tolist() == [1]
    np.testing.assert_array_equal(click.dense, np.array([[2.5, np.nan, np.nan]], np.float32))
    assert click.keys.tolist() == [[1 << 56 | 0x68FD1E64, 2 << 56 | MISSING]]
    assert click.event_time_ms.tolist() == [1_700_000_000_000]
    assert (click.fields, click.dense_names) == (FIELDS, DENSE)


@pytest.mark.parametrize(
    "content_type",
    [b"application/json; charset=utf-8", b"Application/JSON", b" application/json ;x", b"application/json"],
)
def test_parameters_and_case_of_the_content_type_do_not_matter(content_type):
    value = json.dumps({"label": 1, "features": {}, "event_time_ms": 5}).encode()
    assert isinstance(decode_clicks(value, [("content-type", content_type)]), ClickBatch)


def test_another_content_type_and_json_without_one_are_refused_with_what_to_do():
    refused = decode_clicks(b"\x08", [("content-type", b"application/x-protobuf")])
    assert isinstance(refused, BadRecord)
    assert "expected application/json or application/vnd.apache.arrow.stream" in refused.reason
    refused = decode_clicks(b'{"label":1}', [])
    assert isinstance(refused, BadRecord)
    assert "a JSON object without the header content-type: application/json" in refused.reason


def test_a_single_click_needs_no_dense_values_and_may_leave_features_out():
    click = decode_click(b'{"label":0,"features":{},"event_time_ms":0}')
    assert isinstance(click, ClickBatch)
    assert np.isnan(click.dense).all()
    assert (click.keys & np.uint64(MISSING) == MISSING).all()


def test_a_single_click_survives_the_way_through_arrow():
    click = decode_click(json.dumps(CLICK).encode())
    assert isinstance(click, ClickBatch)
    again = decode_clicks(encode_clicks(click), [])
    assert isinstance(again, ClickBatch)
    assert again.keys.tolist() == click.keys.tolist()


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"label": 2}, '"label": 0 or 1'),
        ({"weight": -1}, '"weight": got -1'),
        ({"weight": "1"}, '"weight": got 1'),
        ({"weight": float("nan")}, '"weight": got nan'),
        ({"dense": [1, 2, 3]}, 'objects "dense" and "features"'),
        ({"features": None}, 'objects "dense" and "features"'),
        ({"dense": {"I9": 1}}, "column 'I9' is not in the schema"),
        ({"features": {"C2": "68fd1e64"}}, "column 'C2' is not in the schema"),
        ({"features": {"C1": "68fd1e6"}}, "expected 8 hex digits"),
        ({"features": {"C1": "68 fd 1e"}}, "expected 8 hex digits"),
        ({"features": {"C1": 0}}, '"features": expected strings, lists of strings, or null'),
        ({"features": {"device_ip": {}}}, '"features": expected strings, lists of strings, or null'),
        ({"features": {"device_ip": "\ud800"}}, "UnicodeEncodeError"),
        ({"dense": {"I1": "2"}}, '"dense": expected numbers'),
        ({"dense": {"I1": 10**400}}, '"dense": expected numbers'),
        ({"dense": {"I1": -1e39}}, '"dense": expected numbers'),
        ({"dense": {"I1": float("inf")}}, '"dense": expected numbers'),
        ({"event_time_ms": None}, 'integer "event_time_ms"'),
        ({"event_time_ms": -1}, '"event_time_ms": got -1'),
        ({"event_time_ms": 1 << 53}, '"event_time_ms": got 9007199254740992'),
        ({"event_time_ms": 1.5}, 'integer "event_time_ms"'),
        ({"event_time_ms": True}, 'integer "event_time_ms"'),
    ],
)
def test_a_single_click_that_breaks_a_rule_is_refused_with_the_reason(broken, why):
    assert why in reason(decode_click(json.dumps({**CLICK, **broken}).encode()))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"[1]", "expected an object"),
        (b"nonsense", "JSONDecodeError"),
        (b"\xff\xfe\xfd", "UnicodeDecodeError"),
        (b"[" * 60_000, "RecursionError"),
        (b" " * 65_537, "at most 65536"),
        (b"9" * 10_000, "ValueError"),
    ],
)
def test_json_that_is_no_click_is_refused(value, why):
    assert why in reason(decode_click(value))


# ---- importance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_keys", [0, 1, 3, 10_000])
def test_importance_reads_back_as_it_was_written_the_doubtful_scores_too(num_keys):
    batch = make_importance(num_keys)
    decoded = decode_importance(*encode_importance(batch))
    assert isinstance(decoded, ImportanceBatch)
    np.testing.assert_array_equal(decoded.keys, batch.keys)
    np.testing.assert_array_equal(decoded.scores, batch.scores)
    assert replace(decoded, keys=batch.keys, scores=batch.scores) == batch


def with_header(name: str, raw: bytes | None, headers=None):
    headers = encode_importance(make_importance())[1] if headers is None else headers
    return [(key, raw if key == name else value) for key, value in headers if key != name or raw != b"(none)"]


def test_the_id_of_the_clicks_topic_is_optional_and_checked():
    batch = make_importance()
    known = replace(batch, source=replace(batch.source, topic_id="0f" * 16))
    value, headers = encode_importance(known)
    decoded = decode_importance(value, headers)
    assert isinstance(decoded, ImportanceBatch)
    assert decoded.source == known.source
    assert "topic-id" not in dict(encode_importance(batch)[1])
    for wrong in (b"", b"0F" * 16, b"0f" * 15, b"0f" * 16 + b"\n"):
        assert "header 'topic-id'" in reason(decode_importance(value, with_header("topic-id", wrong, headers)))


@pytest.mark.parametrize(
    ("name", "raw", "why"),
    [
        ("v", b"(none)", "header 'v' is missing"),
        ("v", b"3", "version 3, expected 2; upgrade"),
        ("v", b"1", "version 1, expected 2; an older hotstream"),
        ("v", b"one", "ValueError"),
        ("signal", b"(none)", "header 'signal': got ''"),
        ("signal", None, "header 'signal': got ''"),
        ("signal", b"clicks", "header 'signal': got 'clicks'"),
        ("signal", b"\xff", "UnicodeDecodeError"),
        ("topic", b"(none)", "headers 'topic', 'partition', 'offset': got"),
        ("topic", None, "headers 'topic', 'partition', 'offset': got"),
        ("partition", b"(none)", "header 'partition' is missing"),
        ("partition", None, "header 'partition' is missing"),
        ("partition", b"-1", "headers 'topic', 'partition', 'offset': got"),
        ("offset", b"-1", "headers 'topic', 'partition', 'offset': got"),
        ("offset", b"1.5", "ValueError"),
        ("offset", b"9" * 21, "21 bytes, expected a signed integer of 64 bits"),
        ("offset", b"9" * 20, "signed integer of 64 bits"),
        ("event-time-ms", b"(none)", "header 'event-time-ms' is missing"),
        ("ingest-ms", b"", "ValueError"),
    ],
)
def test_an_importance_header_that_breaks_a_rule_is_refused(name, raw, why):
    value, _ = encode_importance(make_importance())
    assert why in reason(decode_importance(value, with_header(name, raw)))


IMPORTANCE = {"key": pa.array([K1, K2], pa.uint64()), "score": pa.array([1.0, 2.0], pa.float32())}


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"key": pa.array([K1, K2], pa.int64())}, "'key': got int64, expected uint64"),
        ({"key": pa.array([K1, None], pa.uint64())}, "'key': 1 nulls"),
        ({"key": pa.array([K1, 7], pa.uint64())}, "field number outside 1 to 2"),
        ({"key": pa.array([K1, 3 << 56], pa.uint64())}, "field number outside 1 to 2"),
        ({"score": pa.array([1.0, 2.0], pa.float64())}, "'score': got double, expected float"),
        ({"score": pa.array([1.0, None], pa.float32())}, "'score': 1 nulls"),
    ],
)
def test_an_importance_column_that_breaks_a_rule_is_refused(columns, why):
    headers = encode_importance(make_importance())[1]
    assert isinstance(decode_importance(write_arrow(IMPORTANCE, METADATA), headers), ImportanceBatch)
    assert why in reason(decode_importance(write_arrow({**IMPORTANCE, **columns}, METADATA), headers))


@pytest.mark.parametrize("name", ["key", "score"])
def test_a_missing_importance_column_is_named(name):
    columns = {other: column for other, column in IMPORTANCE.items() if other != name}
    value = write_arrow(columns, METADATA)
    assert f"column '{name}' is missing" in reason(decode_importance(value, encode_importance(make_importance())[1]))


# ---- assignments ---------------------------------------------------------------------------------------------------


def test_an_assignment_has_exactly_the_shape_of_the_design():
    key, value, headers = encode_assignment(HOT, CRITEO_FIELDS)
    assert key == bytes.fromhex("0e0000007e0ccccf")
    assert value == (
        b'{"v":2,"feature":"C14:7e0ccccf","tier":"hot","row":123,"score":17.25,"shard":0,"epoch":3,"seq":889,'
        b'"source":{"partition":0,"offset":4711},"event_time_ms":1700000000000}'
    )
    assert list(json.loads(value)) == [
        "v", "feature", "tier", "row", "score", "shard", "epoch", "seq", "source", "event_time_ms",
    ]  # fmt: skip
    assert dict(headers) == {"v": b"2", "shard": b"0", "epoch": b"3", "seq": b"889", "ingest-ms": b"1700000000005"}


def test_a_tombstone_carries_the_headers_of_every_change():
    key, value, headers = encode_assignment(COLD, CRITEO_FIELDS)
    assert (key, value) == (bytes.fromhex("0e0000007e0ccccf"), None)
    assert dict(headers) == {"v": b"2", "shard": b"0", "epoch": b"3", "seq": b"889", "ingest-ms": b"7"}


def test_a_digest_has_exactly_the_shape_of_the_design():
    key, value, headers = encode_digest(DIGEST)
    assert key == bytes(8)
    assert value == (b'{"v":2,"kind":"digest","shard":0,"epoch":3,"seq":889,"hot":13505,"digest":"f1e2d3c4b5a69788"}')
    assert dict(headers) == {"v": b"2", "shard": b"0", "epoch": b"3", "seq": b"889"}


@pytest.mark.parametrize("change", [HOT, COLD, replace(HOT, ingest_ms=None)], ids=lambda change: change.tier)
def test_changes_read_back_as_they_were_written(change):
    assert decode_assignment(*encode_assignment(change, CRITEO_FIELDS)) == change


@given(
    st.integers(1, 26),
    st.integers(0, (1 << 32) - 1),
    st.floats(0, 2.0**30, width=32, exclude_min=True),
    st.integers(0, (1 << 27) - 1),
    st.integers(0, (1 << 63) - 1),
)
def test_any_change_reads_back_and_its_score_to_the_last_bit_of_float32(number, payload, score, row, seq):
    change = replace(HOT, key=number << 56 | payload, feature=f"C{number}:{payload:08x}", score=score, row=row, seq=seq)
    decoded = decode_assignment(*encode_assignment(change, CRITEO_FIELDS))
    assert isinstance(decoded, Assignment)
    assert np.float32(decoded.score) == np.float32(score)
    assert replace(decoded, score=score) == change


@pytest.mark.parametrize("digest", [0, 1, (1 << 64) - 1])
def test_digests_read_back_as_they_were_written(digest):
    assert decode_assignment(*encode_digest(replace(DIGEST, digest=digest))) == replace(DIGEST, digest=digest)


def test_a_kind_that_is_not_known_is_a_value_to_ignore():
    key, _, headers = encode_digest(DIGEST)
    value = b'{"v":2,"kind":"heartbeat","shard":0,"epoch":3,"seq":889}'
    assert decode_assignment(key, value, headers) == OtherKind("heartbeat")
    assert decode_assignment(encode_assignment(HOT, CRITEO_FIELDS)[0], value, headers) == OtherKind("heartbeat")
    assert isinstance(decode_assignment(key, None, headers), OtherKind)


def test_members_that_a_later_writer_adds_are_ignored():
    key, value, headers = encode_assignment(HOT, CRITEO_FIELDS)
    assert value is not None
    later = json.dumps({**json.loads(value), "reason": "rank"}).encode()
    assert decode_assignment(key, later, [*headers, ("trace", b"x")]) == HOT


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"shard": 1}, "differ between value and headers"),
        ({"epoch": 4}, "differ between value and headers"),
        ({"seq": 888}, "differ between value and headers"),
        ({"seq": "889"}, "differ between value and headers"),
        ({"tier": "cold"}, "tier 'cold'"),
        ({"tier": "lukewarm"}, "tier 'lukewarm'"),
        ({"tier": ["hot"]}, "tier ['hot']"),
        ({"row": None}, "row None"),
        ({"row": -1}, "row -1"),
        ({"row": 1 << 27}, "row 134217728"),
        ({"row": 1.0}, "row 1.0"),
        ({"row": True}, "row True"),
        ({"tier": "warm"}, "tier 'warm'"),
        ({"feature": None}, "feature 'None'"),
        ({"feature": "C14"}, "feature 'C14'"),
        ({"score": "much"}, "score 'much'"),
        ({"score": None}, "score 'None'"),
        ({"source": None}, "TypeError"),
        ({"source": {"partition": 0}}, "KeyError"),
        ({"source": {"partition": 0, "offset": float("inf")}}, "TypeError"),
        ({"event_time_ms": None}, "TypeError"),
    ],
)
def test_an_assignment_that_breaks_a_rule_is_refused_with_the_reason(broken, why):
    key, value, headers = encode_assignment(HOT, CRITEO_FIELDS)
    assert value is not None
    assert why in reason(decode_assignment(key, json.dumps({**json.loads(value), **broken}).encode(), headers))


@pytest.mark.parametrize(
    "name", ["feature", "tier", "row", "score", "shard", "epoch", "seq", "source", "event_time_ms"]
)
def test_an_assignment_without_one_of_its_members_is_refused(name):
    key, value, headers = encode_assignment(HOT, CRITEO_FIELDS)
    assert value is not None
    body = json.loads(value)
    del body[name]
    assert reason(decode_assignment(key, json.dumps(body).encode(), headers))


@pytest.mark.parametrize("name", ["hot", "digest"])
@pytest.mark.parametrize("broken", [None, "x", 1.5])
def test_a_digest_that_breaks_a_rule_is_refused(name, broken):
    key, value, headers = encode_digest(DIGEST)
    assert value is not None
    assert reason(decode_assignment(key, json.dumps({**json.loads(value), name: broken}).encode(), headers))


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"nonsense", b"null", b"\xff", b"[" * 60_000, b" " * 65_537, b"9" * 9999]
)
def test_an_assignment_value_that_is_no_json_object_is_refused(value):
    key, _, headers = encode_assignment(HOT, CRITEO_FIELDS)
    assert reason(decode_assignment(key, value, headers))


@pytest.mark.parametrize("key", [None, b"", bytes(7), bytes(9)])
def test_a_kafka_key_of_other_than_8_bytes_is_refused(key):
    _, value, headers = encode_assignment(HOT, CRITEO_FIELDS)
    assert "expected 8" in reason(decode_assignment(key, value, headers))


@pytest.mark.parametrize("name", ["v", "shard", "epoch", "seq"])
@pytest.mark.parametrize("raw", [b"(none)", None, b"", b"x", b"-1", b"1" * 30, b"\xff"])
@pytest.mark.parametrize("change", [HOT, COLD], ids=["hot", "tombstone"])
def test_an_assignment_header_that_breaks_a_rule_is_refused(name, raw, change):
    key, value, headers = encode_assignment(change, CRITEO_FIELDS)
    assert reason(decode_assignment(key, value, with_header(name, raw, headers)))


@pytest.mark.parametrize(("version", "remedy"), [(1, "run `hotstream topics create`"), (3, "upgrade the reader")])
@pytest.mark.parametrize("change", [HOT, COLD], ids=["hot", "tombstone"])
def test_a_record_of_another_version_is_refused_by_its_headers_with_the_remedy(version, remedy, change):
    key, value, headers = encode_assignment(change, CRITEO_FIELDS)
    why = reason(decode_assignment(key, value, with_header("v", b"%d" % version, headers)))
    assert f"version {version}, expected 2; " in why
    assert remedy in why


@pytest.mark.parametrize("name", ["row", "source", "score", "event_time_ms"])
def test_a_hot_change_without_one_of_its_members_is_not_written(name):
    with pytest.raises(ValueError, match="row, source, score or event_time_ms is None"):
        encode_assignment(replace(HOT, **{name: None}), CRITEO_FIELDS)


@pytest.mark.parametrize(("raw", "number"), [(b"0", 0), (b"-5", -5), (b"9223372036854775807", (1 << 63) - 1)])
def test_header_integers_are_ascii_and_fit_64_bits(raw, number):
    assert header_int({"n": raw}, "n") == number


# ---- whatever arrives ----------------------------------------------------------------------------------------------

_HEADER_NAMES = ["v", "shard", "epoch", "seq", "signal", "topic", "partition", "offset", "content-type", "ingest-ms"]
_RAW = st.none() | st.binary(max_size=24) | st.sampled_from([b"1", b"0", JSON, ARROW, b"gradient", b"-1", b"x.clicks"])
HEADERS = st.lists(st.tuples(st.sampled_from(_HEADER_NAMES), _RAW), max_size=8)


def check_every_decoder(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
    clicks = decode_clicks(value, headers, fields=FIELDS, dense_names=DENSE)
    assert isinstance(clicks, ClickBatch | BadRecord)
    if isinstance(clicks, ClickBatch):  # decoded clicks can be used and encoded again
        assert isinstance(decode_clicks(encode_clicks(clicks), []), ClickBatch)
    assert isinstance(decode_importance(value, headers), ImportanceBatch | BadRecord)
    assert isinstance(decode_assignment(key, value, headers), Assignment | Digest | OtherKind | BadRecord)


@given(st.none() | st.binary(max_size=16), st.none() | st.binary(max_size=400), HEADERS)
def test_random_bytes_never_raise(key, value, headers):
    check_every_decoder(key, value, headers)


_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["C1", "I1", "partition", "offset"]), inner)
    ),
    max_leaves=5,
)
_MEMBERS = [*json.loads(encode_assignment(HOT, CRITEO_FIELDS)[1] or b""), *CLICK, "kind", "hot", "digest"]


@given(st.dictionaries(st.sampled_from(_MEMBERS), _JSON_VALUES, max_size=3), st.booleans(), st.booleans())
@example({"dense": {"I1": 10**400}}, True, False)
def test_json_with_any_members_never_raises(members, is_click, is_control):
    key, value, headers = encode_digest(DIGEST) if is_control else encode_assignment(HOT, CRITEO_FIELDS)
    body = CLICK if is_click else json.loads(value or b"")
    changed = json.dumps({**body, **members}).encode()
    check_every_decoder(key, changed, [*headers, *JSON_HEADERS])


_GOOD = {
    "clicks": (None, encode_clicks(make_clicks()), [("content-type", ARROW)]),
    "importance": (None, *encode_importance(make_importance())),
    "hot": encode_assignment(HOT, CRITEO_FIELDS),
    "digest": encode_digest(DIGEST),
    "click": (None, json.dumps(CLICK).encode(), JSON_HEADERS),
}


@given(st.sampled_from(sorted(_GOOD)), st.data())
def test_truncated_records_never_raise(kind, data):
    key, value, headers = _GOOD[kind]
    assert value is not None
    check_every_decoder(key, value[: data.draw(st.integers(0, len(value)))], headers)


@given(st.sampled_from(sorted(_GOOD)), st.data())
def test_records_with_flipped_bits_never_raise(kind, data):
    key, value, headers = _GOOD[kind]
    assert value is not None
    damaged = bytearray(value)
    for position in data.draw(st.lists(st.integers(0, 8 * len(value) - 1), min_size=1, max_size=4)):
        damaged[position // 8] ^= 1 << position % 8
    check_every_decoder(key, bytes(damaged), headers)


@given(st.sampled_from(["clicks", "importance"]), st.data())
def test_arrow_records_with_any_word_in_their_place_never_raise(kind, data):
    key, value, headers = _GOOD[kind]
    assert value is not None
    start = data.draw(st.integers(0, len(value) // 4 - 1)) * 4
    word = struct.pack("<i", data.draw(st.sampled_from([0, 1, -1, 255, 1 << 20, (1 << 31) - 1, -(1 << 31)])))
    check_every_decoder(key, value[:start] + word + value[start + 4 :], headers)


@given(st.sampled_from(["importance", "hot", "digest"]), HEADERS)
def test_good_values_with_any_headers_never_raise(kind, headers):
    key, value, _ = _GOOD[kind]
    check_every_decoder(key, value, headers)
