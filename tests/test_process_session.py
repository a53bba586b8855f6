"""`hotstream train` on a real broker: importance out, assignments in, and a kill in the middle."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digests import table_digest
from trainer_batches import NUM_FIELDS, click_batch

from sketch.hashing import shard_of
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.keys import Field
from streams.logs.schema import LogSchema
from streams.records import (
    JSON,
    Assignment,
    Digest,
    Encoded,
    ImportanceBatch,
    decode_importance,
    encode_assignment,
    encode_clicks,
    encode_digest,
    header_int,
)
from streams.topics import Topics
from trainer.learning.model_config import ModelConfig
from trainer.process.run import RunConfig
from trainer.process.session import Session, SessionConfig

SHARDS, CLICK_PARTITIONS, ROWS = 2, 2, 32
FIELDS = tuple(Field(f"f{number}") for number in range(NUM_FIELDS))
SCHEMA = LogSchema(name="tiny", label="y", categorical=FIELDS, dense=("d0", "d1"))


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


def send_assignments(kafka: KafkaConfig, keys: np.ndarray) -> dict[int, int]:
    """Makes the keys hot, each with its own row; returns the number of changes by shard."""
    shards = shard_of(keys, SHARDS)
    seqs = dict.fromkeys(range(SHARDS), 0)
    with RecordProducer(kafka) as producer:
        for row, (key, shard) in enumerate(zip(keys.tolist(), shards.tolist(), strict=True)):
            seqs[shard] += 1
            change = Assignment(
                key=key, tier="hot", row=row, shard=shard, epoch=1, seq=seqs[shard],
                score=1.0, source=(0, 0), event_time_ms=0,
            )  # fmt: skip
            name, value, headers = encode_assignment(change, FIELDS)
            producer.send(Topics(kafka.prefix).assignments, shard, value, headers, key=name)
    return seqs


def send_strange_assignments(kafka: KafkaConfig, keys: np.ndarray) -> list[Encoded]:
    """Sends a bad record and one of another shard, both returned, and each shard's digest of its hot keys."""
    shards, topic = shard_of(keys, SHARDS), Topics(kafka.prefix).assignments
    foreign = Assignment(
        key=int(keys[shards == 0][0]), tier="hot", row=59, shard=1, epoch=1, seq=90,
        score=1.0, source=(0, 0), event_time_ms=0,
    )  # fmt: skip
    strange = [(b"short", b"{}", []), encode_assignment(foreign, FIELDS)]
    with RecordProducer(kafka) as producer:
        for key, value, headers in strange:
            producer.send(topic, 1, value, headers, key=key)
        for shard in range(SHARDS):
            rows = np.flatnonzero(shards == shard).astype(np.int32)
            value = table_digest(keys[rows], rows)
            closing = Digest(shard=shard, epoch=1, seq=len(rows), hot=len(rows), digest=value)
            key, value, headers = encode_digest(closing)
            producer.send(topic, shard, value, headers, key=key)
    return strange


def records_of(kafka: KafkaConfig, topic: str, partitions: int) -> Iterator[Any]:
    with open_partition_log(kafka) as log:
        for partition in range(partitions):
            yield from log.read(topic, partition, *log.bounds(topic, partition))


def session_of(kafka: KafkaConfig, directory: Path | None = None, **options: Any) -> Session:
    model = ModelConfig(capacity_rows=60, dim=8, compare_hash=True)
    run = RunConfig(model=model, device=torch.device("cpu"), checkpoint_dir=directory, checkpoint_every=5 * ROWS)
    return Session(
        SessionConfig(
            kafka=kafka, run=run, fields=SCHEMA.categorical, dense_names=SCHEMA.dense, idle_timeout_s=0.5, **options
        )
    )


def test_clicks_are_trained_once_and_answered_with_their_importance(kafka: KafkaConfig, tmp_path: Path) -> None:
    send_clicks(kafka, range(12))
    first = session_of(kafka, tmp_path)
    first.train()
    hot = np.unique(click_batch(ROWS, 0).keys)[:40]
    seqs = send_assignments(kafka, hot)
    topics = Topics(kafka.prefix)
    single = {"label": 1, "dense": {"d0": 2.5}, "features": {"f0": "a", "f2": "b"}, "event_time_ms": 5}
    with RecordProducer(kafka) as producer:
        producer.send(topics.clicks, 0, b"no Arrow stream", [("who", b"me")])
        producer.send(topics.clicks, 1, json.dumps(single).encode(), [("content-type", JSON)])
        producer.send(topics.clicks, 1, encode_clicks(click_batch(ROWS, 99, num_dense=1)), [])
    foreign = send_strange_assignments(kafka, hot)
    send_clicks(kafka, range(12, 20))

    second = session_of(kafka, tmp_path)
    second.train()
    report = second.report()
    assert report["rows"] == {"trained": 20 * ROWS + 1, "resumed_from": 12 * ROWS}
    assert {name: report["click_records"][name] for name in ("trained", "bad")} == {"trained": 21, "bad": 2}
    assert [reason[:3] for reason in report["click_records"]["reasons"]] == ["1 x", "1 x"]
    assert report["applied"]["promotions"] == report["hot_rows"] == len(hot)
    assert report["applied_seq"] == {str(shard): [1, seq] for shard, seq in seqs.items()}
    assert report["latency_ms"]["assignment_to_trainer"]["p50"] is not None
    assert report["applied"]["bad_records"] == 1
    assert report["assignments"] == {"verified": True, "applied": 40, "stale": 0, "refused": 1, "mismatches": 0}
    refused = list(records_of(kafka, topics.dead_letters(topics.assignments), SHARDS))
    assert {(letter.key, letter.value) for letter in refused} == {(key, value) for key, value, _ in foreign}
    assert 0 < report["auc"]["adaptive"] < 1
    assert 0 < report["auc"]["hash"] < 1
    sizes = report["embedding_bytes"]
    assert sizes["hash"] <= sizes["adaptive"] == sizes["breakdown"]["adaptive"]["total"]

    letters = list(records_of(kafka, topics.dead_letters(topics.clicks), 1))
    assert letters[0].value == b"no Arrow stream"
    assert len(letters) == 2
    answered: dict[tuple[int, int], list[ImportanceBatch]] = {}
    for record in records_of(kafka, topics.importance, SHARDS):
        batch = decode_importance(record.value, record.headers)
        assert isinstance(batch, ImportanceBatch), batch
        assert (shard_of(batch.keys, SHARDS) == record.partition).all()
        assert np.isfinite(batch.scores).all()
        assert batch.ingest_ms > 0
        answered.setdefault((batch.source.partition, batch.source.offset), []).append(batch)
    assert sum(map(len, answered.values())) == report["importance"]["records"]
    for step in range(12):
        batches = answered[step % CLICK_PARTITIONS, step // CLICK_PARTITIONS]
        keys = np.concatenate([batch.keys for batch in batches])
        np.testing.assert_array_equal(np.sort(keys), np.unique(click_batch(ROWS, step).keys))
    reports = [json.loads(record.value) for record in records_of(kafka, topics.metrics, 1)]
    assert reports[-1]["rows"] == report["rows"]["trained"]
    assert reports[-1]["hot"] == len(hot)
    assert reports[-1]["assignments"] == report["assignments"]


def test_a_resumed_trainer_knows_that_its_hot_set_was_proved(kafka: KafkaConfig, tmp_path: Path) -> None:
    hot = np.unique(click_batch(ROWS, 0).keys)[:40]
    send_assignments(kafka, hot)
    send_strange_assignments(kafka, hot)
    send_clicks(kafka, range(4))
    for _ in range(2):
        session = session_of(kafka, tmp_path)
        session.train()
        assert session.report()["assignments"]["verified"] is True
        assert session.report()["assignments"]["applied"] == len(hot)
        assert session.report()["assignments"]["refused"] == 1


def write_schema(path: Path) -> Path:
    """The columns of the tests' clicks as a file for `--schema`."""
    names = ", ".join(f'"{field.name}"' for field in FIELDS)
    path.write_text(f'[log]\nlabel = "y"\ndense = ["d0", "d1"]\ncategorical = [{names}]\n')
    return path


def train_command(kafka: KafkaConfig, directory: Path, *more: str) -> list[str]:
    directory.mkdir(exist_ok=True)
    more = ("--schema", str(write_schema(directory / "tiny.toml")), *more)
    start = "from trainer.cli import main; main()"
    options = f"train --capacity 60 --dim 8 --compare hash --threads 1 --checkpoint-every {3 * ROWS} --window 100"
    where = ["--bootstrap-servers", kafka.bootstrap_servers, "--prefix", kafka.prefix]
    return [sys.executable, "-c", start, *options.split(), "--checkpoint-dir", str(directory), *where, *more]


def answered_clicks(kafka: KafkaConfig) -> set[tuple[int, int]]:
    """Partition and offset of the click records whose importance is in the topic."""
    named = [dict(record.headers) for record in records_of(kafka, Topics(kafka.prefix).importance, SHARDS)]
    return {(header_int(headers, "partition"), header_int(headers, "offset")) for headers in named}


def wait_for_answers(kafka: KafkaConfig, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until so many click records have been answered."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        assert process.poll() is None, "the trainer ended"
        if len(answered_clicks(kafka)) >= count:
            return
    pytest.fail(f"no importance of {count} click records within 60 s")


@contextmanager
def running_trainer(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A trainer that is killed at the end of the `with` block if it still runs."""
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_trainer_goes_on_and_ends_with_the_same_totals(kafka: KafkaConfig, tmp_path: Path) -> None:
    send_clicks(kafka, range(10))
    with running_trainer(train_command(kafka, tmp_path)) as killed:
        wait_for_answers(kafka, 10, killed)
        send_assignments(kafka, np.unique(click_batch(ROWS, 0).keys)[:40])
        send_clicks(kafka, range(10, 17))
        wait_for_answers(kafka, 17, killed)
    send_clicks(kafka, range(17, 25))
    path = tmp_path / "report.json"
    subprocess.run(train_command(kafka, tmp_path, "--idle-timeout", "1", "--json", str(path)), check=True, timeout=120)
    report = json.loads(path.read_text())
    assert report["ok"]
    assert report["rows"]["trained"] == 25 * ROWS
    assert 0 < report["rows"]["resumed_from"] <= 17 * ROWS
    assert report["click_records"]["trained"] == 25
    assert report["hot_rows"] == report["applied"]["promotions"] == 40
    assert [window["rows"] for window in report["windows"]] == [128 * number for number in range(1, 7)]
    assert len(answered_clicks(kafka)) == 25

    with running_trainer(train_command(kafka, tmp_path, "--json", str(path))) as stopped:
        send_clicks(kafka, range(25, 27))
        wait_for_answers(kafka, 27, stopped)
        stopped.terminate()
        assert stopped.wait(timeout=30) == 0
    assert json.loads(path.read_text())["rows"]["trained"] == 27 * ROWS
