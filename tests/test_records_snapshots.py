"""Snapshots in a compacted topic: after any crash or compaction the newest whole snapshot is found."""

from __future__ import annotations

import json
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.records import SnapshotReader, SnapshotRecord, snapshots, write_snapshot

SHARD = 3


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 10 bytes, so that a snapshot of 35 bytes has four."""
    monkeypatch.setattr(snapshots, "CHUNK_BYTES", 10)


def compact(records: list[SnapshotRecord]) -> list[SnapshotRecord]:
    """A possible result of compaction: the last record of each key, in the original order."""
    last = {record.key: index for index, record in enumerate(records)}
    return [record for index, record in enumerate(records) if last[record.key] == index]


def read(records: list[SnapshotRecord]) -> SnapshotReader:
    reader = SnapshotReader(SHARD)
    reader.read((record.key, record.value, record.headers) for record in records)
    return reader


def log_of(snapshots_in_order: list[bytes]) -> tuple[list[SnapshotRecord], list[int]]:
    """The topic after these snapshots, and its length at the moment when each of them took effect."""
    records: list[SnapshotRecord] = []
    closed, manifest = [], None
    for data in snapshots_in_order:
        chunks, closing, manifest = write_snapshot(SHARD, data, previous=manifest)
        records += [*chunks, closing]
        closed.append(len(records))
    return records, closed


@st.composite
def logs_of_two(draw: st.DrawFn) -> list[SnapshotRecord]:
    """The log of two writers of whole snapshots, each with its records in order, cut off anywhere."""
    logs = [iter(log_of(draw(st.lists(st.binary(min_size=1, max_size=45), max_size=4)))[0]) for _ in range(2)]
    turns = draw(st.lists(st.integers(0, 1), max_size=60))
    return [record for turn in turns if (record := next(logs[turn], None)) is not None]


_DATA = st.lists(st.binary(max_size=45), min_size=1, max_size=6)


@given(_DATA, st.booleans())
def test_after_a_crash_at_any_record_the_newest_closed_snapshot_is_read(listed, is_compacted):
    records, closed = log_of(listed)
    for length in range(len(records) + 1):
        prefix = records[:length]
        reader = read(compact(prefix) if is_compacted else prefix)
        whole = sum(end <= length for end in closed)
        assert reader.data == (listed[whole - 1] if whole else None)
        assert reader.problems == []


@given(logs_of_two(), st.booleans(), st.data())
def test_the_end_of_the_log_has_the_newest_snapshot_or_says_that_it_has_not(records, is_damaged, data):
    if is_damaged and records:
        place = data.draw(st.integers(0, len(records) - 1))
        records[place] = SnapshotRecord(records[place].key, b"damaged", records[place].headers)
    whole = read(records)
    ends = [read(records[start:]) for start in range(len(records) + 1)]
    assert {(end.data, str(end.manifest)) for end in ends if end.is_newest} <= {(whole.data, str(whole.manifest))}
    assert whole.is_newest == ends[0].is_newest
    assert not ends[-1].is_newest


@given(_DATA, _DATA, st.data())
def test_a_writer_that_goes_on_after_a_crash_never_harms_what_counts(before, after, data):
    records, _ = log_of(before)
    records = records[: data.draw(st.integers(0, len(records)))]
    is_compacted = data.draw(st.booleans())
    reader = read(compact(records) if is_compacted else records)
    newest, manifest = reader.data, reader.manifest
    for snapshot in after:
        chunks, closing, following = write_snapshot(SHARD, snapshot, previous=manifest)
        for record in chunks:
            records.append(record)
            assert read(compact(records)).data == newest
        records.append(closing)
        newest, manifest = snapshot, following
        for log in (records, compact(records)):
            reader = read(log)
            assert (reader.data, reader.manifest, reader.problems) == (newest, manifest, [])


@given(st.binary(min_size=1, max_size=45), st.binary(max_size=45), st.binary(max_size=45), st.data())
def test_of_two_writers_at_once_one_snapshot_counts_or_the_one_before(base, first, second, data):
    records, _ = log_of([base])
    manifest = read(records).manifest
    writers = []
    for snapshot in (first, second):
        chunks, closing, _ = write_snapshot(SHARD, snapshot, previous=manifest)
        writers.append([*chunks, closing])
    while writers[0] or writers[1]:
        turn = data.draw(st.booleans())
        queue = writers[turn] or writers[not turn]
        records.append(queue.pop(0))
        for log in (records, compact(records)):
            assert read(log).data in (base, first, second)


def test_two_writers_of_the_same_bytes_do_not_disturb_each_other():
    base, newer = b"b" * 35, b"n" * 35
    records, _ = log_of([base])
    chunks, closing, _ = write_snapshot(SHARD, newer, previous=read(records).manifest)
    both = [record for record in [*chunks, closing] for _ in range(2)]
    reader = read(compact(records + both))
    assert reader.data == newer
    assert reader.problems == []


@pytest.mark.parametrize("is_compacted", [False, True])
def test_a_damaged_chunk_is_named_and_the_snapshot_before_counts(is_compacted):
    records, closed = log_of([b"1" * 35, b"2" * 35])
    index = closed[0] + 1
    records[index] = SnapshotRecord(records[index].key, b"x" * 10, records[index].headers)
    reader = read(compact(records) if is_compacted else records)
    assert reader.data == b"1" * 35
    assert "checksum" in reader.problems[0]
    assert "missing or damaged" in reader.problems[1]


def test_the_writer_then_leaves_alone_the_place_that_counts():
    records, closed = log_of([b"1" * 35, b"2" * 35])
    del records[closed[0]]
    reader = read(records)
    assert reader.data == b"1" * 35
    chunks, closing, _ = write_snapshot(SHARD, b"3" * 35, previous=reader.manifest)
    for record in chunks:
        records.append(record)
        assert read(compact(records)).data == b"1" * 35
    assert read(compact([*records, closing])).data == b"3" * 35


def test_a_topic_with_no_whole_snapshot_says_that_there_was_one():
    records, _ = log_of([b"1" * 35])
    reader = read(records[1:])
    assert reader.data is None
    assert reader.manifest is None
    assert reader.num_manifests == 1
    assert len(reader.problems) == 1


def test_an_empty_snapshot_and_a_large_one_are_snapshots_too(monkeypatch):
    monkeypatch.undo()
    large = np.random.default_rng(0).bytes(2_000_001)
    for data in (b"", large):
        records, _ = log_of([data])
        assert read(records).data == data
        assert max(len(record.value) for record in records) <= 900_000


def test_keys_and_headers_are_as_the_protocol_says():
    records, _ = log_of([b"1" * 15, b"2" * 5])
    assert [record.key for record in records] == [b"3/A/0", b"3/A/1", b"3", b"3/B/0", b"3"]
    assert [dict(record.headers)["kind"] for record in records] == [
        b"chunk",
        b"chunk",
        b"manifest",
        b"chunk",
        b"manifest",
    ]
    assert {dict(record.headers)["v"] for record in records} == {b"2"}
    body = json.loads(records[-1].value)
    assert (body["v"], body["shard"], body["place"], body["previous"]["place"]) == (2, 3, "B", "A")


_HEADERS = [("v", b"2"), ("kind", b"manifest")]


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (None, b"{}", _HEADERS),
        (b"", b"{}", _HEADERS),
        (b"4", b"{}", _HEADERS),
        (b"x", b"{}", _HEADERS),
        (b"\xff", b"{}", _HEADERS),
        (b"3", None, _HEADERS),
        (b"3", b"", _HEADERS),
        (b"3", b"[]", _HEADERS),
        (b"3", b"null", _HEADERS),
        (b"3", b"[" * 60_000, _HEADERS),
        (b"3", b"{}", _HEADERS),
        (b"3", b'{"previous": null}', _HEADERS),
        (b"3", b'{"place": "B", "previous": "A"}', _HEADERS),
        (b"3", b'{"place": [], "chunks": 1, "bytes": 0, "crc32": 0, "previous": null}', _HEADERS),
        (b"3", b'{"place": "A", "chunks": 1e9, "bytes": 0, "crc32": 0, "previous": null}', _HEADERS),
        (b"3", b'{"place": "A", "chunks": 1000000000, "bytes": 0, "crc32": 0, "previous": null}', _HEADERS),
        (b"3/A/0", b"x", [("v", b"2")]),
        (b"3/A/0", b"x", [("v", b"2"), ("crc32", b"7")]),
        (b"3/A/0", b"x", [("v", b"2"), ("crc32", None)]),
        (b"3/A/zero", b"x", [("v", b"2"), ("crc32", b"2363233923")]),
        (b"3", b"{}", []),
        (b"3", b"{}", [("v", b"3")]),
    ],
)
def test_a_record_that_cannot_be_believed_is_passed_over_with_the_reason(key, value, headers):
    records, _ = log_of([b"1" * 35])
    reader = read(records)
    reader.read([(key, value, headers)])
    assert reader.data == b"1" * 35
    assert len(reader.problems) == 1


@given(st.binary(max_size=12) | st.sampled_from([b"3", b"3/A/0", b"3/B/1"]), st.binary(max_size=30), st.data())
def test_random_records_never_raise(key, value, data):
    headers = data.draw(st.lists(st.tuples(st.sampled_from(["v", "crc32"]), st.sampled_from([b"1", b"2", b"", None]))))
    reader = SnapshotReader(SHARD)
    reader.read([(key, value, headers)])
    assert reader.data is None


def test_places_take_turns_for_ever():
    manifest = None
    for turn, _ in zip(count(), range(6), strict=False):
        _, _, manifest = write_snapshot(SHARD, b"x", previous=manifest)
        assert manifest["place"] == "AB"[turn % 2]
