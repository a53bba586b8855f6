"""A shard as a pure function of its importance partition: what is counted, what is published, what a crash costs."""

from __future__ import annotations

from dataclasses import replace

import click
import numpy as np
import pytest
from digests import table_digest
from hypothesis import given
from hypothesis import strategies as st

from sketch import SnapshotError
from sketch.changes import Changes
from sketch.hashing import shard_of
from sketch.snapshot import pack, unpack
from sketch.tiertable import TierTable
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.commands.agent import _parse_half_life
from streams.errors import ConfigError
from streams.importance import count_keys, split_by_shard
from streams.keys import Field
from streams.records import (
    Assignment,
    BadRecord,
    ClickBatch,
    Digest,
    ImportanceBatch,
    Source,
    decode_assignment,
    encode_importance,
)

FIELDS = (Field("C1", "hex32"), Field("C2", "hex32"))
CONFIG = ShardConfig(capacity=20, num_shards=2, half_life_events=4000, seed=3)


def make_batch(number: int, *, offset: int | None = None, signal: str = "gradient", partition: int = 0):
    """The importance of one click record: 600 keys of shard 1, few of them popular; which ones, changes slowly."""
    random = np.random.default_rng(number)
    payloads = (random.zipf(1.3, 3000) + number // 6 * 3) % 800
    keys = payloads.astype(np.uint64) | (random.integers(1, 3, 3000).astype(np.uint64) << np.uint64(56))
    return ImportanceBatch(
        keys=keys[shard_of(keys, CONFIG.num_shards) == 1][:600],
        scores=random.exponential(1.0, 600).astype(np.float32),
        fields=FIELDS,
        source=Source(
            signal=signal, topic="t.clicks", partition=partition, offset=number if offset is None else offset
        ),
        event_time_ms=1_700_000_000_000 + number,
        ingest_ms=1_700_000_001_000 + number,
    )


def run(shard: Shard, numbers: range) -> list:
    published = []
    for number in numbers:
        records = shard.count(number, make_batch(number))
        assert isinstance(records, list)
        published.append(records)
    return published


@pytest.fixture(scope="module")
def undisturbed():
    """What 60 records lead to: the records published for each, the snapshots before each, the shard at the end."""
    shard, published, snapshots = Shard(1, CONFIG), [], []
    for number in range(60):
        snapshots.append(shard.to_bytes())
        published += run(shard, range(number, number + 1))
    return published, snapshots, shard


def decoded(records: list) -> list:
    return [decode_assignment(*record) for record in records]


# ---- what is counted -----------------------------------------------------------------------------------------------


def test_a_click_record_that_comes_again_counts_once():
    shard = Shard(1, CONFIG)
    run(shard, range(20))
    seq, state = shard.seq, shard.hot_set.to_bytes()
    assert shard.count(20, make_batch(19)) == []
    assert shard.count(21, make_batch(3)) == []
    assert (shard.num_counted, shard.num_repeated, shard.next_offset) == (20, 2, 22)
    assert (shard.seq, shard.hot_set.to_bytes()) == (seq, state)


def test_click_offsets_are_marked_apart_for_each_signal_and_partition():
    shard = Shard(1, CONFIG)
    for offset, (signal, partition) in enumerate(
        [("gradient", 0), ("frequency", 0), ("gradient", 1), ("frequency", 1)]
    ):
        assert isinstance(shard.count(offset, make_batch(7, signal=signal, partition=partition)), list)
        assert shard.num_counted == offset + 1
    shard.count(4, make_batch(7, signal="frequency", partition=1))
    assert (shard.num_counted, shard.num_repeated) == (4, 1)


def test_a_gap_in_the_click_offsets_is_no_repetition():
    shard = Shard(1, CONFIG)
    for step, offset in enumerate([0, 5, 1000]):
        shard.count(step, make_batch(step, offset=offset))
    assert shard.num_counted == 3


def test_an_importance_offset_that_was_seen_is_ignored_whatever_it_holds():
    shard = Shard(1, CONFIG)
    run(shard, range(10))
    state = shard.to_bytes()
    for offset in (0, 9):
        assert shard.count(offset, make_batch(99)) == []
    assert shard.to_bytes() == state


def test_a_bad_record_is_skipped_for_good():
    shard = Shard(1, CONFIG)
    shard.skip(4)
    assert shard.next_offset == 5
    shard.skip(2)
    assert shard.next_offset == 5
    assert shard.count(4, make_batch(0)) == []
    assert shard.num_counted == 0


def test_scores_that_cannot_be_counted_are_left_out_and_the_rest_counts():
    batch = make_batch(0)
    batch.scores[::2] = np.nan
    shard = Shard(1, CONFIG)
    assert isinstance(shard.count(0, batch), list)
    assert shard.hot_set.sketch.num_rejected == 300
    assert shard.num_events == 600


def test_other_fields_than_so_far_are_refused_and_leave_the_counts_alone():
    shard = Shard(1, CONFIG)
    run(shard, range(10))
    hot_set = shard.hot_set.to_bytes()
    renamed = replace(make_batch(10), fields=(Field("C1", "hex32"), Field("city")))
    refused = shard.count(10, renamed)
    assert isinstance(refused, BadRecord)
    assert "city" in refused.reason
    assert shard.hot_set.to_bytes() == hot_set
    assert (shard.next_offset, shard.num_counted) == (11, 10)
    assert isinstance(shard.count(11, make_batch(10)), list)  # the click record itself was not marked as counted
    assert shard.num_counted == 11


def test_fields_may_be_added_at_the_end_and_older_records_still_count():
    shard = Shard(1, CONFIG)
    run(shard, range(3))
    wider = replace(make_batch(3), fields=(*FIELDS, Field("city")))
    assert isinstance(shard.count(3, wider), list)
    assert isinstance(shard.count(4, make_batch(4)), list)
    assert shard.fields == (*FIELDS, Field("city"))


# ---- what is published ---------------------------------------------------------------------------------------------


def test_seq_grows_by_one_and_names_shard_epoch_and_source(undisturbed):
    published, _, shard = undisturbed
    seq = 0
    for number, records in enumerate(published):
        for record in decoded(records):
            if isinstance(record, Digest):
                assert record.seq == seq
                continue
            assert isinstance(record, Assignment)
            seq += 1
            assert (record.seq, record.shard, record.epoch) == (seq, 1, 1)
            assert record.ingest_ms == 1_700_000_001_000 + number
            if record.tier != "cold":
                assert (record.source, record.event_time_ms) == ((1, number), 1_700_000_000_000 + number)
    assert seq == shard.seq > 30


def test_a_key_is_published_as_cold_only_after_it_was_published_as_hot(undisturbed):
    published, _, _ = undisturbed
    hot: set[int] = set()
    num_cold = 0
    for record in decoded([record for records in published for record in records]):
        if isinstance(record, Digest):
            assert record.hot == len(hot)
        elif record.tier == "cold":
            hot.remove(record.key)
            num_cold += 1
        else:
            assert record.key not in hot
            hot.add(record.key)
    assert num_cold > 0


def test_a_demotion_comes_before_the_promotion_that_takes_its_row(undisturbed):
    published, _, shard = undisturbed
    owners: dict[int, int] = {}
    rows: dict[int, int] = {}
    promotions, demotions, most = 0, 0, 0
    for record in decoded([record for records in published for record in records]):
        if isinstance(record, Digest):
            continue
        if record.key in rows:
            del owners[rows.pop(record.key)]
            demotions += 1
        if record.tier == "hot":
            assert record.row not in owners
            assert 10 <= record.row < 20
            owners[record.row] = record.key
            rows[record.key] = record.row
            promotions += 1
        most = max(most, len(owners))
    assert (shard.num_promotions, shard.num_demotions) == (promotions, demotions)
    assert demotions > 0
    assert most == shard.max_hot == 10


def test_each_batch_of_changes_is_closed_by_the_digest_of_the_table(undisturbed):
    published, _, shard = undisturbed
    table = TierTable()
    for records in published:
        if not records:
            continue
        *changes, digest = decoded(records)
        assert changes
        table.apply(
            Changes(
                np.array([change.key for change in changes], np.uint64),
                np.array([-1 if change.row is None else change.row for change in changes], np.int32),
                np.zeros(len(changes), np.float32),
            )
        )
        assert isinstance(digest, Digest)
        assert (digest.digest, digest.hot) == (table.digest, table.num_hot)
    assert table.digest == shard.table.digest == table_digest(*shard.hot_set.table())


def test_a_record_that_changes_nothing_publishes_nothing():
    assert Shard(1, CONFIG).count(0, replace(make_batch(0), keys=np.empty(0, np.uint64), scores=np.empty(0))) == []


# ---- after a crash -------------------------------------------------------------------------------------------------


@given(crash=st.integers(0, 60), data=st.data())
def test_a_crash_at_any_record_and_any_earlier_snapshot_give_the_same_records(undisturbed, crash, data):
    published, snapshots, shard = undisturbed
    start = data.draw(st.integers(0, min(crash, 59)))
    restored = Shard.from_bytes(snapshots[start], CONFIG)
    assert restored.next_offset == start
    assert run(restored, range(start, 60)) == published[start:]
    assert restored.to_bytes() == shard.to_bytes()


def test_reading_again_from_before_the_snapshot_publishes_nothing_twice(undisturbed):
    published, snapshots, _ = undisturbed
    restored = Shard.from_bytes(snapshots[30], CONFIG)
    assert run(restored, range(60)) == [[]] * 30 + published[30:]


def test_a_new_configuration_is_a_new_epoch_with_an_empty_table_and_seq_goes_on(undisturbed):
    _, snapshots, _ = undisturbed
    before = Shard.from_bytes(snapshots[50], CONFIG)
    for changed in (replace(CONFIG, capacity=30), replace(CONFIG, seed=4), replace(CONFIG, half_life_events=None)):
        fresh = Shard.from_bytes(snapshots[50], changed)
        assert (fresh.epoch, fresh.seq, fresh.next_offset) == (2, before.seq, 50)
        assert (fresh.marks, fresh.fields, fresh.num_counted) == (before.marks, before.fields, before.num_counted)
        assert (fresh.table.num_hot, fresh.hot_set.num_hot) == (0, 0)
        records = [record for part in run(fresh, range(50, 60)) for record in decoded(part)]
        changes = [record for record in records if isinstance(record, Assignment)]
        assert changes[0].seq == before.seq + 1
        assert {record.epoch for record in records} == {2}
    assert Shard.from_bytes(fresh.to_bytes(), changed).epoch == 2
    assert Shard.from_bytes(fresh.to_bytes(), CONFIG).epoch == 3


@given(st.data())
def test_a_damaged_snapshot_is_refused(undisturbed, data):
    _, snapshots, _ = undisturbed
    bit = data.draw(st.integers(0, 8 * len(snapshots[50]) - 1))
    damaged = bytearray(snapshots[50])
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SnapshotError):
        Shard.from_bytes(bytes(damaged), CONFIG)
    with pytest.raises(SnapshotError):
        Shard.from_bytes(snapshots[50][: bit // 8], CONFIG)


# ---- the shards together -------------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(1, 64))
def test_the_shards_rows_are_contiguous_disjoint_and_cover_the_capacity(capacity, num_shards):
    if capacity < num_shards:
        with pytest.raises(ConfigError, match="capacity"):
            ShardConfig(capacity=capacity, num_shards=num_shards)
        return
    config = ShardConfig(capacity=capacity, num_shards=num_shards)
    next_row, sizes = 0, set()
    for shard in range(num_shards):
        first, rows = config.rows_of(shard)
        assert first == next_row
        next_row += rows
        sizes.add(rows)
    assert next_row == capacity
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@pytest.mark.parametrize("ratio", [-1.0, 0.0, float("nan")])
def test_a_ratio_that_is_invalid_is_refused(ratio):
    with pytest.raises(ConfigError, match="buckets_per_row"):
        ShardConfig(capacity=4, num_shards=1, buckets_per_row=ratio)


def test_a_hot_set_follows_the_configuration():
    config = ShardConfig(capacity=10, num_shards=4, buckets_per_row=1.5, half_life_events=8000, admission="replace_min")
    hot_set = config.make_hot_set(1)
    assert (hot_set.first_row, hot_set.capacity) == (2, 3)
    assert (hot_set.sketch.num_buckets, hot_set.sketch.admission, hot_set.half_life_events) == (5, "replace_min", 2000)


def test_a_half_life_in_event_time_is_the_same_for_every_shard():
    config = ShardConfig(capacity=10, num_shards=4, half_life_s=60.0)
    assert {config.make_hot_set(shard).half_life_ms for shard in range(4)} == {60_000.0}
    assert config.make_hot_set(0).half_life_events is None


START_MS, DAY_MS, YEARS_MS = 1_700_000_000_000, 86_400_000, 2_000_000_000_000


def hot_after(times_ms: list[int]) -> tuple[set[int], int]:
    """The hot keys, and the outliers of event time, after a drifting stream with these event times."""
    shard = Shard(0, ShardConfig(capacity=50, num_shards=1, half_life_s=60.0))
    for number, event_time_ms in enumerate(times_ms):
        payloads = np.random.default_rng(number).zipf(1.3, 600) % 400 + number // 2
        batch = ImportanceBatch(
            keys=payloads.astype(np.uint64) | np.uint64(1 << 56),
            scores=np.ones(600, np.float32),
            fields=FIELDS,
            source=Source(signal="gradient", topic="t.clicks", partition=0, offset=number),
            event_time_ms=event_time_ms,
            ingest_ms=0,
        )
        assert isinstance(shard.count(number, batch), list)
        if number == len(times_ms) // 2:
            shard = Shard.from_bytes(shard.to_bytes(), shard.config)
    return set(shard.hot_set.table()[0].tolist()), shard.num_time_outliers


@pytest.mark.parametrize("fault", ["first", "middle", "tenth", "day back"])
def test_wrong_event_times_do_not_stop_the_decay(fault: str):
    clean = [START_MS + 10_000 * number for number in range(400)]
    wrong = {
        "first": [START_MS + YEARS_MS, *clean[1:]],
        "middle": [START_MS + YEARS_MS if number == 200 else time for number, time in enumerate(clean)],
        "tenth": [START_MS + YEARS_MS if number % 10 == 0 else time for number, time in enumerate(clean)],
        "day back": [time - (DAY_MS if number >= 100 else 0) for number, time in enumerate(clean)],
    }[fault]
    expected, outliers = hot_after(clean)
    assert outliers == 0
    hot, outliers = hot_after(wrong)
    assert len(hot & expected) >= 0.9 * len(expected)
    assert outliers >= 1


@pytest.mark.parametrize(
    "damage",
    [
        {"now_ms": float("inf")},
        {"outliers": None},
        {"outliers": [0] * 33},
        {"newest_ms": "x"},
        {"now_ms": 1 << 63},
        None,
    ],
)
def test_a_malformed_clock_in_a_snapshot_is_refused(damage: dict | None):
    config = ShardConfig(capacity=50, num_shards=1, half_life_s=60.0)
    parameters, arrays = unpack(b"hotstream-shard", Shard(0, config).to_bytes())
    parameters["clock"] = None if damage is None else {**parameters["clock"], **damage}
    with pytest.raises(SnapshotError, match="shard snapshot: malformed contents"):
        Shard.from_bytes(pack(b"hotstream-shard", parameters, arrays), config)


@pytest.mark.parametrize(
    "broken", [{"half_life_events": 100.0}, {"half_life_s": 0.0}, {"half_life_s": 60.0, "half_life_events": 1e6}]
)
def test_a_half_life_that_is_invalid_is_refused(broken):
    with pytest.raises(ConfigError, match="half-life of a shard"):
        ShardConfig(capacity=10, num_shards=4, **broken)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (None, {}),
        ("20000000", {"half_life_events": 2e7}),
        ("90s", {"half_life_s": 90.0}),
        ("1.5h", {"half_life_s": 5400.0}),
        ("2d", {"half_life_s": 172_800.0}),
    ],
)
def test_the_half_life_is_read_as_events_or_time(text, meant):
    assert _parse_half_life(text) == meant


@pytest.mark.parametrize("text", ["", "soon", "h", "6 weeks"])
def test_the_error_for_a_malformed_half_life_names_it(text):
    with pytest.raises(click.BadParameter, match="expected a number of events"):
        _parse_half_life(text)


# ---- the frequency signal ------------------------------------------------------------------------------------------


def make_clicks(num_rows: int, seed: int) -> ClickBatch:
    random = np.random.default_rng(seed)
    keys = random.integers(0, 50, (num_rows, 2), np.uint64) | (np.array([1, 2], np.uint64) << np.uint64(56))
    return ClickBatch(
        label=np.zeros(num_rows, np.int8),
        dense=np.zeros((num_rows, 0), np.float32),
        keys=keys,
        event_time_ms=np.arange(num_rows)[::-1] + 1000,
        fields=FIELDS,
        dense_names=(),
    )


@given(st.integers(1, 300), st.integers(1, 9), st.integers(0, 9))
def test_the_counter_gives_every_shard_its_own_keys_and_every_occurrence_once(num_rows, num_shards, seed):
    clicks, source = make_clicks(num_rows, seed), Source(signal="frequency", topic="t.clicks", partition=0, offset=9)
    keys, scores = count_keys(clicks.keys)
    flat = clicks.keys.reshape(-1)
    assert keys.tolist() == list(dict.fromkeys(flat.tolist()))  # as they first occur
    parts = split_by_shard(keys, scores, clicks, source, num_shards=num_shards, ingest_ms=77)
    counted: dict[int, float] = {}
    for shard, part in parts:
        assert len(part.keys)
        assert np.all(shard_of(part.keys, num_shards) == shard)
        assert (part.source, part.fields, part.ingest_ms) == (source, FIELDS, 77)
        assert part.event_time_ms == 1000 + num_rows - 1
        counted.update(zip(part.keys.tolist(), part.scores.tolist(), strict=True))
        encode_importance(part)
    expected: dict[int, float] = {}
    for key in clicks.keys.reshape(-1).tolist():
        expected[key] = expected.get(key, 0.0) + 1.0
    assert counted == expected
    assert sum(len(part.keys) for _, part in parts) == len(expected)
    assert [shard for shard, _ in parts] == sorted({shard for shard, _ in parts})


def test_keys_of_another_shard_are_refused():
    batch = make_batch(0)
    foreign = replace(batch, keys=np.arange(1 << 56, (1 << 56) + 600, dtype=np.uint64))
    refused = Shard(1, CONFIG).count(0, foreign)
    assert isinstance(refused, BadRecord)
    assert "another shard" in refused.reason


def test_a_new_epoch_follows_whatever_the_topic_ends_with():
    shard = Shard(1, CONFIG)
    run(shard, range(20))
    other = Shard.from_bytes(shard.to_bytes(), replace(CONFIG, capacity=24))
    other.follow(1, shard.seq + 77)
    assert (other.epoch, other.seq) == (2, shard.seq + 77)
    fresh = Shard(1, CONFIG)
    fresh.follow(5, 1000)
    assert (fresh.epoch, fresh.seq) == (6, 1000)
    restored = Shard.from_bytes(shard.to_bytes(), CONFIG)
    restored.follow(5, 10**6)
    assert (restored.epoch, restored.seq) == (1, shard.seq)


@given(st.integers(0, 59), st.data())
def test_a_shard_that_begins_again_writes_only_what_the_topic_lacks(undisturbed, start, data):
    published, snapshots, _ = undisturbed
    whole = [record for records in published for record in records]
    begun = sum(map(len, published[:start]))
    there = whole[: data.draw(st.integers(begun, len(whole)))]  # the snapshot's changes, and more: also half a batch
    shard = Shard.from_bytes(snapshots[start], CONFIG)
    shard.follow(*max(((record.epoch, record.seq) for record in decoded(there)), default=(0, 0)))
    more = [record for records in run(shard, range(start, 60)) for record in records]
    if there and more and there[-1] == more[0]:
        assert isinstance(
            decode_assignment(*more.pop(0)), Digest
        )  # the newest digest may come again, with the same content
    assert [*there, *more] == whole


# ---- forged snapshots ----------------------------------------------------------------------------------------------


def forge(snapshot: bytes, change) -> bytes:
    """The snapshot with changed contents and a right checksum."""
    parameters, arrays = unpack(b"hotstream-shard", snapshot)
    change(parameters, arrays)
    return pack(b"hotstream-shard", parameters, arrays)


def set_parameter(name, value):
    return lambda parameters, _arrays: parameters.__setitem__(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", 2), ("number", -1), ("number", "1"), ("epoch", 0), ("epoch", 1.5), ("seq", -1), ("seq", 1 << 63),
        ("next_offset", None), ("marks", [[1, 2, 3]]), ("marks", [["s", -1, 0]]), ("marks", 7),
        ("fields", [["a b", "h"]]),
        ("fields", []), ("fields", [["C1", "hex32"]]), ("counters", [1, 2]), ("counters", [0, 0, 0, 0, 0, "x"]),
    ],
)  # fmt: skip
def test_a_snapshot_with_another_parameter_is_refused(undisturbed, name, value):
    _, snapshots, _ = undisturbed
    assert Shard.from_bytes(forge(snapshots[50], lambda *_: None), CONFIG).to_bytes() == snapshots[50]
    with pytest.raises(SnapshotError):
        Shard.from_bytes(forge(snapshots[50], set_parameter(name, value)), CONFIG)


def test_a_snapshot_with_the_hot_set_of_another_shard_is_refused(undisturbed):
    _, snapshots, _ = undisturbed
    other = Shard(0, CONFIG)
    with pytest.raises(SnapshotError, match="expected"):
        Shard.from_bytes(
            forge(
                snapshots[50],
                lambda _, arrays: arrays.update(hot_set=np.frombuffer(other.hot_set.to_bytes(), np.uint8)),
            ),
            CONFIG,
        )


def test_a_snapshot_with_keys_that_no_record_can_have_is_refused(undisturbed):
    _, snapshots, _ = undisturbed
    hot_set = CONFIG.make_hot_set(1)
    hot_set.update(np.arange(1, 5000, dtype=np.uint64))  # of field 0, and of both shards
    with pytest.raises(SnapshotError, match="field number"):
        Shard.from_bytes(
            forge(snapshots[50], lambda _, arrays: arrays.update(hot_set=np.frombuffer(hot_set.to_bytes(), np.uint8))),
            CONFIG,
        )
