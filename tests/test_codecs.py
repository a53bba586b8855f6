"""Every process reads every codec of Kafka: agent (aiokafka through Faust), trainer and subscriber (kafka-python)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from agent_driver import RULE, SHARD_CONFIG, SHARDS, STEPS, clicks_of, importance_of
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from processes import Metrics, run_hotstream, running, wait_until, where
from test_clients_record_batches import compress

from streams.broker.process import BrokerProcess
from streams.clients.admin import create_topics
from streams.clients.compression import CODECS
from streams.clients.config import KafkaConfig
from streams.records import encode_importance
from streams.topics import Topics

Records = list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]


def pack(records: Records, codec: int) -> bytes:
    """One batch of Kafka's format 2 with this codec."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 8 << 20)
    for number, (key, value, headers) in enumerate(records):
        assert builder.append(number, 1_700_000_000_000, key, value, headers)
    return compress(bytes(builder.build()), codec)


async def send(kafka: KafkaConfig, topic: str, partition: int, parts: list[Records]) -> None:
    """Sends each part as one batch, with each codec in turn."""
    producer = kafka.create_batch_producer()
    await producer.start()
    for number, records in enumerate(parts):
        batch = producer.create_batch()
        for key, value, headers in records:
            batch.append(key=key, value=value, timestamp=1_700_000_000_000, headers=headers)
        batch.close()
        batch._buffer = bytearray(pack(records, 1 + number % len(CODECS)))  # noqa: SLF001
        await (await producer.send_batch(batch, topic, partition=partition))
    await producer.stop()


async def send_all(kafka: KafkaConfig) -> None:
    """Clicks, importance and assignments, each in batches of all codecs."""
    topics = Topics(kafka.prefix)
    await send(kafka, topics.clicks, 0, [[(None, clicks_of(step), [])] for step in range(STEPS)])
    for shard in range(SHARDS):
        parts = [[(None, *encode_importance(importance_of(step, shard)))] for step in range(STEPS)]
        await send(kafka, topics.importance, shard, parts)  # type: ignore[arg-type]


def report_of(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.broker
def test_agent_trainer_and_subscriber_read_every_codec(
    embedded_broker: BrokerProcess, topic_prefix: str, tmp_path: Path
) -> None:
    kafka = KafkaConfig(bootstrap_servers=embedded_broker.bootstrap_servers, prefix=topic_prefix)
    watched = KafkaConfig(bootstrap_servers=embedded_broker.bootstrap_servers, prefix=f"{topic_prefix}-w")
    for config in (kafka, watched):
        create_topics(config, Topics(config.prefix).specs(shards=SHARDS))
    asyncio.run(send_all(kafka))
    for shard, records in enumerate(RULE[1]):
        cut = len(records) // 8
        parts = [records[start : start + cut] for start in range(0, len(records), cut)]
        asyncio.run(send(watched, Topics(watched.prefix).assignments, shard, parts))

    size = ("--capacity", SHARD_CONFIG.capacity)
    with running(tmp_path / "agent.log", "agent", *size, "--signal", "both", *where(kafka)) as agent:
        subscribed = report_of(run_hotstream("watch", "--until-end", "--json", "-", *where(watched)))
        assert (subscribed["verified"], subscribed["bad_records"]) == (True, 0)
        with Metrics(kafka) as metrics:
            wait_until(lambda: metrics.total("counted") == 2 * SHARDS * STEPS, agent)
            assert all(report["bad"] == 0 for report in metrics.reports)
    options = (*size, "--dim", 4, "--idle-timeout", 1, *where(kafka), *_columns(tmp_path))
    trained = report_of(run_hotstream("train", *options, "--json", "-", timeout_s=240))
    assert trained["rows"]["trained"] == STEPS * 200


def _columns(directory: Path) -> list[str]:
    """The schema of clicks without dense columns."""
    path = directory / "schema.toml"
    listed = ", ".join(f'{{ name = "C{number}", kind = "hex32" }}' for number in range(1, 27))
    path.write_text(f'[log]\nlabel = "click"\ncategorical = [{listed}]\n', encoding="utf-8")
    return ["--schema", str(path)]
