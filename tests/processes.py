"""Runs hotstream's commands as child processes of a test, writes their input, and reads their topics."""

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

import numpy as np

from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.broker.process import log_tail
from streams.clients.config import KafkaConfig
from streams.clients.topic_reader import TopicReader
from streams.processes.parent_death import die_with_parent
from streams.records import Encoded, ImportanceBatch, decode_importance, encode_digest
from streams.topics import Topics


class Running:
    """A running `hotstream` command, whose output goes to `log`, or to `stdout`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    def kill(self) -> None:
        """Kills the process, as a power failure would."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = 60.0) -> int:
        """Sends the signal; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def must_run(self) -> None:
        """Fails with the end of the log if the process has ended."""
        code = self.process.poll()
        assert code is None, f"{self.process.args[-8:]} ended with {code}:\n{log_tail(self.log, 30)}"  # type: ignore[index]


@contextmanager
def running(log: Path, *arguments: object, stdout: int | None = None, **environment: str) -> Iterator[Running]:
    """Starts `hotstream ARGUMENTS...`; kills it at the end of the `with` block, or when the test process dies."""
    command = die_with_parent([sys.executable, "-m", "trainer", *map(str, arguments)])
    with log.open("ab") as file, subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout or file, stderr=file, text=True, start_new_session=True
    ) as process:  # fmt: skip
        try:
            yield Running(process, log)
        finally:
            process.kill()


def run_hotstream(*arguments: object, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Runs `hotstream ARGUMENTS...` and waits until it ends."""
    command = die_with_parent([sys.executable, "-m", "trainer", *map(str, arguments)])
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def where(kafka: KafkaConfig) -> list[str]:
    """The options that point a command to the test's topics."""
    return ["--bootstrap-servers", kafka.bootstrap_servers, "--prefix", kafka.prefix]


def wait_until(is_true: Callable[[], bool], *processes: Running, timeout_s: float = 90.0) -> None:
    """Waits until `is_true` holds; fails after the timeout, or if one of the processes ends before."""
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        for process in processes:
            process.must_run()
        logs = "\n".join(log_tail(process.log, 10) for process in processes)
        assert time.monotonic() < deadline_s, f"not true within {timeout_s:.0f} s; the logs end:\n{logs}"
        time.sleep(0.02)


class Tail:
    """The records of a topic from its beginning; `look` adds new ones."""

    def __init__(self, kafka: KafkaConfig, topic: str) -> None:
        self._reader = TopicReader(kafka, topic)
        self.records: dict[int, list[Any]] = defaultdict(list)

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def look(self) -> int:
        """Reads new records; returns the total number so far."""
        for partition, records in self._reader.poll(timeout_ms=20).items():
            self.records[partition] += records
        return self.count

    @property
    def count(self) -> int:
        """The number of records so far."""
        return sum(map(len, self.records.values()))

    def read_to_end(self) -> dict[int, list[Any]]:
        """All records by partition; stops after five empty reads in a row at the end."""
        quiet = 0
        deadline_s = time.monotonic() + 30
        while quiet < 5:
            before = self.count
            quiet = quiet + 1 if self.look() == before and self._reader.is_at_end() else 0
            assert time.monotonic() < deadline_s, "the end of the topic was not reached within 30 s"
        return {partition: self.records[partition] for partition in self._reader.partitions}


def read_topic(kafka: KafkaConfig, topic: str) -> dict[int, list[Any]]:
    """All records of a topic, by partition."""
    with Tail(kafka, topic) as tail:
        return tail.read_to_end()


class Metrics:
    """The metrics of the processes under a prefix."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._tail = Tail(kafka, Topics(kafka.prefix).metrics)
        self.shards: dict[int, dict[str, Any]] = {}
        self.reports: list[dict[str, Any]] = []  # of agents
        self.rows_trained = 0

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._tail.__exit__()

    def look(self) -> None:
        """Reads new records."""
        before = len(self._tail.records[0])
        self._tail.look()
        for record in self._tail.records[0][before:]:
            report = json.loads(record.value)
            if report["process"] == "trainer":
                self.rows_trained = report["rows"]
            else:
                self.reports.append(report)
                self.shards.update({int(number): shard for number, shard in report["shards"].items()})

    def total(self, name: str) -> int:
        """The sum of a figure over the shards, from their latest reports."""
        self.look()
        return sum(shard[name] for shard in self.shards.values())


def write_criteo_log(path: Path, rows: int) -> Path:
    """Writes a log in Criteo's format: few values are frequent, C2 is often missing, and popularity drifts."""
    random = np.random.default_rng(5)
    with path.open("w") as file:
        for row in range(rows):
            values = random.zipf(1.3, 26) % 1000 + row // 500
            tokens = [f"{value * 2654435761 % (1 << 32):08x}" for value in values.tolist()]
            if row % 3:
                tokens[1] = ""
            file.write("\t".join([str(values[0] % 2), *["1"] * 13, *tokens]) + "\n")
    return path


def tokens_of(path: Path) -> set[str]:
    """Every value of a log in Criteo's format, formatted as hotstream prints it."""
    return {
        f"C{number}:{token or 'missing'}"
        for line in path.read_text().splitlines()
        for number, token in enumerate(line.split("\t")[14:], 1)
    }


def sources_of(kafka: KafkaConfig) -> list[set[tuple[int, int]]]:
    """The click records that the importance of each shard was computed from."""
    batches = [
        [decode_importance(record.value, record.headers) for record in records]
        for records in read_topic(kafka, Topics(kafka.prefix).importance).values()
    ]
    return [{(batch.source.partition, batch.source.offset) for batch in shard} for shard in batches]  # type: ignore[union-attr]


def publish_by_rule(kafka: KafkaConfig, config: ShardConfig) -> tuple[list[Shard], list[list[Encoded]]]:
    """The shards and the records that they must have published, computed by `Shard` from the importance topic."""
    shards = [Shard(number, config) for number in range(config.num_shards)]
    published: list[list[Encoded]] = [[encode_digest(shard.describe())] for shard in shards]
    for number, records in read_topic(kafka, Topics(kafka.prefix).importance).items():
        for record in records:
            batch = decode_importance(record.value, record.headers)
            assert isinstance(batch, ImportanceBatch)
            changes = shards[number].count(record.offset, batch)
            assert isinstance(changes, list)
            published[number] += changes
    return shards, published


def change(record: Any) -> tuple[bytes, bytes | None, list[tuple[str, bytes]]]:
    """A record without the generation of its owner."""
    return record.key, record.value, [header for header in record.headers if header[0] != "generation"]


def read_changes(kafka: KafkaConfig) -> dict[int, list[Any]]:
    """The changes and digests by shard, without the claims."""
    records_of = read_topic(kafka, Topics(kafka.prefix).assignments)
    return {shard: [r for r in records if r.key != (1).to_bytes(8, "big")] for shard, records in records_of.items()}


def seq_of(record: Any) -> int:
    """The sequence number of a change, a digest or a claim."""
    return int(dict(record.headers)["seq"])


def once_each(records: list[Any]) -> list[tuple[Any, ...]]:
    """The records of a shard without copies; checks that copies are identical and that no change is missing."""
    distinct: dict[tuple[int, bool], tuple[Any, ...]] = {}
    for record in records:
        known = distinct.setdefault((seq_of(record), record.key == bytes(8)), change(record))
        assert known == change(record), f"two records with seq {seq_of(record)}"
    assert [seq for seq, is_digest in distinct if not is_digest] == list(range(1, max(map(seq_of, records)) + 1))
    return list(distinct.values())
