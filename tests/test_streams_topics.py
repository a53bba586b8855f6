"""`hotstream topics`: creates missing topics, never changes existing ones, and reports settings that differ."""

from __future__ import annotations

import json
from typing import Any

import pytest
from processes import run_hotstream, where

from streams.clients.admin import create_topics, describe_topics, require_partitions
from streams.clients.config import KafkaConfig
from streams.clients.in_memory import InMemoryBroker
from streams.topics import Topics, TopicSpec


@pytest.fixture
def kafka(bootstrap_servers: str, topic_prefix: str) -> KafkaConfig:
    return KafkaConfig(bootstrap_servers=bootstrap_servers, prefix=topic_prefix)


def topics_command(kafka: KafkaConfig, *arguments: object) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and the report's entries by topic name without the prefix."""
    done = run_hotstream("topics", *arguments, *where(kafka), "--json", "-")
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    return done.returncode, {topic.pop("topic").removeprefix(f"{kafka.prefix}."): topic for topic in report["topics"]}


def test_a_second_create_changes_nothing_and_describe_finds_no_problem(kafka: KafkaConfig) -> None:
    size = ("--partitions", 3, "--shards", 5)
    code, missing = topics_command(kafka, "describe", *size)
    assert code == 1
    assert {topic["problems"][0] for topic in missing.values()} == {
        f"missing; run `hotstream topics create --prefix {kafka.prefix}`"
    }
    code, created = topics_command(kafka, "create", *size)
    assert code == 0
    assert all(topic["created"] for topic in created.values())
    assert {name: (topic["partitions"], topic["cleanup"]) for name, topic in created.items()} == {
        "clicks": (3, "delete"),
        "importance": (5, "delete"),
        "assignments": (5, "compact"),
        "sketch-snapshots": (5, "compact"),
        "metrics": (1, "delete"),
        "control": (1, "compact"),
        "clicks.dlq": (1, "delete"),
        "importance.dlq": (5, "delete"),
        "assignments.dlq": (5, "delete"),
    }
    expected = (0, {name: {**topic, "created": False} for name, topic in created.items()})
    assert topics_command(kafka, "create", *size) == expected
    assert topics_command(kafka, "describe", *size) == expected


def test_an_existing_topic_with_other_settings_is_reported_and_not_changed(kafka: KafkaConfig) -> None:
    topics = Topics(kafka.prefix)
    existing = [
        TopicSpec(name=topics.importance, partitions=3, cleanup="delete", configs={"max.message.bytes": "1000000"}),
        TopicSpec(name=topics.assignments, partitions=2, cleanup="delete"),
    ]
    create_topics(kafka, existing)
    for command in ("create", "describe"):
        code, found = topics_command(kafka, command)
        assert code == 1
        assert found["importance"]["problems"][0] == "3 partitions, expected 2"
        assert "cleanup.policy delete, expected compact" in found["assignments"]["problems"]
        assert [name for name, topic in found.items() if topic["problems"]] == ["importance", "assignments"]
        assert found["clicks"]["created"] == (command == "create")
    assert require_partitions(kafka, topics.importance) == 3
    assert not any(state.problems for state in describe_topics(kafka, existing))


@pytest.mark.broker
def test_a_record_size_limit_that_is_too_small_is_reported(apache_broker: Any, topic_prefix: str) -> None:
    kafka = KafkaConfig(bootstrap_servers=apache_broker.bootstrap_servers, prefix=topic_prefix)
    clicks = Topics(topic_prefix).clicks
    small = TopicSpec(name=clicks, partitions=1, cleanup="delete", configs={"max.message.bytes": "1000000"})
    create_topics(kafka, [small])
    (state, *_) = create_topics(kafka, Topics(topic_prefix).specs())
    assert state.problems == ("max.message.bytes 1000000, expected at least 8388608",)


def test_tombstones_that_are_deleted_too_early_are_reported():
    topics, broker = Topics(), InMemoryBroker()
    short = TopicSpec(name=topics.control, partitions=1, cleanup="compact", configs={"delete.retention.ms": "60000"})
    create_topics(broker, [short])
    problems = {state.spec.name: state.problems for state in create_topics(broker, topics.specs())}
    assert problems.pop(topics.control) == ("delete.retention.ms 60000, expected at least 86400000",)
    assert not any(problems.values())


def test_a_message_names_the_command_that_creates_the_topics_of_its_prefix():
    assert Topics().create_command == "hotstream topics create"
    assert Topics("eu").create_command == "hotstream topics create --prefix eu"
    assert Topics("eu").command("dlq show clicks") == "hotstream dlq show clicks --prefix eu"
    assert Topics().shadow("small").create_command == "hotstream agent --shadow small"
    assert Topics("eu").shadow("small").create_command == "hotstream agent --shadow small --prefix eu"


@pytest.mark.parametrize("option", ["--partitions", "--shards"])
def test_zero_partitions_are_a_usage_error(option: str) -> None:
    done = run_hotstream("topics", "create", option, 0)
    assert done.returncode == 2
    assert option in done.stderr
