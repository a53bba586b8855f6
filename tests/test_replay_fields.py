"""A prefix has one schema: replay records the fields, refuses others, and goes on with fields added at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.partition_reader import open_partition_log
from streams.clients.recorded_fields import read_fields, require_fields
from streams.errors import TopicError
from streams.keys import Field
from streams.logs.schema import LogSchema
from streams.records import ClickBatch, decode_clicks
from streams.replay.plan import ReplayPlan
from streams.replay.sender import replay_logs
from streams.topics import Topics

A, B, C = Field("a"), Field("b", "hex32"), Field("c")


@pytest.fixture
def broker() -> Any:
    connector = InMemoryBroker(prefix="t")
    create_topics(connector, Topics("t").specs(click_partitions=1))
    return connector


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text("y,a,b,c\n1,x,0000000f,z\n")
    return path


def plan(log: Path, *fields: Field, label: str | None = "y") -> ReplayPlan:
    return ReplayPlan(paths=(log,), schema=LogSchema(name="s", label=label, categorical=fields))


def sent(broker: Any) -> list[ClickBatch]:
    topic = Topics("t").clicks
    with open_partition_log(broker) as reader:
        decoded = [decode_clicks(one.value, one.headers) for one in reader.read(topic, 0, *reader.bounds(topic, 0))]
    return [batch for batch in decoded if isinstance(batch, ClickBatch)]


def test_fields_are_recorded_and_extended_at_the_end(broker: Any, log: Path) -> None:
    assert read_fields(broker) == ()
    for fields, recorded in (((A, B), (A, B)), ((A,), (A, B)), ((A, B, C), (A, B, C)), ((A, B, C), (A, B, C))):
        replay_logs(broker, plan(log, *fields))
        assert read_fields(broker) == recorded
    assert [len(batch.fields) for batch in sent(broker)] == [2, 1, 3, 3]


@pytest.mark.parametrize("fields", [(B, A), (A, C), (A, Field("b", "hash"), C)])
def test_a_replay_of_another_schema_is_refused_before_it_sends_a_row(
    fields: tuple[Field, ...], broker: Any, log: Path
) -> None:
    replay_logs(broker, plan(log, A, B))
    with pytest.raises(TopicError, match=r"--schema: field \d: got .* expected .* as in the click records under 't'"):
        replay_logs(broker, plan(log, *fields))
    assert (len(sent(broker)), read_fields(broker)) == (1, (A, B))
    require_fields(broker, (A, B, C))


def test_rows_without_labels_are_replayed(broker: Any, log: Path) -> None:
    replay_logs(broker, plan(log, A, B, label=None))
    assert [batch.label for batch in sent(broker)] == [None]


def test_malformed_lines_are_in_the_counts_of_a_replay(broker: Any, log: Path) -> None:
    log.write_text(log.read_text() + "1,x,,z\n" * 2 + "-1,x,0000000f,z\n" + "1,x,f,z\n" * 2)
    counts = replay_logs(broker, plan(log, A, B))
    assert (counts.read, counts.sent, counts.bad, counts.bad_lines.share) == (6, 3, 3, 0.5)
    assert [(one["error"], one["lines"]) for one in counts.bad_lines.reasons()] == [("Token", 2), ("Label", 1)]
    assert "log.csv, line 6: column 'b': got 'f'" in counts.bad_lines.describe()[0]
