"""`torchrun hotstream train` on a real broker: ranks that are killed, and another number of ranks."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_batches import NUM_FIELDS, click_batch

from sketch.hashing import shard_of
from streams.assignments.row_ranges import rows_of_shard
from streams.broker import BrokerProcess
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.keys import Field
from streams.records import Assignment, decode_importance, encode_assignment, encode_clicks
from streams.topics import Topics
from trainer.errors import PlanError
from trainer.process.launched import Launched
from trainer.serving.checkpointed import read_checkpointed
from trainer.serving.predictor import Predictor
from trainer.serving.replica import Replica

SHARDS, CLICK_PARTITIONS, ROWS, CAPACITY = 4, 3, 32, 60
FIELDS = tuple(Field(f"f{number}") for number in range(NUM_FIELDS))
KILLS = int(os.environ.get("RANK_KILLS", "1"))


@pytest.fixture
def kafka(embedded_broker: BrokerProcess, topic_prefix: str) -> KafkaConfig:
    config = KafkaConfig(bootstrap_servers=embedded_broker.bootstrap_servers, prefix=topic_prefix)
    topics = Topics(topic_prefix)
    specs = topics.specs(click_partitions=CLICK_PARTITIONS, shards=SHARDS)
    create_topics(config, [*specs, topics.embeddings_spec(shards=SHARDS)])
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
    launch = (
        f"-m torch.distributed.run --standalone --max-restarts {restarts} --nproc-per-node {world} -m trainer train"
    )
    options = f"--capacity {CAPACITY} --dim 8 --threads 1 --checkpoint-every {4 * ROWS} --window 100 --device cpu"
    where = ["--bootstrap-servers", kafka.bootstrap_servers, "--prefix", kafka.prefix]
    where += ["--schema", str(schema), "--checkpoint-dir", str(directory)]
    return [sys.executable, *launch.split(), *options.split(), *where, *more]


def train_to_end(kafka: KafkaConfig, world: int, directory: Path, *more: str) -> dict[str, Any]:
    """The report of ranks that train all clicks."""
    path = directory.parent / "report.json"
    told = ["--idle-timeout", "0.5", "--json", str(path), *more]
    done = subprocess.run(
        command(kafka, world, directory, *told), check=False, timeout=150, capture_output=True, text=True
    )
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


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    """The ids of a launcher's ranks, in no order; fewer than all while they start or end."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    every = [Path(f"/proc/{child}/cmdline") for child in children.read_text().split()]
    return [int(path.parent.name) for path in every if b"\0train\0" in path.read_bytes()]


def wait_for(is_true: Callable[[], bool], launcher: subprocess.Popen[str], what: str) -> None:
    deadline_s = time.monotonic() + 100
    while not is_true():
        assert launcher.poll() is None, f"the launcher ended before {what}"
        assert time.monotonic() < deadline_s, f"no {what} within 100 s"
        time.sleep(0.05)


def check_replicas(kafka: KafkaConfig, run: Path, out: Path) -> None:
    """A replica that starts late, and one that continues the export, have the rows of the ranks' checkpoint."""
    trained = Predictor.of(read_checkpointed(run), "run")
    keys = np.unique(np.concatenate([click_batch(ROWS, step).keys for step in range(20)]))
    for replica, verdict in ((Replica(kafka), True), (Replica(kafka, export=out), None)):
        with replica:
            replica.catch_up()
            assert replica.verify() == [verdict] * SHARDS  # no digest comes after the export
            assert replica.as_of()["step"] == trained.as_of()["step"]
            assert replica.owners() == trained.owners()
            np.testing.assert_array_equal(replica.lookup(keys), trained.lookup(keys))
            assert np.isfinite(replica.predict(np.zeros((1, 2), np.float32), click_batch(1, 0).keys)).all()


@pytest.mark.timeout(240 + 60 * KILLS)
def test_killed_ranks_are_started_again_and_the_books_balance(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Set RANK_KILLS to kill more ranks than the suite has time for."""
    hot = send_assignments(kafka, np.unique(click_batch(ROWS, 0).keys)[:40])
    path, log, chance, out = tmp_path / "report.json", tmp_path / "log", random.Random(7), tmp_path / "out"
    more = ["--json", str(path), "--publish", "--publish-bytes", "100000000", "--export", str(out)]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command(kafka, 2, tmp_path / "run", *more, restarts=KILLS), stderr=errors, text=True
        ) as launcher,
    ):
        try:
            for turn in range(KILLS):
                sent = 10 * turn + 10
                send_clicks(kafka, range(sent - 10, sent))
                enough = sent - chance.randrange(10)
                wait_for(lambda enough=enough: len(answers(kafka)) >= enough, launcher, f"answer to {enough} clicks")
                before = ranks_of(launcher)
                os.kill(before[turn % 2], signal.SIGKILL)
                killed_s = time.monotonic()
                wait_for(lambda before=before: not set(before) & set(ranks_of(launcher)), launcher, "end of all ranks")
                assert time.monotonic() - killed_s < 10
            send_clicks(kafka, range(10 * KILLS, 10 * KILLS + 10))
            wait_for(lambda: len(answers(kafka)) == 10 * KILLS + 10, launcher, "answer to all clicks")
            launcher.terminate()
            launcher.wait(timeout=60)
        finally:
            launcher.terminate()  # and its ranks, which it could not end if it were killed
    lines = log.read_text()
    assert re.search(r"rank [01] of 2: (rank [01]|another rank) has ended", lines), lines
    assert 'Traceback (most recent call last):\n  File "' + str(Path.cwd() / "trainer") not in lines
    check_books(kafka, 10 * KILLS + 10)
    check_replicas(kafka, tmp_path / "run", out)
    report = train_to_end(kafka, 1, tmp_path / "run")
    assert report["rows"]["trained"] == (10 * KILLS + 10) * ROWS
    assert report["click_records"]["trained"] == 10 * KILLS + 10
    assert report["hot_rows"] == hot
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["rank-0-of-1"]


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


@pytest.mark.skipif(
    "RANK_NODES" not in os.environ, reason="a minute each: RANK_NODES=1 pytest tests/test_ranks_process.py"
)
@pytest.mark.parametrize(("backend", "is_shared"), [("static", False), ("static", True), ("c10d", True)])
def test_a_rank_of_another_launcher_is_killed_and_all_go_on(
    kafka: KafkaConfig, tmp_path: Path, backend: str, is_shared: bool
) -> None:
    """Two launchers, as on two machines, which share the folder or do not."""
    port, launchers = free_port(), []
    send_clicks(kafka, range(10))
    with ExitStack() as opened:
        for number in range(2):
            place = {
                "static": f"--node-rank {number} --master-addr 127.0.0.1 --master-port {port}",
                "c10d": f"--rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port} --rdzv-id ranks",
            }[backend]
            launch = command(kafka, 1, tmp_path / ("run" if is_shared else f"run-{number}"), "--fresh", restarts=2)
            where = launch.index("--standalone")
            launch[where : where + 1] = ["--nnodes", "2", *place.split()]
            errors = opened.enter_context((tmp_path / f"log-{number}").open("w"))
            launchers.append(opened.enter_context(subprocess.Popen(launch, stderr=errors, text=True)))
        try:
            wait_for(lambda: len(answers(kafka)) >= 10, launchers[0], "answer to 10 clicks")
            os.kill(ranks_of(launchers[1])[0], signal.SIGKILL)
            send_clicks(kafka, range(10, 20))
            wait_for(lambda: len(answers(kafka)) >= 20, launchers[0], "answer to all clicks")
        finally:
            for launcher in launchers:  # all, before one is waited for: a launcher waits for the others
                launcher.terminate()
    assert all("resumes from" in (tmp_path / f"log-{number}").read_text() for number in range(2))  # --fresh counts once
    check_books(kafka, 20)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"lacks_directory": True}, "add --checkpoint-dir"), ({"is_dry": True}, "--dry-run: not with torchrun")],
)
def test_what_ranks_do_not_do_is_refused(
    options: dict[str, bool], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PlanError, match=reason):
        Launched.join(torch.device("cpu"), **options)
