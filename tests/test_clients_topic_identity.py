"""Topics that are deleted, made again or get partitions are noticed, once, whatever else happens to the broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.in_memory import InMemoryBroker
from streams.clients.topic_identity import TopicChange, TopicIdentity, TopicWatch, compare_topics, require_topics
from streams.errors import BrokerError, TopicError
from streams.topics import Topics, TopicSpec

TOPICS = Topics()
FAST_S = 0.001


def make_broker(**options: Any) -> InMemoryBroker:
    return InMemoryBroker(
        {spec.name: spec.partitions for spec in TOPICS.specs(click_partitions=2, shards=2)}, **options
    )


def make_again(broker: InMemoryBroker, name: str, partitions: int) -> None:
    broker.delete_topic(name)
    broker.add_topic(name, partitions)


def wait_for(take: Callable[[], list[TopicChange]]) -> list[TopicChange]:
    """The first changes."""
    deadline_s = time.monotonic() + 20
    while not (changes := take()):
        assert time.monotonic() < deadline_s, "no change within 20 s"
        time.sleep(0.001)
    return changes


def kinds(changes: list[TopicChange]) -> list[tuple[str, str]]:
    return sorted((change.topic, change.kind) for change in changes)


def test_a_topic_that_is_made_again_has_another_identity():
    broker = make_broker()
    before = require_topics(broker, [TOPICS.clicks, TOPICS.assignments])
    assert set(before) == {TOPICS.clicks, TOPICS.assignments}
    assert require_topics(broker, before) == before
    make_again(broker, TOPICS.clicks, 2)
    broker.add_partitions(TOPICS.assignments, 3)
    broker.add_partitions(TOPICS.importance, 3)
    broker.add_partitions(TOPICS.snapshots, 3)
    changes = compare_topics(before, require_topics(broker, before))
    assert kinds(changes) == [(TOPICS.assignments, "partitions added"), (TOPICS.clicks, "made again")]
    by_topic = {change.topic: str(change) for change in changes}
    assert f"was {before[TOPICS.clicks].topic_id}, is " in by_topic[TOPICS.clicks]
    assert by_topic[TOPICS.assignments] == f"topic {TOPICS.assignments} has 3 partitions, it had 2"


def test_without_topic_ids_only_partitions_are_compared_and_the_log_has_it(caplog: pytest.LogCaptureFixture):
    broker = make_broker(has_topic_ids=False)
    broker.bootstrap_servers = "a broker without topic ids"
    with caplog.at_level(logging.INFO):
        before = require_topics(broker, [TOPICS.clicks])
        require_topics(broker, [TOPICS.clicks])
    assert before == {TOPICS.clicks: TopicIdentity(topic_id=None, partitions=2)}
    assert caplog.text.count("no topic ids") == 1
    make_again(broker, TOPICS.clicks, 2)
    assert compare_topics(before, require_topics(broker, before)) == []
    make_again(broker, TOPICS.clicks, 1)
    assert kinds(compare_topics(before, require_topics(broker, before))) == [(TOPICS.clicks, "made again")]
    with_id = {TOPICS.clicks: replace(before[TOPICS.clicks], topic_id="0" * 31 + "1")}
    assert compare_topics(before, with_id) == [], "the broker was upgraded"


@pytest.mark.parametrize("changed", [TOPICS.importance, TOPICS.assignments, TOPICS.snapshots])
def test_shards_of_different_number_are_refused_with_what_to_do(changed):
    broker = make_broker()
    broker.add_partitions(changed, 3)
    with pytest.raises(TopicError, match=rf"{changed} has 3.*one number.*`hotstream topics create --shards N`"):
        require_topics(broker, [TOPICS.clicks])


def test_a_second_partition_of_the_control_topic_is_refused_and_a_missing_one_is_not():
    broker = make_broker()
    broker.delete_topic(TOPICS.metrics)
    broker.add_partitions(TOPICS.control, 2)
    with pytest.raises(TopicError, match=r"control has 2 partitions, expected 1"):
        require_topics(broker, [TOPICS.clicks])
    broker.delete_topic(TOPICS.control)
    require_topics(broker, [TOPICS.clicks])
    with pytest.raises(TopicError, match=r"control' is missing .*`hotstream topics create`"):
        require_topics(broker, [TOPICS.clicks, TOPICS.control])


def test_a_watch_reports_each_change_once():
    broker = make_broker()
    known = require_topics(broker, [TOPICS.clicks, TOPICS.assignments])
    with TopicWatch(broker, known, interval_s=FAST_S) as watch:
        make_again(broker, TOPICS.clicks, 1)
        assert kinds(wait_for(watch.take)) == [(TOPICS.clicks, "made again")]
        broker.add_partitions(TOPICS.clicks, 4)
        assert kinds(wait_for(watch.take)) == [(TOPICS.clicks, "partitions added")]
        broker.delete_topic(TOPICS.assignments)
        assert kinds(wait_for(watch.take)) == [(TOPICS.assignments, "deleted")]
        assert watch.check() == []
        broker.add_topic(TOPICS.assignments, 2)
        assert kinds(wait_for(watch.take)) == [(TOPICS.assignments, "made again")]
        assert watch.check() == []


def test_a_watch_outlives_a_broker_that_is_away():
    broker = make_broker()
    with TopicWatch(broker, require_topics(broker, [TOPICS.clicks]), interval_s=FAST_S) as watch:
        make_again(broker, TOPICS.clicks, 2)
        wait_for(watch.take)
        broker.fail_now()
        make_again(broker, TOPICS.clicks, 2)
        assert kinds(wait_for(watch.take)) == [(TOPICS.clicks, "made again")]


def test_an_answer_without_ids_does_not_make_a_watch_forget_them():
    broker = make_broker()
    with TopicWatch(broker, require_topics(broker, [TOPICS.clicks]), interval_s=60) as watch:
        make_again(broker, TOPICS.clicks, 2)
        number = broker.topic_ids.pop(TOPICS.clicks)
        assert watch.check() == []
        broker.topic_ids[TOPICS.clicks] = number
        assert kinds(watch.check()) == [(TOPICS.clicks, "made again")]


def test_a_check_on_demand_needs_no_second_look():
    broker = make_broker()
    with TopicWatch(broker, require_topics(broker, [TOPICS.clicks]), interval_s=60) as watch:
        assert watch.check() == []
        broker.delete_topic(TOPICS.clicks)
        [change] = watch.check()
        assert str(change) == f"topic {TOPICS.clicks} (id {change.before.topic_id}) was deleted"
        assert watch.check() == []


def test_the_ids_are_those_of_a_real_broker(bootstrap_servers: str, topic_prefix: str):
    kafka, topics = KafkaConfig(bootstrap_servers=bootstrap_servers, prefix=topic_prefix), Topics(topic_prefix)
    with pytest.raises(TopicError, match="is missing"):
        require_topics(kafka, [topics.clicks])
    spec = TopicSpec(name=topics.clicks, partitions=2, cleanup="delete")
    create_topics(kafka, [spec])
    before = require_topics(kafka, [topics.clicks])
    assert len(before[topics.clicks].topic_id or "") == 32
    admin = kafka.open_admin()
    with TopicWatch(kafka, before, interval_s=0.1) as watch:
        admin.delete_topics([topics.clicks])
        deadline_s = time.monotonic() + 20
        while watch.check() == [] and time.monotonic() < deadline_s:
            continue
    admin.close()
    deadline_s = time.monotonic() + 20
    while True:
        try:
            create_topics(kafka, [spec])
            after = require_topics(kafka, [topics.clicks])
            break
        except (BrokerError, TopicError):  # the deletion is still going on
            assert time.monotonic() < deadline_s
    assert kinds(compare_topics(before, after)) == [(topics.clicks, "made again")]
