"""The assignments topic on a real Kafka: compaction, a restart, and a foreign client."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
from conftest import require_java
from processes import wait_until

from sketch.hashing import shard_of
from streams import HotFeatureTable
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.assignments.reader import AssignmentReader
from streams.broker import run_broker
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.keys import CRITEO_FIELDS
from streams.records import ImportanceBatch, Source
from streams.topics import Topics, TopicSpec

pytestmark = pytest.mark.broker
CONFIG = ShardConfig(capacity=60, num_shards=1, half_life_events=20_000)
QUICK = {"segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000",
         "delete.retention.ms": "600000"}  # fmt: skip


def importance(number: int) -> ImportanceBatch:
    """A stream with drifting popularity, so that later changes supersede most changes."""
    random = np.random.default_rng(number)
    keys = ((random.zipf(1.2, 1500) + number * 5) % 3000).astype(np.uint64) | np.uint64(5 << 56)
    keys = keys[shard_of(keys, 1) == 0]
    return ImportanceBatch(
        keys=keys,
        scores=np.ones(len(keys), np.float32),
        fields=CRITEO_FIELDS,
        source=Source(signal="gradient", topic="clicks", partition=0, offset=number),
        event_time_ms=number,
        ingest_ms=number,
    )


def publish(config: KafkaConfig, shard: Shard, numbers: range) -> int:
    """Publishes the changes of the importance records; returns how many records that were."""
    count = 0
    with RecordProducer(config) as producer:
        for number in numbers:
            records = shard.count(number, importance(number))
            assert isinstance(records, list)
            for key, value, headers in records:
                producer.send(Topics(config.prefix).assignments, 0, value, headers, key=key)
            count += len(records)
        producer.wait()
    return count


def num_records(config: KafkaConfig) -> int:
    topic = Topics(config.prefix).assignments
    with open_partition_log(config) as log:
        return sum(1 for _ in log.read(topic, 0, *log.bounds(topic, 0)))


def test_after_compaction_and_a_restart_a_late_reader_has_the_table_of_an_early_one(tmp_path, topic_prefix):
    require_java()
    with run_broker("apache", data_dir=tmp_path / "kafka") as broker:
        config = KafkaConfig(bootstrap_servers=broker.bootstrap_servers, prefix=topic_prefix)
        topic = Topics(topic_prefix).assignments
        create_topics(config, [TopicSpec(name=topic, partitions=1, cleanup="compact", configs=QUICK)])
        shard = Shard(0, CONFIG)
        with AssignmentReader(config) as follower:
            published, number = publish(config, shard, range(150)), 150
            assert published > 300
            follower.catch_up()

            def has_shrunk() -> bool:
                nonlocal number, published
                published += publish(config, shard, range(number, number + 1))  # a new record rolls the segment
                number += 1
                return num_records(config) < published

            wait_until(has_shrunk, timeout_s=90)
            follower.catch_up()
            followed = follower.table
        broker.stop()
        broker.start()
        with HotFeatureTable(broker.bootstrap_servers, prefix=topic_prefix) as late:
            assert Counter(late.table.items()) == Counter(followed.items())
            assert late.table.num_hot > 0
            for table in (late.table, followed):
                assert table.is_verified
                assert table.shards[0].seq == shard.seq
                assert table.shards[0].table.digest == shard.describe().digest
        if shutil.which("kcat"):
            read = subprocess.run(
                ["kcat", "-b", broker.bootstrap_servers, "-t", topic, "-C", "-e", "-q", "-f", "%h %s\n"],
                capture_output=True, text=True, timeout=60, check=True,
            ).stdout  # fmt: skip
            assert '"kind":"digest"' in read
            assert '"feature":"C5:' in read
            assert f"seq={shard.seq}" in read
