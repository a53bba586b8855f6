"""HotSketch against a slow, obvious oracle of its documented rule, and its stated bounds."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sketch import HotSet, HotSketch, ParameterError, SnapshotError
from sketch.hotsketch import MAX_SCORE

_MASK = (1 << 64) - 1
_GOLDEN_RATIO = 0x9E3779B97F4A7C15
_FRACTION_BITS = 41  # of the 52 bits of a float64's mantissa the 11 highest are kept


def _mix64(word: int) -> int:
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _MASK
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return word ^ word >> 33


def _decode(code: int) -> float:
    return math.ldexp(1 + code % 2048 / 2048, code // 2048) - 1


def _encode(units: float, added: int) -> int:
    (bits,) = struct.unpack("<q", struct.pack("<d", units + 1.0))
    return ((bits + added) >> _FRACTION_BITS) - (1023 << 11)


@dataclass
class Oracle:
    """The whole rule in plain integers: a bucket is a list of [key, score code]."""

    num_buckets: int
    slots: int
    always_admit: bool
    seed: int
    position: int = 0
    num_rejected: int = 0
    scale: float = 8.0
    buckets: list[list[list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buckets = [[] for _ in range(self.num_buckets)]
        self.mixed_seed = _mix64((self.seed + 1) * _GOLDEN_RATIO & _MASK)

    def locate(self, key: int) -> tuple[int, int]:
        mixed = _mix64(key ^ self.mixed_seed)
        product = (mixed >> 32) * self.num_buckets
        remainder = (product & 0xFFFFFFFF) >> (self.num_buckets.bit_length() - 1)
        return product >> 32, remainder << 32 | mixed & 0xFFFFFFFF

    def insert(self, key: int, score: float) -> None:
        score = float(np.float32(score))
        if not 0 < score <= MAX_SCORE:
            self.num_rejected += 1
            return
        number, tag = self.locate(key)
        bucket = self.buckets[number]
        random = (tag ^ self.position * _GOLDEN_RATIO & _MASK) * 0xD1342543DE82EF95 & _MASK
        random ^= random >> 32
        self.position += 1
        rounding, uniform = random << 9 & ((1 << _FRACTION_BITS) - 1), (random >> 12) / (1 << 52)
        units = score * self.scale
        held = next((entry for entry in bucket if entry[0] == key), None)
        if held is not None:
            held[1] = new = _encode(_decode(held[1]) + units, rounding)
        elif len(bucket) < self.slots:
            new = _encode(units, rounding)
            if new:
                bucket.append([key, new])
        else:
            victim = min(bucket, key=lambda entry: entry[1])
            least = _decode(victim[1])
            new = _encode(least + units, rounding)
            if self.always_admit or uniform == 0 or least + units + 1 < units / uniform + 1:
                victim[:] = [key, new]
            # A rejected newcomer renormalises, too: the kernel does not check.
        if new >= 30 * 2048:
            self.renormalise()

    def renormalise(self) -> None:
        for bucket in self.buckets:
            for entry in bucket:
                entry[1] = max(1, _encode(_decode(entry[1]) / 256, 1 << (_FRACTION_BITS - 1)))
        self.scale /= 256

    def decay(self, factor: float) -> None:
        self.scale /= factor
        while self.scale > 1 << 11:
            self.renormalise()

    def query(self, key: int) -> float:
        bucket = self.buckets[self.locate(key)[0]]
        return next((float(np.float32(_decode(code) / self.scale)) for held, code in bucket if held == key), 0.0)

    def top(self) -> list[tuple[int, float]]:
        held = [
            (-code, number, slot, key)
            for number, bucket in enumerate(self.buckets)
            for slot, (key, code) in enumerate(bucket)
        ]
        return [(key, float(np.float32(_decode(-code) / self.scale))) for code, _, _, key in sorted(held)]


def _keys(listed: list[int]) -> np.ndarray:
    return np.array(listed, np.uint64)


def _top(sketch: HotSketch, k: int = 1 << 20) -> list[tuple[int, float]]:
    keys, scores = sketch.top(k)
    return list(zip(keys.tolist(), scores.tolist(), strict=True))


_SCORE = st.sampled_from([1.0, 0.25, 3.0, 1e-5, 1e3, 2.0**20, 0.0, -1.0, math.nan, math.inf]) | st.floats(
    2.0**-20, 100.0, width=32
)
_BATCH = st.lists(st.tuples(st.integers(0, 24), _SCORE), min_size=1, max_size=90)
_STEP = st.one_of(_BATCH, _BATCH, _BATCH, st.sampled_from([0.5, 0.999, 1.0, 1e-3, 1e-9]), st.just("snapshot"))
_WORLD = [0, 1, _MASK, 1 << 63, *((number % 26 + 1) << 56 | number * 0x9E3779B1 for number in range(1, 22))]


@given(
    num_buckets=st.sampled_from([1, 2, 3, 4, 5, 7, 8, 255, 256, 257]),
    slots=st.integers(1, 7),
    admission=st.sampled_from(["randomized", "replace_min"]),
    seed=st.sampled_from([0, 1, 12345, _MASK]),
    steps=st.lists(_STEP, max_size=6),
)
def test_the_sketch_equals_the_oracle(num_buckets, slots, admission, seed, steps):
    sketch = HotSketch(num_buckets, slots, admission, seed)
    oracle = Oracle(num_buckets, slots, admission == "replace_min", seed)
    for step in steps:
        if step == "snapshot":
            sketch = HotSketch.from_bytes(sketch.to_bytes())
        elif isinstance(step, float):
            sketch.decay(step)
            oracle.decay(step)
        else:
            rejected = oracle.num_rejected
            got = sketch.insert(_keys([_WORLD[key] for key, _ in step]), np.array([score for _, score in step]))
            for key, score in step:
                oracle.insert(_WORLD[key], score)
            assert got == oracle.num_rejected - rejected
        assert (sketch.scale, sketch.position, sketch.num_rejected) == (
            oracle.scale,
            oracle.position,
            oracle.num_rejected,
        )
        assert _top(sketch) == oracle.top()
        assert sketch.query(_keys(_WORLD)).tolist() == [oracle.query(key) for key in _WORLD]


@pytest.mark.parametrize("admission", ["randomized", "replace_min"])
@pytest.mark.parametrize("num_buckets", [3, 100, 300])
def test_a_long_skewed_stream_ends_where_the_oracle_ends(num_buckets, admission):
    random = np.random.default_rng(num_buckets)
    keys = (random.zipf(1.3, 6_000) % 5_000).astype(np.uint64) | np.uint64(0x90 << 56)
    scores = random.exponential(2.0, len(keys)).astype(np.float32)
    sketch = HotSketch(num_buckets, 5, admission, seed=7)
    oracle = Oracle(num_buckets, 5, admission == "replace_min", seed=7)
    sketch.insert(keys, scores)
    for key, score in zip(keys.tolist(), scores.tolist(), strict=True):
        oracle.insert(key, score)
    assert _top(sketch) == oracle.top()
    assert _top(sketch, 10) == oracle.top()[:10]


@given(
    admission=st.sampled_from(["randomized", "replace_min"]),
    num_buckets=st.sampled_from([1, 5, 256, 300]),
    seed=st.integers(0, 50),
    cuts=st.lists(st.integers(0, 3000), max_size=8),
    snapshot_at=st.integers(0, 8),
)
def test_any_cut_into_batches_and_a_snapshot_anywhere_leave_the_same_bytes(
    admission, num_buckets, seed, cuts, snapshot_at
):
    random = np.random.default_rng(seed)
    keys = (random.zipf(1.2, 3000) % 4000 + 1).astype(np.uint64)
    scores = random.exponential(1.0, 3000).astype(np.float32)
    scores[::97] = np.nan
    whole, cut = (HotSketch(num_buckets, admission=admission, seed=seed) for _ in range(2))
    whole.insert(keys, scores)
    bounds = [0, *sorted(cuts), 3000]
    for turn, (start, stop) in enumerate(pairwise(bounds)):
        cut.insert(keys[start:stop], scores[start:stop])
        if turn == snapshot_at:
            cut = HotSketch.from_bytes(cut.to_bytes())
    assert cut.to_bytes() == whole.to_bytes()


@pytest.mark.parametrize("num_buckets", [1, 2, 3, 100, 255, 256, 257, 10_128])
@pytest.mark.parametrize("seed", [0, _MASK])
def test_top_gives_every_held_key_back_exactly(num_buckets, seed):
    random = np.random.default_rng(num_buckets)
    extremes = _keys([0, 1, 2, 1 << 32, (1 << 32) - 1, 1 << 56, 1 << 63, (1 << 63) - 1, _MASK - 1, _MASK])
    keys = np.concatenate([random.integers(0, _MASK, 4 * num_buckets + 40, np.uint64, endpoint=True), extremes])
    random.shuffle(keys)
    sketch = HotSketch(num_buckets, seed=seed)
    sketch.insert(keys)
    held, scores = sketch.top(1 << 20)
    assert 1 <= len(held) <= 7 * num_buckets
    assert len(np.unique(held)) == len(held)
    assert np.isin(held, keys).all()
    np.testing.assert_array_equal(sketch.query(held), scores)
    assert np.all(scores > 0)
    assert np.all(np.diff(scores) <= 0)
    if num_buckets >= 100:
        assert len(held) > 0.9 * len(keys)


def test_keys_that_differ_in_one_bit_are_distinguished():
    keys = np.unique(_keys([0x9A3C << 40 ^ 1 << bit for bit in range(64)]))
    for num_buckets in (1, 7, 256, 1000):
        sketch = HotSketch(num_buckets)
        sketch.insert(keys[:7])
        assert sketch.query(keys)[7:].tolist() == [0.0] * (len(keys) - 7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1e-60, MAX_SCORE * 1.001, 3e38, 1e300])
def test_an_invalid_score_is_rejected_and_changes_only_the_count_of_rejections(bad):
    sketch, clean = HotSketch(16), HotSketch(16)
    assert sketch.insert(_keys([1, 2, 3, 2]), np.array([1.0, bad, 2.0, bad])) == 2
    clean.insert(_keys([1, 3]), np.array([1.0, 2.0]))
    assert sketch.num_rejected == 2
    assert _top(sketch) == _top(clean)
    assert sketch.position == clean.position
    assert HotSketch.from_bytes(sketch.to_bytes()).num_rejected == 2


def test_the_largest_score_and_the_smallest_are_counted():
    sketch = HotSketch(16)
    assert sketch.insert(_keys([1, 2, 3]), np.array([MAX_SCORE, 2.0**-14, 1e-45])) == 0
    assert sketch.query(_keys([1]))[0] == pytest.approx(MAX_SCORE, rel=1 / 2048)
    assert sketch.query(_keys([2]))[0] == 2.0**-14
    assert sketch.query(_keys([3]))[0] == 0.0  # rounded down, as nearly every score so small


@given(st.lists(st.tuples(st.integers(1, 15), st.integers(1, 4)), max_size=60), st.integers(1, 3), st.integers(1, 4))
def test_replace_min_never_underestimates_and_overestimates_by_the_smallest_score_at_most(pairs, num_buckets, slots):
    # Scores are multiples of 1/256 and stay below 1, where the codes are exact: no allowance for rounding.
    sketch = HotSketch(num_buckets, slots, "replace_min")
    oracle = Oracle(num_buckets, slots, always_admit=True, seed=0)
    sketch.insert(_keys([key for key, _ in pairs]), np.array([score / 256 for _, score in pairs]))
    bucket_of = {key: oracle.locate(key)[0] for key, _ in pairs}
    held = _top(sketch)
    for key, estimate in held:
        truth = sum(score for other, score in pairs if other == key) / 256
        in_bucket = [score for other, score in held if bucket_of[other] == bucket_of[key]]
        slack = min(in_bucket) if len(in_bucket) == slots else 0.0
        assert truth <= estimate <= truth + slack


def test_replace_min_underestimates_by_rounding_at_most_on_a_long_stream():
    random = np.random.default_rng(3)
    keys = (random.zipf(1.2, 200_000) % 20_000 + 1).astype(np.uint64)
    scores = random.exponential(3.0, len(keys)).astype(np.float32)
    sketch = HotSketch(500, admission="replace_min")
    sketch.insert(keys, scores)
    held, estimates = sketch.top(1 << 20)
    truth = np.bincount(keys.astype(np.int64), scores)[held.astype(np.int64)]
    counts = np.bincount(keys.astype(np.int64))[held.astype(np.int64)]
    assert np.all(estimates >= truth * (1 - 2 * np.sqrt(counts) / 2048))


def test_rounding_is_unbiased_however_small_the_increments_are():
    # At the end of the sum the codes stand 256 units apart, and an increment is 20 units.
    totals = []
    for seed in range(24):
        sketch = HotSketch(1, seed=seed)
        sketch.insert(_keys([5] * 50_000), 0.01)
        totals.append(float(sketch.query(_keys([5]))[0]))
    assert abs(np.mean(totals) - 500.0) < 500.0 * 0.005


def test_a_held_key_without_competitors_is_exact_to_a_bin():
    sketch = HotSketch(1)
    sketch.insert(_keys([9] * 1000), 1.5)
    assert sketch.query(_keys([9]))[0] == pytest.approx(1500.0, rel=0.02)


def test_randomized_admission_gives_a_newcomer_its_share_and_no_more():
    # The bucket's smallest score is 9; a newcomer of score 1 takes the slot in 1 of 10 cases, with a score of 10 then.
    admitted = 0
    for seed in range(4000):
        sketch = HotSketch(1, 1, seed=seed)
        sketch.insert(_keys([1, 2]), np.array([9.0, 1.0]))
        score = float(sketch.query(_keys([2]))[0])
        assert score in (0.0, 10.0)
        assert float(sketch.query(_keys([1]))[0]) == (9.0 if score == 0 else 0.0)
        admitted += score > 0
    assert abs(admitted - 400) < 5 * 19


def test_under_randomized_admission_a_challenged_key_is_not_overestimated_on_average():
    estimates = []
    for seed in range(400):
        random = np.random.default_rng(seed)
        keys = np.concatenate([np.full(30, 1), np.arange(100, 300)]).astype(np.uint64)
        random.shuffle(keys)
        sketch = HotSketch(1, 2, seed=seed)
        sketch.insert(keys)
        estimates.append(float(sketch.query(_keys([1]))[0]))
    spread = np.std(estimates) / len(estimates) ** 0.5
    assert 15 < np.mean(estimates) < 30 + 4 * spread


def test_a_flood_of_newcomers_leaves_the_heavy_keys_where_they_are():
    sketch = HotSketch(100, seed=2)
    sketch.insert(np.arange(1, 301, dtype=np.uint64), 1000.0)
    sketch.insert(np.arange(1 << 60, (1 << 60) + 20_000, dtype=np.uint64))
    assert np.count_nonzero(sketch.query(np.arange(1, 301, dtype=np.uint64))) >= 290


def test_a_key_with_a_huge_total_keeps_growing():
    sketch = HotSketch(4)
    light = 0.0
    for _ in range(1000):
        before = float(sketch.query(_keys([1]))[0])
        sketch.insert(_keys([1, 2]), np.array([50_000.0, 50.0]))
        assert float(sketch.query(_keys([1]))[0]) > before
        light += 50.0
    heavy = float(sketch.query(_keys([1]))[0])
    assert heavy == pytest.approx(5e7, rel=0.02)
    assert float(sketch.query(_keys([2]))[0]) == pytest.approx(light, rel=0.02)


def test_the_largest_scores_for_ever_never_overflow_the_codes():
    sketch = HotSketch(1)
    sketch.insert(_keys([1] * 100_000), MAX_SCORE)
    assert float(sketch.query(_keys([1]))[0]) == pytest.approx(MAX_SCORE * 1e5, rel=0.1)
    assert int(sketch.codes.max()) < 1 << 16
    assert sketch.scale < 2048


def test_renormalisation_keeps_the_ratios_of_the_scores():
    keys = np.arange(1, 8, dtype=np.uint64)
    sketch = HotSketch(1)
    sketch.insert(keys, 2.0 ** np.arange(7) * 1000)
    before, scale = sketch.query(keys), sketch.scale
    for _ in range(9):
        sketch.decay(0.5)
    assert sketch.scale == scale * 2  # grown 512-fold, and divided by 256 once
    np.testing.assert_allclose(sketch.query(keys) * 2.0**9, before, rtol=1 / 4096)


def test_scores_keep_their_order_through_any_number_of_renormalisations():
    keys = np.arange(1, 8, dtype=np.uint64)
    sketch = HotSketch(1)
    sketch.insert(keys, 2.0 ** np.arange(7) * 1000)
    for _ in range(64):
        sketch.decay(0.5)
        assert 0 < sketch.scale <= 1 << 11
        assert np.all(np.diff(sketch.query(keys)) >= 0)
        assert np.all(sketch.query(keys) > 0)


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.25, 2.0**-7])
def test_decay_multiplies_every_score_and_later_scores_count_in_full(factor):
    sketch = HotSketch(16)
    sketch.insert(_keys([1, 2]), np.array([64.0, 3.0]))
    sketch.decay(factor)
    assert sketch.query(_keys([1, 2])).tolist() == [64.0 * factor, 3.0 * factor]
    sketch.insert(_keys([3]), 5.0)
    assert sketch.query(_keys([3]))[0] == pytest.approx(5.0, rel=1 / 1024)


def test_after_decay_to_nothing_new_keys_take_over_the_sketch():
    sketch = HotSketch(2, seed=1)
    sketch.insert(np.arange(1, 100, dtype=np.uint64), 1e6)
    sketch.decay(1e-12)
    fresh = np.arange(1000, 1014, dtype=np.uint64)
    sketch.insert(np.repeat(fresh, 50))
    assert np.isin(sketch.top(5)[0], fresh).all()


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.0001, math.nan, math.inf])
def test_a_decay_factor_outside_0_to_1_is_refused(factor):
    with pytest.raises(ParameterError, match="decay factor"):
        HotSketch(4).decay(factor)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"num_buckets": 0}, "num_buckets"),
        ({"num_buckets": -1}, "num_buckets"),
        ({"num_buckets": 1 << 32}, "num_buckets"),
        ({"num_buckets": 4, "slots_per_bucket": 0}, "slots_per_bucket"),
        ({"num_buckets": 4, "slots_per_bucket": 8}, "slots_per_bucket"),
        ({"num_buckets": 4, "admission": "always"}, "admission"),
        ({"num_buckets": 4, "seed": -1}, "seed"),
        ({"num_buckets": 4, "seed": 1 << 64}, "seed"),
    ],
)
def test_an_invalid_parameter_is_named(parameters, named):
    with pytest.raises(ParameterError, match=named):
        HotSketch(**parameters)


@pytest.mark.parametrize(
    ("keys", "scores"), [(np.ones((2, 2)), 1.0), (np.ones(3), np.ones(2)), (np.ones(3), np.ones((3, 1)))]
)
def test_arrays_of_different_shapes_are_refused(keys, scores):
    with pytest.raises(ParameterError, match="expected both"):
        HotSketch(4).insert(keys.astype(np.uint64), scores)


def test_empty_batches_change_nothing():
    sketch = HotSketch(4)
    before = sketch.to_bytes()
    assert sketch.insert(_keys([])) == 0
    assert sketch.query(_keys([])).shape == (0,)
    assert sketch.top(5)[0].shape == (0,)
    assert sketch.to_bytes() == before


def test_read_only_strided_and_list_arguments_count_like_any_other():
    plain, other = HotSketch(8), HotSketch(8)
    keys = np.arange(40, dtype=np.uint64)
    plain.insert(keys[::2].copy(), np.full(20, 2.0, np.float32))
    frozen = keys.copy()
    frozen.flags.writeable = False
    other.insert(frozen[::2], [2.0] * 20)
    assert other.to_bytes() == plain.to_bytes()


def test_a_bucket_is_one_cache_line():
    assert HotSketch(1000).nbytes == 64_000
    assert HotSketch(10_128).nbytes == 648_192


_SNAPSHOT = HotSketch(3, seed=5).to_bytes()


@given(st.data())
def test_a_damaged_snapshot_is_refused(data):
    bit = data.draw(st.integers(0, 8 * len(_SNAPSHOT) - 1))
    damaged = bytearray(_SNAPSHOT)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SnapshotError):
        HotSketch.from_bytes(bytes(damaged))
    with pytest.raises(SnapshotError):
        HotSketch.from_bytes(_SNAPSHOT[: bit // 8])


@pytest.mark.parametrize("other", [b"", b"hotsketch", HotSet(1, HotSketch(1)).to_bytes(), _SNAPSHOT + b"x"])
def test_bytes_of_another_kind_are_refused(other):
    with pytest.raises(SnapshotError):
        HotSketch.from_bytes(other)
