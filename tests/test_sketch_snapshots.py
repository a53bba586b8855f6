"""A snapshot whose checksum is right and whose contents are not: refused before a kernel reads it, or it works.

`HOTSTREAM_MUTATIONS` sets the number of mutations (default 300).
"""

from __future__ import annotations

import os
import zlib
from typing import Any

import numpy as np
import pytest

from sketch import HotSet, HotSketch, SnapshotError
from sketch import kernels as k
from sketch import tracking as t
from sketch.snapshot import pack, unpack

NUM_MUTATIONS = int(os.environ.get("HOTSTREAM_MUTATIONS", "300"))
RANDOM = np.random.default_rng(1)
KEYS = (RANDOM.zipf(1.2, 9000) % 5000).astype(np.uint64) + np.uint64(1)
EVENTS = 4096


def warm(num_buckets: int = 40, capacity: int = 30) -> HotSet:
    hot_set = HotSet(capacity, HotSketch(num_buckets, seed=3), first_row=5)
    hot_set.update(KEYS)
    return hot_set


def parts_of(hot_set: HotSet) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    parameters, arrays = unpack(b"hotset", hot_set.to_bytes())
    sketch_parameters, sketch_arrays = unpack(b"hotsketch", arrays["sketch"])
    both = ({name: array.copy() for name, array in some.items()} for some in (arrays, sketch_arrays))
    return parameters, next(both), sketch_parameters, next(both)


def forge(parts: tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]) -> bytes:
    """The snapshot with a right checksum."""
    parameters, arrays, sketch_parameters, sketch_arrays = parts
    sketch = np.frombuffer(pack(b"hotsketch", sketch_parameters, sketch_arrays), np.uint8)
    return pack(b"hotset", parameters, {**arrays, "sketch": sketch})


def test_a_snapshot_that_is_packed_again_is_the_same():
    hot_set = warm()
    again = HotSet.from_bytes(forge(parts_of(hot_set)))
    assert again.to_bytes() == hot_set.to_bytes()
    assert sorted(again.sketch.keys().tolist()) == sorted(set(hot_set.sketch.keys().tolist()))


ARRAYS = ["low", "limits", "free_rows", "counts", "candidates", "moments", "drift", "lines"]


@pytest.mark.parametrize("name", ARRAYS)
def test_mutated_arrays_are_refused_or_work(name):
    hot_set = warm()
    random = np.random.default_rng(len(name))
    refused = 0
    for _ in range(NUM_MUTATIONS):
        parts = parts_of(hot_set)
        arrays = parts[3] if name == "lines" else parts[1]
        flat = arrays[name].copy().reshape(-1)
        raw = flat.view(np.uint8)
        for _ in range(random.integers(1, 4)):
            if len(raw):
                raw[random.integers(0, len(raw))] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
        arrays[name] = flat.reshape(arrays[name].shape)
        if random.integers(0, 8) == 0:
            arrays[name] = flat[: random.integers(0, len(flat) + 1)]
        try:
            damaged = HotSet.from_bytes(forge(parts))
        except SnapshotError:
            refused += 1
            continue
        damaged.update(KEYS[:5000])
        assert 0 <= damaged.num_hot <= damaged.capacity
        damaged.table()
    assert refused > NUM_MUTATIONS // 10


LISTED: list[tuple[int, str, Any]] = [
    (index, name, value)
    for index, names in (
        (0, ["capacity", "first_row", "half_life_events", "half_life_ms", "times"]),
        (2, ["num_buckets", "slots_per_bucket", "admission", "seed", "position", "num_rejected", "scale"]),
    )
    for name in names
    for value in [-1, 1 << 31, 1 << 70, 2.5, True, "x", "nan", "inf", [], {}, [[]], "0x1p-1022"]
]


def test_parameters_of_any_type_are_refused_or_work():
    hot_set = warm()
    for index, name, value in LISTED:
        parts = parts_of(hot_set)
        parts[index][name] = value
        try:
            damaged = HotSet.from_bytes(forge(parts))
        except SnapshotError:
            continue
        damaged.update(KEYS[:5000], event_time_ms=1)
        damaged.table()


@pytest.mark.parametrize("index", [0, 2])
def test_a_missing_parameter_or_one_too_many_array_is_refused_or_ignored(index):
    for name in parts_of(warm())[index]:
        parts = parts_of(warm())
        del parts[index][name]
        with pytest.raises(SnapshotError):
            HotSet.from_bytes(forge(parts))


def broken(name: str, index: int, value: float) -> Any:
    def break_it(parts: Any) -> None:
        parts[1][name][index] = value

    return break_it


def hot_bits(parts: Any) -> Any:
    return parts[3]["lines"].reshape(-1, k.LINE_BYTES)[:, t.HOT_BYTE]


def hot_slots(parts: Any) -> Any:
    return np.argwhere(np.unpackbits(hot_bits(parts)[:, None], axis=1, bitorder="little"))


def two_keys_one_row(parts: Any) -> None:
    first, second = hot_slots(parts)[:2]
    parts[1]["low"][tuple(first)] = parts[1]["low"][tuple(second)]


def row_over_the_capacity(parts: Any) -> None:
    parts[1]["low"][tuple(hot_slots(parts)[0])] = 30


def hot_slot_that_a_bucket_lacks(parts: Any) -> None:
    hot_bits(parts)[0] |= 1 << k.MAX_SLOTS


def hot_slot_without_a_row(parts: Any) -> None:
    hot_bits(parts)[0] = ~hot_bits(parts)[0] & 0x7F


def cold_slot_with_a_row(parts: Any) -> None:
    hot_bits(parts)[:] = 0


def empty_slot_that_is_hot(parts: Any) -> None:
    bucket, slot = hot_slots(parts)[0]
    parts[3]["lines"].view(np.uint16).reshape(-1, 32)[bucket, k.FIRST_SCORE + slot] = 0


def score_out_of_range(parts: Any) -> None:
    parts[3]["lines"].view(np.uint16)[k.FIRST_SCORE] = 0xFFFF


def no_bit_is_free(parts: Any) -> None:  # a search for a free row never ended
    parts[1]["free_rows"][:] = 0
    parts[1]["counts"][t.NUM_FREE] = 5


def free_row_over_the_capacity(parts: Any) -> None:
    parts[1]["free_rows"][0] |= 1 << 40


def candidates(*listed: int) -> Any:
    def break_it(parts: Any) -> None:
        parts[1]["candidates"] = np.array(listed, np.int64)
        parts[1]["counts"][t.NUM_CANDIDATES] = len(listed)

    return break_it


def slot(code: int, index: int) -> int:
    return code << t.SLOT_BITS | t.SLOT_MASK - index


@pytest.mark.parametrize(
    "break_it",
    [
        broken("counts", t.NUM_FREE, 7), broken("counts", t.NUM_CANDIDATES, 5000),
        broken("counts", t.HAND, 40), broken("counts", t.HAND, -1),
        broken("counts", t.LAST_ROW, 30), broken("counts", t.LAST_ROW, -1),
        broken("counts", t.HELD_HITS, 1 << 40), broken("counts", t.HOT_HITS, 1 << 40), broken("counts", t.HOT_HITS, -1),
        broken("limits", t.PROMOTE, 0), broken("limits", t.DEMOTE, k.RENORMALISE_CODE + 1),
        broken("moments", 0, 0.0), broken("moments", 1, np.nan), broken("moments", 0, np.inf),
        broken("drift", 0, 1.5), broken("drift", 3, -0.5), broken("drift", 1, np.nan),
        two_keys_one_row, row_over_the_capacity, hot_slot_that_a_bucket_lacks, hot_slot_without_a_row,
        cold_slot_with_a_row, empty_slot_that_is_hot, score_out_of_range, no_bit_is_free, free_row_over_the_capacity,
        candidates(*[slot(1, 0)] * 100_000), candidates(*[slot(1, 0)] * 4095),
        candidates(slot(1, 8 * 40)), candidates(slot(1, k.MAX_SLOTS)), candidates(slot(0, 0)), candidates(-1),
        candidates(slot(0xFFFF, 0)),
    ],
)  # fmt: skip
def test_what_the_kernels_rest_on_is_checked(break_it):
    parts = parts_of(warm())
    break_it(parts)
    with pytest.raises(SnapshotError):
        HotSet.from_bytes(forge(parts))


def test_a_snapshot_of_fewer_slots_a_bucket_with_a_hot_bit_over_them_is_refused():
    hot_set = HotSet(30, HotSketch(40, 4, seed=3))
    hot_set.update(KEYS)
    parts = parts_of(hot_set)
    assert HotSet.from_bytes(forge(parts)).to_bytes() == hot_set.to_bytes()
    hot_bits(parts)[0] |= 1 << 4
    with pytest.raises(SnapshotError, match="lacks"):
        HotSet.from_bytes(forge(parts))


def test_rows_of_three_bytes_are_restored_and_checked():
    hot_set = HotSet(70_000, HotSketch(20_000, seed=3), half_life_events=float("inf"))
    for start in range(0, 1 << 20, 1 << 16):
        hot_set.update(np.arange(start, start + (1 << 16), dtype=np.uint64))
    parts = parts_of(hot_set)
    assert parts[1]["high"].shape == (1, 20_000, 7)
    assert HotSet.from_bytes(forge(parts)).to_bytes() == hot_set.to_bytes()
    parts[1]["high"][(0, *hot_slots(parts)[0])] = 2
    with pytest.raises(SnapshotError, match="over the capacity"):
        HotSet.from_bytes(forge(parts))


@pytest.mark.parametrize("times", [[0, 1], [None, 1], [5, 1 << 60]])
def test_scores_that_decayed_after_the_newest_event_are_refused(times):
    hot_set = HotSet(30, HotSketch(40), half_life_ms=1.0)
    parts = parts_of(hot_set)
    parts[0]["times"] = times
    with pytest.raises(SnapshotError, match="decayed"):
        HotSet.from_bytes(forge(parts))


def test_a_snapshot_that_claims_more_memory_than_it_has_bytes_is_refused_before_it_is_allocated():
    for index, name, value in ((2, "num_buckets", (1 << 32) - 1), (0, "capacity", (1 << 31) - 9)):
        parts = parts_of(warm())
        parts[index][name] = value
        with pytest.raises(SnapshotError, match="expected"):
            HotSet.from_bytes(forge(parts))


ONE_ARRAY = b'{"version":5,"parameters":{},"arrays":[["a","uint8",%s]]}'
HEADERS = [
    b"[" * 50_000,
    b"{}",
    b"[]",
    b'{"version":5,"parameters":[],"arrays":[]}',
    *(ONE_ARRAY % shape for shape in (b"[-1]", b"[1e30]", b"[4611686018427387904,4]", b"9", b"null")),
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_is_malformed_is_refused(header):
    body = b"hotset" + len(header).to_bytes(4, "little") + header
    with pytest.raises(SnapshotError):
        HotSet.from_bytes(body + zlib.crc32(body).to_bytes(4, "little"))
