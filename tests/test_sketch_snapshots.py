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
    sketch_parameters, sketch_arrays = unpack(b"hotsketch", arrays["sketch"].tobytes())
    return parameters, arrays, sketch_parameters, sketch_arrays


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


@pytest.mark.parametrize("name", ["tiers", "limits", "free_rows", "counts", "candidates", "lines", "moments"])
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
    assert refused > (0 if name in ("lines", "moments", "candidates") else NUM_MUTATIONS // 10)


LISTED: list[tuple[int, str, Any]] = [
    (index, name, value)
    for index, names in (
        (0, ["capacity", "first_row", "half_life_events", "half_life_ms", "times", "drift"]),
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


def broken_count(index: int, value: int) -> Any:
    def break_it(parts: Any) -> None:
        parts[1]["counts"][index] = value

    return break_it


def two_keys_one_row(parts: Any) -> None:
    tiers = parts[1]["tiers"]
    hot = np.argwhere(tiers)
    tiers[tuple(hot[0])] = tiers[tuple(hot[1])]


def score_out_of_range(parts: Any) -> None:
    parts[3]["lines"].view(np.uint16)[k.FIRST_SCORE] = 0xFFFF


def no_bit_is_free(parts: Any) -> None:  # a search for a free row never ended
    parts[1]["free_rows"][:] = 0
    parts[1]["counts"][k.NUM_FREE] = 5


def more_candidates_than_room(parts: Any) -> None:
    parts[1]["candidates"] = np.zeros(100_000, np.int64)
    parts[1]["counts"][k.NUM_CANDIDATES] = 100_000


@pytest.mark.parametrize(
    "break_it",
    [
        broken_count(k.NUM_FREE, 7), broken_count(k.HAND, 40), broken_count(k.LAST_ROW, 30),
        broken_count(k.HELD_HITS, 1 << 40), broken_count(k.NUM_CANDIDATES, 5000),
        two_keys_one_row, score_out_of_range, no_bit_is_free, more_candidates_than_room,
    ],
)  # fmt: skip
def test_what_the_kernels_rest_on_is_checked(break_it):
    parts = parts_of(warm())
    break_it(parts)
    with pytest.raises(SnapshotError):
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
