"""The demo's course: data, topics, processes, and at the end the books."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.agent.shard import ShardConfig
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.errors import BrokerError, ChildError
from streams.logs.schema import LogSchema
from streams.processes.children import Children
from streams.telemetry.observer import Observer
from streams.topics import Topics
from trainer.demo.audit import audit, recall_of

__all__ = ["DemoConfig", "run_demo"]

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 120.0
_STALL_TIMEOUT_S = 120.0
_CLICK_PARTITIONS, _SHARDS = 4, 2
_SESSION_TIMEOUT_S = 6  # joining a group on the embedded broker takes half of it


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo is told.

    Args:
        kafka: a broker that is running.
        data: the click log.
        schema: what it looks like; `schema_option` is what the commands are told.
        folder: where logs, checkpoints and the picture go.
        rate: rows a second; None for as fast as possible.
        batch_rows: rows a click record.
        embedding_bytes: size of the model's embedding, and of the plain hash table beside it.
        capacity: hot rows, as the embedding's size allows.
        seed: of agent and trainer.
    """

    kafka: KafkaConfig
    data: Path
    schema: LogSchema
    schema_option: str
    folder: Path
    rate: float | None
    batch_rows: int
    embedding_bytes: int
    capacity: int
    seed: int


def run_demo(config: DemoConfig, observer: Observer, on_look: Callable[[Observer, str], None]) -> dict[str, Any]:
    """Runs agent, trainer and replay to the end of the log; returns the report.

    Raises:
        ChildError: a process failed, or nothing moved for two minutes.
    """
    with Children(config.folder, {"KAFKA_BOOTSTRAP_SERVERS": config.kafka.bootstrap_servers}) as children:
        stage = _Stage(config, children, observer, on_look)
        stage.start()
        replayed = stage.replay()
        trained = stage.finish(replayed["rows"]["sent"])
    return _report(config, observer, replayed, trained)


def prepare_topics(config: KafkaConfig) -> None:
    """Creates the demo's topics.

    Raises:
        BrokerError: the broker has records of an earlier run under this prefix, or topics that do not fit.
    """
    states = create_topics(config, Topics(config.prefix).specs(click_partitions=_CLICK_PARTITIONS, shards=_SHARDS))
    for state in states:
        if state.problems:
            raise BrokerError(f"topic {state.spec.name}: {'; '.join(state.problems)}; choose another --prefix")
        if not state.created:
            raise BrokerError(f"topic {state.spec.name} is there already; the demo wants topics of its own: "
                              "choose another --prefix")  # fmt: skip


class _Stage:
    """The processes of one run."""

    def __init__(
        self, config: DemoConfig, children: Children, observer: Observer, on_look: Callable[[Observer, str], None]
    ) -> None:
        self._config = config
        self._children = children
        self._observer = observer
        self._on_look = on_look
        self._common = ["--prefix", config.kafka.prefix]

    def start(self) -> None:
        """Starts agent and trainer; returns when both are at work."""
        config = self._config
        self._children.start(
            "agent",
            ["agent", "--capacity", str(config.capacity), "--seed", str(config.seed), *self._common,
             "--session-timeout", str(_SESSION_TIMEOUT_S), "--schema", config.schema_option],
        )  # fmt: skip
        self._children.start(
            "train",
            ["train", "--embedding-bytes", str(config.embedding_bytes), "--compare", "hash", "--seed", str(config.seed),
             "--checkpoint-dir", str(config.folder / "checkpoints"), "--fresh", "--threads", "1",
             "--schema", config.schema_option, "--json", str(config.folder / "train.json"), *self._common],
        )  # fmt: skip
        self._wait("starting", lambda: len(self._observer.shards) == _SHARDS and bool(self._observer.trainer),
                   _START_TIMEOUT_S)  # fmt: skip

    def replay(self) -> dict[str, Any]:
        """Replays the log; returns the replay's report."""
        config = self._config
        path = config.folder / "replay.json"
        pace = [] if config.rate is None else ["--rate", str(config.rate)]
        self._children.start(
            "replay",
            ["replay", str(config.data), "--schema", config.schema_option, "--batch-rows", str(config.batch_rows),
             "--json", str(path), *pace, *self._common],
        )  # fmt: skip
        ended: set[str] = set()
        while "replay" not in ended:
            ended = self._look("replaying")
        replayed: dict[str, Any] = json.loads(path.read_text())
        return replayed

    def finish(self, rows: int) -> dict[str, Any]:
        """Waits until all is trained and counted, stops trainer and agent in order; returns the trainer's report."""
        self._wait("training", lambda: self._observer.rows_trained >= rows, _STALL_TIMEOUT_S)
        self._children.stop("train")
        trained: dict[str, Any] = json.loads((self._config.folder / "train.json").read_text())
        records = trained["importance"]["records"]
        self._wait("counting", lambda: self._observer.counted >= records, _STALL_TIMEOUT_S)
        self._children.stop("agent")
        deadline_s = time.monotonic() + 10
        while not self._observer.reader.table.is_verified and time.monotonic() < deadline_s:
            self._observer.look()
        return trained

    def _look(self, doing: str) -> set[str]:
        self._observer.look()
        self._on_look(self._observer, doing)
        ended = self._children.check()
        early = ended - {"replay"}
        if early:
            raise ChildError(f"{early.pop()} ended before it was asked to; see its log in {self._config.folder}")
        return ended

    def _wait(self, doing: str, is_done: Callable[[], bool], stall_timeout_s: float) -> None:
        moved_s, before = time.monotonic(), self._progress()
        while not is_done():
            self._look(doing)
            if self._progress() != before:
                moved_s, before = time.monotonic(), self._progress()
            if time.monotonic() - moved_s > stall_timeout_s:
                raise ChildError(f"{doing}: nothing moved for {stall_timeout_s:.0f} s; see the logs in "
                                 f"{self._config.folder}")  # fmt: skip

    def _progress(self) -> tuple[int, int]:
        return self._observer.rows_trained, self._observer.counted


def _report(
    config: DemoConfig, observer: Observer, replayed: dict[str, Any], trained: dict[str, Any]
) -> dict[str, Any]:
    """The fixed keys, and whether every equality holds."""
    shards = ShardConfig(capacity=config.capacity, num_shards=_SHARDS)
    half_life = shards.make_hot_set(0).half_life_events
    books = audit(config.kafka, config.schema, top=config.capacity,
                  half_life_events=half_life or math.inf)  # fmt: skip
    table = observer.reader.table
    rows = {"replayed": replayed["rows"]["sent"], "in_topic": books.clicks_rows, "trained": trained["rows"]["trained"]}
    checks = {
        "rows replayed = rows in topic = rows trained": len(set(rows.values())) == 1 and rows["trained"] > 0,
        "importance records counted once": books.importance_records == observer.counted,
        "hot rows never over the capacity": observer.max_hot <= config.capacity,
        "the table that was followed is the agent's (digests)": table.is_verified,
        "the table that was trained is the agent's (digests)": trained["assignments"]["verified"] is not False,
        "no bad record": observer.reader.num_bad == 0 and trained["click_records"]["bad"] == 0,
    }
    return {
        "ok": all(checks.values()),
        "checks": checks,
        "rows": rows,
        "bad_lines": replayed["rows"]["bad"],
        "importance": {"records": books.importance_records, "counted": observer.counted},
        "hot": {
            "capacity": config.capacity,
            "max": observer.max_hot,
            "final": table.num_hot,
            "recall": recall_of(table, books.top_keys),
        },
        "changes": {"promotions": observer.promotions, "demotions": observer.demotions},
        "latency_ms": {"event_to_assignment": observer.latency.summary(), **trained["latency_ms"]},
        "auc": trained["auc"],
        "log_loss": trained["log_loss"],
        "embedding_bytes": {name: trained["embedding_bytes"].get(name) for name in ("adaptive", "hash")},
    }
