"""Broker, agent, trainer and replay of one measurement, as processes."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.chaos.supervised import Supervised
from benchmarks.served.arrivals import Arrivals
from benchmarks.served.trained import Step, read_steps
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.processes.parent_death import die_with_parent
from streams.topics import Topics
from trainer.serving.replica import Replica

__all__ = ["measure_rate", "replay", "watch"]

_SHARDS, _STALL_S = 2, 120.0


def replay(kafka: KafkaConfig, folder: Path, log: Path, *rate: str) -> Supervised:
    """Starts to replay a log."""
    name = f"replay-{kafka.prefix}"
    arguments = ["replay", log, "--schema", "criteo-kaggle", *_where(kafka), *rate]
    process = Supervised(name, arguments, folder)
    process.start()
    return process


def _where(kafka: KafkaConfig) -> list[str]:
    return ["--prefix", kafka.prefix, "--bootstrap-servers", kafka.bootstrap_servers]


class _Pipeline:
    """An agent, and a trainer that publishes and notes its steps."""

    def __init__(self, stack: ExitStack, kafka: KafkaConfig, folder: Path, capacity: int, published: int) -> None:
        topics = Topics(kafka.prefix)
        create_topics(kafka, [*topics.specs(shards=_SHARDS), topics.embeddings_spec(shards=_SHARDS)])
        agent = Supervised(
            f"agent-{kafka.prefix}",
            ["agent", "--capacity", capacity, "--group", kafka.prefix, *_where(kafka)],
            folder,
        )
        agent.start()
        stack.callback(agent.kill)
        self.notes, self.log = folder / f"{kafka.prefix}.notes", folder / f"train-{kafka.prefix}.log"
        self.notes.touch()
        train = ["train", "--capacity", str(capacity), "--publish", "--publish-bytes", str(published), *_where(kafka)]
        command = [sys.executable, "-m", "benchmarks.served.trained", str(self.notes), *train]
        with self.log.open("wb") as file:
            self._trainer = subprocess.Popen(die_with_parent(command), stdout=file, stderr=file)
        stack.callback(self._end)

    def _end(self) -> None:
        self._trainer.kill()
        self._trainer.wait()

    def steps(self) -> list[Step]:
        """The notes so far.

        Raises:
            RuntimeError: the trainer has ended.
        """
        if self._trainer.poll() is not None:
            raise RuntimeError(f"the trainer has ended: {self.log.read_text()[-2000:]}")
        return list(read_steps(self.notes))


def measure_rate(kafka: KafkaConfig, folder: Path, log: Path, *, rows: int, capacity: int, published: int) -> float:
    """Rows a second of agent and trainer at full load, from the first quarter of the rows on.

    Raises:
        RuntimeError: nothing was trained for two minutes.
    """
    with ExitStack() as stack:
        pipeline = _Pipeline(stack, kafka, folder, capacity, published)
        stack.callback(replay(kafka, folder, log).kill)
        moved_s, steps = time.monotonic(), list[Step]()
        while not steps or steps[-1].rows < rows:
            time.sleep(0.5)
            before, steps = len(steps), pipeline.steps()
            if len(steps) > before:
                moved_s = time.monotonic()
            if time.monotonic() - moved_s > _STALL_S:
                raise RuntimeError(f"nothing was trained for {_STALL_S:.0f} s")
        first = next(one for one in steps if one.rows >= rows / 4)
        return (steps[-1].rows - first.rows) / (steps[-1].ended_ns - first.ended_ns) * 1e9


def watch(
    kafka: KafkaConfig, folder: Path, log: Path, *, rate: float, warm_s: float, seconds: float, capacity: int,
    published: int,
) -> tuple[list[Step], Arrivals, int]:  # fmt: skip
    """Follows a pipeline at a rate; returns its steps, what arrived, and from when on it counts (ns since the epoch).

    Raises:
        RuntimeError: the replica has no model after two minutes.
    """
    with ExitStack() as stack:
        pipeline = _Pipeline(stack, kafka, folder, capacity, published)
        stack.callback(replay(kafka, folder, log, "--rate", str(round(rate))).kill)
        replica = stack.enter_context(Replica(kafka))
        arrivals, started_s = Arrivals(replica), time.monotonic()
        while not replica.is_ready:
            arrivals.poll()
            if time.monotonic() - started_s > _STALL_S:
                raise RuntimeError(f"the replica has no model: {pipeline.log.read_text()[-2000:]}")
        ready_s = time.monotonic()
        while time.monotonic() - ready_s < warm_s:
            arrivals.poll()
        from_ns = time.time_ns()
        while time.time_ns() - from_ns < seconds * 1e9:
            arrivals.poll()
        return pipeline.steps(), arrivals, from_ns
