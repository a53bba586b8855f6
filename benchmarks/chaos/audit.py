"""The audit at the end of a campaign: what the topics hold, against the log and the rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chaos.oracle import Oracle
from benchmarks.chaos.site import CLICK_PARTITIONS, SiteConfig
from sketch.hashing import shard_of
from streams.assignments.columns import Fetch, Record
from streams.assignments.history import History
from streams.assignments.subscription import HotFeatureTable
from streams.assignments.table import HotTable
from streams.clients.connector import Connector
from streams.clients.in_memory import InMemoryBroker
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.logs.reader import read_log
from streams.logs.schema import SCHEMAS
from streams.records import (
    Assignment,
    BadRecord,
    Claim,
    ClickBatch,
    Digest,
    ImportanceBatch,
    decode_assignment,
    decode_clicks,
    decode_importance,
)
from streams.topics import Topics

__all__ = ["Audit"]

_SCHEMA = SCHEMAS["criteo-kaggle"]
Records = dict[int, list[Any]]


class Audit:
    """Compares; `differences` has a line for each thing that differs.

    Args:
        connector: the broker; no process writes to it any more.
        config: the pipeline.
        log_path: the click log.

    Attributes:
        differences: what differs, by the check that found it.
        counts: figures for the report.
    """

    def __init__(self, connector: Connector, config: SiteConfig, log_path: Path) -> None:
        self._connector, self._config, self._log_path = connector, config, log_path
        self._topics = topics = Topics(connector.prefix)
        self.differences: list[str] = []
        self.counts: dict[str, Any] = {}
        self._clicks = self._read(topics.clicks)
        self._importance = self._read(topics.importance)
        self._assignments = self._read(topics.assignments)
        self._oracles = {
            number: Oracle(number, config.shard_config, config.signals, records)
            for number, records in self._importance.items()
        }
        for number, oracle in self._oracles.items():
            for problem in oracle.problems:
                self._differ("importance", f"shard {number}, {problem}")

    def _differ(self, check: str, text: str) -> None:
        self.differences.append(f"{check}: {text}")

    def _read(self, topic: str) -> Records:
        """All committed records by partition."""
        partitions = CLICK_PARTITIONS if topic == self._topics.clicks else self._config.shards
        with open_partition_log(self._connector) as log:
            return {number: list(log.read(topic, number, *log.bounds(topic, number))) for number in range(partitions)}

    # ---- rows ------------------------------------------------------------------------------------------------------

    def check_rows(self) -> None:
        """Each row of the file is in clicks once, with its contents."""
        expected: Counter[tuple[int, int, bytes]] = Counter()
        for block in read_log(self._log_path, _SCHEMA, self._config.batch_rows):
            expected[block.first_line, block.last_line, _contents(block.parse().batch)] += 1
        found: Counter[tuple[int, int, bytes]] = Counter()
        rows = 0
        for partition, record, batch in self._click_batches():
            named = dict(record.headers)
            found[int(named["first-row"]), int(named["last-row"]), _contents(batch)] += 1
            rows += batch.num_rows
            del partition
        for (first, last, _), number in (found - expected).items():
            self._differ("rows", f"lines {first} to {last} are {number} times too often in clicks, or differ")
        for (first, last, _), number in (expected - found).items():
            self._differ("rows", f"lines {first} to {last} are missing {number} times in clicks, or differ")
        self.counts["rows"] = {"log": self._config.rows, "clicks": rows}

    def _click_batches(self) -> Iterator[tuple[int, Any, ClickBatch]]:
        for partition, records in self._clicks.items():
            for record in records:
                batch = decode_clicks(
                    record.value, record.headers, fields=_SCHEMA.categorical, dense_names=_SCHEMA.dense
                )
                if isinstance(batch, BadRecord):
                    self._differ("rows", f"clicks {partition}/{record.offset}: {batch.reason}")
                else:
                    yield partition, record, batch

    # ---- importance ------------------------------------------------------------------------------------------------

    def check_importance(self, counted: Mapping[int, int]) -> None:
        """Each click record has its importance in each shard of its keys; copies are equal; each is counted once.

        Args:
            counted: what the agents have reported, by shard.
        """
        shards = self._config.shards
        expected: dict[int, set[tuple[str, int, int]]] = {number: set() for number in range(shards)}
        for partition, record, batch in self._click_batches():
            for number in np.unique(shard_of(np.unique(batch.every_key), shards)).tolist():
                expected[number] |= {(signal, partition, record.offset) for signal in self._config.signals}
        copies = 0
        for number, records in self._importance.items():
            first: dict[tuple[str, int, int], Any] = {}
            for record in records:
                scores = decode_importance(record.value, record.headers)
                if not isinstance(scores, ImportanceBatch):
                    continue
                source = (scores.source.signal, scores.source.partition, scores.source.offset)
                known = first.setdefault(source, record)
                copies += known is not record
                if (known.value, known.headers) != (record.value, record.headers):
                    self._differ(
                        "importance",
                        f"shard {number}: offsets {known.offset} and {record.offset} differ for click record {source}",
                    )
            for source in sorted(expected[number] - set(first)):
                self._differ("importance", f"shard {number} has none of click record {source}")
            for source in sorted(set(first) - expected[number]):
                self._differ("importance", f"shard {number} has some of {source}, which is no click record of its keys")
            self._check_counted(number, len(first), counted.get(number))
        self.counts["importance"] = {
            "records": sum(map(len, self._importance.values())),
            "click_records": sum(map(len, self._clicks.values())),
            "copies": copies,
            "counted": sum(counted.values()),
        }

    def _check_counted(self, number: int, distinct: int, counted: int | None) -> None:
        by_rule = self._oracles[number].shard.num_counted
        if not distinct == by_rule == counted:
            self._differ(
                "importance",
                f"shard {number}: {distinct} distinct records, {by_rule} counted by the rule, {counted} by the agents",
            )

    # ---- assignments -----------------------------------------------------------------------------------------------

    def check_assignments(self) -> None:
        """Each record equals the oracle's; unless the topic is compacted all the time, none is missing."""
        totals: Counter[str] = Counter()
        for number, records in self._assignments.items():
            found: set[tuple[int, bool]] = set()
            generations: list[int] = []
            for record in records:
                known = decode_assignment(record.key, record.value, record.headers)
                where = f"shard {number}, offset {record.offset}"
                if isinstance(known, Claim):
                    totals["claims"] += 1
                    generations.append(known.generation)
                elif isinstance(known, Assignment) and known.is_restated:
                    totals["restated"] += 1
                    self._check_restated(where, known)
                elif isinstance(known, Assignment | Digest):
                    totals["changes" if isinstance(known, Assignment) else "digests"] += 1
                    found.add((known.seq, isinstance(known, Digest)))
                    self._check_record(where, number, record, known)
                else:
                    self._differ("assignments", f"{where}: {known}")
            self._check_claims(number, generations)
            if not self._config.is_compacted:
                missing = sorted(set(self._oracles[number].written) - found)
                for seq, is_digest in missing:
                    self._differ("assignments", f"shard {number}: no {'digest' if is_digest else 'change'} {seq}")
            totals["demotions"] += self._oracles[number].shard.num_demotions
        self.counts["assignments"] = dict(totals)

    def _check_record(self, where: str, number: int, record: Any, known: Assignment | Digest) -> None:
        expected = self._oracles[number].written.get((known.seq, isinstance(known, Digest)))
        headers = [header for header in record.headers if header[0] != "generation"]
        if known.epoch == 1 and known.shard == number and expected == (record.key, record.value, headers):
            return
        self._differ(
            "assignments", f"{where}: got {record.key.hex()}, {record.value!r}, {headers}; expected {expected}"
        )

    def _check_restated(self, where: str, known: Assignment) -> None:
        row = self._oracles[known.shard].row_at(known.key, known.seq)
        if known.row != row:
            self._differ("assignments", f"{where}: restates {known.key:016x} as row {known.row}, expected {row}")

    def _check_claims(self, number: int, generations: list[int]) -> None:
        twice = [generation for generation, times in Counter(generations).items() if times > 1]
        if twice:
            self._differ("assignments", f"shard {number}: generations {twice} were claimed by two owners")

    def check_prefixes(self) -> None:
        """At no prefix of the log are there more hot rows than the shard has."""
        config = self._config.shard_config
        most = 0
        for number, records in self._assignments.items():
            history = History(config.num_shards)
            pairs = [(r.offset, decode_assignment(r.key, r.value, r.headers)) for r in records]
            kept = [(offset, known) for offset, known in pairs if isinstance(known, Record)]
            history.take(
                Fetch(
                    partition=number,
                    records=[known for _, known in kept],
                    offsets=[offset for offset, _ in kept],
                    end_offset=records[-1].offset + 1 if records else 0,
                )
            )
            rows = config.rows_of(number)[1]
            most += history.max_hot
            if history.max_hot > rows:
                self._differ("capacity", f"shard {number}: {history.max_hot} hot rows, expected at most {rows}")
        self.counts["max_hot"] = most

    # ---- tables ----------------------------------------------------------------------------------------------------

    def check_tables(self) -> None:
        """The table of a new subscriber, now and after an exact compaction."""
        self.check_late_table("a new subscriber")
        topic = self._topics.assignments
        compacted = InMemoryBroker({topic: self._config.shards}, prefix=self._connector.prefix)
        with RecordProducer(compacted) as producer:
            for number, records in self._assignments.items():
                for record in records:
                    producer.send(topic, number, record.value, record.headers, key=record.key)
        compacted.compact(topic)
        with HotFeatureTable(compacted) as table:
            self.compare_table("a new subscriber after an exact compaction", table.table)

    def check_late_table(self, what: str) -> None:
        """The table of a subscriber that begins now."""
        with HotFeatureTable(self._connector) as late:
            self.compare_table(what, late.table)

    def compare_table(self, what: str, table: HotTable) -> None:
        """A table is verified, and equal to the oracle's."""
        if not table.is_verified:
            self._differ("tables", f"{what}: not verified: {table.history.describe()}")
        for number, oracle in self._oracles.items():
            view, shard = table.shards[number], oracle.shard
            ours, theirs = _rows(view.table), _rows(shard.table)
            wrong = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
            if wrong or view.table.digest != shard.table.digest or view.seq != shard.seq:
                self._differ(
                    "tables",
                    f"{what}: shard {number}: {len(wrong)} of {len(theirs)} keys differ, seq {view.seq}, expected "
                    f"{shard.seq}; the first: {[f'{key:016x}' for key in sorted(wrong)[:5]]}",
                )

    # ---- the trainer -------------------------------------------------------------------------------------------------

    def check_trainer(self, report: Mapping[str, Any]) -> None:
        """The trainer has trained each row, and its table is verified."""
        rows, verified = report.get("rows", {}).get("trained"), report.get("assignments", {}).get("verified")
        self.counts["trainer"] = {"rows": rows, "verified": verified}
        expected = self._config.rows
        if rows != expected or verified is not True or report.get("ok") is not True:
            text = f"{rows} rows trained, verified {verified}, ok {report.get('ok')}; expected {expected} rows"
            self._differ("trainer", text)


def _contents(batch: ClickBatch) -> bytes:
    """What a row is, without its event time, which is that of sending."""
    return b"".join(np.ascontiguousarray(part).tobytes() for part in (batch.label, batch.dense, batch.every_key))


def _rows(table: Any) -> dict[int, int]:
    keys, rows = table.items()
    return dict(zip(keys.tolist(), rows.tolist(), strict=True))
