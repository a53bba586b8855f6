"""The reader and the producer in Go: they pass the vectors, and follow a running agent as `HotFeatureTable` does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Metrics, running, wait_until, where

from streams import HotFeatureTable
from streams.broker import BrokerProcess
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import open_partition_log
from streams.keys import Field, make_key
from streams.topics import Topics

SOURCE = Path(__file__).parent.parent / "docs" / "readers" / "go"
SHARDS, START_MS = 4, 1_700_000_000_000
QUICK = {"segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000"}
SCHEMA = """[log]
label = "click"
dense = ["price"]
categorical = ["site", { name = "ad", kind = "hex32" }, "city"]
"""


def run_go(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["go", *arguments], cwd=SOURCE, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "GOFLAGS": "-buildvcs=false -mod=readonly"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def hotset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built."""
    if shutil.which("go") is None:
        pytest.skip("needs Go 1.24 or newer: install it, and `go` on the PATH")
    downloaded = run_go("mod", "download")
    if downloaded.returncode:
        pytest.skip(f"needs the modules of docs/readers/go/go.mod; no download: {downloaded.stderr[-300:]}")
    program = tmp_path_factory.mktemp("go") / "hotset"
    built = run_go("build", "-o", str(program), ".")
    assert built.returncode == 0, built.stderr
    return program


def test_the_go_reader_passes_the_vectors(hotset: Path) -> None:
    tested = run_go("test", "-count=1", "./...")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    vetted = run_go("vet", "./...")
    assert vetted.returncode == 0, vetted.stderr


def produce(hotset: Path, kafka: KafkaConfig, numbers: range) -> None:
    """Sends clicks, two seconds of event time apart, whose popular features change."""
    random = np.random.default_rng(numbers.start)
    clicks = [
        {
            "label": number % 2,
            "features": {
                "site": f"s{random.zipf(1.3) % 50 + number // 100}.example",
                "ad": f"{random.zipf(1.3) % 50 + number // 100:08x}",
                "city": ["a", "ünïcødé"],  # a second value
            },
            "event_time_ms": START_MS + 2000 * number,
        }
        for number in numbers
    ]
    sent = subprocess.run(
        [str(hotset), "produce", "-servers", kafka.bootstrap_servers, "-prefix", kafka.prefix],
        input="\n".join(json.dumps(click) for click in clicks), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr


@contextmanager
def following(hotset: Path, kafka: KafkaConfig) -> Iterator[subprocess.Popen[str]]:
    command = [str(hotset), "follow", "-servers", kafka.bootstrap_servers, "-prefix", kafka.prefix]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The table that the reader prints when its input ends."""
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    table: dict[str, Any] = json.loads(printed)
    return table


def count_kept(kafka: KafkaConfig) -> tuple[int, int]:
    """The records that compaction has left in the assignments, and all that were written."""
    topic, kept = Topics(kafka.prefix).assignments, 0
    with open_partition_log(kafka) as log:
        bounds = log.all_bounds(topic, SHARDS)
        for number, (begin, finish) in enumerate(bounds):
            kept += sum(1 for _ in log.read(topic, number, begin, finish))
    return kept, sum(finish for _, finish in bounds)


def has_fields(kafka: KafkaConfig) -> bool:
    """Whether the agents have recorded the fields; they look every five seconds."""
    topic = Topics(kafka.prefix).control
    with open_partition_log(kafka) as log:
        return any(record.key == b"fields" for record in log.read(topic, 0, *log.bounds(topic, 0)))


@pytest.mark.broker
def test_a_go_reader_follows_kill_compaction_and_epochs_in_four_shards(
    hotset: Path, apache_broker: BrokerProcess, topic_prefix: str, tmp_path: Path
) -> None:
    kafka = KafkaConfig(bootstrap_servers=apache_broker.bootstrap_servers, prefix=topic_prefix)
    topics = Topics(topic_prefix)
    specs = topics.specs(shards=SHARDS)
    quick = [replace(spec, configs={**spec.configs, **QUICK}) for spec in specs if spec.name == topics.assignments]
    create_topics(kafka, [*(spec for spec in specs if spec.name != topics.assignments), *quick])
    schema = tmp_path / "schema.toml"
    schema.write_text(SCHEMA, encoding="utf-8")
    agent = ("agent", "--signal", "frequency")
    options = (*agent, "--schema", schema, "--session-timeout", 6, *where(kafka), "--capacity")

    with following(hotset, kafka) as early, Metrics(kafka) as metrics:
        with running(tmp_path / "first.log", *options, 24) as first:
            produce(hotset, kafka, range(300))
            wait_until(lambda: metrics.total("hot") > 12, first)
            first.kill()
        produce(hotset, kafka, range(300, 400))
        with running(tmp_path / "second.log", *options, 12, "--new-epoch") as second:
            done = 400

            def is_done() -> bool:
                nonlocal done
                produce(hotset, kafka, range(done, done + 20))
                done += 20
                metrics.look()
                has_begun = all(shard["epoch"] == 2 and shard["hot"] for shard in metrics.shards.values())
                kept, written = count_kept(kafka)
                return has_begun and kept < written and has_fields(kafka)

            wait_until(is_done, second, timeout_s=120)
            assert second.stop() == 0
        followed = end(early)
    with following(hotset, kafka) as late:
        read = end(late)
    with HotFeatureTable(kafka) as table:
        rows = {f"{key:016x}": row for key, row in table.table.items()}
        assert table.table.is_verified
    assert 0 < len(rows) <= 12
    for printed in (followed, read):
        assert printed["rows"] == rows
        assert (printed["verified"], printed["bad"], printed["capacity"]) == (True, 0, 12)
    fields = [Field("site"), Field("ad", "hex32"), Field("city")]
    assert read["fields"] == [{"Name": field.name, "Kind": field.kind} for field in fields]
    city = make_key(3, "hash", "ünïcødé")
    assert f"{city:016x}" in rows
    assert f"city:~{city & ((1 << 56) - 1):014x}" in read["features"]
