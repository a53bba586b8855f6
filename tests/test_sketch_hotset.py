"""HotSet: the guarantees of every single change, and how well and how soon the set follows a stream."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from digests import table_digest
from hypothesis import given
from hypothesis import strategies as st

from sketch import Changes, HotSet, HotSketch, ParameterError, SnapshotError
from sketch.tiertable import TierTable

_FIELD = np.uint64(3 << 56)
_CAPACITY = 1000
_UNIVERSE = 300_000


def zipf_keys(num_keys: int, seed: int, universe: int = _UNIVERSE) -> np.ndarray:
    """Zipf keys of field 3 whose payload is their rank, 0 the most frequent."""
    weights = np.cumsum(np.arange(1, universe + 1) ** -1.05)
    ranks = np.searchsorted(weights / weights[-1], np.random.default_rng(seed).random(num_keys))
    return ranks.astype(np.uint64) | _FIELD


def make_hot_set(capacity: int, num_buckets: int | None = None, **parameters) -> HotSet:
    admission = parameters.pop("admission", "randomized")
    sketch = HotSketch(num_buckets or capacity, admission=admission, seed=parameters.pop("seed", 1))
    return HotSet(capacity, sketch, **parameters)


def hot_keys(hot_set: HotSet) -> np.ndarray:
    keys, _ = hot_set.table()
    return keys


def columns(changes: Changes) -> list[bytes]:
    return [column.tobytes() for column in (changes.key, changes.row, changes.score)]


class Follower:
    """A subscriber in plain Python that checks every guarantee after each change."""

    def __init__(self, hot_set: HotSet) -> None:
        self.capacity, self.first_row = hot_set.capacity, hot_set.first_row
        self.rows: dict[int, int] = {}
        self.owners: dict[int, int] = {}
        self.num_freed = 0

    def apply(self, changes: Changes) -> None:
        assert np.all(np.isfinite(changes.score))
        assert np.all(changes.score > 0)
        for key, row in zip(changes.key.tolist(), changes.row.tolist(), strict=True):
            if row == -1:
                del self.owners[self.rows.pop(key)]  # only a hot key becomes cold
                self.num_freed += 1
                continue
            assert key not in self.rows, "a hot key became hot"
            assert row not in self.owners, "a row was reassigned before it was free"
            assert self.first_row <= row < self.first_row + self.capacity
            self.rows[key], self.owners[row] = row, key
            assert len(self.owners) <= self.capacity

    def matches(self, hot_set: HotSet) -> bool:
        keys, rows = hot_set.table()
        return dict(zip(keys.tolist(), rows.tolist(), strict=True)) == self.rows


_STREAMS = st.fixed_dictionaries(
    {
        "capacity": st.sampled_from([1, 2, 17, 100]),
        "num_buckets": st.sampled_from([1, 10, 100, 300]),
        "first_row": st.sampled_from([0, 1000]),
        "half_life_events": st.sampled_from([None, 1000.0, 20_000.0, math.inf]),
        "admission": st.sampled_from(["randomized", "replace_min"]),
        "seed": st.integers(0, 5),
    }
)


def drifting_stream(seed: int, num_keys: int = 30_000) -> tuple[np.ndarray, np.ndarray]:
    """Keys whose popular half changes every 10,000 keys, with scores of very different sizes."""
    random = np.random.default_rng(seed)
    keys = zipf_keys(num_keys, seed, universe=2000) + (np.arange(num_keys) // 10_000 * 700).astype(np.uint64)
    scores = (random.exponential(1.0, num_keys) * 10.0 ** random.integers(-2, 3, num_keys)).astype(np.float32)
    return keys, scores


@given(parameters=_STREAMS, stream=st.integers(0, 9), batch=st.sampled_from([313, 4096, 9000]))
def test_every_change_keeps_the_capacity_the_rows_and_the_tiers(parameters, stream, batch):
    hot_set, table = make_hot_set(**parameters), TierTable()
    follower = Follower(hot_set)
    keys, scores = drifting_stream(stream)
    for start in range(0, len(keys), batch):
        changes = hot_set.update(keys[start : start + batch], scores[start : start + batch])
        follower.apply(changes)
        table.apply(changes)
        assert hot_set.num_hot == len(follower.owners)
    assert follower.matches(hot_set)
    assert table.digest == table_digest(*hot_set.table())
    assert table.num_hot == hot_set.num_hot


@given(
    parameters=_STREAMS,
    stream=st.integers(0, 9),
    cuts=st.lists(st.integers(0, 30_000), max_size=6),
    restored=st.sets(st.integers(0, 6), max_size=3),
)
def test_any_cut_and_any_restart_give_the_same_changes_and_the_same_bytes(parameters, stream, cuts, restored):
    whole, cut = make_hot_set(**parameters), make_hot_set(**parameters)
    keys, scores = drifting_stream(stream)
    scores[::89] = np.nan  # rejected pairs do not count as events
    expected = whole.update(keys, scores)
    parts = []
    for turn, (start, stop) in enumerate(pairwise([0, *sorted(cuts), len(keys)])):
        if turn in restored:
            cut = HotSet.from_bytes(cut.to_bytes())
        parts.append(cut.update(keys[start:stop], scores[start:stop]))
    assert columns(Changes.concatenate(parts)) == columns(expected)
    assert cut.to_bytes() == whole.to_bytes()
    assert cut.sketch.num_rejected == np.isnan(scores).sum()


def test_renormalisation_in_the_middle_keeps_table_and_changes_together():
    hot_set, table = make_hot_set(20, half_life_events=2000.0), TierTable()
    follower = Follower(hot_set)
    keys, _ = drifting_stream(1, 100_000)
    for start in range(0, len(keys), 1000):  # decay renormalises about every 11,000 events, the scores sooner
        changes = hot_set.update(keys[start : start + 1000], 2.0**20)
        follower.apply(changes)
        table.apply(changes)
    assert follower.matches(hot_set)
    assert table.digest == table_digest(*hot_set.table())
    assert hot_set.num_hot > 10


@pytest.fixture(scope="module")
def warm_snapshot() -> bytes:
    """A hot set of 1000 rows after 1 M keys of a Zipf(1.05) stream of 300,000 values."""
    hot_set = make_hot_set(_CAPACITY)
    hot_set.update(zipf_keys(1_000_000, seed=1))
    return hot_set.to_bytes()


def true_hot(num_keys: int = _CAPACITY) -> np.ndarray:
    return np.arange(num_keys, dtype=np.uint64) | _FIELD


def test_the_set_is_full_after_warm_up_and_stays_full():
    hot_set = make_hot_set(_CAPACITY)
    keys = zipf_keys(1_000_000, seed=2)
    filled = []
    for start in range(0, len(keys), 8192):
        hot_set.update(keys[start : start + 8192])
        filled.append(hot_set.num_hot / _CAPACITY)
    assert min(filled[25:]) >= 0.97
    assert max(filled) <= 1.0


def test_the_rows_fill_in_a_small_sketch_too():
    hot_set = make_hot_set(_CAPACITY, 340, half_life_events=math.inf)
    hot_set.update(zipf_keys(400_000, seed=2))
    assert hot_set.num_hot == _CAPACITY  # 891 when a key had to pass the band although rows were free


def test_the_hot_keys_are_those_at_the_top_of_the_stream(warm_snapshot):
    held = hot_keys(HotSet.from_bytes(warm_snapshot))
    assert np.isin(true_hot(), held).mean() >= 0.9
    assert np.isin(true_hot(100), held).all()


def test_a_stationary_stream_changes_little_after_warm_up(warm_snapshot):
    hot_set = HotSet.from_bytes(warm_snapshot)
    changes = hot_set.update(zipf_keys(1_000_000, seed=3))
    assert changes.num_promotions <= 0.1 * _CAPACITY


def test_a_flood_of_keys_seen_once_takes_nothing_from_the_hot(warm_snapshot):
    hot_set = HotSet.from_bytes(warm_snapshot)
    before = np.isin(true_hot(), hot_keys(hot_set)).mean()
    for start in range(0, 1_000_000, 100_000):
        hot_set.update(np.arange(start, start + 100_000, dtype=np.uint64) | np.uint64(9 << 56))
    assert np.isin(true_hot(), hot_keys(hot_set)).mean() >= before - 0.02


def test_with_a_short_half_life_new_hot_keys_come_in_soon():
    hot_set = make_hot_set(_CAPACITY, half_life_events=100_000.0)
    hot_set.update(zipf_keys(1_000_000, seed=4))
    keys = zipf_keys(600_000, seed=5)
    moved = (keys < _CAPACITY | _FIELD) & (keys % np.uint64(2) == 0)
    keys[moved] += np.uint64(1 << 40)
    hot_set.update(keys)
    expected = true_hot()
    expected[::2] += np.uint64(1 << 40)
    assert np.isin(expected[::2], hot_keys(hot_set)).mean() >= 0.85
    assert np.isin(expected, hot_keys(hot_set)).mean() >= 0.85
    assert not np.isin(true_hot()[::2][100:], hot_keys(hot_set)).any()  # what is never seen again has left


def test_in_event_time_scores_decay_with_time_and_not_with_events():
    key, others = np.array([7], np.uint64) | _FIELD, np.arange(1 << 20, (1 << 20) + 4095, dtype=np.uint64) | _FIELD
    for reviews in (1, 3):
        hot_set = make_hot_set(50, 2000, half_life_ms=10_000.0)
        hot_set.update(np.repeat(key, 4096), event_time_ms=5_000)
        for review in range(1, reviews + 1):
            # Late events take no time back; and a snapshot in the middle changes nothing.
            hot_set.update(others, event_time_ms=5_000 + 20_000 * review // reviews)
            hot_set = HotSet.from_bytes(hot_set.to_bytes())
            hot_set.update(others[:1], event_time_ms=1)
        # An update advances time by one half-life at most: one update covers 20 s, or three cover a third of it each.
        expected = 4096 / 2 if reviews == 1 else 4096 / 4
        assert float(hot_set.sketch.query(key)[0]) == pytest.approx(expected, rel=0.01)
    with pytest.raises(ParameterError, match="event_time_ms"):
        hot_set.update(others)


@pytest.mark.parametrize("admission", ["randomized", "replace_min"])
def test_changes_per_4096_events_are_bounded_except_for_evicted_keys(admission):
    hot_set = make_hot_set(2000, admission=admission)
    keys = zipf_keys(400_000, seed=6)
    for start in range(0, len(keys) - 4095, 4096):
        lost_slots = hot_set.update(keys[start : start + 4095])
        assert not lost_slots.is_hot.any()
        reviewed = hot_set.update(keys[start + 4095 : start + 4096])  # the 4096th event brings the review
        assert len(reviewed) <= 256 + 1


def test_the_most_valuable_are_promoted_first():
    hot_set = make_hot_set(50, half_life_events=math.inf)
    keys = np.arange(1, 65, dtype=np.uint64) | _FIELD
    changes = hot_set.update(np.repeat(keys, 64), np.repeat(np.arange(64, 0, -1), 64))
    promoted = changes.score[changes.is_hot]
    assert len(promoted) == 50
    assert np.all(np.diff(promoted) <= 0)


def test_every_demotion_follows_a_promotion():
    hot_set = make_hot_set(_CAPACITY, half_life_events=100_000.0)
    changes = hot_set.update(zipf_keys(300_000, seed=8))
    num_demotions = len(changes) - changes.num_promotions
    assert num_demotions > 0
    assert changes.num_promotions - num_demotions == hot_set.num_hot


def test_rows_of_demoted_keys_are_reused():
    hot_set = make_hot_set(10, 100, half_life_events=5000.0, first_row=70)
    follower = Follower(hot_set)
    assigned_rows = set()
    for turn in range(40):
        keys = (np.arange(4096, dtype=np.uint64) % 10 + np.uint64(1000 * turn)) | _FIELD
        changes = hot_set.update(keys)
        follower.apply(changes)
        assigned_rows.update(changes.row[changes.is_hot].tolist())
    assert assigned_rows == set(range(70, 80))
    assert not changes.is_hot.all()


def test_rows_of_more_than_two_bytes_are_assigned_kept_and_freed():
    hot_set = make_hot_set(66_000, 40_000, first_row=5, half_life_events=2e5)
    follower = Follower(hot_set)
    keys = np.arange(66_000, dtype=np.uint64)
    for turn in range(36):  # of two sets of keys, the second drives out the first
        follower.apply(hot_set.update((keys + np.uint64(turn // 18 * 66_000)) | _FIELD))
        if turn % 12 == 11:
            hot_set = HotSet.from_bytes(hot_set.to_bytes())
            assert follower.matches(hot_set)
    assert max(follower.owners) > 65_540
    assert follower.num_freed > 1000


@pytest.mark.parametrize(
    ("capacity", "num_buckets", "expected"),
    [(2000, 680, 9776), (65_536, 300, 12_392), (65_537, 300, 14_500), (200_000, 68_000, 1_453_000)],
)
def test_beside_the_sketch_a_set_takes_a_bit_a_row_and_two_or_three_bytes_a_slot(capacity, num_buckets, expected):
    hot_set, smallest = HotSet(capacity, HotSketch(num_buckets)), HotSet(1, HotSketch(1))
    assert HotSet.growing_bytes(capacity, num_buckets) == expected
    grown = (hot_set.nbytes - hot_set.sketch.nbytes) - (smallest.nbytes - smallest.sketch.nbytes)
    assert grown == expected - HotSet.growing_bytes(1, 1)


def test_invalid_scores_change_only_the_count_of_rejections():
    hot_set = make_hot_set(10)
    assert len(hot_set.update(np.arange(1, 5000, dtype=np.uint64), math.nan)) == 0
    assert hot_set.sketch.num_rejected == 4999
    assert hot_set.sketch.position == 0
    assert hot_set.num_hot == 0


def test_an_empty_set_has_an_empty_table():
    hot_set = make_hot_set(10)
    assert [len(column) for column in hot_set.table()] == [0, 0]
    assert len(hot_set.update(np.empty(0, np.uint64))) == 0


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"capacity": 0}, "capacity 0"),
        ({"capacity": 1 << 31}, "capacity"),
        ({"capacity": 2, "first_row": -1}, "row -1"),
        ({"capacity": 2, "first_row": (1 << 31) - 2}, "below 2"),
        ({"capacity": 2, "half_life_events": 0.0}, "half_life_events"),
        ({"capacity": 2, "half_life_events": -5.0}, "half_life_events"),
        ({"capacity": 2, "half_life_events": math.nan}, "half_life_events"),
        ({"capacity": 2, "half_life_events": 63.0}, "expected 64 or more"),
        ({"capacity": 2, "half_life_ms": 0.0}, "half_life_ms"),
        ({"capacity": 2, "half_life_ms": 1000.0, "half_life_events": 1000.0}, "got both"),
    ],
)
def test_an_invalid_parameter_is_named(parameters, named):
    with pytest.raises(ParameterError, match=named):
        HotSet(sketch=HotSketch(1), **parameters)


@given(st.data())
def test_a_damaged_snapshot_is_refused(warm_snapshot, data):
    bit = data.draw(st.integers(0, 8 * len(warm_snapshot) - 1))
    damaged = bytearray(warm_snapshot)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SnapshotError):
        HotSet.from_bytes(bytes(damaged))
    with pytest.raises(SnapshotError):
        HotSet.from_bytes(warm_snapshot[: bit // 8])
