"""Replay, agent and trainer run as a user runs them; each is killed, and the broker restarts."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import require_java
from processes import (
    Metrics,
    Running,
    Tail,
    publish_by_rule,
    read_topic,
    running,
    sources_of,
    tokens_of,
    wait_until,
    where,
    write_criteo_log,
)

from streams.agent.shard_config import ShardConfig
from streams.assignments.subscription import HotFeatureTable
from streams.broker import run_broker
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.keys import format_key
from streams.records import ClickBatch, decode_clicks
from streams.topics import Topics

ROWS, BATCH_ROWS, SHARDS, CLICK_PARTITIONS, CAPACITY = 6000, 64, 2, 3, 100
AGENT = f"agent --capacity {CAPACITY} --snapshot-every 5 --session-timeout 6"
TRAIN = f"train --capacity {CAPACITY} --dim 4 --threads 1 --checkpoint-every 640"
REPLAY = f"replay --batch-rows {BATCH_ROWS} --rate 1000 --resume"


class Stage:
    """The three commands on one broker, each started as often as needed."""

    def __init__(self, kafka: KafkaConfig, folder: Path, stack: ExitStack) -> None:
        self.kafka = kafka
        self.log = write_criteo_log(folder / "log.tsv", ROWS)
        self.report = folder / "train.json"
        self._folder = folder
        self._stack = stack
        create_topics(kafka, Topics(kafka.prefix).specs(click_partitions=CLICK_PARTITIONS, shards=SHARDS))

    def start(self, command: str, *more: object) -> Running:
        """Starts a command and appends to its log."""
        name, *options = command.split()
        log = self._folder / f"{name}.log"
        return self._stack.enter_context(running(log, name, *options, *more, *where(self.kafka)))

    def start_agent(self) -> Running:
        return self.start(AGENT)

    def start_trainer(self) -> Running:
        return self.start(TRAIN, "--checkpoint-dir", self._folder / "checkpoints", "--json", self.report)

    def start_replay(self) -> Running:
        return self.start(REPLAY, self.log)

    def wait_for(self, topic: str, count: int, *processes: Running) -> None:
        with Tail(self.kafka, topic) as tail:
            wait_until(lambda: tail.look() >= count, *processes)

    def finish(self, agent: Running, trainer: Running) -> None:
        """Waits until all rows are trained and counted, stops both, and checks all totals."""
        with Metrics(self.kafka) as metrics:  # kafka-python leaks sockets to a broker that is down: only now

            def is_trained() -> bool:
                metrics.look()
                return metrics.rows_trained == ROWS

            wait_until(is_trained, agent, trainer, timeout_s=120)
            assert trainer.stop() == 0
            ends = sum(map(len, read_topic(self.kafka, Topics(self.kafka.prefix).importance).values()))
            wait_until(lambda: metrics.total("next_offset") == ends, agent)
            assert agent.stop() == 0
            self.check(metrics)

    def check(self, metrics: Metrics) -> None:
        topics = Topics(self.kafka.prefix)
        clicks = [record for records in read_topic(self.kafka, topics.clicks).values() for record in records]
        batches = [decode_clicks(record.value, record.headers) for record in clicks]
        assert sum(batch.num_rows for batch in batches if isinstance(batch, ClickBatch)) == ROWS
        report = json.loads(self.report.read_text())
        assert report["rows"]["trained"] == ROWS
        assert report["click_records"] == {"trained": len(clicks), "bad": 0, "reasons": []}
        addresses = {(record.partition, record.offset) for record in clicks}
        assert sources_of(self.kafka) == [addresses] * SHARDS
        assert [metrics.shards[shard]["counted"] for shard in range(SHARDS)] == [len(clicks)] * SHARDS
        shards, _ = publish_by_rule(self.kafka, ShardConfig(capacity=CAPACITY, num_shards=SHARDS))
        with HotFeatureTable(self.kafka.bootstrap_servers, prefix=self.kafka.prefix) as hot:
            assert hot.table.is_verified
            assert [view.seq for view in hot.table.shards] == [shard.seq for shard in shards]
            assert [view.table.digest for view in hot.table.shards] == [shard.table.digest for shard in shards]
            assert 0 < hot.table.num_hot <= hot.table.max_hot <= CAPACITY
            assert {format_key(key) for key, _ in hot.table.items()} <= tokens_of(self.log)
            for shard, (_, seq) in report["applied_seq"].items():  # the trainer may end before it has read the last
                assert seq <= hot.table.shards[int(shard)].seq


def test_replay_agent_and_trainer_are_each_killed_and_the_totals_match(
    request: pytest.FixtureRequest, bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    shows_aborted_rows = request.node.callspec.params["bootstrap_servers"] == "embedded"
    kafka, chance = KafkaConfig(bootstrap_servers=bootstrap_servers, prefix=topic_prefix), random.Random(time.time_ns())
    topics = Topics(topic_prefix)
    with ExitStack() as stack:
        stage = Stage(kafka, tmp_path, stack)
        starts: dict[str, Callable[[], Running]] = {
            "replay": stage.start_replay, "agent": stage.start_agent, "train": stage.start_trainer,
        }  # fmt: skip
        running_now = {name: start() for name, start in starts.items()}
        moments = {"replay": (topics.clicks, 1, 25), "agent": (topics.importance, 30, 70),
                   "train": (topics.importance, 80, 130)}  # fmt: skip
        for name, (topic, earliest, latest) in moments.items():
            stage.wait_for(topic, chance.randint(earliest, latest), running_now["agent"], running_now["train"])
            if name == "replay" and shows_aborted_rows:
                running_now[name].stop()
            else:
                running_now[name].kill()
            running_now[name] = starts[name]()
        assert running_now["replay"].process.wait(60) == 0
        stage.finish(running_now["agent"], running_now["train"])


@pytest.mark.broker
def test_agent_and_trainer_go_on_when_the_broker_comes_back(topic_prefix: str, tmp_path: Path) -> None:
    require_java()
    with run_broker("apache") as broker, ExitStack() as stack:
        stage = Stage(KafkaConfig(bootstrap_servers=broker.bootstrap_servers, prefix=topic_prefix), tmp_path, stack)
        agent, trainer, replay = stage.start_agent(), stage.start_trainer(), stage.start_replay()
        stage.wait_for(Topics(topic_prefix).assignments, 20, agent, trainer)
        broker.stop()
        broker.start()
        replay.process.wait(90)  # it may have given up; its message names --resume
        if replay.process.returncode:
            assert stage.start_replay().process.wait(60) == 0
        stage.finish(agent, trainer)
