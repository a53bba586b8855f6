"""A campaign: faults one after the other while the pipeline works, then everything runs to its end."""

from __future__ import annotations

import json
import random
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.chaos.faults import FAULTS, SCENARIOS, TARGETS, Fault
from benchmarks.chaos.site import QUICK_COMPACTION, Site
from streams.broker.jars import find_java, resolve_jars
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer

__all__ = ["Campaign"]

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_STALL_S = 120.0
_WORK_S = 45.0
_REPAIR_S = 12.0  # an owner looks every 5 s at what others wrote
_FENCED_S = 90.0  # a request without an answer is repeated after 20 s, and so is the one to the coordinator
_COMPACTION_S = 60.0
_COPIES = 3
_MAKES_TROUBLE = ("broker", "disk")


@dataclass
class _Pending:
    """A fault that lasts, and when it ends."""

    fault: Fault
    until_s: float


class Campaign:
    """Draws faults by the seed and applies them.

    Args:
        site: the running pipeline.
        seed: decides faults, their targets and lengths, and the pauses between them.
        scenario: which faults are drawn.

    Attributes:
        done: the faults so far, by name.
        problems: processes and waits that did not finish.
        recoveries_s: the times from a broker that is back to the next importance record that is counted, which takes
            replay, trainer and agents; 45 s where none was.
    """

    def __init__(self, site: Site, *, seed: int, scenario: str) -> None:
        self._site = site
        self._chance = random.Random(f"{scenario}/{seed}")
        self._names = SCENARIOS[scenario]
        self._pending: list[_Pending] = []
        self._counted: int | None = None  # what was counted when the broker came back; None once more was
        self.recoveries_s: list[float] = []
        self.done: dict[str, int] = {}
        self.problems: list[str] = []

    def begin(self) -> None:
        """Starts agent and trainer, then the replay; returns when importance is counted."""
        site, observer = self._site, self._site.observer
        for name in ("agent-1", "train"):
            site.start(name)
        self._require("the start", lambda: len(observer.shards) == site.config.shards and observer.trainer is not None)
        site.start("replay")
        self._require("the first rows", lambda: sum(shard.counted for shard in observer.shards.values()) > 0)

    def disturb(self, number: int) -> None:
        """Applies so many faults."""
        for index in range(number):
            self._wait(self._chance.uniform(_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S))
            name = self._names[index] if index < len(self._names) <= number else self._chance.choice(self._names)
            self._apply(index + 1, name)
        while self._pending:
            self._wait(0.1)
        self._wait_for_work()

    def _apply(self, number: int, name: str) -> None:
        site = self._site
        self._wait_for_targets(name)
        fault = FAULTS[name](site, self._chance)
        if fault.target in _MAKES_TROUBLE:
            site.disturb()
        self.done[name] = self.done.get(name, 0) + 1
        site.lines.say(f"fault {number}: {fault.text}  ({site.describe()})")
        self._pending.append(_Pending(fault, time.monotonic() + fault.seconds))

    def _wait_for_targets(self, name: str) -> None:
        """Waits until no earlier fault disturbs the same, and, after the broker was away, until work goes on."""
        target = TARGETS[name]
        while any(pending.fault.target.startswith(target) for pending in self._pending):
            self._wait(0.1)
        if target == "broker":
            self._wait_for_work()

    def _wait_for_work(self) -> None:
        """Waits until the broker has started, and for 45 s at most until work goes on."""
        while not self._site.has_broker:
            self._wait(0.1)
            self._site.disturb()
        if self._counted is None or "replay" not in self._site.processes:
            return
        before, self._counted, since_s = self._counted, None, time.monotonic()
        while self._site.observer.counted <= before and time.monotonic() - since_s < _WORK_S:
            self._wait(0.1)
        self.recoveries_s.append(round(time.monotonic() - since_s, 1))

    def _wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while True:
            self._undo_due()
            if time.monotonic() >= until_s:
                return
            self._site.look()

    def _undo_due(self) -> None:
        for pending in list(self._pending):
            if time.monotonic() >= pending.until_s:
                self._pending.remove(pending)
                pending.fault.undo()
                if pending.fault.target in _MAKES_TROUBLE:
                    self._site.disturb()
                if pending.fault.target == "broker":
                    self._counted = self._site.observer.counted

    # ---- the end ---------------------------------------------------------------------------------------------------

    def settle(self) -> dict[str, Any]:
        """Lets everything run to its end; returns the report of the trainer, empty if there is none."""
        site = self._site
        site.lines.say("all faults are over: the rest of the log is replayed, trained and counted")
        if "replay" in site.processes:
            site.end("replay")
        self._finish("replay-rest")
        for first in site.fenced:
            until_s = time.monotonic() + _FENCED_S
            while first.pid is not None and time.monotonic() < until_s:
                site.look()
            if first.pid is not None:
                first.stop()
                self.problems.append(f"a replay that another run has taken over did not end within {_FENCED_S:.0f} s")
        site.end("train")
        self._finish("train-rest")
        site.scale(1)
        self._require("counting", self._has_counted_all)
        site.wait(_REPAIR_S)
        self._require("the subscriber", lambda: site.observer.reader.table.is_verified)
        path = site.config.folder / "train.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _finish(self, name: str) -> None:
        site = self._site
        site.start(name)
        self._require(name, lambda: name not in site.processes)

    def _has_counted_all(self) -> bool:
        site, shards = self._site, self._site.observer.shards
        site.wait(0.5)
        ends = site.importance_ends()
        return all(number in shards and shards[number].next_offset == end for number, end in ends.items())

    def _require(self, what: str, is_true: Any) -> None:
        if not self._site.wait_until(is_true, stall_s=_STALL_S):
            self.problems.append(f"{what}: nothing moved for {_STALL_S:.0f} s: {self._site.describe()}")
            self._site.lines.say(self.problems[-1])

    def force_compaction(self) -> None:
        """Sets the assignments topic so that it is compacted within seconds, and waits until it is."""
        site = self._site
        site.lines.say("forcing compaction")
        jars = resolve_jars()
        settings = ",".join(f"{name}={setting}" for name, setting in QUICK_COMPACTION.items())
        subprocess.run(
            [find_java(), "-cp", jars.classpath, "kafka.admin.ConfigCommand", "--bootstrap-server",
             site.kafka.bootstrap_servers, "--alter", "--entity-type", "topics", "--entity-name",
             site.topics.assignments, "--add-config", settings],
            capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        if not _roll_until_compacted(site):
            self.problems.append("compaction: the topic still has superseded records after 60 s")


def _roll_until_compacted(site: Site) -> bool:
    """Sends copies of each shard's last record, as compaction reaches a segment only when a newer one has begun.

    A copy changes nothing for readers. Returns whether no superseded record is left but such copies.
    """
    deadline_s = time.monotonic() + _COMPACTION_S
    while time.monotonic() < deadline_s:
        with open_partition_log(site.kafka) as log, RecordProducer(site.kafka) as producer:
            is_compacted = True
            for number in range(site.config.shards):
                records = list(log.read(site.topics.assignments, number, *log.bounds(site.topics.assignments, number)))
                is_compacted &= len(records) <= len({record.key for record in records}) + _COPIES
                last = records[-1]
                producer.send(site.topics.assignments, number, last.value, last.headers, key=last.key)
        if is_compacted:
            return True
        time.sleep(1.2)
    return False
