"""`train` and `watch` on an Apache Kafka whose topics are extended, deleted and made again while they run."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Running, run_hotstream, running, sources_of, wait_until, where
from trainer_batches import click_batch

from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.producer import RecordProducer
from streams.errors import BrokerError
from streams.processes.log_tail import log_tail
from streams.records import encode_clicks
from streams.topics import Topics, TopicSpec

logger = logging.getLogger(__name__)

ROWS = 32
SCHEMA = '[log]\nlabel = "y"\ndense = ["d0", "d1"]\ncategorical = ["f0", "f1", "f2", "f3"]\n'


@pytest.fixture
def kafka(apache_broker: Any, topic_prefix: str) -> KafkaConfig:
    config = KafkaConfig(bootstrap_servers=apache_broker.bootstrap_servers, prefix=topic_prefix)
    create_topics(config, Topics(topic_prefix).specs(click_partitions=1, shards=1))
    return config


def send_clicks(kafka: KafkaConfig, steps: range, partition: int = 0) -> None:
    with RecordProducer(kafka) as producer:
        for step in steps:
            producer.send(Topics(kafka.prefix).clicks, partition, encode_clicks(click_batch(ROWS, step)), [])


def with_admin(kafka: KafkaConfig, request: Callable[[Any], object]) -> None:
    admin = kafka.open_admin()
    try:
        request(admin)
    finally:
        admin.close()


def is_created(kafka: KafkaConfig, specs: list[TopicSpec]) -> bool:
    try:
        return create_topics(kafka, specs)[0].created
    except BrokerError:  # the deletion is still going on
        return False


def make_again(kafka: KafkaConfig, name: str) -> None:
    """Deletes a topic, and makes another of its name as soon as the broker lets it."""
    with_admin(kafka, lambda admin: admin.delete_topics([name]))
    specs = [spec for spec in Topics(kafka.prefix).specs(click_partitions=1, shards=1) if spec.name == name]
    deadline_s = time.monotonic() + 30
    while not is_created(kafka, specs):
        assert time.monotonic() < deadline_s, "the topic could not be made again within 30 s"


def train_command(kafka: KafkaConfig, folder: Path) -> list[object]:
    schema = folder / "tiny.toml"
    schema.write_text(SCHEMA)
    return ["train", "--capacity", 60, "--dim", 8, "--threads", 1, "--schema", schema,
            "--checkpoint-dir", folder / "run", *where(kafka)]  # fmt: skip


def ended_with(process: Running, since_s: float) -> tuple[int, str, float]:
    """The exit status, the last line of the log, and the seconds since then."""
    code = process.process.wait(60)
    return code, log_tail(process.log, 1), time.monotonic() - since_s


@pytest.mark.broker
@pytest.mark.timeout(400)
def test_train_and_watch_notice_topics_that_change_and_the_next_start_goes_on(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    topics, command = Topics(kafka.prefix), train_command(kafka, tmp_path)
    send_clicks(kafka, range(4))
    with (
        running(tmp_path / "train.log", *command) as train,
        running(tmp_path / "watch.log", "watch", *where(kafka)) as watch,
    ):
        wait_until(lambda: len(sources_of(kafka)[0]) == 4, train, watch)
        with_admin(kafka, lambda admin: admin.create_partitions({topics.clicks: 2}))
        send_clicks(kafka, range(4, 7), partition=1)
        wait_until(lambda: len(sources_of(kafka)[0]) == 7, train, watch)
        since_s = time.monotonic()
        make_again(kafka, topics.assignments)
        for process in (watch, train):
            code, line, took_s = ended_with(process, since_s)
            assert (code, "was deleted and made again" in line) == (1, True), line
            logger.info("after %.1f s:%s", took_s, line)

    make_again(kafka, topics.clicks)
    send_clicks(kafka, range(100, 103))
    done = run_hotstream(*command, "--idle-timeout", 1, "--json", tmp_path / "report.json", timeout_s=240)
    assert done.returncode == 0, done.stderr
    assert f"topic {topics.clicks} was deleted and made again" in done.stderr
    assert f"topic {topics.assignments} was deleted and made again" in done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rows"] == {"trained": 10 * ROWS, "resumed_from": 7 * ROWS}


@pytest.mark.broker
@pytest.mark.timeout(400)
def test_clicks_made_again_under_a_running_trainer_end_it(kafka: KafkaConfig, tmp_path: Path) -> None:
    topics, command = Topics(kafka.prefix), train_command(kafka, tmp_path)
    send_clicks(kafka, range(4))
    with running(tmp_path / "train.log", *command) as train:
        wait_until(lambda: len(sources_of(kafka)[0]) == 4, train)
        since_s = time.monotonic()
        make_again(kafka, topics.clicks)
        code, line, took_s = ended_with(train, since_s)
    assert (code, f"topic {topics.clicks} " in line, "was deleted" in line) == (1, True, True), line
    logger.info("after %.1f s:%s", took_s, line)
