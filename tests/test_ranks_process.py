"""`torchrun hotstream train` on a real broker: ranks that are killed, and another number of ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_batches import NUM_FIELDS, click_batch

from sketch.hashing import shard_of
from streams.assignments.row_ranges import rows_of_shard
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.keys import Field
from streams.records import Assignment, decode_importance, encode_assignment, encode_clicks
from streams.topics import Topics

SHARDS, CLICK_PARTITIONS, ROWS, CAPACITY = 4, 3, 32, 60
FIELDS = tuple(Field(f"f{number}") for number in range(NUM_FIELDS))
KILLS = int(os.environ.get("RANK_KILLS", "2"))


@pytest.fixture
def kafka(bootstrap_servers: str, topic_prefix: str) -> KafkaConfig:
    config = KafkaConfig(bootstrap_servers=bootstrap_servers, prefix=topic_prefix)
    create_topics(config, Topics(topic_prefix).specs(click_partitions=CLICK_PARTITIONS, shards=SHARDS))
    return config


def send_clicks(kafka: KafkaConfig, steps: range) -> None:
    with RecordProducer(kafka) as producer:
        for step in steps:
            value = encode_clicks(click_batch(ROWS, step))
            producer.send(Topics(kafka.prefix).clicks, step % CLICK_PARTITIONS, value, [])


def send_assignments(kafka: KafkaConfig, keys: np.ndarray) -> int:
    """Makes as many of the keys hot as their shards have rows; returns their number."""
    seqs: Counter[int] = Counter()
    with RecordProducer(kafka) as producer:
        for key, shard in zip(keys.tolist(), shard_of(keys, SHARDS).tolist(), strict=True):
            first, count = rows_of_shard(CAPACITY, SHARDS, shard)
            if seqs[shard] == count:
                continue
            seqs[shard] += 1
            change = Assignment(
                key=key, tier="hot", row=first + seqs[shard] - 1, shard=shard, epoch=1, seq=seqs[shard],
                score=1.0, source=(0, 0), event_time_ms=0,
            )  # fmt: skip
            name, value, headers = encode_assignment(change, FIELDS)
            producer.send(Topics(kafka.prefix).assignments, shard, value, headers, key=name)
    return seqs.total()


def command(kafka: KafkaConfig, world: int, directory: Path, *more: str, restarts: int = 0) -> list[str]:
    names = ", ".join(f'"{field.name}"' for field in FIELDS)
    schema = directory.parent / "tiny.toml"
    schema.write_text(f'[log]\nlabel = "y"\ndense = ["d0", "d1"]\ncategorical = [{names}]\n')
    launch = f"-m torch.distributed.run --standalone --max-restarts {restarts} --nproc-per-node {world} -m trainer train"
    options = f"--capacity {CAPACITY} --dim 8 --threads 1 --checkpoint-every {4 * ROWS} --window 100 --device cpu"
    where = ["--bootstrap-servers", kafka.bootstrap_servers, "--prefix", kafka.prefix]
    where += ["--schema", str(schema), "--checkpoint-dir", str(directory)]
    return [sys.executable, *launch.split(), *options.split(), *where, *more]


def train_to_end(kafka: KafkaConfig, world: int, directory: Path, *more: str) -> dict[str, Any]:
    """The report of ranks that train all clicks."""
    path = directory.parent / "report.json"
    told = ["--idle-timeout", "0.5", "--json", str(path), *more]
    done = subprocess.run(command(kafka, world, directory, *told), timeout=150, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def answers(kafka: KafkaConfig) -> dict[tuple[int, int], dict[int, set[bytes]]]:
    """The different importance records of each click record, by shard."""
    found: dict[tuple[int, int], dict[int, set[bytes]]] = {}
    with open_partition_log(kafka) as log:
        topic = Topics(kafka.prefix).importance
        for shard in range(SHARDS):
            for record in log.read(topic, shard, *log.bounds(topic, shard)):
                batch = decode_importance(record.value, record.headers)
                named = batch.source.partition, batch.source.offset
                found.setdefault(named, {}).setdefault(shard, set()).add(np.sort(batch.keys).tobytes())
    return found


def check_books(kafka: KafkaConfig, steps: int) -> None:
    """Every click record was answered, with all its keys, each in the record of its shard."""
    found = answers(kafka)
    expected = {(step % CLICK_PARTITIONS, step // CLICK_PARTITIONS): step for step in range(steps)}
    assert set(found) == set(expected)
    for named, step in expected.items():
        keys = np.unique(click_batch(ROWS, step).keys)
        shards = shard_of(keys, SHARDS)
        assert found[named] == {shard: {keys[shards == shard].tobytes()} for shard in np.unique(shards).tolist()}


def test_the_books_balance_with_one_two_and_four_ranks(kafka: KafkaConfig, tmp_path: Path) -> None:
    hot = send_assignments(kafka, np.unique(click_batch(ROWS, 0).keys)[:40])
    for turn, world in enumerate([1, 2, 3]):
        send_clicks(kafka, range(10 * turn, 10 * turn + 10))
        report = train_to_end(kafka, world, tmp_path / "run")
        assert report["rows"] == {"trained": (10 * turn + 10) * ROWS, "resumed_from": 10 * turn * ROWS}
        assert report["click_records"]["trained"] == 10 * turn + 10
        assert report["hot_rows"] == hot
        assert len(report["ranks"]) == world
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [f"rank-{rank}-of-3" for rank in range(3)]
    check_books(kafka, 30)
