"""Subscribing on a real broker: early or late, with or without copies, every reader ends with the agent's table."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from sketch.hashing import shard_of
from streams import HotFeatureTable, subscribe
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.assignments.reader import AssignmentReader
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.producer import RecordProducer
from streams.errors import ConfigError, TopicError
from streams.keys import CRITEO_FIELDS, format_key
from streams.records import Assignment, Encoded, ImportanceBatch, Source, decode_assignment
from streams.topics import Topics

SHARDS = 2
CONFIG = ShardConfig(capacity=40, num_shards=SHARDS, half_life_events=20_000)


def changes_of(shards: list[Shard], steps: range) -> list[tuple[int, Encoded]]:
    """The records that the shards publish for a stream with drifting popularity: (shard, record)."""
    published: list[tuple[int, Encoded]] = []
    for step in steps:
        random = np.random.default_rng(step)
        tokens = (random.zipf(1.3, 5000).astype(np.uint64) + np.uint64(step * 3)) % np.uint64(2000)
        keys, counts = np.unique(tokens | np.uint64(7 << 56), return_counts=True)
        for shard in shards:
            mine = shard_of(keys, SHARDS) == shard.number
            batch = ImportanceBatch(
                keys=keys[mine],
                scores=counts[mine].astype(np.float32),
                fields=CRITEO_FIELDS,
                source=Source(signal="gradient", topic="clicks", partition=0, offset=step),
                event_time_ms=step,
                ingest_ms=step,
            )
            records = shard.count(step, batch)
            assert isinstance(records, list)
            published += [(shard.number, record) for record in records]
    return published


def send(kafka: KafkaConfig, records: list[tuple[int, Encoded]]) -> None:
    with RecordProducer(kafka) as producer:
        for shard, (key, value, headers) in records:
            producer.send(Topics(kafka.prefix).assignments, shard, value, headers, key=key)


def decoded(records: list[tuple[int, Encoded]], shard: int) -> list[Assignment]:
    all_of_it = [decode_assignment(*record) for number, record in records if number == shard]
    return [record for record in all_of_it if isinstance(record, Assignment)]


@pytest.fixture
def shards() -> list[Shard]:
    return [Shard(number, CONFIG) for number in range(SHARDS)]


@pytest.fixture
def kafka(bootstrap_servers: str, topic_prefix: str) -> KafkaConfig:
    config = KafkaConfig(bootstrap_servers=bootstrap_servers, prefix=topic_prefix)
    create_topics(config, Topics(topic_prefix).specs(shards=SHARDS))
    return config


def open_table(kafka: KafkaConfig) -> HotFeatureTable:
    return HotFeatureTable(kafka.bootstrap_servers, prefix=kafka.prefix)


def test_a_late_table_equals_an_early_one_and_both_give_the_table_as_of_any_offset(
    kafka: KafkaConfig, shards: list[Shard]
) -> None:
    with open_table(kafka) as followed:
        assert followed.table.is_verified
        stood = [(followed.offsets(), sorted(followed.table.items()))]
        for start in range(0, 60, 15):
            records = changes_of(shards, range(start, start + 15))
            send(kafka, records)
            assert followed.refresh() == sum(len(decoded(records, shard)) for shard in range(SHARDS))
            assert followed.table.is_verified
            assert [view.table.digest for view in followed.table.shards] == [shard.table.digest for shard in shards]
            stood.append((followed.offsets(), sorted(followed.table.items())))
        assert followed.table.max_hot <= CONFIG.capacity
        with open_table(kafka) as late:
            assert late.table.is_verified
            assert late.table == followed.table
            keys = np.array([[key for key, _ in followed.table.items()], [7 << 56 | 1999] * len(stood[-1][1])])
            for ours, theirs in zip(late.lookup(keys), followed.lookup(keys), strict=True):
                np.testing.assert_array_equal(ours, theirs)
            assert late.refresh() == 0
        for offsets, items in stood:
            then = followed.as_of(offsets)
            assert sorted(then.items()) == items
            assert then.is_verified  # an agent's batch of changes ends with its digest
        assert len({len(items) for _, items in stood}) > 1


def test_a_table_as_of_the_middle_of_a_batch_holds_the_changes_before_it(
    kafka: KafkaConfig, shards: list[Shard]
) -> None:
    records = changes_of(shards, range(20))
    send(kafka, records)
    with open_table(kafka) as hot:
        expected = {0: 0, 1: 0}
        for offset in (0, 1, 7, 20):
            view = hot.as_of({0: offset, 1: 3}).shards
            kept = [
                decode_assignment(*record) for record in [record for number, record in records if number == 0][:offset]
            ]
            expected[0] = max([change.seq for change in kept if isinstance(change, Assignment)], default=0)
            assert (view[0].seq, view[1].seq) == (expected[0], 3)
        with pytest.raises(ConfigError, match="no offset of partition 1"):
            hot.as_of({0: 5})


def test_subscribe_yields_each_change_once_and_in_order_although_the_records_come_again(
    kafka: KafkaConfig, shards: list[Shard]
) -> None:
    first, second = changes_of(shards, range(20)), changes_of(shards, range(20, 30))
    junk = [(0, (b"short", b"{}", [])), (1, (bytes(7) + b"\1", b"{", [("v", b"2")]))]
    other_kind = [(0, (bytes(8), b'{"v":2,"kind":"weather","shard":0,"epoch":1,"seq":1}',
                       [("v", b"2"), ("shard", b"0"), ("epoch", b"1"), ("seq", b"1")]))]  # fmt: skip
    misplaced = [(1, record) for number, record in first[:5] if number == 0]
    send(kafka, [*first, *junk, *first[len(first) // 3 :], *other_kind, *misplaced, *first, *second, *second])
    expected = [decoded([*first, *second], shard) for shard in range(SHARDS)]
    changes = subscribe(kafka.bootstrap_servers, prefix=kafka.prefix)
    got = list(itertools.islice(changes, sum(map(len, expected))))
    for shard in range(SHARDS):
        assert [change for change in got if change.shard == shard] == expected[shard]
        assert [change.seq for change in expected[shard]] == list(range(1, len(expected[shard]) + 1))
    assert all(change.feature == format_key(change.key) for change in got if change.tier != "cold")
    changes.close()  # type: ignore[attr-defined]

    with AssignmentReader(kafka) as reader:
        reader.catch_up()
        assert reader.num_bad == len(junk)
        assert reader.table.is_verified
        assert [view.num_stale > view.num_applied for view in reader.table.shards] == [True, True]


def test_from_now_on_only_later_changes_come_and_a_stop_ends_it(kafka: KafkaConfig, shards: list[Shard]) -> None:
    send(kafka, changes_of(shards, range(20)))
    asked = []

    def should_stop() -> bool:
        asked.append(True)
        if len(asked) == 2:
            send(kafka, later)
        return len(asked) > 2 and bool(got)

    later = changes_of(shards, range(20, 40))
    got: list[Assignment] = []
    changes: Iterator[Assignment] = subscribe(
        kafka.bootstrap_servers, prefix=kafka.prefix, from_beginning=False, should_stop=should_stop
    )
    got.extend(itertools.islice(changes, 1))
    got.extend(changes)
    assert got
    assert {(change.shard, change.seq) for change in got} <= {
        (shard, change.seq) for shard in range(SHARDS) for change in decoded(later, shard)
    }


@pytest.mark.broker
def test_a_program_that_leaves_its_readers_open_ends(kafka: KafkaConfig, shards: list[Shard]) -> None:
    send(kafka, changes_of(shards, range(20)))
    lines = (
        "from streams import HotFeatureTable, subscribe",
        f"table = HotFeatureTable({kafka.bootstrap_servers!r}, prefix={kafka.prefix!r})",
        f"changes = subscribe({kafka.bootstrap_servers!r}, prefix={kafka.prefix!r})",
        "print(next(changes).key, table.table.num_hot)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_error_for_a_missing_topic_names_the_command_that_creates_it(bootstrap_servers: str) -> None:
    with pytest.raises(TopicError, match="hotstream topics create"):
        HotFeatureTable(bootstrap_servers, prefix="nobody-made-it")
