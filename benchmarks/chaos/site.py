"""`Site`: a whole pipeline on one machine, behind a proxy: broker, agents, trainer, replay, and a subscriber."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from benchmarks.chaos.progress_lines import ProgressLines
from benchmarks.chaos.proxy import Proxy
from benchmarks.chaos.supervised import Ending, Supervised, is_expected
from streams.agent.shard_config import ShardConfig
from streams.broker.apache import apache_command
from streams.broker.process import BrokerProcess, free_port
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import open_partition_log
from streams.telemetry.observer import Observer
from streams.topics import Topics, TopicSpec

__all__ = ["CLICK_PARTITIONS", "MAX_AGENTS", "QUICK_COMPACTION", "Site", "SiteConfig"]

QUICK_COMPACTION = {"segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000"}
_NO_COMPACTION = {"segment.ms": str(7 * 86_400_000)}  # the audit looks for every record of a campaign
_SESSION_S = 6  # the shortest that Apache Kafka allows
_PREFIX = "chaos"
_DISK_BYTES = 64 << 20
MAX_AGENTS = 3
CLICK_PARTITIONS = 2


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """The pipeline.

    Args:
        folder: data of the broker, checkpoints, logs.
        rows: rows of the click log.
        seed: seed of the log.
        rate_rows_s: rows replayed per second.
        shards: shards of the agents.
        capacity: hot rows.
        batch_rows: rows of a click record.
        signal: the importance that the agents count.
        half_life: half-life of scores, in events; a short one makes many demotions.
        is_compacted: whether assignments and snapshots are compacted all the time, every second.
        max_bad: the share of malformed click records with which the trainer still ends with 0.
    """

    folder: Path
    rows: int
    seed: int
    rate_rows_s: int = 300
    shards: int = 4
    capacity: int = 300
    batch_rows: int = 64
    signal: str = "gradient"
    half_life: int = 20_000
    is_compacted: bool = False
    max_bad: float = 0.01

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals, as importance records name them."""
        return ("frequency", "gradient") if self.signal == "both" else (self.signal,)

    @property
    def shard_config(self) -> ShardConfig:
        """The configuration of the shards, as the agents make it from their options."""
        return ShardConfig(
            capacity=self.capacity, num_shards=self.shards, half_life_events=float(self.half_life), seed=0
        )


class Site:
    """The running pipeline; `look` keeps it running, and the end of the `with` ends it.

    Args:
        config: the pipeline.
        lines: the progress.

    Attributes:
        processes: the processes that run, or should, by name.
        endings: the ends that nobody asked for.
        expected: the ends that the faults must cause (`is_expected`).
        trouble_s: when broker, network or disk was last disturbed, by `time.monotonic`.
        repeat: the folder for checkpoints of a repetition.
        disk: the folder of the checkpoints' folder, a file system of its own if this user may mount one.
        has_small_disk: whether it is one.
        fenced: replays that a later run must have ended.
    """

    def __init__(self, config: SiteConfig, lines: ProgressLines) -> None:
        self.config = config
        self.lines = lines
        self.processes: dict[str, Supervised] = {}
        self.endings: list[Ending] = []
        self.expected: list[Ending] = []
        self.trouble_s = -1e9
        self.log_path = config.folder / "log.tsv"
        self.disk = config.folder / "disk"
        self.checkpoints = self.disk / "checkpoints"
        self.repeat = config.folder / "repeat"
        self.has_small_disk = False
        self.fenced: list[Supervised] = []
        self._stack = ExitStack()
        self._all: dict[str, Supervised] = {}
        port = free_port()
        self.proxy = self._stack.enter_context(Proxy(port))
        folder = config.folder / "kafka"
        folder.mkdir(parents=True)
        self.broker = BrokerProcess(apache_command(folder, port, advertised_port=self.proxy.port))
        # A child dies with the thread that started it, so one thread that lives as long as the site starts all brokers.
        self._starter = self._stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="broker"))
        self._broker_start: Future[None] = Future()
        self._stack.callback(self.broker.stop)
        self.kafka = KafkaConfig(bootstrap_servers=self.proxy.bootstrap_servers, prefix=_PREFIX)
        self.topics = Topics(_PREFIX)

    def __enter__(self) -> Site:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._all.values():
            process.kill()
        self._stack.close()

    def _open(self) -> None:
        config, folder = self.config, self.config.folder
        self.disk.mkdir()
        self._mount()
        self.checkpoints.mkdir()
        self.lines.state = "generating the log"
        self._run(
            "generate", self.log_path, "--rows", config.rows, "--seed", config.seed, "--scale", 0.02, "--drift", 3
        )
        self.lines.state = "starting the broker"
        self.start_broker()
        self._broker_start.result()
        create_topics(self.kafka, self._state_specs())
        self._run("topics", "create", "--partitions", CLICK_PARTITIONS, "--shards", config.shards, *self._where)
        self.observer = self._stack.enter_context(Observer(self.kafka))
        common = (*self._where,)
        for number in range(1, MAX_AGENTS + 1):
            self._add(
                f"agent-{number}", "agent", "--capacity", config.capacity, "--half-life", config.half_life, "--signal",
                config.signal, "--snapshot-every", 40, "--session-timeout", _SESSION_S, *common,
            )  # fmt: skip
        train = (
            "train", "--capacity", config.capacity, "--threads", 1, "--checkpoint-every", 2000, "--window", 5000,
            "--max-bad", config.max_bad, *common,
        )  # fmt: skip
        self._add("train", *train, "--checkpoint-dir", self.checkpoints)
        rest = (*train, "--idle-timeout", 6)
        self._add("train-rest", *rest, "--checkpoint-dir", self.checkpoints, "--json", folder / "train.json")
        self._add("train-repeat", *rest, "--checkpoint-dir", self.repeat)
        replay = ("replay", self.log_path, "--batch-rows", config.batch_rows, "--resume", *common)
        self._add("replay", *replay, "--rate", config.rate_rows_s)
        self._add("replay-again", *replay, "--rate", config.rate_rows_s)
        self._add("replay-rest", *replay)

    def _mount(self) -> None:
        """Mounts a small file system for the checkpoints, if this user may."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(self.disk)]
        try:
            self.has_small_disk = not subprocess.run(command, capture_output=True, check=False).returncode
        except OSError:  # there is no such program
            self.has_small_disk = False
        if self.has_small_disk:
            self._stack.callback(subprocess.run, ["umount", "--lazy", str(self.disk)], check=False)

    def _state_specs(self) -> list[TopicSpec]:
        """The topics that are compacted all the time, or not before the audit."""
        specs, configs = self.topics.specs(shards=self.config.shards), _NO_COMPACTION
        if self.config.is_compacted:
            configs = QUICK_COMPACTION
        names = (self.topics.assignments, self.topics.snapshots)
        return [replace(spec, configs={**spec.configs, **configs}) for spec in specs if spec.name in names]

    @property
    def _where(self) -> tuple[str, ...]:
        return "--bootstrap-servers", self.kafka.bootstrap_servers, "--prefix", _PREFIX

    def _run(self, *arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "trainer", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"hotstream {arguments[0]}: exit code {done.returncode}: {done.stderr[-2000:]}")

    def _add(self, name: str, *arguments: object) -> None:
        self._all[name] = Supervised(name, arguments, self.config.folder)

    def all_processes(self) -> list[Supervised]:
        """Every process, also those that have ended."""
        return list(self._all.values())

    # ---- while it runs ---------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Starts a process and keeps it running."""
        self.processes[name] = self._all[name]
        self._all[name].start()

    def end(self, name: str) -> None:
        """Asks a process to end, and does not start it again."""
        ending = self.processes.pop(name).stop()
        if ending is not None:
            self._note(ending)

    def agents(self) -> list[str]:
        """The names of the agents that should run, in order."""
        return sorted(name for name in self.processes if name.startswith("agent"))

    def scale(self, number: int) -> None:
        """Adds agents, or asks the newest ones to end."""
        while len(present := self.agents()) > number:
            self.end(present[-1])
        for index in range(1, MAX_AGENTS + 1):
            if len(self.agents()) < number and f"agent-{index}" not in self.processes:
                self.start(f"agent-{index}")

    def replay_again(self) -> None:
        """Starts the replay a second time while it runs; the first run must then end by itself."""
        first = self.processes["replay"]
        second = next(self._all[name] for name in ("replay", "replay-again") if self._all[name] is not first)
        second.kill()
        first.release()
        self.fenced.append(first)
        self.processes["replay"] = second
        second.start()

    def look(self, wait_ms: int = 100) -> None:
        """Follows the topics for a moment, and starts the processes again that have ended."""
        self.observer.look(wait_ms)
        for name, process in list(self.processes.items()):
            ending = process.look()
            if ending is not None:
                if ending.code == 0:
                    del self.processes[name]
                else:
                    self._note(ending)
        self.lines.state = self.describe()

    def wait(self, seconds: float) -> None:
        """Looks for so long."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.look()

    def wait_until(self, is_true: Callable[[], bool], *, stall_s: float) -> bool:
        """Looks until `is_true` holds; False if nothing has moved in the topics for so long."""
        moved_s, before = time.monotonic(), self.standing()
        while not is_true():
            self.look()
            if self.standing() != before:
                moved_s, before = time.monotonic(), self.standing()
            if time.monotonic() - moved_s > stall_s:
                return False
        return True

    def standing(self) -> tuple[int, ...]:
        """What grows as long as anything moves."""
        offsets = [shard.next_offset for _, shard in sorted(self.observer.shards.items())]
        return self.observer.rows_trained, *offsets, *self.observer.reader.positions().values()

    def describe(self) -> str:
        """The state of the pipeline in a few words."""
        shards = self.observer.shards.values()
        hot = self.observer.reader.table.num_hot
        return (
            f"{self.observer.rows_trained} rows trained, {sum(s.counted for s in shards)} importance records counted, "
            f"{hot} hot, {sum(s.demotions for s in shards)} demotions, {len(self.agents())} agents"
        )

    def find_faults(self) -> list[str]:
        """The processes that have ended by themselves, and the logs with a traceback."""
        faults = [
            f"processes: {ending.name} ended with {ending.code} after {ending.age_s:.0f} s: {ending.last_line}"
            for ending in self.endings
        ]
        logs = sorted(self.config.folder.glob("*.log"))
        tracebacks = {path.name: path.read_text(errors="replace").count("Traceback") for path in logs}
        return [*faults, *(f"processes: {name}: {number} tracebacks" for name, number in tracebacks.items() if number)]

    def importance_ends(self) -> dict[int, int]:
        """The present end of each shard's importance."""
        with open_partition_log(self.kafka) as log:
            bounds = log.all_bounds(self.topics.importance, self.config.shards)
        return {number: end for number, (_, end) in enumerate(bounds)}

    def start_broker(self) -> None:
        """Begins to start the broker, which may take a minute on a busy machine."""
        self._broker_start = self._starter.submit(self.broker.start, deadline_s=120)

    @property
    def has_broker(self) -> bool:
        """Whether the last start of the broker is over.

        Raises:
            BrokerError: it has failed.
        """
        if not self._broker_start.done():
            return False
        self._broker_start.result()
        return True

    def disturb(self) -> None:
        """Notes that the broker or the network fails now, or did until now."""
        self.trouble_s = time.monotonic()

    def _note(self, ending: Ending) -> None:
        """Keeps the end of a process, and tells one that a fault must cause from a failure."""
        since_trouble_s = time.monotonic() - ending.age_s - self.trouble_s
        is_due = is_expected(ending, since_trouble_s, has_two_replays=bool(self.fenced))
        (self.expected if is_due else self.endings).append(ending)
        self.lines.say(f"{ending.name} ended with {ending.code} after {ending.age_s:.0f} s: {ending.last_line}")
