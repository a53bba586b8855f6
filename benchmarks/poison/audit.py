"""What became of malformed records: each has one dead letter with its bytes, and nothing else has one."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks.chaos.site import CLICK_PARTITIONS, Site
from streams.clients.admin import require_partitions
from streams.clients.partition_reader import open_partition_log

__all__ = ["find_differences", "read_topic"]

_SHOWN = 5


def read_topic(site: Site, topic: str) -> list[Any]:
    """All records of a topic."""
    topics = site.topics
    partitions = {topics.clicks: CLICK_PARTITIONS}
    with open_partition_log(site.kafka) as log:
        records: list[Any] = []
        for number in range(partitions.get(topic, site.config.shards)):
            records += log.read(topic, number, *log.bounds(topic, number))
    return records


def find_differences(site: Site, sent: dict[str, list[Any]]) -> tuple[dict[str, int], list[str]]:
    """The dead letters of each topic, and what differs from one letter for each malformed record.

    A process that takes over a shard may write the letters since its snapshot a second time, with the same offsets;
    `hotstream dlq` shows them once, and so they count once.

    Args:
        site: the pipeline, whose processes have ended.
        sent: the malformed records of each topic, as (partition, key, value).
    """
    numbers, differences = {}, []
    for topic, records in sent.items():
        dead = site.topics.dead_letters(topic)
        with open_partition_log(site.kafka) as log:
            letters: list[Any] = []
            for number in range(require_partitions(site.kafka, dead)):
                letters += log.read(dead, number, *log.bounds(dead, number))
        by_origin = {_origin(letter): letter for letter in letters}
        found = Counter((origin[0], letter.key, letter.value) for origin, letter in by_origin.items())
        expected = Counter(records)
        numbers[topic] = len(by_origin)
        for what, difference in (("no letter", expected - found), ("a letter too many", found - expected)):
            if difference:
                examples = list(difference)[:_SHOWN]
                differences.append(f"{topic}: {difference.total()} records have {what}, such as {examples!r:.600}")
    return numbers, differences


def _origin(letter: Any) -> tuple[int, int]:
    named = dict(letter.headers)
    return int(named["dlq-partition"]), int(named["dlq-offset"])
