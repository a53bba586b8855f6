"""`hotstream watch` prints the contents of the topic, with the tokens of the log."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from processes import run_hotstream, running, tokens_of, where, write_criteo_log

from sketch.hashing import shard_of
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.producer import RecordProducer
from streams.commands.watch import command
from streams.keys import CRITEO_FIELDS
from streams.logs.reader import read_log
from streams.logs.schema import SCHEMAS
from streams.records import Assignment, Encoded, ImportanceBatch, Source, encode_assignment, encode_digest
from streams.topics import Topics

SHARDS, CAPACITY = 2, 60


def publish(kafka: KafkaConfig, path: Path) -> list[Shard]:
    """Counts the log like an agent, and publishes every change."""
    (block,) = read_log(path, SCHEMAS["criteo-kaggle"], 1 << 30)
    keys = block.parse().batch.keys
    shards = [Shard(number, ShardConfig(capacity=CAPACITY, num_shards=SHARDS)) for number in range(SHARDS)]
    with RecordProducer(kafka) as producer:
        for step, rows in enumerate(np.array_split(keys, 20)):
            distinct, counts = np.unique(rows, return_counts=True)
            for shard in shards:
                mine = shard_of(distinct, SHARDS) == shard.number
                batch = ImportanceBatch(
                    keys=distinct[mine],
                    scores=counts[mine].astype(np.float32),
                    fields=CRITEO_FIELDS,
                    source=Source(signal="gradient", topic="clicks", partition=0, offset=step),
                    event_time_ms=step,
                    ingest_ms=step,
                )
                records: Any = shard.count(step, batch)
                send(kafka, producer, shard.number, records)
    return shards


def send(kafka: KafkaConfig, producer: RecordProducer, shard: int, records: list[Encoded]) -> None:
    for key, value, headers in records:
        producer.send(Topics(kafka.prefix).assignments, shard, value, headers, key=key)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_criteo_log(tmp_path / "log.tsv", 3000)


@pytest.fixture
def kafka(bootstrap_servers: str, topic_prefix: str) -> KafkaConfig:
    config = KafkaConfig(bootstrap_servers=bootstrap_servers, prefix=topic_prefix)
    create_topics(config, Topics(topic_prefix).specs(shards=SHARDS))
    return config


def test_every_change_is_a_line_and_its_tokens_are_those_of_the_log(kafka: KafkaConfig, log: Path) -> None:
    shards = publish(kafka, log)
    path = log.with_name("report.json")
    done = run_hotstream("watch", "--until-end", "--format", "json", "--json", path, *where(kafka))
    assert done.returncode == 0, done.stderr
    lines, report = [json.loads(line) for line in done.stdout.splitlines()], json.loads(path.read_text())
    tiers = [line["tier"] for line in lines]
    assert report["changes"] == {"total": sum(shard.seq for shard in shards),
                                 **{tier: tiers.count(tier) for tier in set(tiers)}}  # fmt: skip
    assert len(lines) == report["changes"]["total"]
    assert {line["feature"] for line in lines} <= tokens_of(log)
    assert "C2:missing" in {line["feature"] for line in lines}
    assert {line["row"] is None for line in lines if line["tier"] == "hot"} == {False}
    for shard in shards:
        seqs = [line["seq"] for line in lines if line["shard"] == shard.number]
        assert seqs == list(range(1, shard.seq + 1))
    assert report["ok"]
    assert report["verified"]
    assert report["bad_records"] == 0
    assert report["hot"] == sum(shard.table.num_hot for shard in shards)
    assert [shard["digest"] for shard in report["shards"]] == [f"{shard.table.digest:016x}" for shard in shards]

    done = run_hotstream("watch", "--limit", 7, *where(kafka))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 7
    for text in done.stdout.splitlines():
        found = re.fullmatch(r"(hot|cold) +(\S+) +row +(\d+|-)  score +(\S+)  shard (\d) seq (\d+)", text)
        assert found is not None, text
        assert found[2] in tokens_of(log)


def test_the_table_shows_the_hot_set_by_field_with_the_best_tokens(kafka: KafkaConfig, log: Path) -> None:
    shards = publish(kafka, log)
    done = run_hotstream("watch", "--table", "--until-end", "--json", "-", *where(kafka))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified"]
    rows = [line.split() for line in done.stderr.splitlines() if re.match(r"\s*C\d+ ", line)]
    assert sum(int(row[1]) for row in rows) == sum(shard.table.num_hot for shard in shards)
    printed = {f"{row[0]}:{token}" for row in rows for token in row[2:] if re.fullmatch(r"[0-9a-f]{8}|missing", token)}
    assert len(printed) > len(rows) / 2
    assert printed <= tokens_of(log)
    assert re.search(r"\n ?hotstream: [\d,]+ changes", done.stderr), "the report has a line of its own"
    assert "--until-end" not in done.stderr


def test_a_table_in_a_pipe_says_that_it_comes_at_the_end(kafka: KafkaConfig, log: Path) -> None:
    publish(kafka, log)
    done = run_hotstream("watch", "--table", "--limit", 9, *where(kafka))
    assert done.returncode == 0, done.stderr
    assert "the table comes when this ends, by Ctrl-C; --until-end prints that of now" in done.stderr
    assert re.match(r" field +hot +scores when they became hot", done.stdout)
    assert done.stdout.endswith("\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_new_changes_until_it_is_stopped_and_then_reports(
    kafka: KafkaConfig, log: Path, number: signal.Signals
) -> None:
    path, summary = log.with_name("report.json"), log.with_name("summary")
    with running(summary, "watch", "--json", path, *where(kafka), stdout=subprocess.PIPE) as watch:
        shards = publish(kafka, log)
        lines = itertools.islice(watch.process.stdout or (), sum(shard.seq for shard in shards))
        assert {line.split()[1] for line in lines} <= tokens_of(log)
        assert watch.stop(number) == 0
    report = json.loads(path.read_text())
    assert report["ok"]
    assert report["changes"]["total"] == sum(shard.seq for shard in shards)
    (line,) = summary.read_text().splitlines()
    assert f"{report['changes']['total']:,} changes; {report['hot']:,} hot" in line
    assert "equal to the agent's" in line


def test_from_now_the_incomplete_table_is_not_reported(kafka: KafkaConfig, log: Path) -> None:
    shards = publish(kafka, log)
    config = ("--from-now", "--limit", 1, "--json", "-", *where(kafka))
    with running(log.with_name("summary"), "watch", *config, stdout=subprocess.PIPE) as watch:
        while watch.process.poll() is None:  # until it is there to see one
            with RecordProducer(kafka) as producer:
                for shard in shards:
                    shard.seq += 1
                    cold = encode_assignment(
                        Assignment(key=1 << 56 | 7, tier="cold", shard=shard.number, epoch=1, seq=shard.seq),
                        CRITEO_FIELDS,
                    )
                    send(kafka, producer, shard.number, [cold, encode_digest(shard.describe())])
        report = json.loads(watch.process.stdout.read())  # type: ignore[union-attr]
    assert watch.process.returncode == 0
    assert (report["ok"], report["verified"], report["changes"]["total"]) == (True, None, 1)


def test_a_table_that_differs_from_its_digest_fails(kafka: KafkaConfig, log: Path) -> None:
    shards = publish(kafka, log)
    with RecordProducer(kafka) as producer:
        wrong = dataclasses.replace(shards[1].describe(), digest=shards[1].table.digest ^ 1)
        send(kafka, producer, 1, [encode_digest(wrong)])
    done = run_hotstream("watch", "--until-end", "--table", "--format", "json", "--json", "-", *where(kafka))
    assert done.returncode == 1
    assert "a digest differs" in done.stderr
    tables = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert tables[-1]["hot"] == sum(field["hot"] for field in tables[-1]["fields"])
    assert tables[-1]["hot"] == sum(shard.table.num_hot for shard in shards)
    report = json.loads(done.stdout)
    assert (report["ok"], report["verified"]) == (False, False)


@pytest.mark.broker
def test_what_cannot_be_watched_is_reported_with_the_right_status(embedded_broker: Any, topic_prefix: str) -> None:
    missing = KafkaConfig(bootstrap_servers=embedded_broker.bootstrap_servers, prefix=topic_prefix)
    for arguments, code, message in [
        (("--until-end", *where(missing)), 1, f"run `hotstream topics create --prefix {topic_prefix}`"),
        (("--limit", "0"), 2, "--limit"),
        (("--prefix", "a_b"), 2, "--prefix"),
    ]:
        done = run_hotstream("watch", *arguments)
        assert done.returncode == code, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_command_of_a_pipeline_starts_no_broker() -> None:
    # A broker that ends with the command would have no records, and keep none.
    done = CliRunner().invoke(command, ["--broker", "embedded"])
    assert done.exit_code == 2
    assert "No such option" in done.output
