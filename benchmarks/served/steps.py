"""The trainer's step with publishing against the step without, in blocks that take turns in one process."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch

from streams.assignments.shard_view import ShardView
from streams.clients.connector import Connector
from streams.clients.publisher_thread import PublisherThread
from streams.topics import Topics
from trainer.bench.feed import NUM_SHARDS, Agent, Stream
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.learning.building import build_trainer
from trainer.learning.model_config import ModelConfig
from trainer.learning.trainer import ADAPTIVE, Trainer
from trainer.serving.dense_part import save_dense_part
from trainer.serving.publishing import EmbeddingPublisher
from trainer.serving.shape import ServedShape

__all__ = ["StepTimes", "measure_steps"]

_BATCHES, _WARM = 16, 8


@dataclass
class StepTimes:
    """Seconds of a step, each the mean of a block.

    Attributes:
        wall_s: by the clock, without and with publishing, a pair for each turn.
        cpu_s: of all threads of the process.
        calls_s: by the clock, of the calls of the publisher alone, a step.
        sent_bytes: bytes that were published while measured.
    """

    wall_s: list[tuple[float, float]] = field(default_factory=list)
    cpu_s: list[tuple[float, float]] = field(default_factory=list)
    calls_s: list[float] = field(default_factory=list)
    sent_bytes: int = 0

    def summarise(self) -> dict[str, float]:
        """Medians over the turns; the ratios are those of pairs that lie side by side."""
        return {
            "step_ms": round(1000 * median(off for off, _ in self.wall_s), 2),
            "published_step_ms": round(1000 * median(on for _, on in self.wall_s), 2),
            "publisher_calls_ms": round(1000 * median(self.calls_s), 3),
            "wall_ratio": round(median(on / off for off, on in self.wall_s), 4),
            "cpu_ratio": round(median(on / off for off, on in self.cpu_s), 4),
            "bytes_a_step": round(self.sent_bytes / max(1, len(self.wall_s))),
        }


def _shape_of(
    trainer: Trainer, config: ModelConfig, num_dense: int, fields: tuple[tuple[str, str], ...]
) -> ServedShape:
    embedding = trainer.embedding
    assert isinstance(embedding, AdaptiveEmbedding)  # noqa: S101  one process
    plan = embedding.plan
    return ServedShape(
        model=config.model, dim=plan.dim, row_format=plan.row_format, hot_store=plan.hot_store or plan.row_format,
        layout=plan.layout, fields=fields, num_dense=num_dense, partitions=NUM_SHARDS,
        published=tuple(range(1, len(fields) + 1)), run=time.time_ns() // 1_000_000,
    )  # fmt: skip


def measure_steps(
    connector: Connector, *, rows: int, capacity: int, bytes_per_s: float, turns: int, block: int
) -> StepTimes:
    """Trains generated rows, and publishes to a real broker in every second block of steps.

    Args:
        connector: the broker, whose topic `embeddings` has `NUM_SHARDS` partitions.
        rows: of a step.
        capacity: unique rows, which are all owned from the first step on.
        bytes_per_s: the bound.
        turns: pairs of blocks.
        block: steps of a block.
    """
    stream, config = Stream(1), ModelConfig(capacity_rows=capacity)
    batches = [stream.take(rows) for _ in range(_BATCHES)]
    trainer = build_trainer(config, batches[0].fields, len(batches[0].dense_names), torch.device("cpu"))
    embedding = trainer.embedding
    assert isinstance(embedding, AdaptiveEmbedding)  # noqa: S101  one process
    keys, counts = np.unique(np.concatenate([one.keys.reshape(-1) for one in batches]), return_counts=True)
    for changes in Agent(capacity).fill(keys, counts.astype(np.float32)):
        embedding.migrate(changes)
    names = tuple((one.name, one.kind) for one in batches[0].fields)
    shape = _shape_of(trainer, config, len(batches[0].dense_names), names)
    views, times, step = [ShardView() for _ in range(NUM_SHARDS)], StepTimes(), 0
    with PublisherThread(connector, Topics(connector.prefix).embeddings) as sender:
        publisher = EmbeddingPublisher(
            embedding, shape, sender, bytes_per_s=bytes_per_s,
            read_dense=lambda: save_dense_part(trainer.learners[ADAPTIVE].model),
        )  # fmt: skip

        def train(count: int, *, publishes: bool) -> tuple[float, float, float]:
            nonlocal step
            gc.collect()
            calls_s, began_s, cpu_s = 0.0, time.perf_counter(), time.process_time()
            for _ in range(count):
                report = trainer.step(batches[step % _BATCHES])
                step += 1
                if publishes:
                    called_s = time.perf_counter()
                    for importance in report.importances:
                        publisher.note_keys(importance.keys, importance.scores)
                    publisher.publish(step * rows, views)
                    calls_s += time.perf_counter() - called_s
            took_s, used_s = time.perf_counter() - began_s, time.process_time() - cpu_s
            return took_s / count, used_s / count, calls_s / count

        train(_WARM, publishes=True)
        for turn in range(turns):
            found: dict[bool, tuple[float, float, float]] = {}
            for publishes in (False, True) if turn % 2 else (True, False):
                sent = publisher.sent_bytes
                found[publishes] = train(block, publishes=publishes)
                times.sent_bytes += (publisher.sent_bytes - sent) // block
            times.wall_s.append((found[False][0], found[True][0]))
            times.cpu_s.append((found[False][1], found[True][1]))
            times.calls_s.append(found[True][2])
    return times
