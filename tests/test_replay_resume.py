"""A replay that is resumed sends each row once, whatever happened to the run before: no clock and no guess decides."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import running, wait_until, where

from streams.broker import BrokerProcess
from streams.clients import patience
from streams.clients.admin import ask_admin, create_topics
from streams.clients.config import KafkaConfig
from streams.clients.connector import Connector
from streams.clients.in_memory import InMemoryBroker
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.clients.transactions import TransactionalProducer
from streams.errors import BrokerError, TopicError, TransactionLostError
from streams.logs.schema import SCHEMAS
from streams.records import REPLAY_KEY, ReplayProgress, decode_progress
from streams.replay.plan import ReplayPlan
from streams.replay.sender import ReplayCounts, replay_logs
from streams.topics import Topics

PARTITIONS = 2
BATCHES = 12
BATCH_ROWS = 3
LINES = BATCHES * BATCH_ROWS
BAD_LINE = 17


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> ReplayPlan:
    path = tmp_path_factory.mktemp("logs") / "log.tsv"
    good = "\t".join(["1", *[""] * 13, *["68fd1e64"] * 26])
    path.write_text("".join(("broken" if line == BAD_LINE else good) + "\n" for line in range(1, LINES + 1)))
    return ReplayPlan(paths=(path,), schema=SCHEMAS["criteo-kaggle"], batch_rows=BATCH_ROWS)


def with_topics(connector: Any) -> Any:
    create_topics(connector, Topics(connector.prefix).specs(click_partitions=PARTITIONS))
    return connector


@pytest.fixture(params=["in memory", pytest.param("apache", marks=pytest.mark.broker)])
def connector(request: pytest.FixtureRequest, topic_prefix: str) -> Connector:
    """Two brokers on which records of aborted transactions are invisible."""
    if request.param == "in memory":
        return with_topics(InMemoryBroker(prefix=topic_prefix))  # type: ignore[no-any-return]
    servers = request.getfixturevalue("apache_broker").bootstrap_servers
    return with_topics(KafkaConfig(bootstrap_servers=servers, prefix=topic_prefix))  # type: ignore[no-any-return]


def read(connector: Connector, topic: str, partitions: int = 1) -> list[Any]:
    with open_partition_log(connector) as log:
        return [
            record for number in range(partitions) for record in log.read(topic, number, *log.bounds(topic, number))
        ]


def lines_sent(connector: Connector) -> list[int]:
    """The lines of all click records, sorted."""
    named = [dict(record.headers) for record in read(connector, Topics(connector.prefix).clicks, PARTITIONS)]
    return sorted(line for one in named for line in range(int(one["first-row"]), int(one["last-row"]) + 1))


def lines_rejected(connector: Connector) -> list[int]:
    letters = read(connector, Topics.dead_letters(Topics(connector.prefix).clicks))
    return [int(dict(letter.headers)["dlq-line"]) for letter in letters]


def assert_each_row_once(connector: Connector) -> None:
    assert lines_sent(connector) == list(range(1, LINES + 1))
    assert lines_rejected(connector) == [BAD_LINE]


def at_batch(number: int, act: Callable[[], object]) -> Callable[[ReplayCounts], None]:
    """Acts after a batch of a replay, once."""
    done: list[object] = []

    def on_progress(counts: ReplayCounts) -> None:
        if counts.batches == number and not done:
            done.append(act())

    return on_progress


# ---- the run before has not ended ------------------------------------------------------------------------------------


@pytest.mark.parametrize("transaction_s", [0, 1000])
def test_a_run_that_goes_on_after_it_was_resumed_elsewhere_adds_nothing(
    connector: Connector, plan: ReplayPlan, transaction_s: float
) -> None:
    second: list[ReplayCounts] = []

    def resume_elsewhere() -> None:
        second.append(replay_logs(connector, replace(plan, resume=True)))

    with pytest.raises(TransactionLostError, match="another run of this replay took over, so this one ends"):
        replay_logs(connector, plan, on_progress=at_batch(5, resume_elsewhere), transaction_s=transaction_s)
    assert second[0].resumed == (transaction_s == 0)  # the long transaction was aborted
    assert_each_row_once(connector)


def test_a_new_run_ends_the_one_before_and_is_the_one_to_resume(connector: Connector, plan: ReplayPlan) -> None:
    def begin_again() -> None:
        replay_logs(connector, replace(plan, limit_rows=2 * BATCH_ROWS))

    with pytest.raises(TransactionLostError):
        replay_logs(connector, plan, on_progress=at_batch(4, begin_again), transaction_s=0)
    assert replay_logs(connector, replace(plan, resume=True)).skipped == 2 * BATCH_ROWS
    assert lines_sent(connector) == sorted([*range(1, 4 * BATCH_ROWS + 1), *range(1, LINES + 1)])


def test_a_replay_is_resumed_although_clicks_got_partitions(plan: ReplayPlan) -> None:
    broker = with_topics(InMemoryBroker())
    replay_logs(broker, replace(plan, limit_rows=5 * BATCH_ROWS))
    broker.add_partitions(Topics(broker.prefix).clicks, 5)
    assert replay_logs(broker, replace(plan, resume=True)).skipped == 5 * BATCH_ROWS
    named = [dict(record.headers) for record in read(broker, Topics(broker.prefix).clicks, 5)]
    assert sum(int(one["last-row"]) - int(one["first-row"]) + 1 for one in named) == LINES


@pytest.mark.parametrize("transaction_s", [0, 1000])
def test_a_replay_whose_transaction_expired_sends_it_again(plan: ReplayPlan, transaction_s: float) -> None:
    broker = with_topics(InMemoryBroker())
    counts = replay_logs(broker, plan, on_progress=at_batch(5, broker.transactions.expire), transaction_s=transaction_s)
    assert (counts.read, counts.sent, counts.bad, counts.batches) == (LINES, LINES - 1, 1, BATCHES)
    assert_each_row_once(broker)


def test_a_replay_does_not_go_on_while_another_transaction_hides_its_progress(
    connector: Connector, plan: ReplayPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = Topics(connector.prefix).control
    with TransactionalProducer(connector, f"{connector.prefix}-other") as other:
        hide = at_batch(1, lambda: other.send(control, 0, b"{}", [], key=b"other"))
        replay_logs(connector, replace(plan, limit_rows=9), on_progress=hide)
        monkeypatch.setattr(patience, "STALL_S", 1.0)
        with pytest.raises(BrokerError, match=f"no record of {control}"):
            replay_logs(connector, replace(plan, resume=True))
        other.commit()
    assert replay_logs(connector, replace(plan, resume=True)).skipped == 9
    assert_each_row_once(connector)


@pytest.mark.broker
def test_a_command_that_was_overtaken_ends_with_one_line(
    apache_broker: BrokerProcess, topic_prefix: str, plan: ReplayPlan, tmp_path: Path
) -> None:
    kafka = with_topics(KafkaConfig(bootstrap_servers=apache_broker.bootstrap_servers, prefix=topic_prefix))
    options = ["--batch-rows", BATCH_ROWS, "--rate", 10, *where(kafka)]
    with running(tmp_path / "log", "replay", *plan.paths, *options) as first:
        wait_until(lambda: bool(lines_sent(kafka)), first)
        assert replay_logs(kafka, replace(plan, resume=True)).resumed
        assert first.process.wait(30) == 1
    [line] = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("hotstream: another run of this replay took over")
    assert_each_row_once(kafka)


# ---- nothing is read back, and no clock is asked ---------------------------------------------------------------------


def test_retention_may_have_removed_all_rows(plan: ReplayPlan) -> None:
    broker = with_topics(InMemoryBroker())
    clicks = Topics().clicks
    replay_logs(broker, replace(plan, limit_rows=30))
    for partition in range(PARTITIONS):
        broker.delete_before(clicks, partition, broker.partition(clicks, partition).end - 1)
    counts = replay_logs(broker, replace(plan, resume=True))
    assert (counts.skipped, counts.read, counts.batches) == (30, LINES, 2)


@pytest.mark.parametrize("hours", [-24, 24])
def test_the_clocks_of_host_and_broker_may_differ(plan: ReplayPlan, hours: int) -> None:
    now_ms = time.time_ns() // 1_000_000
    broker = with_topics(InMemoryBroker(clock_ms=lambda: now_ms + hours * 3_600_000))
    replay_logs(broker, replace(plan, limit_rows=20))
    assert replay_logs(broker, replace(plan, resume=True)).skipped == 20
    assert_each_row_once(broker)


# ---- crashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transaction_s", [0, 1000])
@pytest.mark.parametrize("lose", ["record", "acknowledgement"])
def test_after_a_crash_at_any_request_each_row_is_sent_once(
    plan: ReplayPlan, transaction_s: float, lose: Literal["record", "acknowledgement"]
) -> None:
    undisturbed = with_topics(InMemoryBroker())
    replay_logs(undisturbed, plan, transaction_s=transaction_s)
    assert len(undisturbed.crash_points) > BATCHES
    for point in undisturbed.crash_points:
        broker = with_topics(InMemoryBroker())
        broker.fail_after(point, lose=lose)
        with pytest.raises(BrokerError, match="run again with --resume"):
            replay_logs(broker, plan, transaction_s=transaction_s)
        replay_logs(broker, replace(plan, resume=True), transaction_s=transaction_s)
        assert_each_row_once(broker)


CRASHES = st.tuples(st.integers(0, 40), st.sampled_from(["record", "acknowledgement"]), st.sampled_from([0, 1000]))


@given(st.lists(CRASHES, max_size=6))
def test_after_any_sequence_of_crashes_each_row_is_sent_once(plan: ReplayPlan, crashes: list[Any]) -> None:
    broker, resumed = with_topics(InMemoryBroker()), replace(plan, resume=True)
    for records, lose, transaction_s in crashes:
        broker.fail_after(records, lose=lose)
        with suppress(BrokerError):
            replay_logs(broker, resumed, transaction_s=transaction_s)
        broker.cancel_fault()
    replay_logs(broker, resumed)
    assert_each_row_once(broker)


# ---- what cannot be resumed ------------------------------------------------------------------------------------------


def ends(connector: Connector) -> list[int]:
    with open_partition_log(connector) as log:
        topics = Topics(connector.prefix)
        bounds = log.all_bounds(topics.clicks, PARTITIONS) + log.all_bounds(topics.control, 1)
    return [end for _, end in bounds]


def test_a_replay_that_has_ended_is_resumed_without_sending(
    connector: Connector, plan: ReplayPlan, caplog: pytest.LogCaptureFixture
) -> None:
    replay_logs(connector, plan)
    before = ends(connector)
    with caplog.at_level(logging.INFO, logger="streams"):
        counts = replay_logs(connector, replace(plan, resume=True))
    assert (counts.read, counts.skipped, counts.batches) == (LINES, LINES, 0)
    assert "nothing to do, all rows were sent before" in caplog.text
    assert ends(connector) == before


def test_rows_of_unknown_progress_are_not_resumed(connector: Connector, plan: ReplayPlan) -> None:
    with RecordProducer(connector) as producer:  # by another program, or by an older version
        for partition in range(PARTITIONS):
            producer.send(Topics(connector.prefix).clicks, partition, b"{}", [("replay", b"00")])
    before = ends(connector)
    with pytest.raises(TopicError, match="the rows that are missing are not known"):
        replay_logs(connector, replace(plan, resume=True))
    assert ends(connector) == before


def test_only_the_same_files_and_options_are_resumed(connector: Connector, plan: ReplayPlan) -> None:
    replay_logs(connector, replace(plan, limit_rows=10))
    for other in (replace(plan, batch_rows=5), replace(plan, paths=plan.paths * 2)):
        with pytest.raises(TopicError, match="only other replays have run"):
            replay_logs(connector, replace(other, resume=True))
    assert replay_logs(connector, replace(plan, resume=True, loop=True, limit_rows=2 * LINES)).skipped == 10


def test_a_malformed_record_of_progress_stops_a_resumed_replay_only(connector: Connector, plan: ReplayPlan) -> None:
    replay_logs(connector, replace(plan, limit_rows=10))
    control = Topics(connector.prefix).control
    [*_, record] = read(connector, control)
    with RecordProducer(connector) as producer:
        producer.send(control, 0, record.value.replace(b'"batch"', b'"patch"'), [], key=record.key)
    with pytest.raises(TopicError, match=r"malformed \(KeyError: 'batch'\)"):
        replay_logs(connector, replace(plan, resume=True))
    assert replay_logs(connector, plan).sent == LINES - 1


@pytest.mark.broker
def test_the_progress_of_an_aborted_transaction_never_counts(
    apache_broker: BrokerProcess, topic_prefix: str, plan: ReplayPlan
) -> None:
    kafka = with_topics(
        KafkaConfig(
            bootstrap_servers=apache_broker.bootstrap_servers,
            prefix=topic_prefix,
            properties={"isolation.level": "read_uncommitted"},
        )
    )
    replay_logs(kafka, replace(plan, limit_rows=9))
    control = Topics(topic_prefix).control
    [*_, record] = read(kafka, control)
    forward = record.value.replace(b'"batch": 3', b'"batch": 9')
    assert forward != record.value
    with suppress(ZeroDivisionError), TransactionalProducer(kafka, "other") as producer:
        producer.send(control, 0, forward, [], key=record.key)
        producer.wait()
        1 / 0  # noqa: B018  aborts
    assert replay_logs(kafka, replace(plan, resume=True)).sent == LINES - 1 - 9


@pytest.mark.broker
def test_a_clicks_topic_that_was_created_again_is_not_resumed(
    apache_broker: BrokerProcess, topic_prefix: str, plan: ReplayPlan
) -> None:
    kafka = with_topics(KafkaConfig(bootstrap_servers=apache_broker.bootstrap_servers, prefix=topic_prefix))
    replay_logs(kafka, replace(plan, limit_rows=10))
    ask_admin(kafka, lambda admin: admin.delete_topics([Topics(topic_prefix).clicks]))
    with_topics(kafka)
    with pytest.raises(TopicError, match="deleted and created again"):
        replay_logs(kafka, replace(plan, resume=True))
    assert replay_logs(kafka, plan).sent == LINES - 1


# ---- the record ------------------------------------------------------------------------------------------------------


def test_the_progress_counts_what_the_topics_have(connector: Connector, plan: ReplayPlan) -> None:
    endless = replace(plan, loop=True)
    replay_logs(connector, replace(endless, limit_rows=5))
    replay_logs(connector, replace(endless, limit_rows=2 * LINES + 20, resume=True))
    [*_, record] = read(connector, Topics(connector.prefix).control)
    assert record.key.startswith(REPLAY_KEY)
    progress = decode_progress(record.value)
    assert isinstance(progress, ReplayProgress)
    assert replace(progress, process="", topic_id="") == ReplayProgress(
        run=1, process="", passes=2, batch=6, lines=2, read=92, sent=89, batches=32, bad=3
    )
    replay_logs(connector, replace(plan, limit_rows=1))
    [*_, record] = read(connector, Topics(connector.prefix).control)
    progress = decode_progress(record.value)
    assert isinstance(progress, ReplayProgress)
    assert (progress.run, progress.read) == (2, 1)
