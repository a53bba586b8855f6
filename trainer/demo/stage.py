"""Runs the demo: creates the topics, runs agent, trainer and replay as processes, and audits the result."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.agent.shard_config import ShardConfig
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.errors import BrokerError, ChildError
from streams.logs.schema import LogSchema
from streams.processes.children import Children
from streams.processes.log_tail import last_message
from streams.telemetry.latency import LatencyHistogram
from streams.telemetry.observer import Observer
from streams.topics import Topics
from trainer.demo.audit import audit_topics, recall_of
from trainer.demo.pace import FLAT_OUT, MEASURED, PACED, CarriedRate, Part, measured_rows, merge_replays, paced_limit
from trainer.demo.view import DemoView

__all__ = ["AGENT_GROUP", "DemoConfig", "prepare_topics", "run_demo"]

AGENT_GROUP = "hotstream-agent"

_START_TIMEOUT_S = 900.0  # the first start after an installation compiles, beside whatever else this machine does
_STALL_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 5.0  # after Ctrl-C; the broker ends after it
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
        rate_rows_s: replayed rows per second; None for half of what the trainer carries, 0 for as fast as possible.
        flat_out: whether the rest of the log is replayed as fast as possible after a minute at that rate.
        num_rows: rows of the log; None if unknown.
        is_bounded: whether the replay may end before the log does, after a minute.
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
    flat_out: bool = False
    num_rows: int | None = None
    is_bounded: bool = False
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


def run_demo(config: DemoConfig, observer: Observer, view: DemoView) -> dict[str, Any]:
    """Runs agent, trainer and replay until the log is trained and counted; returns the report.

    Args:
        config: the configuration.
        observer: follows the topics of the run.
        view: shows the progress.

    Raises:
        ChildError: a process failed, or none made progress for two minutes.
    """
    environment = {"KAFKA_BOOTSTRAP_SERVERS": config.kafka.bootstrap_servers}
    with Children(config.folder, environment, end_timeout_s=_END_TIMEOUT_S) as children:
        stage = _Stage(config, children, observer, view)
        stage.start()
        parts = stage.replay()
        trained = stage.finish()
    view.begin("auditing", "reads all topics again and counts what they hold")
    return _report(config, observer, parts, trained)


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

    def __init__(self, config: DemoConfig, children: Children, observer: Observer, view: DemoView) -> None:
        self._config = config
        self._children = children
        self._observer = observer
        self._view = view
        self._common = config.child_options
        self._parts: list[Part] = []

    def start(self) -> None:
        """Starts agent and trainer; returns when both are ready, which their first metrics show."""
        config = self._config
        self._view.begin("starting", "agent and trainer; the first time after an installation they compile for minutes")
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
        self._wait("starting", lambda: not self._not_ready(), _START_TIMEOUT_S, self._describe_start)

    def _not_ready(self) -> list[str]:
        is_ready = {"agent": len(self._observer.shards) == _SHARDS, "train": self._observer.trainer is not None}
        return [name for name, ready in is_ready.items() if not ready]

    def _describe_start(self) -> str:
        """What each process does that is not ready yet."""
        logs = {name: last_message(self._config.folder / f"{name}.log") for name in self._not_ready()}
        return "waits for " + "; ".join(f"{name} ({text or 'loads its modules'})" for name, text in logs.items())

    def replay(self) -> list[Part]:
        """Replays the log in parts; returns those that sent rows, or the first one."""
        config, rate = self._config, self._config.rate_rows_s
        if rate is None:
            limit = measured_rows(config.num_rows, config.batch_rows)
            self._view.begin("measuring", f"what this trainer carries, with the first {limit:,} rows at full speed")
            carried = self._replay_part(MEASURED, None, limit).carried.rows_per_s
            rate = (carried or 0) / 2
        if rate:
            self._replay_paced(rate)
        if config.flat_out or not rate:
            self._view.begin("flat out", "replays as fast as it goes: the trainer falls behind, and changes wait")
            self._replay_part(FLAT_OUT, None, None)
        return [part for part in self._parts if part.rows] or self._parts[:1]

    def _replay_paced(self, rate_rows_s: float) -> None:
        config, limit = self._config, None
        if config.flat_out or config.is_bounded:
            limit = paced_limit(self._sent, rate_rows_s, config.num_rows, is_last=not config.flat_out)
        half = "half of what the trainer carried" if config.rate_rows_s is None else "as --rate demands"
        self._view.begin("pacing", f"replays {rate_rows_s:,.0f} rows/s, {half}")
        self._replay_part(PACED, rate_rows_s, limit)

    @property
    def _sent(self) -> int:
        return sum(part.rows for part in self._parts)

    def _replay_part(self, name: str, rate_rows_s: float | None, limit_rows: int | None) -> Part:
        """Replays until `limit_rows` rows of the log are sent, all parts together; waits until they are trained."""
        self._observer.latency = LatencyHistogram()
        carried = CarriedRate(self._observer.rows_trained)
        self._start_replay(name, rate_rows_s, limit_rows)
        child, exited = f"replay-{name}", set[str]()
        while child not in exited:
            exited = self._look()
            carried.note(self._observer.trainer)
        report = json.loads((self._config.folder / f"{child}.json").read_text())
        part = Part(name=name, rate_rows_s=rate_rows_s, report=report, carried=carried)
        self._parts.append(part)

        def is_trained() -> bool:
            carried.note(self._observer.trainer)
            return self._observer.rows_trained >= self._sent and not self._observer.num_behind

        self._wait("training", is_trained, _STALL_TIMEOUT_S)
        part.latency = self._observer.latency
        return part

    def _start_replay(self, name: str, rate_rows_s: float | None, limit_rows: int | None) -> None:
        config = self._config
        pace = [] if rate_rows_s is None else ["--rate", str(rate_rows_s)]
        limit = [] if limit_rows is None else ["--limit", str(limit_rows)]
        self._children.start(
            f"replay-{name}",
            ["replay", config.data, "--schema", config.schema_option, "--batch-rows", str(config.batch_rows),
             "--json", str(config.folder / f"replay-{name}.json"), *pace, *limit, *self._common,
             *(["--resume"] if self._parts else []),
             "--max-bad", "1"],  # the report judges the lines
        )  # fmt: skip

    def finish(self) -> dict[str, Any]:
        """Stops the trainer, and the agent once it has counted all importance; returns the trainer's report."""
        self._view.begin("stopping", "the trainer, which writes a checkpoint")
        self._children.stop("train")
        trained: dict[str, Any] = json.loads((self._config.folder / "train.json").read_text())
        records = trained["importance"]["records"]
        self._view.begin("counting", "waits until the agent has counted all importance")
        self._wait("counting", lambda: self._observer.counted >= records, _STALL_TIMEOUT_S)
        self._view.begin("stopping", "the agent")
        self._children.stop("agent")
        deadline_s = time.monotonic() + 10
        while not self._observer.reader.table.is_verified and time.monotonic() < deadline_s:
            self._observer.look()
        return trained

    def _look(self, waits_for: str = "") -> set[str]:
        """Polls the topics and the processes once; returns the names of the processes that have exited."""
        self._observer.look()
        self._view.show(self._observer, waits_for)
        exited = self._children.check()
        early = exited & {"agent", "train"}
        if early:
            raise ChildError(f"{early.pop()} exited before the demo stopped it; see its log in {self._config.folder}")
        return exited

    def _wait(
        self,
        phase: str,
        is_done: Callable[[], bool],
        stall_timeout_s: float,
        describe: Callable[[], str] = str,
    ) -> None:
        """Looks until `is_done()`; meanwhile the view shows `describe()`.

        Raises:
            ChildError: a process failed, or the counts did not change for `stall_timeout_s` seconds.
        """
        moved_s, before = time.monotonic(), self._progress()
        while not is_done():
            self._look(describe())
            if self._progress() != before:
                moved_s, before = time.monotonic(), self._progress()
            if time.monotonic() - moved_s > stall_timeout_s:
                raise ChildError(f"{phase}: no progress for {stall_timeout_s:.0f} s; see the logs in "
                                 f"{self._config.folder}")  # fmt: skip

    def _progress(self) -> tuple[int, int]:
        return self._observer.rows_trained, self._observer.counted


def _report(config: DemoConfig, observer: Observer, parts: Sequence[Part], trained: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the report; `checks` are the equalities that must hold, `ok` is whether all do.

    The latency from event to assignment is that of the paced part, if there is one.
    """
    replayed = merge_replays(parts)
    shown = next((part for part in parts if part.name == PACED and part.latency.count), parts[0])
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
        "parts": [part.describe() for part in parts],
        "changes": {"promotions": observer.promotions, "demotions": observer.demotions},
        "latency_ms": {"event_to_assignment": shown.latency.summary(), **trained["latency_ms"]},
        "auc": trained["auc"],
        "log_loss": trained["log_loss"],
        "embedding_bytes": {name: trained["embedding_bytes"].get(name) for name in ("adaptive", "hash")},
    }
