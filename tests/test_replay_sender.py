"""Replay: pacing, every row exactly once after any failure, dead letters, and clear errors."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streams.broker import BrokerProcess, run_broker
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.dead_letter_topics import DeadLetterTopics, read_dead_letters
from streams.clients.in_memory import Record
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.errors import ConfigError, InputError, TopicError
from streams.logs.reader import read_log
from streams.logs.schema import SCHEMAS
from streams.records import ClickBatch, decode_clicks
from streams.replay.pacer import Pacer
from streams.replay.plan import ReplayPlan, name_replay
from streams.replay.sender import replay_logs
from streams.topics import Topics

KAGGLE = SCHEMAS["criteo-kaggle"]
PARTITIONS = 3
BAD_EVERY = 97


def write_log(path: Path, num_lines: int, *, seed: int = 0) -> Path:
    """A Criteo-shaped log: its I1 is the line number, and every 97th line is broken."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1 << 32, size=(num_lines, 26))
    with path.open("w") as file:
        for number in range(1, num_lines + 1):
            row = "\t".join(f"{token:08x}" for token in tokens[number - 1].tolist())
            good = "\t".join([str(number % 2), str(number), *[""] * 12, row])
            file.write(("broken" if number % BAD_EVERY == 0 else good) + "\n")
    return path


def config_with_topics(servers: str, prefix: str, partitions: int = PARTITIONS) -> KafkaConfig:
    config = KafkaConfig(bootstrap_servers=servers, prefix=prefix)
    assert all(state.created for state in create_topics(config, Topics(prefix).specs(click_partitions=partitions)))
    return config


def read_topic(config: KafkaConfig, topic: str, partitions: int) -> list[Any]:
    with open_partition_log(config) as log:
        return [
            record for number in range(partitions) for record in log.read(topic, number, *log.bounds(topic, number))
        ]


def wait_for_records(config: KafkaConfig, more: int, process: subprocess.Popen[Any]) -> None:
    """Returns when the clicks topic holds so many records more than now, or the process has ended."""
    topic, deadline_s = Topics(config.prefix).clicks, time.monotonic() + 30
    with open_partition_log(config) as log:
        wanted = more + sum(end for _, end in log.all_bounds(topic, PARTITIONS))
        while sum(end for _, end in log.all_bounds(topic, PARTITIONS)) < wanted and process.poll() is None:
            assert time.monotonic() < deadline_s


def assert_every_row_once(
    config: KafkaConfig, path: Path, *, last_line: int | None = None, file: str = "log.tsv"
) -> None:
    """Compares the topics with the file: line ranges without gap or overlap, the rows, and the dead letters."""
    topics = Topics(config.prefix)
    records = read_topic(config, topics.clicks, PARTITIONS)
    named = sorted((dict(record.headers) for record in records), key=lambda headers: int(headers["first-row"]))
    next_line = 1
    for headers in named:
        assert (headers["file"], int(headers["first-row"])) == (file.encode(), next_line)
        next_line = int(headers["last-row"]) + 1
    decoded = [decode_clicks(record.value, record.headers) for record in records]
    batches = [batch for batch in decoded if isinstance(batch, ClickBatch)]
    assert len(batches) == len(records)
    (block,) = read_log(path, KAGGLE, 1 << 30)
    rows = block.parse().between(1, last_line or block.last_line)
    assert next_line == (last_line or block.last_line) + 1
    lines = np.concatenate([batch.dense[:, 0] for batch in batches])
    order = np.argsort(lines)
    assert lines[order].tolist() == rows.lines.tolist()
    np.testing.assert_array_equal(np.concatenate([batch.keys for batch in batches])[order], rows.batch.keys)
    np.testing.assert_array_equal(np.concatenate([batch.label for batch in batches])[order], rows.batch.label)
    letters = [int(dict(record.headers)["dlq-line"]) for record in read_topic(config, f"{topics.clicks}.dlq", 1)]
    assert letters == [bad.line for bad in rows.bad]


# ---- without a broker ----------------------------------------------------------------------------------------------


class FakeClock:
    """A clock that only sleeping advances."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_rate_spaces_batches_evenly() -> None:
    clock = FakeClock()
    pacer = Pacer(rate_rows_s=1000, clock=clock, sleep=clock.sleep)
    sent_s = []
    for rows in (500, 500, 100, 500):
        assert pacer.wait(rows, 0)
        sent_s.append(round(clock.now_s - 100, 6))
    assert sent_s == [0, 0.5, 1.0, 1.1]


def test_after_a_stall_the_pacer_catches_up_by_at_most_one_second_of_rows() -> None:
    clock = FakeClock()
    pacer = Pacer(rate_rows_s=1000, clock=clock, sleep=clock.sleep)
    assert pacer.wait(1000, 0)
    clock.now_s += 60
    sent_s = []
    for _ in range(4):
        assert pacer.wait(1000, 0)
        sent_s.append(round(clock.now_s - 160, 6))
    assert sent_s == [0, 0, 1, 2]


def test_a_speedup_follows_the_event_time() -> None:
    clock = FakeClock()
    pacer = Pacer(speedup=60, clock=clock, sleep=clock.sleep)
    sent_s = []
    for event_time_ms in (1_000_000, 1_000_000, 1_060_000, 1_030_000, 4_600_000):
        assert pacer.wait(10, event_time_ms)
        sent_s.append(round(clock.now_s - 100, 6))
    assert sent_s == [0, 0, 1, 1, 60]


def test_waiting_ends_when_asked_to_stop() -> None:
    clock = FakeClock()
    pacer = Pacer(rate_rows_s=1, clock=clock, sleep=clock.sleep, should_stop=lambda: clock.now_s > 105)
    assert pacer.wait(1000, 0)
    assert not pacer.wait(1000, 0)
    assert clock.now_s == pytest.approx(105.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": ()}, "files: got none"),
        ({"batch_rows": 0}, "--batch-rows: got 0, expected 1 to 8192"),
        ({"batch_rows": 8193}, "--batch-rows: got 8193"),
        ({"rate_rows_s": 0.0}, "--rate: got 0.0"),
        ({"limit_rows": -1}, "--limit: got -1"),
        ({"speedup": 2.0}, "--speedup: schema criteo-kaggle has no time column"),
        ({"schema": SCHEMAS["avazu"], "speedup": 2.0, "rate_rows_s": 2.0}, "--rate and --speedup"),
    ],
)
def test_an_invalid_plan_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReplayPlan(**{"paths": (Path("log"),), "schema": KAGGLE, **options})


def test_a_replay_is_named_by_all_that_decides_its_batches(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", 10)
    name = name_replay(KAGGLE, [log], 100)
    (tmp_path / "elsewhere").mkdir()
    assert name_replay(SCHEMAS["criteo-terabyte"], [write_log(tmp_path / "elsewhere" / "log", 10)], 100) == name
    others = {
        name_replay(SCHEMAS["avazu"], [log], 100),
        name_replay(KAGGLE, [log, log], 100),
        name_replay(KAGGLE, [log], 101),
        name_replay(KAGGLE, [write_log(tmp_path / "log", 11)], 100),
    }
    assert len(others | {name}) == 5


def run_command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from trainer.cli import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_files_that_cannot_be_replayed_are_reported_before_a_broker_is_used(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    nobody = f"127.0.0.1:{closed_port()}"
    for file, code, message in [("none", 2, "no such file"), (".", 1, "empty: no rows"), ("empty", 1, "no rows in it")]:
        done = run_command("replay", tmp_path / file, "--bootstrap-servers", nobody)
        assert (done.returncode, done.stdout) == (code, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_broker_ends_the_command_with_one_line(tmp_path: Path) -> None:
    done = run_command("replay", write_log(tmp_path / "log", 10), KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{closed_port()}")
    assert done.returncode == 1
    assert "no broker answered" in done.stderr
    assert "Traceback" not in done.stderr


# ---- with a broker -------------------------------------------------------------------------------------------------


@pytest.mark.broker
def test_killed_at_any_moment_and_resumed_it_sends_every_row_once(
    apache_broker: BrokerProcess, topic_prefix: str, tmp_path: Path
) -> None:
    # Not on the embedded broker, which shows the records of aborted transactions.
    bootstrap_servers = apache_broker.bootstrap_servers
    config = config_with_topics(bootstrap_servers, topic_prefix)
    path = write_log(tmp_path / "log.tsv", 12_000)
    chance = random.Random(time.time_ns())
    arguments = ["replay", str(path), "--batch-rows", "64", "--resume", "--max-bad", "1"]
    arguments += ["--bootstrap-servers", bootstrap_servers, "--prefix", topic_prefix]
    for rate in ("30000", "2000", "30000", "2000"):  # within a transaction; around its commit
        command = [sys.executable, "-c", "from trainer.cli import main; main()", *arguments, "--rate", rate]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            wait_for_records(config, chance.randint(1, 50), process)
            process.kill()
    plan = ReplayPlan(paths=(path,), schema=KAGGLE, batch_rows=64, resume=True)
    counts = replay_logs(config, plan)
    assert counts.resumed
    assert counts.read == 12_000 == counts.sent + counts.bad + counts.skipped
    assert_every_row_once(config, path)
    assert replay_logs(config, plan).skipped == 12_000
    assert_every_row_once(config, path)


@pytest.fixture
def config(embedded_broker: BrokerProcess, topic_prefix: str) -> KafkaConfig:
    return config_with_topics(embedded_broker.bootstrap_servers, topic_prefix)


def command_options(config: KafkaConfig) -> list[str]:
    return ["--bootstrap-servers", config.bootstrap_servers, "--prefix", config.prefix]


@pytest.mark.broker
def test_a_limit_can_be_raised_on_resume(config: KafkaConfig, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.tsv", 1000)
    plan = ReplayPlan(paths=(path,), schema=KAGGLE, batch_rows=100, resume=True)
    assert replay_logs(config, replace(plan, limit_rows=250)).read == 250
    assert_every_row_once(config, path, last_line=250)
    counts = replay_logs(config, replace(plan, limit_rows=777))
    assert (counts.read, counts.skipped) == (777, 250)
    assert_every_row_once(config, path, last_line=777)
    assert replay_logs(config, replace(plan, limit_rows=300)).sent == 0
    replay_logs(config, plan)
    assert_every_row_once(config, path)


@pytest.mark.broker
def test_a_loop_goes_on_in_the_pass_where_it_stopped(config: KafkaConfig, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.tsv", 90)
    plan = ReplayPlan(paths=(path, path), schema=KAGGLE, batch_rows=10, loop=True, resume=True)
    assert replay_logs(config, replace(plan, limit_rows=5 * 180 + 45)).sent == 945
    counts = replay_logs(config, replace(plan, limit_rows=8 * 180))
    assert (counts.read, counts.sent, counts.skipped) == (1440, 495, 945)
    records = read_topic(config, Topics(config.prefix).clicks, PARTITIONS)
    firsts = sorted(int(dict(record.headers)["first-row"]) for record in records)
    assert firsts == sorted([*(16 * [1 + 10 * batch for batch in range(9)]), 46])  # the first run ended in line 45
    sizes = [len([record for record in records if record.partition == number]) for number in range(PARTITIONS)]
    assert max(sizes) - min(sizes) <= 2


@pytest.mark.broker
def test_a_second_run_of_the_same_files_is_resumed_for_itself(config: KafkaConfig, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.tsv", 900)
    plan = ReplayPlan(paths=(path,), schema=KAGGLE, batch_rows=100)
    replay_logs(config, plan)
    replay_logs(config, replace(plan, limit_rows=150))
    counts = replay_logs(config, replace(plan, resume=True))
    assert (counts.skipped, counts.sent + counts.bad) == (150, 750)
    lines = [
        line
        for record in read_topic(config, Topics(config.prefix).clicks, PARTITIONS)
        for line in range(int(dict(record.headers)["first-row"]), int(dict(record.headers)["last-row"]) + 1)
    ]
    assert sorted(lines) == sorted(2 * list(range(1, 901)))


@pytest.mark.broker
def test_another_replay_is_not_resumed(config: KafkaConfig, tmp_path: Path) -> None:
    plan = ReplayPlan(paths=(write_log(tmp_path / "log.tsv", 100),), schema=KAGGLE, batch_rows=10)
    assert not replay_logs(config, replace(plan, resume=True)).resumed  # the topic is empty
    with pytest.raises(TopicError, match="only other replays have run"):
        replay_logs(config, replace(plan, batch_rows=20, resume=True))


@pytest.mark.broker
def test_other_records_between_do_not_hide_where_a_replay_stands(config: KafkaConfig, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.tsv", 1000)
    topic = Topics(config.prefix).clicks
    plan = ReplayPlan(paths=(path,), schema=KAGGLE, batch_rows=100)
    replay_logs(config, replace(plan, limit_rows=550))
    with RecordProducer(config) as producer:
        for number in range(600):
            producer.send(topic, number % PARTITIONS, b"{}", [("content-type", b"application/json")])
            producer.send(Topics.dead_letters(topic), 0, b"{}", [("dlq-topic", topic.encode())])
    counts = replay_logs(config, replace(plan, resume=True))
    assert (counts.skipped, counts.sent + counts.bad) == (550, 450)


@pytest.mark.broker
def test_sigterm_stops_between_batches_and_the_message_names_resume(config: KafkaConfig, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.tsv", 5000)
    arguments = ["replay", str(path), "--batch-rows", "50", "--max-bad", "1", *command_options(config)]
    command = [sys.executable, "-c", "from trainer.cli import main; main()", *arguments, "--rate", "500"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for_records(config, 3, process)
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "--resume" in printed
    assert run_command(*arguments, "--resume").returncode == 0
    assert_every_row_once(config, path)


@pytest.mark.broker
def test_a_cut_off_file_is_sent_up_to_the_damage(config: KafkaConfig, tmp_path: Path) -> None:
    whole = gzip.compress(write_log(tmp_path / "log.tsv", 2000).read_bytes())
    path = tmp_path / "log.tsv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    done = run_command("replay", path, "--batch-rows", "100", *command_options(config))
    assert done.returncode == 1
    assert "log.tsv.gz: damaged or cut off after line" in done.stderr
    last = max(int(dict(record.headers)["last-row"]) for record in read_topic(config, f"{config.prefix}.clicks", 3))
    assert_every_row_once(config, tmp_path / "log.tsv", last_line=last, file="log.tsv.gz")
    assert f"nothing from line {last + 1} on" in done.stderr
    with pytest.raises(InputError):
        replay_logs(config, ReplayPlan(paths=(path,), schema=KAGGLE, batch_rows=100, resume=True))
    assert_every_row_once(config, tmp_path / "log.tsv", last_line=last, file="log.tsv.gz")


@pytest.mark.broker
def test_the_error_for_missing_topics_names_the_command_that_creates_them(
    embedded_broker: BrokerProcess, topic_prefix: str, tmp_path: Path
) -> None:
    path = write_log(tmp_path / "log.tsv", 10)
    with pytest.raises(TopicError, match="hotstream topics create"):
        replay_logs(
            KafkaConfig(bootstrap_servers=embedded_broker.bootstrap_servers, prefix=topic_prefix),
            ReplayPlan(paths=(path,), schema=KAGGLE),
        )


@pytest.mark.broker
def test_a_replay_whose_broker_dies_waits_and_ends_soon_when_asked_to(topic_prefix: str, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.tsv", 20_000)
    with run_broker("embedded") as broker:
        config = config_with_topics(broker.bootstrap_servers, topic_prefix)
        command = [sys.executable, "-m", "trainer", "replay", str(path), "--rate", "2000", "--batch-rows", "20"]
        with subprocess.Popen([*command, *command_options(config)], stderr=subprocess.PIPE, text=True) as process:
            wait_for_records(config, 5, process)
            broker.kill()
            process.terminate()
            _, printed = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "stopped while the broker" in printed
    assert "run again with --resume" in printed


@pytest.mark.broker
def test_an_avazu_log_goes_through_by_its_schema(config: KafkaConfig, tmp_path: Path) -> None:
    fields = SCHEMAS["avazu"].categorical
    path = tmp_path / "avazu.csv"
    rows = [f"{n},{n % 2},141021{n // 10:02d}," + ",".join(f"v{n % 7}" for _ in range(21)) for n in range(40)]
    path.write_text("\n".join([",".join(["id", "click", *(field.name for field in fields)]), *rows]))
    started_s = time.monotonic()
    done = run_command(
        "replay", path, "--schema", "avazu", "--batch-rows", 10, "--speedup", 3600, *command_options(config)
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started_s > 3  # four hours, at an hour a second
    records = read_topic(config, f"{config.prefix}.clicks", PARTITIONS)
    batches = [batch for batch in (decode_clicks(r.value, r.headers) for r in records) if isinstance(batch, ClickBatch)]
    assert sum(batch.num_rows for batch in batches) == 40
    assert batches[0].fields == fields
    hours = sorted({int(time_ms) for batch in batches for time_ms in batch.event_time_ms})
    assert hours == [1413849600_000 + hour * 3_600_000 for hour in range(4)]


@pytest.mark.broker
def test_dead_letters_are_shown_exported_and_replayed(config: KafkaConfig, tmp_path: Path) -> None:
    path, topic = write_log(tmp_path / "log.tsv", 200), Topics(config.prefix).clicks
    done = run_command("replay", path, *command_options(config), "--json", "-")
    assert json.loads(done.stdout)["rows"] == {"read": 200, "sent": 198, "bad": 2, "skipped": 0}
    dead_letters = DeadLetterTopics(config, [topic], clock_ms=lambda: 1_700_000_000_000)
    rejected = [
        (Record(topic, 2, 17, 0, b"key", b"not Arrow", [("content-type", b"x")]), "empty value, expected Arrow"),
        (Record(topic, 1, 18, 0, None, None, [("x", b"y")]), "no value"),
    ]
    with RecordProducer(config) as producer:
        for record, reason in rejected:
            letter = dead_letters.reject(record, reason)
            producer.send(letter.topic, letter.partition, letter.value, letter.headers, key=letter.key)
    letters = list(read_dead_letters(config, topic))
    assert [letter.origin for letter in letters] == ["log.tsv:97", "log.tsv:194", f"{topic}[2]@17", f"{topic}[1]@18"]
    shown = run_command("dlq", "show", "clicks", "--out", tmp_path / "mended", *command_options(config))
    assert shown.returncode == 0, shown.stderr
    assert "log.tsv:97  Columns: 1 columns, expected 40; the first missing is 'I1'" in shown.stdout
    expected = f"{topic}[2]@17  BadRecord: empty value, expected Arrow\n    headers: content-type='x'\n    key: 'key'\n"
    assert f"{expected}    'not Arrow'" in shown.stdout
    assert (tmp_path / "mended").read_bytes() == b"broken\nbroken\n"
    again = run_command("dlq", "replay", "clicks", *command_options(config), "--json", "-")
    assert json.loads(again.stdout)["records"] == {"sent": 2, "left": 2, "cut": 0}
    records = read_topic(config, topic, PARTITIONS)
    (resent,) = [record for record in records if record.key == b"key"]
    assert (resent.partition, resent.value, resent.headers) == (2, b"not Arrow", [("content-type", b"x")])
    (resent,) = [record for record in records if record.value is None]
    assert (resent.partition, resent.key, resent.headers) == (1, None, [("x", b"y")])
