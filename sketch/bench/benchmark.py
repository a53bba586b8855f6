"""Measures HotSketch and HotSet on streams whose truth is known: speed, recall, churn, guarantees."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch.bench.kernels import replace_min_plain, touch_lines
from sketch.hashing import Keys, shard_of
from sketch.hotset import REVIEW_CHANGES, REVIEW_EVENTS, HotSet
from sketch.hotsketch import Admission, HotSketch
from sketch.kernels import LINE_BYTES

__all__ = ["PAPER_BYTES", "Stream", "fair_recall", "measure_guarantees", "measure_recall", "measure_speed", "streams"]

PAPER_BYTES = 48  # of sketch per hot row, in the paper: four slots of 12 bytes
CRITEO_IDS = 33_762_577
_FIELD = np.uint64(1 << 56)
_SEED = np.uint64(12345)
_PLAIN_SLOTS = 4
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Stream:
    """Keys in order, and the true top keys at the end.

    Attributes:
        name: its name in the report.
        keys: (K,) uint64.
        changed_at: the index at which the distribution changed, if it changed at once.
        final_top: the keys of the final distribution, most frequent first; None if unknown.
    """

    name: str
    keys: Keys
    changed_at: int | None = None
    final_top: Keys | None = None


def zipf_ranks(num_keys: int, num_ids: int = CRITEO_IDS, exponent: float = 1.05, seed: int = 1) -> Keys:
    """Ranks (0 the most frequent) of `num_keys` independent draws from a Zipf law over `num_ids`: (K,) uint64."""
    shares = np.cumsum(np.arange(1, num_ids + 1, dtype=np.float64) ** -exponent)
    drawn = np.random.default_rng(seed).random(num_keys) * shares[-1]
    return np.minimum(np.searchsorted(shares, drawn), num_ids - 1).astype(np.uint64)


def streams(ranks: Keys, k: int) -> Iterator[Stream]:
    """The streams: stationary, half the hot set replaced at once, slow drift, a flood of keys that occur once."""
    half, odd = len(ranks) // 2, (ranks & np.uint64(1)).astype(bool)
    keys, other = ranks | _FIELD, ranks | np.uint64(2) * _FIELD
    tops = np.arange(4 * k, dtype=np.uint64)
    rotated_tops = np.where(tops & np.uint64(1), tops | np.uint64(2) * _FIELD, tops | _FIELD)
    yield Stream("stationary", keys, final_top=tops | _FIELD)
    rotates = odd & (ranks < 4 * k) & (np.arange(len(ranks)) >= half)
    yield Stream("rotated", np.where(rotates, other, keys), half, rotated_tops)
    # Rank r changes its key when a share r x golden ratio mod 1 of the stream has passed, if r is odd.
    turn = (ranks.astype(np.float64) * 0.6180339887498949) % 1.0
    drifts = odd & (np.arange(len(ranks)) >= turn * len(ranks))
    yield Stream("drift", np.where(drifts, other, keys), final_top=rotated_tops)
    flood = (np.arange(half, dtype=np.uint64) + np.uint64(1 << 40)) | np.uint64(3) * _FIELD
    mixed = np.empty(2 * (len(keys) - half) - (len(keys) % 2), np.uint64)
    mixed[0::2], mixed[1::2] = keys[half:], flood[: len(mixed) // 2]
    yield Stream("flood", np.concatenate([keys[:half], mixed]), half, tops | _FIELD)


# ---- recall and churn ----------------------------------------------------------------------------------------------


def fair_recall(reported: Keys, keys: Keys, k: int) -> float:
    """The share of the true top k that was reported; any of the keys that tie at the k-th count is right."""
    distinct, counts = np.unique(keys, return_counts=True)
    kth = np.partition(counts, max(len(counts) - k, 0))[max(len(counts) - k, 0)]
    found = np.searchsorted(distinct, reported)
    found = np.minimum(found, len(distinct) - 1)
    right = (distinct[found] == reported) & (counts[found] >= kth)
    return float(np.count_nonzero(right)) / min(k, len(counts))


class _Shards:
    """Hot sets that partition the keys by `shard_of`, with `k` rows and `bytes_per_row * k` bytes of sketch in all."""

    def __init__(self, k: int, shards: int, admission: Admission, bytes_per_row: float, *, in_event_time: bool) -> None:
        buckets = max(1, int(bytes_per_row * k / 64 / shards))
        self.k, self.num_shards = k, shards
        self.num_events = 0
        rows = k // shards
        half_life: dict[str, Any] = {"half_life_ms": 1000.0 * k} if in_event_time else {}  # an event a millisecond
        self.sets = [
            HotSet(
                rows,
                HotSketch(buckets, admission=admission, seed=shard),
                first_row=shard * rows,
                **half_life,
            )
            for shard in range(shards)
        ]
        self.promotions = self.demotions = 0

    def update(self, keys: Keys) -> None:
        shards = shard_of(keys, self.num_shards) if self.num_shards > 1 else None
        self.num_events += len(keys)
        for shard, hot_set in enumerate(self.sets):
            hot_before = hot_set.num_hot
            changes = hot_set.update(keys if shards is None else keys[shards == shard], event_time_ms=self.num_events)
            promotions = changes.num_promotions
            self.promotions += promotions
            self.demotions += promotions - (hot_set.num_hot - hot_before)

    def hot(self) -> Keys:
        tables = [hot_set.table() for hot_set in self.sets]
        return np.concatenate([keys for keys, _ in tables])

    def top(self) -> Keys:
        parts = [hot_set.sketch.top(self.k) for hot_set in self.sets]
        keys, scores = (np.concatenate([part[column] for part in parts]) for column in (0, 1))
        return keys[np.argsort(-scores, kind="stable")[: self.k]]

    def held(self, keys: Keys) -> float:
        """The share of these keys that have a slot."""
        shards = shard_of(keys, self.num_shards)
        found = [np.count_nonzero(s.sketch.query(keys[shards == i])) for i, s in enumerate(self.sets)]
        return float(sum(found)) / len(keys)


def _recall_without_decay(keys: Keys, k: int, sketches: list[HotSketch]) -> float:
    """The recall of sketches without decay, so that the scores of all shards compare."""
    shards = shard_of(keys, len(sketches))
    for shard, sketch in enumerate(sketches):
        sketch.insert(keys[shards == shard])
    tops = [sketch.top(k) for sketch in sketches]
    found, scores = (np.concatenate([top[column] for top in tops]) for column in (0, 1))
    return fair_recall(found[np.argsort(-scores, kind="stable")[:k]], keys, k)


def measure_recall(
    stream: Stream,
    k: int,
    shards: int = 1,
    admission: Admission = "randomized",
    *,
    in_event_time: bool = False,
    bytes_per_row: float = PAPER_BYTES,
    tick: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Runs a hot set of `k` rows over the stream; one row of the report's `recall`.

    Scores decay with the hot set's default half-life, in events of a shard or, with `in_event_time`, in event time.
    """
    union = _Shards(k, shards, admission, bytes_per_row, in_event_time=in_event_time)
    keys = stream.keys
    warm = len(keys) // 2
    probes = {} if stream.changed_at is None else {stream.changed_at + million * 10**6: million for million in (1, 2)}
    stops = sorted({*range(0, len(keys), _CHUNK), warm, len(keys), *(at for at in probes if at < len(keys))})
    demotions_warm = 0
    after: dict[str, float] = {}
    for start, stop in pairwise(stops):
        union.update(keys[start:stop])
        tick(stop - start)
        if stop == warm:
            demotions_warm = union.demotions
        if stop in probes and stream.final_top is not None:
            top = stream.final_top[:k]
            after[f"held_after_{probes[stop]}m"] = union.held(top)
            after[f"hot_after_{probes[stop]}m"] = float(np.isin(top, union.hot()).mean())
    hot = union.hot()
    is_stationary = stream.name in ("stationary", "flood", "tokens")
    counted = keys if is_stationary else keys[-len(keys) // 4 :]
    last = keys[-len(keys) // 10 :]
    result = {
        "stream": stream.name,
        "k": k,
        "shards": shards,
        "admission": admission,
        "half_life": "event time" if in_event_time else "events",
        "bytes_per_row": bytes_per_row,
        "recall": fair_recall(union.top(), counted, k),
        "promotions": union.promotions,
        "demotions": union.demotions,
        "demotions_second_half": union.demotions - demotions_warm,
        "hot_set_recall": fair_recall(hot, counted, k),
        "covered": float(np.isin(last, hot).mean()),
        "rows_used": len(hot) / k,
        "sketch_bytes": sum(hot_set.sketch.nbytes for hot_set in union.sets),
        "hot_set_bytes": sum(hot_set.nbytes for hot_set in union.sets),
        **after,
    }
    if is_stationary:
        sketches = [HotSketch(s.sketch.num_buckets, admission=admission, seed=s.sketch.seed) for s in union.sets]
        result["recall_without_decay"] = _recall_without_decay(keys, k, sketches)
    if stream.final_top is not None:
        result["hot_of_final_top"] = float(np.isin(stream.final_top[:k], hot).mean())
        result["held_of_final_top"] = union.held(stream.final_top[:k])
    return result


# ---- speed ---------------------------------------------------------------------------------------------------------


def measure_speed(
    keys: Keys, num_buckets: int, *, times: int = 5, tick: Callable[[int], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Keys per second of processor time in one thread, one row per admission.

    The best of `times` rounds, each on a new table whose pages are mapped. A round measures everything once, so that
    other load on the machine affects all figures alike. A hot set has a row for each 48 bytes of its sketch. *Fill* is
    its rate from empty until its reviews can have filled it; *update* is its rate after it has seen the stream.
    """
    ones = np.ones(len(keys), np.float32)
    uniform = np.random.default_rng(7).integers(0, 1 << 63, len(keys), np.uint64)
    admissions: tuple[Admission, ...] = ("randomized", "replace_min")

    def lines() -> npt.NDArray[np.uint32]:
        return np.ones((num_buckets, 16), np.uint32)

    def fresh(admission: Admission) -> HotSketch:
        sketch = HotSketch(num_buckets, admission=admission)
        sketch.table[0][:] = 0
        return sketch

    def fresh_set(admission: Admission) -> HotSet:
        return HotSet(max(1, num_buckets * LINE_BYTES // PAPER_BYTES), fresh(admission))

    def plain() -> tuple[Keys, npt.NDArray[np.float32]]:
        shape = (num_buckets, _PLAIN_SLOTS)
        return np.full(shape, 0, np.uint64), np.full(shape, 0, np.float32)

    kept = {admission: fresh(admission) for admission in admissions}
    kept_sets = {admission: fresh_set(admission) for admission in admissions}
    for admission in admissions:
        kept[admission].insert(keys, ones)
        kept_sets[admission].update(keys, ones)
    num_fill = min(len(keys), -(-kept_sets["randomized"].capacity // REVIEW_CHANGES) * REVIEW_EVENTS)
    first = keys[:num_fill], ones[:num_fill]
    touch_lines(lines(), keys[:1000], _SEED)
    replace_min_plain(*plain(), keys[:1000], ones, _SEED)
    measured: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "limit_per_s": (lines, lambda table: touch_lines(table, uniform, _SEED)),
        "stream_limit_per_s": (lines, lambda table: touch_lines(table, keys, _SEED)),
        "replace_min_per_s": (plain, lambda table: replace_min_plain(*table, keys, ones, _SEED)),
    }
    for admission in admissions:
        measured[f"insert {admission}"] = (lambda a=admission: fresh(a), lambda sketch: sketch.insert(keys, ones))  # type: ignore[misc]
        measured[f"update {admission}"] = (lambda a=admission: kept_sets[a], lambda hot_set: hot_set.update(keys, ones))  # type: ignore[misc]
        measured[f"insert first {admission}"] = (lambda a=admission: fresh(a), lambda sketch: sketch.insert(*first))  # type: ignore[misc]
        measured[f"fill {admission}"] = (lambda a=admission: fresh_set(a), lambda hot_set: hot_set.update(*first))  # type: ignore[misc]
        measured[f"query {admission}"] = (lambda a=admission: kept[a], lambda sketch: sketch.query(keys))  # type: ignore[misc]
    best = dict.fromkeys(measured, 0.0)
    num_keys = {name: num_fill if "first" in name or "fill" in name else len(keys) for name in measured}
    num_changes = {admission: len(fresh_set(admission).update(*first)) for admission in admissions}
    for _ in range(times):
        for name, (prepare, run) in measured.items():
            prepared = prepare()
            start = time.thread_time()  # excludes other processes on this core
            run(prepared)
            best[name] = max(best[name], num_keys[name] / (time.thread_time() - start))
            tick(1)
    limits = {name: rate for name, rate in best.items() if name.endswith("_per_s")}
    return [
        {
            "buckets": num_buckets,
            "admission": admission,
            "inserts_per_s": best[f"insert {admission}"],
            "queries_per_s": best[f"query {admission}"],
            "hot_rows": kept_sets[admission].capacity,
            "updates_per_s": best[f"update {admission}"],
            "fills_per_s": best[f"fill {admission}"],
            "fill_changes_per_s": best[f"fill {admission}"] * num_changes[admission] / num_fill,
            "fill_of_insert": best[f"fill {admission}"] / best[f"insert first {admission}"],
            "bytes": kept[admission].nbytes,
            **limits,
        }
        for admission in admissions
    ]


def measure_frequent_items(keys: Keys, log2_slots: int) -> float | None:
    """Keys per second of the DataSketches package, or None if it is not installed."""
    try:
        from datasketches import frequent_items_sketch  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415
    except ImportError:
        return None
    sketch = frequent_items_sketch(log2_slots)
    listed = [int(key) for key in keys[:1_000_000]]
    start = time.perf_counter()
    for key in listed:
        sketch.update(key)
    return len(listed) / (time.perf_counter() - start)


# ---- guarantees ----------------------------------------------------------------------------------------------------


def bound_any_stream(share: float, slots: int, num_buckets: int) -> float:
    """Theorem 3.1: a lower bound of the probability that a key with this share of all scores has a slot."""
    return max(0.0, 1.0 - (1.0 - share) / ((slots - 1) * share * num_buckets))


def bound_zipf(share: float, slots: int, num_buckets: int, exponent: float) -> float:
    """Theorem 3.3: the same if the other keys follow a Zipf law of this exponent."""
    eta = np.logspace(-8, 2, 20_001)
    inner = 1.0 - eta / ((slots - 1) * share * (eta * num_buckets) ** exponent)
    return max(0.0, float(np.max(3.0**-eta * inner)))


def measure_guarantees(
    num_keys: int, num_buckets: int = 10_000, slots: int = 4, *, num_ids: int = 1_000_000
) -> Iterator[dict[str, Any]]:
    """The share of planted keys that have a slot at the end of a Zipf stream, beside the paper's bounds."""
    for exponent in (1.1, 1.5, 2.0):
        for share in (3e-5, 1e-4, 3e-4, 1e-3):
            planted = max(1, min(200, int(0.1 / share)))
            keys = zipf_ranks(num_keys, num_ids, exponent, seed=3) | _FIELD
            random = np.random.default_rng(4)
            times = round(share * num_keys)
            positions = random.choice(num_keys, planted * times, replace=False)
            keys[positions] = np.repeat(np.arange(planted, dtype=np.uint64) | np.uint64(9) * _FIELD, times)
            row: dict[str, Any] = {"exponent": exponent, "share": share, "planted": planted}
            for admission in ("replace_min", "randomized"):
                sketch = HotSketch(num_buckets, slots, admission)
                sketch.insert(keys)
                held = np.count_nonzero(sketch.query(np.arange(planted, dtype=np.uint64) | np.uint64(9) * _FIELD))
                row[admission] = float(held) / planted
            row["bound_any_stream"] = bound_any_stream(share, slots, num_buckets)
            row["bound_zipf"] = bound_zipf(share, slots, num_buckets, exponent)
            yield row
