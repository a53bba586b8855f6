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
from streams.records import MAX_MORE, ClickBatch, MoreValues, decode_clicks, encode_clicks, merge_more

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
