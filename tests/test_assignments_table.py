"""`HotTable` reads the records of real shards: complete, repeated, compacted, and with losses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sketch.hashing import shard_of
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.assignments.columns import Fetch
from streams.assignments.table import HotTable
from streams.keys import Field
from streams.records import Assignment, Digest, ImportanceBatch, Source, decode_assignment

FIELDS = (Field("C1", "hex32"),)
CONFIG = ShardConfig(capacity=20, num_shards=1, half_life_events=2000)
Record = Assignment | Digest


def make_records(config: ShardConfig = CONFIG, num_batches: int = 100, shard: Shard | None = None) -> list[tuple]:
    """The records that a shard publishes for a stream with drifting popularity: (Kafka key, value, headers)."""
    shard = shard or Shard(0, config)
    config = shard.config
    published = []
    for number in range(shard.next_offset, shard.next_offset + num_batches):
        random = np.random.default_rng(number)
        keys = ((random.zipf(1.3, 700) + number // 5 * 4) % 500).astype(np.uint64) | np.uint64(1 << 56)
        keys = keys[shard_of(keys, config.num_shards) == shard.number]
        batch = ImportanceBatch(
            keys=keys,
            scores=random.exponential(1.0, len(keys)).astype(np.float32),
            fields=FIELDS,
            source=Source(signal="gradient", topic="t.clicks", partition=0, offset=number),
            event_time_ms=number,
            ingest_ms=number,
        )
        records = shard.count(number, batch)
        assert isinstance(records, list)
        published += records
    return published


RECORDS = make_records()
DECODED: list[Record] = [decode_assignment(*record) for record in RECORDS]


def follow(records: list[Record]) -> HotTable:
    table = HotTable(1)
    table.take(Fetch(partition=0, records=records))
    return table


def compacted(records: list[tuple], up_to: int | None = None) -> list[tuple[int, tuple]]:
    """The log after compaction of the first `up_to` offsets: the last record of each key, at its offset."""
    cleaned = records[:up_to]
    last = {key: offset for offset, (key, _, _) in enumerate(cleaned)}
    return [
        (offset, record) for offset, record in enumerate(records) if offset >= len(cleaned) or last[record[0]] == offset
    ]


def read(listed: list[tuple[int, tuple]], end_offset: int | None, *, fetch_records: int = 1000) -> HotTable:
    table = HotTable(1)
    for begin in range(0, len(listed), fetch_records):
        fetched = listed[begin : begin + fetch_records]
        records = [decode_assignment(*record) for _, record in fetched]
        assert all(isinstance(record, Record) for record in records)
        offsets = [offset for offset, _ in fetched]
        table.take(Fetch(partition=0, records=records, offsets=offsets, end_offset=end_offset))
    return table


def test_a_reader_from_the_start_is_verified_at_every_digest():
    table, compared = HotTable(1), 0
    for offset, record in enumerate(DECODED):
        assert table.apply(record, offset=offset) == isinstance(record, Assignment)
        if isinstance(record, Digest):
            compared += 1
            assert table.is_verified
            assert table.num_hot == record.hot
    view = table.shards[0]
    assert compared > 10
    assert (view.mismatches, view.num_stale, view.verified_seq) == (0, 0, view.seq)
    assert view.num_applied == view.seq == sum(isinstance(record, Assignment) for record in DECODED)
    assert table.num_hot == 20


def test_lookup_gives_rows_in_the_shape_of_the_keys():
    table = follow(DECODED)
    listed = list(table.items())
    keys = np.array([key for key, _ in listed] + [1 << 56 | 499_999, 0], np.uint64)
    rows = table.lookup(keys)
    assert rows.dtype == np.int32
    assert rows.tolist() == [row for _, row in listed] + [-1, -1]
    assert table.lookup(keys.reshape(2, -1)).tolist() == rows.reshape(2, -1).tolist()
    assert sorted(rows[:-2].tolist()) == list(range(20))


@given(st.lists(st.integers(0, len(DECODED)), max_size=4))
def test_records_that_are_read_again_change_nothing(starts):
    table, offset = HotTable(1), 0
    for start in [*sorted(starts), len(DECODED)]:  # each time back to some earlier record, as after a crash
        records = DECODED[max(0, start - 30) : start] if offset >= start else DECODED[offset:start]
        table.take(Fetch(partition=0, records=records))
        offset = max(offset, start)
    assert not table.take(Fetch(partition=0, records=DECODED)).counts.any()
    assert table == follow(DECODED)
    assert table.is_verified


def test_a_stale_record_is_counted_and_dropped():
    table = follow(DECODED)
    before = sorted(table.items())
    assert not table.apply(DECODED[0])
    stale = next(record for record in DECODED if isinstance(record, Assignment) and record.tier == "hot")
    assert not table.apply(replace(stale, row=5))
    assert table.shards[0].num_stale == 2
    assert sorted(table.items()) == before


def test_a_new_epoch_begins_with_an_empty_table_and_the_old_one_is_stale():
    shard = Shard(0, CONFIG)
    old = make_records(shard=shard, num_batches=30)
    renewed = Shard.from_bytes(shard.to_bytes(), replace(CONFIG, seed=9))
    new = make_records(shard=renewed, num_batches=30)
    table = read(list(enumerate(old)), None)
    first = decode_assignment(*new[0])
    assert isinstance(first, Assignment)
    table.apply(first, offset=len(old))
    assert [key for key, _ in table.items()] == [first.key]
    assert table.shards[0].epoch == 2
    for offset, record in enumerate([*new[1:], *old[-40:]], len(old) + 1):  # a late agent of the old epoch
        decoded = decode_assignment(*record)
        assert isinstance(decoded, Record)
        table.apply(decoded, offset=offset)
    keys, rows = renewed.hot_set.table()
    assert sorted(table.items()) == list(zip(keys.tolist(), rows.tolist(), strict=True))
    assert table.is_verified


def test_the_digest_finds_a_change_that_was_lost():
    lost = max(  # not the last change of its batch, or the digest would be ahead of the table
        index
        for index, (record, following) in enumerate(pairwise(DECODED))
        if isinstance(record, Assignment) and record.tier == "hot" and isinstance(following, Assignment)
    )
    table = follow([*DECODED[:lost], *DECODED[lost + 1 :]])
    assert not table.is_verified
    assert table.shards[0].mismatches >= 1


@given(st.integers(0, len(DECODED) - 1))
def test_no_lost_change_goes_unseen_at_the_digest_that_closes_its_batch(lost):
    if isinstance(DECODED[lost], Digest):
        return
    closing = next(index for index in range(lost, len(DECODED)) if isinstance(DECODED[index], Digest))
    whole, gapped = follow(DECODED[: closing + 1]), follow([*DECODED[:lost], *DECODED[lost + 1 : closing + 1]])
    assert whole.is_verified
    assert gapped.is_verified == (gapped == whole and gapped.shards[0].seq == whole.shards[0].seq)


def test_a_loss_in_a_live_reader_is_found_once_it_has_read_past_the_gap():
    lost = next(index for index, record in enumerate(DECODED) if isinstance(record, Assignment) and index > 100)
    table = HotTable(1)
    for offset, record in enumerate(DECODED):
        if offset != lost:  # a live reader stands at the end, so its fetches end a few records on
            table.apply(record, offset=offset, end_offset=min(len(DECODED), offset // 16 * 16 + 16))
    assert table == follow(DECODED) or table.shards[0].mismatches > 0


@pytest.mark.parametrize("up_to", [None, len(RECORDS) // 2, len(RECORDS) - 5])
def test_after_compaction_a_new_reader_has_the_table_of_a_reader_of_everything(up_to):
    listed = compacted(RECORDS, up_to)
    assert len(listed) < len(RECORDS)
    table = read(listed, end_offset=len(RECORDS))
    assert table == follow(DECODED)
    assert table.shards[0].mismatches == 0
    assert table.is_verified
    shard = Shard(0, CONFIG)
    make_records(shard=shard)
    more = make_records(shard=shard, num_batches=20)
    for offset, record in enumerate(more, len(RECORDS)):
        decoded = decode_assignment(*record)
        assert isinstance(decoded, Record)
        table.apply(decoded, offset=offset, end_offset=len(RECORDS) + len(more))
    assert table.is_verified
    assert table.shards[0].verified_seq == shard.seq > DECODED[-1].seq
    assert table.shards[0].gap is None  # what it cost to catch up is given back
    assert table.shards[0].mismatches == 0


@given(st.integers(1, len(RECORDS)), st.integers(0, len(RECORDS)))
def test_compaction_at_any_time_of_any_prefix_never_looks_like_a_loss(length, cleaned):
    records = RECORDS[:length]
    table = read(compacted(records, min(cleaned, length)), end_offset=length)
    assert table == follow(DECODED[:length])
    assert table.shards[0].mismatches == 0


@given(st.data())
def test_a_copy_of_old_records_behind_newer_ones_misleads_no_late_reader_wherever_compaction_stopped(data):
    end = data.draw(st.integers(2, len(RECORDS)))
    begin = data.draw(st.integers(0, end - 1))
    log = [*RECORDS[:end], *RECORDS[begin:]]  # one that took over, or a request that was repeated
    length = data.draw(st.integers(2 * end - begin, len(log)))
    cleaned = data.draw(st.integers(0, length))
    table = read(compacted(log[:length], cleaned), length, fetch_records=data.draw(st.integers(1, 500)))
    seq = max(decode_assignment(*record).seq for record in log[:length])
    expected = follow([record for record in DECODED if isinstance(record, Assignment) and record.seq <= seq])
    assert table == expected
    assert (table.shards[0].seq, table.shards[0].mismatches) == (seq, 0)
    assert table.max_hot <= CONFIG.capacity


def test_keys_of_many_shards_are_looked_up_in_their_own_shard():
    config = ShardConfig(capacity=40, num_shards=2)
    table, expected = HotTable(2), {}
    for number in range(2):
        shard = Shard(number, config)
        for record in make_records(shard=shard):
            decoded = decode_assignment(*record)
            assert isinstance(decoded, Record)
            table.apply(decoded)
        expected[number] = shard.hot_set.num_hot
    assert [view.table.num_hot for view in table.shards] == [20, 20]
    assert table.num_hot == sum(expected.values())
    assert table.is_verified


def test_an_empty_table_is_verified_and_everything_is_cold():
    table = HotTable(3)
    assert table.is_verified
    assert list(table.items()) == []
    assert table.lookup(np.array([[1, 2]], np.uint64)).tolist() == [[-1, -1]]
    assert table == HotTable(3)
    assert table != follow(DECODED)
