"""hotstream's commands as child processes of a test, and what the topics hold while they run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from streams.broker.process import log_tail
from streams.config import KafkaConfig
from streams.tether import tethered
from streams.topics import Topics


class Running:
    """A `hotstream` command under way; what it prints is in `log`, or comes through `stdout`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = 60.0) -> int:
        """Sends the signal; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def must_run(self) -> None:
        """Fails, with the end of the log, if it has ended."""
        code = self.process.poll()
        assert code is None, f"{self.process.args[-8:]} ended with {code}:\n{log_tail(self.log, 30)}"  # type: ignore[index]


@contextmanager
def running(log: Path, *arguments: object, stdout: int | None = None, **environment: str) -> Iterator[Running]:
    """Starts `hotstream ARGUMENTS...`, killed at the end of the `with` if it still runs, and with us in any case."""
    command = tethered([sys.executable, "-m", "trainer", *map(str, arguments)])
    with log.open("ab") as file, subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout or file, stderr=file, text=True, start_new_session=True
    ) as process:  # fmt: skip
        try:
            yield Running(process, log)
        finally:
            process.kill()


def run_hotstream(*arguments: object, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Runs `hotstream ARGUMENTS...` to its end."""
    command = tethered([sys.executable, "-m", "trainer", *map(str, arguments)])
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def where(kafka: KafkaConfig) -> list[str]:
    """The options that lead a command to the test's topics."""
    return ["--bootstrap-servers", kafka.bootstrap_servers, "--prefix", kafka.prefix]


def wait_until(is_true: Callable[[], bool], *processes: Running, timeout_s: float = 90.0) -> None:
    """Returns when it is true; fails when it is not in time, or one of the processes has ended before."""
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        for process in processes:
            process.must_run()
        logs = "\n".join(log_tail(process.log, 10) for process in processes)
        assert time.monotonic() < deadline_s, f"not true within {timeout_s:.0f} s; the logs end:\n{logs}"
        time.sleep(0.02)


class Tail:
    """What was written to a topic so far, from its beginning; grows with every `look`."""

    def __init__(self, kafka: KafkaConfig, topic: str) -> None:
        self._consumer = KafkaConsumer(
            bootstrap_servers=kafka.servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20,
            max_partition_fetch_bytes=8 << 20,
        )
        self._places = [TopicPartition(topic, number) for number in sorted(self._consumer.partitions_for_topic(topic))]
        self._consumer.assign(self._places)
        self._consumer.seek_to_beginning(*self._places)
        self.records: dict[int, list[Any]] = defaultdict(list)

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def look(self) -> int:
        """Takes in what has come; returns how many records there are in all."""
        for place, records in self._consumer.poll(timeout_ms=20).items():
            self.records[place.partition] += records
        return self.count

    @property
    def count(self) -> int:
        """Records so far."""
        return sum(map(len, self.records.values()))

    def read_to_end(self) -> dict[int, list[Any]]:
        """All records by partition, when two looks in a row have found nothing behind the end that the broker names.

        The embedded broker names the beginning of its last batch as the end, so the end alone proves nothing.
        """
        ends = self._consumer.end_offsets(self._places)
        quiet = 0
        deadline_s = time.monotonic() + 30
        while quiet < 5:
            before = self.count
            reached = all(self._consumer.position(place) >= ends[place] for place in self._places)
            quiet = quiet + 1 if self.look() == before and reached else 0
            assert time.monotonic() < deadline_s, f"the end {ends} is not reached"
        return {place.partition: self.records[place.partition] for place in self._places}


def read_topic(kafka: KafkaConfig, topic: str) -> dict[int, list[Any]]:
    """All records of a topic, by partition."""
    with Tail(kafka, topic) as tail:
        return tail.read_to_end()


class AgentMetrics:
    """What the agents under a prefix say of themselves."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._tail = Tail(kafka, Topics(kafka.prefix).metrics)
        self.shards: dict[int, dict[str, Any]] = {}
        self.said: list[dict[str, Any]] = []

    def __enter__(self) -> AgentMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._tail.__exit__()

    def look(self) -> None:
        """Takes in what has come."""
        before = len(self._tail.records[0])
        self._tail.look()
        for record in self._tail.records[0][before:]:
            said = json.loads(record.value)
            if said["process"] == "agent":
                self.said.append(said)
                self.shards.update({int(number): shard for number, shard in said["shards"].items()})

    def total(self, name: str) -> int:
        """A figure, summed over the shards, as they were last heard of."""
        self.look()
        return sum(shard[name] for shard in self.shards.values())
