"""The rate at which an agent publishes the changes of a hot set that fills, compared with a bare producer.

- *encode*: `ChangeEncoder` alone, from the columns of changes to the records that a producer takes.
- *publish*: encoder and `Publisher`, until the broker has acknowledged every record.
- *bare*: an aiokafka producer of the same records, made beforehand, in batches as large; its limit is the cost of
  aiokafka's `append`, about a microsecond a record.

Each is the best of several rounds, one after the other in turn. A rate per core counts the CPU time of this process, so
that it does not depend on the broker.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from sketch.changes import NO_ROW, Changes
from streams.clients.connector import Connector
from streams.clients.publisher import Publisher
from streams.keys import CRITEO_FIELDS, FIELD_SHIFT
from streams.records import ChangeEncoder, Encoded

__all__ = ["measure_fill"]

_BURST = 1024  # changes of one importance record while a hot set fills
_PERIOD = 8  # one change of so many is a demotion


def measure_fill(connector: Connector, topic: str, *, num_bursts: int = 60, rounds: int = 7) -> dict[str, float]:
    """Changes per second of the encoder, of encoder and publisher, and of a bare producer, into one partition."""
    gc.freeze()  # as in an agent
    try:
        return asyncio.run(_measure(connector, topic, _make_bursts(num_bursts), rounds))
    finally:
        gc.unfreeze()


def _make_bursts(num_bursts: int) -> list[Changes]:
    random = np.random.default_rng(0)
    numbers = np.arange(1, len(CRITEO_FIELDS) + 1, dtype=np.uint64) << FIELD_SHIFT
    rows = np.where(np.arange(_BURST) % _PERIOD == 0, NO_ROW, np.arange(_BURST)).astype(np.int32)
    return [
        Changes(
            random.choice(numbers, _BURST) | random.integers(0, 1 << 32, _BURST, np.uint64),
            rows,
            random.exponential(10, _BURST).astype(np.float32),
        )
        for _ in range(num_bursts)
    ]


def _encode(burst: Changes, number: int) -> list[Encoded]:
    now_ms = 1_700_000_000_000 + number
    encoder = ChangeEncoder(
        shard=0, epoch=1, source=(0, number), event_time_ms=now_ms, ingest_ms=now_ms, fields=CRITEO_FIELDS
    )
    return encoder.encode(burst, number * _BURST + 1)


async def _measure(connector: Connector, topic: str, bursts: list[Changes], rounds: int) -> dict[str, float]:
    publisher, producer = Publisher(connector), connector.create_batch_producer()
    await publisher.start()
    await producer.start()
    encoded = [_encode(burst, number) for number, burst in enumerate(bursts)]  # also compiles the kernel

    async def encode() -> None:
        for number, burst in enumerate(bursts):
            _encode(burst, number)

    async def publish() -> None:
        for number, burst in enumerate(bursts):
            await publisher.send(topic, 0, _encode(burst, number), timestamp_ms=number)
        await publisher.flush()

    async def send_bare() -> None:
        await _send_bare(producer, topic, encoded)

    works = {"encode": encode, "publish": publish, "bare": send_bare}
    best = dict.fromkeys(works, (np.inf, np.inf))
    try:
        for _ in range(rounds):
            for name, work in works.items():
                best[name] = _faster(best[name], await _time(work))
    finally:
        await producer.stop()
    await publisher.stop()
    return _figures(best, len(bursts) * _BURST)


async def _send_bare(producer: Any, topic: str, encoded: list[list[Encoded]]) -> None:
    batch = producer.create_batch()
    for number, records in enumerate(encoded):
        for key, value, headers in records:
            if batch.append(key=key, value=value, timestamp=number, headers=headers) is None:
                await (await producer.send_batch(batch, topic, partition=0))
                batch = producer.create_batch()
                batch.append(key=key, value=value, timestamp=number, headers=headers)
    await (await producer.send_batch(batch, topic, partition=0))


async def _time(work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Seconds of wall clock and of CPU."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    await work()
    return time.perf_counter() - start_s, time.process_time() - start_cpu_s


def _faster(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), min(one[1], other[1])


def _figures(best: dict[str, Any], num_changes: int) -> dict[str, float]:
    figures = {f"{name}_changes_per_s": num_changes / seconds for name, (seconds, _) in best.items()}
    per_core = {f"{name}_changes_per_core_s": num_changes / seconds for name, (_, seconds) in best.items()}
    return {
        **figures,
        **per_core,
        "ratio": best["bare"][0] / best["publish"][0],
        "ratio_per_core": best["bare"][1] / best["publish"][1],
        "changes": num_changes,
    }
