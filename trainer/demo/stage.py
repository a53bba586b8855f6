"""Runs the demo: creates the topics, runs agent, trainer and replay as processes, and audits the result."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.agent.shard_config import ShardConfig
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.errors import BrokerError, ChildError
from streams.logs.schema import LogSchema
from streams.processes.children import Children
from streams.telemetry.observer import Observer
from streams.topics import Topics
from trainer.demo.audit import audit_topics, recall_of

__all__ = ["AGENT_GROUP", "DemoConfig", "prepare_topics", "run_demo"]

AGENT_GROUP = "hotstream-agent"

_START_TIMEOUT_S = 120.0
_STALL_TIMEOUT_S = 120.0
_CLICK_PARTITIONS, _SHARDS = 4, 2
_SESSION_TIMEOUT_S = 6  # to join a group on the embedded broker takes half of it


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The configuration of the demo.

    Args:
        kafka: a running broker.
        config_path: the file of its properties, which the child processes read, too; None without properties.
        data: the click log: a path, a pattern or a URI.
        schema: the schema of the click log.
        schema_option: the value of `--schema` for the child processes, from which they load the same schema.
        folder: the folder of the logs, the checkpoints and the processes' reports.
        rate_rows_s: replayed rows per second; None for as fast as possible.
        batch_rows: rows per click record.
        embedding_bytes: bytes of the adaptive embedding, and of the plain hash table that it is compared with.
        capacity: the capacity of the hot set, in rows; it must be that of the embedding.
        seed: the seed of agent and trainer.
        max_bad: the share of the log's lines that may be malformed.
    """

    kafka: KafkaConfig
    config_path: Path | None = None
    data: str
    schema: LogSchema
    schema_option: str
    folder: Path
    rate_rows_s: float | None
    batch_rows: int
    embedding_bytes: int
    capacity: int
    seed: int
    max_bad: float = 0.01

    @property
    def child_options(self) -> list[str]:
        """The options that every child process has; it receives the broker's address in its environment."""
        file = [] if self.config_path is None else ["--config", str(self.config_path.resolve())]
        return ["--prefix", self.kafka.prefix, *file]


def run_demo(config: DemoConfig, observer: Observer, on_look: Callable[[Observer, str], None]) -> dict[str, Any]:
    """Runs agent, trainer and replay until the whole log is trained and counted; returns the report.

    Args:
        config: the configuration.
        observer: follows the topics of the run.
        on_look: called with the observer and the name of the phase after each look at the topics.

    Raises:
        ChildError: a process failed, or none made progress for two minutes.
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
        BrokerError: a topic with this prefix exists already, or the broker cannot create one.
    """
    states = create_topics(config, Topics(config.prefix).specs(click_partitions=_CLICK_PARTITIONS, shards=_SHARDS))
    for state in states:
        if state.problems:
            raise BrokerError(f"topic {state.spec.name}: {'; '.join(state.problems)}; choose another --prefix")
        if not state.created:
            raise BrokerError(f"topic {state.spec.name} exists already, and the demo needs new topics: "
                              "choose another --prefix")  # fmt: skip


class _Stage:
    """The processes of one run of the demo."""

    def __init__(
        self, config: DemoConfig, children: Children, observer: Observer, on_look: Callable[[Observer, str], None]
    ) -> None:
        self._config = config
        self._children = children
        self._observer = observer
        self._on_look = on_look
        self._common = config.child_options

    def start(self) -> None:
        """Starts agent and trainer; returns when both have reported metrics."""
        config = self._config
        self._children.start(
            "agent",
            ["agent", "--group", AGENT_GROUP, "--capacity", str(config.capacity), "--seed", str(config.seed),
             *self._common, "--session-timeout", str(_SESSION_TIMEOUT_S), "--schema", config.schema_option],
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
        """Replays the log; returns the report of `hotstream replay`."""
        config = self._config
        path = config.folder / "replay.json"
        pace = [] if config.rate_rows_s is None else ["--rate", str(config.rate_rows_s)]
        self._children.start(
            "replay",
            ["replay", config.data, "--schema", config.schema_option, "--batch-rows", str(config.batch_rows),
             "--json", str(path), *pace, *self._common, "--max-bad", "1"],  # the report judges the lines
        )  # fmt: skip
        exited: set[str] = set()
        while "replay" not in exited:
            exited = self._look("replaying")
        report: dict[str, Any] = json.loads(path.read_text())
        return report

    def finish(self, rows: int) -> dict[str, Any]:
        """Waits until all rows are trained and counted; stops trainer, then agent; returns the trainer's report."""
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

    def _look(self, phase: str) -> set[str]:
        """Polls the topics and the processes once; returns the names of the processes that have exited."""
        self._observer.look()
        self._on_look(self._observer, phase)
        exited = self._children.check()
        early = exited - {"replay"}
        if early:
            raise ChildError(f"{early.pop()} exited before the demo stopped it; see its log in {self._config.folder}")
        return exited

    def _wait(self, phase: str, is_done: Callable[[], bool], stall_timeout_s: float) -> None:
        """Looks until `is_done()`.

        Raises:
            ChildError: a process failed, or the counts did not change for `stall_timeout_s` seconds.
        """
        moved_s, before = time.monotonic(), self._progress()
        while not is_done():
            self._look(phase)
            if self._progress() != before:
                moved_s, before = time.monotonic(), self._progress()
            if time.monotonic() - moved_s > stall_timeout_s:
                raise ChildError(f"{phase}: no progress for {stall_timeout_s:.0f} s; see the logs in "
                                 f"{self._config.folder}")  # fmt: skip

    def _progress(self) -> tuple[int, int]:
        return self._observer.rows_trained, self._observer.counted


def _report(
    config: DemoConfig, observer: Observer, replayed: dict[str, Any], trained: dict[str, Any]
) -> dict[str, Any]:
    """Returns the content of the report; `checks` are the equalities that must hold, `ok` is whether all do."""
    shards = ShardConfig(capacity=config.capacity, num_shards=_SHARDS)
    half_life = shards.make_hot_set(0).half_life_events
    audit = audit_topics(config.kafka, config.schema, top=config.capacity,
                         half_life_events=half_life or math.inf)  # fmt: skip
    hot_table = observer.reader.table
    rows = {"replayed": replayed["rows"]["sent"], "in_topic": audit.clicks_rows, "trained": trained["rows"]["trained"]}
    checks = {
        "rows replayed = rows in topic = rows trained": len(set(rows.values())) == 1 and rows["trained"] > 0,
        "importance records counted once": audit.importance_records == observer.counted,
        "hot rows never over the capacity": observer.max_hot <= config.capacity,
        "the table that was followed is the agent's (digests)": hot_table.is_verified,
        "the table that was trained is the agent's (digests)": trained["assignments"]["verified"] is not False,
        f"at most {config.max_bad:.2%} of the lines malformed": replayed["rows"]["bad"]
        <= config.max_bad * replayed["rows"]["read"],
        "no bad record": observer.reader.num_bad == 0 and trained["click_records"]["bad"] == 0,
    }
    return {
        "ok": all(checks.values()),
        "checks": checks,
        "rows": rows,
        "lines": {**replayed["rows"], "reasons": replayed["bad_lines"]},
        "importance": {"records": audit.importance_records, "counted": observer.counted},
        "hot": {
            "capacity": config.capacity,
            "max": observer.max_hot,
            "final": hot_table.num_hot,
            "recall": recall_of(hot_table, audit.top_keys),
        },
        "changes": {"promotions": observer.promotions, "demotions": observer.demotions},
        "latency_ms": {"event_to_assignment": observer.latency.summary(), **trained["latency_ms"]},
        "auc": trained["auc"],
        "log_loss": trained["log_loss"],
        "embedding_bytes": {name: trained["embedding_bytes"].get(name) for name in ("adaptive", "hash")},
    }
