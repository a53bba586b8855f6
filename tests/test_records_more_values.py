"""Several values in a field of a click record: the column `more`, its checks, and what selects and merges rows."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from test_records_decoding import CLICK, FIELDS, METADATA, clicks_table, decode_click, make_clicks, reason, write_arrow

from streams.keys import MISSING, make_key
from streams.logs.log_rows import take_rows
from streams.records import (
    MAX_MORE,
    ClickBatch,
    MoreValues,
    decode_clicks,
    encode_clicks,
    merge_key_weights,
    merge_more,
)
from streams.records.arrow import read_stream

A, B, C = (make_key(2, "hash", text) for text in "abc")
HEX = make_key(1, "hex32", "0000000a")


def more_of(*rows: list[int]) -> MoreValues:
    ends = np.cumsum([0, *map(len, rows)])
    return MoreValues(offsets=ends, keys=np.array([key for row in rows for key in row], np.uint64))


def listed(more: MoreValues | None) -> list[list[int]]:
    assert more is not None
    ends = more.offsets.tolist()
    return [more.keys[begin:end].tolist() for begin, end in pairwise(ends)]


ROWS = [[A, HEX], [], [C, B, C]]


def test_further_values_read_back_as_they_were_written():
    batch = replace(make_clicks(3), more=more_of(*ROWS))
    decoded = decode_clicks(encode_clicks(batch), [])
    assert isinstance(decoded, ClickBatch)
    assert listed(decoded.more) == ROWS
    assert decoded.keys.tolist() == batch.keys.tolist()
    assert sorted(decoded.every_key.tolist()) == sorted([*batch.keys.reshape(-1).tolist(), A, HEX, C, B, C])


def test_a_record_without_further_values_is_the_record_that_it_was():
    plain = make_clicks(3)
    assert encode_clicks(replace(plain, more=more_of([], [], []))) == encode_clicks(plain)
    decoded = decode_clicks(encode_clicks(plain), [])
    assert isinstance(decoded, ClickBatch)
    assert decoded.more is None
    assert decoded.every_key is decoded.keys
    table = clicks_table(more=pa.array([[], []], pa.list_(pa.uint64())))
    empty = decode_clicks(write_arrow(table, METADATA), [])
    assert isinstance(empty, ClickBatch)
    assert empty.more is None


def test_a_column_that_is_part_of_a_longer_one_is_read_from_where_it_begins():
    column = pa.array([[C], [A], [B, HEX]], pa.list_(pa.uint64())).slice(1)
    decoded = decode_clicks(write_arrow(clicks_table(more=column), METADATA), [])
    assert isinstance(decoded, ClickBatch)
    assert listed(decoded.more) == [[A], [B, HEX]]


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (pa.array([A, B], pa.uint64()), "'more': got uint64, expected list<uint64>"),
        (pa.array([[1], [2]], pa.list_(pa.int64())), "'more': got list<"),
        (pa.array([[A], None], pa.list_(pa.uint64())), "'more': 1 nulls"),
        (pa.array([[A], [None]], pa.list_(pa.uint64())), "'more': nulls inside the lists"),
        (pa.array([[A], [0]], pa.list_(pa.uint64())), "'more': keys: got a field number outside 1 to 2"),
        (pa.array([[3 << 56], []], pa.list_(pa.uint64())), "'more': keys: got a field number outside 1 to 2"),
        (pa.array([[1 << 56 | 1 << 40], []], pa.list_(pa.uint64())), "'more': keys: got a payload of more than 32"),
    ],
)
def test_a_column_of_further_values_that_breaks_a_rule_is_refused_with_the_reason(column, why):
    assert why in reason(decode_clicks(write_arrow(clicks_table(more=column), METADATA), []))


def test_offsets_that_decrease_or_leave_the_values_are_refused():
    value = write_arrow(clicks_table(more=pa.array([[A, B], [C]], pa.list_(pa.uint64()))), METADATA)
    offsets = np.array([0, 2, 3], np.int32).tobytes()
    assert value.count(offsets) == 1
    for broken in ([0, 3, 2], [0, 2, 4], [-1, 2, 3]):
        changed = value.replace(offsets, np.array(broken, np.int32).tobytes())
        assert "ffset" in reason(decode_clicks(changed, []))


def test_too_many_further_values_are_refused_before_they_are_used():
    keys = pa.array(np.full(MAX_MORE + 1, A, np.uint64))
    column = pa.ListArray.from_arrays(pa.array([0, 1, MAX_MORE + 1], pa.int32()), keys)
    table = clicks_table(more=column)
    batch = pa.record_batch(list(table.values()), names=list(table)).replace_schema_metadata(METADATA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    assert f"expected at most {MAX_MORE} a record" in reason(decode_clicks(sink.getvalue().to_pybytes(), []))


def test_the_column_twice_is_refused():
    column = pa.array([[A], []], pa.list_(pa.uint64()))
    table = clicks_table(more=column, other=column)
    batch = pa.record_batch(list(table.values()), names=["more" if name == "other" else name for name in table])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema.with_metadata(METADATA)) as writer:
        writer.write_batch(batch.replace_schema_metadata(METADATA))
    assert "'more': got it more than once" in reason(decode_clicks(sink.getvalue().to_pybytes(), []))


@pytest.mark.parametrize(
    ("value", "first", "more"),
    [
        (["a", "b", "c"], A, [B, C]),
        (["b", None, "", "a", "a"], B, [A, A]),
        (["c"], C, None),
        ([], 2 << 56 | MISSING, None),
        ([None, ""], 2 << 56 | MISSING, None),
    ],
)
def test_a_single_click_may_list_the_values_of_a_field(value, first, more):
    click = decode_click(json.dumps({**CLICK, "features": {"C1": ["68fd1e64"], "device_ip": value}}).encode())
    assert isinstance(click, ClickBatch)
    assert click.keys.tolist() == [[1 << 56 | 0x68FD1E64, first]]
    assert (None if click.more is None else listed(click.more)) == (more and [more])


@pytest.mark.parametrize("value", [["a", 1], [["a"]], [{}]])
def test_a_list_of_other_values_than_strings_is_refused(value):
    assert "expected strings, lists of strings, or null" in reason(
        decode_click(json.dumps({**CLICK, "features": {"device_ip": value}}).encode())
    )


def test_rows_are_selected_with_their_further_values():
    batch = replace(make_clicks(3), more=more_of(*ROWS))
    kept = take_rows(batch, np.array([True, False, True]))
    assert listed(kept.more) == [ROWS[0], ROWS[2]]
    assert listed(more_of(*ROWS).between(1, 3)) == ROWS[1:]


def test_batches_are_merged_with_their_further_values():
    assert merge_more([None, None], [2, 3]) is None
    merged = merge_more([None, more_of(*ROWS), more_of([B])], [2, 3, 1])
    assert listed(merged) == [[], [], *ROWS, [B]]
    assert merged is not None
    assert merged.rows.tolist() == [2, 2, 4, 4, 4, 5]
    assert merged.columns.tolist() == [1, 0, 1, 1, 1, 1]


def test_further_values_of_fields_that_a_model_lacks_are_left_out():
    more = more_of(*ROWS)
    assert more.of_fields(len(FIELDS)) is more
    assert listed(more.of_fields(1)) == [[HEX], [], []]
    assert more_of([A], [B]).of_fields(1) is None


# ---- weights ---------------------------------------------------------------------------------------------------------

KEY_WEIGHTS = np.array([[1.0, 0.5], [-2.0, 0.0], [3.5, 1.0]], np.float32)
WEIGHTS = [[0.25, 7.0], [], [1e-3, 2.0, 0.0]]


def weighted() -> ClickBatch:
    flat = np.array([weight for row in WEIGHTS for weight in row], np.float32)
    return replace(make_clicks(3), more=replace(more_of(*ROWS), weights=flat), key_weights=KEY_WEIGHTS)


def weights_of(batch: ClickBatch | None) -> tuple[list[list[float]], list[float] | None]:
    assert isinstance(batch, ClickBatch)
    assert batch.key_weights is not None
    more = None if batch.more is None or batch.more.weights is None else batch.more.weights.tolist()
    return batch.key_weights.tolist(), more


def test_weights_read_back_as_they_were_written():
    batch = weighted()
    decoded = decode_clicks(encode_clicks(batch), [])
    assert weights_of(decoded) == weights_of(batch)
    assert listed(decoded.more) == ROWS
    single = replace(batch, more=None)
    assert weights_of(decode_clicks(encode_clicks(single), [])) == (KEY_WEIGHTS.tolist(), None)


def test_a_record_without_weights_has_the_columns_that_it_had():
    plain, columns = make_clicks(3), ["label", "dense", "keys", "event_time"]
    assert read_stream(encode_clicks(plain)).schema.names == columns
    assert read_stream(encode_clicks(replace(plain, more=more_of(*ROWS)))).schema.names == [*columns, "more"]
    decoded = decode_clicks(encode_clicks(replace(plain, more=more_of(*ROWS))), [])
    assert isinstance(decoded, ClickBatch)
    assert (decoded.key_weights, decoded.more.weights) == (None, None)


FLOATS = pa.list_(pa.float32())
MORE = pa.array([[A], [B, C]], pa.list_(pa.uint64()))
FIRST = pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2))


def test_weights_of_one_kind_only_make_the_others_1():
    found = decode_clicks(write_arrow(clicks_table(more=MORE, key_weights=FIRST), METADATA), [])
    assert weights_of(found) == ([[1, 2], [3, 4]], [1, 1, 1])
    further = pa.array([[5], [6, 7]], FLOATS)
    found = decode_clicks(write_arrow(clicks_table(more=MORE, more_weights=further), METADATA), [])
    assert weights_of(found) == ([[1, 1], [1, 1]], [5, 6, 7])


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"key_weights": pa.array([[1], [2]], pa.list_(pa.float32(), 1))}, "'key_weights': expected 2 finite numbers"),
        ({"key_weights": pa.array([[1, np.nan], [2, 3]], pa.list_(pa.float32(), 2))}, "'key_weights': expected 2 fin"),
        ({"key_weights": pa.array([[1, None], [2, 3]], pa.list_(pa.float32(), 2))}, "nulls inside the lists"),
        ({"key_weights": pa.array([[1, 2], [3, 4]], FLOATS)}, "'key_weights': got list<"),
        ({"more_weights": pa.array([[], []], FLOATS)}, "'more_weights': expected a weight for each value of 'more'"),
        ({"more": MORE, "more_weights": pa.array([[1, 2], [3]], FLOATS)}, "expected a weight for each value of 'more'"),
        ({"more": MORE, "more_weights": pa.array([[1], [2]], FLOATS)}, "expected a weight for each value of 'more'"),
        ({"more": MORE, "more_weights": pa.array([[1], [2, np.inf]], FLOATS)}, "'more_weights': got other values"),
        ({"more": MORE, "more_weights": pa.array([[1], [2, None]], FLOATS)}, "nulls inside the lists"),
        ({"more": MORE, "more_weights": pa.array([[1], [2, 3]], pa.list_(pa.float64()))}, "'more_weights': got list<"),
    ],
)
def test_weights_that_break_a_rule_are_refused_with_the_reason(columns, why):
    assert why in reason(decode_clicks(write_arrow(clicks_table(**columns), METADATA), []))


@pytest.mark.parametrize(
    ("features", "weights", "first", "more"),
    [
        ({"C1": "68fd1e64", "device_ip": ["a", "b"]}, {"device_ip": [0.5, 2]}, [1, 0.5], [2]),
        ({"device_ip": ["", "a", None, "b"]}, {"device_ip": [9, 0.5, 9, 2]}, [1, 0.5], [2]),
        ({"C1": "68fd1e64", "device_ip": "a"}, {"C1": -3, "device_ip": None}, [-3, 1], None),
        ({"device_ip": []}, {"device_ip": []}, [1, 1], None),
        ({"device_ip": None}, {"device_ip": 4}, [1, 1], None),
    ],
)
def test_a_single_click_may_name_the_weights_of_its_values(features, weights, first, more):
    click = decode_click(json.dumps({**CLICK, "features": features, "value_weights": weights}).encode())
    assert weights_of(click) == ([first], more)


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ([1], "expected an object"),
        ({"nothing": 1}, 'by names of "features"'),
        ({"device_ip": [1]}, "expected 2 numbers"),
        ({"device_ip": 1}, "expected 2 numbers"),
        ({"device_ip": [1, "2"]}, "expected 2 numbers"),
        ({"device_ip": [1, True]}, "expected 2 numbers"),
        ({"device_ip": [1, 1e39]}, "expected 2 numbers"),
        ({"device_ip": [1, float("nan")]}, "expected 2 numbers"),
    ],
)
def test_weights_of_a_single_click_that_do_not_fit_its_values_are_refused(weights, why):
    click = {**CLICK, "features": {"device_ip": ["a", "b"]}, "value_weights": weights}
    assert why in reason(decode_click(json.dumps(click).encode()))


def test_rows_are_selected_and_merged_with_their_weights():
    batch = weighted()
    kept = take_rows(batch, np.array([True, False, True]))
    assert weights_of(kept) == ([[1.0, 0.5], [3.5, 1.0]], batch.more.weights.tolist())
    assert batch.more.between(2, 3).weights.tolist() == batch.more.weights[2:].tolist()
    assert batch.more.of_fields(1).weights.tolist() == [7.0]
    assert merge_more([more_of([A]), batch.more], [1, 3]).weights.tolist() == [1.0, *batch.more.weights.tolist()]
    assert merge_key_weights([None, None], [(1, 2), (3, 2)]) is None
    assert merge_key_weights([None, KEY_WEIGHTS], [(1, 2), (3, 2)]).tolist() == [[1, 1], *KEY_WEIGHTS.tolist()]


def test_the_weights_of_bags_stand_beside_their_keys():
    batch = weighted()
    words, _ = batch.more.to_bags(batch.keys)
    named = dict(zip(batch.keys.reshape(-1).tolist(), KEY_WEIGHTS.reshape(-1).tolist(), strict=True))
    more = iter(batch.more.weights[[1, 0, 2, 3, 4]].tolist())  # HEX, of the first field, before A of the second
    expected = [named[word] if word in named else next(more) for word in words.tolist()]
    assert batch.more.weights_of_bags(KEY_WEIGHTS).tolist() == expected
    assert batch.more.weights_of_bags(None) is None
