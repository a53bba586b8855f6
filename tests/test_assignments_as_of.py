"""Moments of the assignments topic, as `hotstream watch --as-of` takes them."""

from __future__ import annotations

import pytest
from agent_driver import RULE, SHARDS, TOPICS

from streams.assignments.as_of import find_offsets
from streams.assignments.reader import AssignmentReader
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.errors import ConfigError


def broker_with_a_change_a_second() -> InMemoryBroker:
    """The changes of two shards; the record at offset i has the Kafka timestamp 1000 * i."""
    times = iter([1000 * offset for records in RULE[1] for offset in range(len(records))])
    broker = InMemoryBroker({TOPICS.assignments: SHARDS}, clock_ms=lambda: next(times))
    with RecordProducer(broker) as producer:
        for shard, records in enumerate(RULE[1]):
            for key, value, headers in records:
                producer.send(TOPICS.assignments, shard, value, headers, key=key)
    return broker


@pytest.mark.parametrize(
    "moment", ["20000", "1970-01-01T00:00:20", "1970-01-01T01:00:20+01:00", "1970-01-01T00:00:20Z"]
)
def test_a_time_is_the_first_record_that_is_not_older(moment):
    broker = broker_with_a_change_a_second()
    assert find_offsets(broker, TOPICS.assignments, SHARDS, moment) == {0: 20, 1: 20}


def test_a_time_after_the_last_record_is_the_end_and_one_before_the_first_the_beginning():
    broker = broker_with_a_change_a_second()
    ends = {shard: len(records) for shard, records in enumerate(RULE[1])}
    assert find_offsets(broker, TOPICS.assignments, SHARDS, "2999-01-01") == ends
    assert find_offsets(broker, TOPICS.assignments, SHARDS, "0") == {0: 0, 1: 0}


@pytest.mark.parametrize("moment", ["0:12,1:30", "0:12,1:999999"])
def test_a_reader_stops_at_the_offsets_or_at_the_end(moment):
    broker = broker_with_a_change_a_second()
    with AssignmentReader(broker) as reader:
        ends = reader.stop_at(moment)
        assert ends == {0: 12, 1: min(int(moment.rpartition(":")[2]), len(RULE[1][1]))}
        reader.catch_up(until=ends)
        seen = [record for record in RULE[1][0][:12] if record[0] != bytes(8)]
        assert reader.table.shards[0].seq == len(seen)


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ("yesterday", "expected PARTITION:OFFSET"),
        ("0:12", "no offset of partition 1"),
        ("", "expected PARTITION:OFFSET"),
    ],
)
def test_a_malformed_moment_is_refused(moment, reason):
    with pytest.raises(ConfigError, match=reason):
        find_offsets(broker_with_a_change_a_second(), TOPICS.assignments, SHARDS, moment)
