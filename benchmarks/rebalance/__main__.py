"""`python -m benchmarks.rebalance`: how soon agents take over shards, and whether the final state is the same."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click

from benchmarks.chaos.progress_lines import ProgressLines
from benchmarks.chaos.supervised import Supervised
from benchmarks.rebalance.load import Load, make_keys
from benchmarks.rebalance.standstill import Standstill
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.assignments.subscription import HotFeatureTable
from streams.broker.apache import apache_command
from streams.broker.process import BrokerProcess, free_port
from streams.cli.reports import Report
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import open_partition_log
from streams.records import ImportanceBatch, decode_importance
from streams.topics import Topics

__all__ = ["command"]

_PREFIX = "rebalance"
_AGENTS = 3
_STALL_S = 180.0
_CALM_S = 15.0  # under load, before the first rebalance and after each
_READY_S, _PROGRESS_S = 10.0, 3.0  # the goals


class _Run:
    """Broker, agents and observer of one measurement."""

    def __init__(self, stack: ExitStack, folder: Path, lines: ProgressLines, shards: int, capacity: int) -> None:
        port = free_port()
        (folder / "kafka").mkdir()
        broker = BrokerProcess(apache_command(folder / "kafka", port))
        broker.start(deadline_s=120)
        stack.callback(broker.stop)
        self.kafka = KafkaConfig(bootstrap_servers=f"127.0.0.1:{port}", prefix=_PREFIX)
        create_topics(self.kafka, Topics(_PREFIX).specs(shards=shards))
        self.lines, self.shards, self.capacity = lines, shards, capacity
        arguments = ("agent", "--capacity", capacity, "--bootstrap-servers", self.kafka.bootstrap_servers,
                     "--prefix", _PREFIX)  # fmt: skip
        self.agents = [Supervised(f"agent-{number}", arguments, folder) for number in range(1, _AGENTS + 1)]
        for agent in self.agents:
            stack.callback(agent.kill)
        self.standstill = Standstill(self.kafka)
        stack.callback(self.standstill.close)

    def wait(self, seconds: float) -> None:
        """Looks for so long."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.standstill.look()

    def wait_until(self, what: str, is_true: Callable[[], bool]) -> float:
        """Looks until this holds; returns after how many seconds.

        Raises:
            RuntimeError: nothing has moved for three minutes, or an agent has ended.
        """
        self.lines.state, started_s = what, time.monotonic()
        moved_s, before = started_s, dict(self.standstill.offsets)
        while not is_true():
            self.standstill.look()
            now_s = time.monotonic()
            if before != self.standstill.offsets:
                moved_s, before = now_s, dict(self.standstill.offsets)
            for agent in self.agents:
                if ending := agent.look():
                    raise RuntimeError(f"{agent.name} ended with {ending.code}: {ending.last_line}")
            if now_s - moved_s > _STALL_S:
                raise RuntimeError(f"{what}: nothing moved for {_STALL_S:.0f} s")
        return time.monotonic() - started_s

    def has_counted(self, records: int) -> bool:
        """Whether all shards have counted so many records."""
        offsets = self.standstill.offsets
        return len(offsets) == self.shards and min(offsets.values()) >= records


@click.command()
@click.option("--shards", type=click.IntRange(3), default=48, show_default=True)
@click.option("--keys", type=click.IntRange(256), default=100_000, show_default=True, help="Hot features of a shard.")
@click.option("--rate", type=float, default=4.0, show_default=True, help="Importance records a second and shard.")
@click.option("--record-keys", type=click.IntRange(1), default=200, show_default=True)
@click.option("--json", "json_path", metavar="PATH", help="Write the report as JSON to PATH.")
def command(shards: int, keys: int, rate: float, record_keys: int, json_path: str | None) -> None:
    """Fill the shards, start again, go from one agent to three and back under load; exit 1 if a goal is missed."""
    report = Report("rebalance")
    with tempfile.TemporaryDirectory(prefix="hotstream-rebalance-") as folder, ExitStack() as stack:
        logging.basicConfig(filename=Path(folder) / "harness.txt", level=logging.WARNING)
        lines = stack.enter_context(ProgressLines())
        run = _Run(stack, Path(folder), lines, shards, shards * keys)
        load = Load(run.kafka, make_keys(shards, keys, 1), rate=rate, record_keys=record_keys)
        fill_s = _fill(run, load)
        ready_s = _start_again(run)
        with load:
            phases = _rebalance(run, load)
        run.wait_until("counting the rest", lambda: run.has_counted(load.sent))
        for agent in run.agents:
            agent.stop()
        lines.state = "comparing the tables"
        differences = _differences(run)
    goals = {
        f"all shards ready within {_READY_S:.0f} s": ready_s <= _READY_S,
        f"no shard without progress for more than {_PROGRESS_S:.0f} s (p99)": all(
            phase["p99_s"] <= _PROGRESS_S for phase in phases.values()
        ),
        "the same final state": not differences,
    }
    config = {"shards": shards, "keys_a_shard": keys, "rate_a_shard": rate, "record_keys": record_keys}
    figures = {"fill_s": round(fill_s, 1), "ready_s": round(ready_s, 1), "without_progress": phases}
    report.finish(json_path, ok=all(goals.values()), goals=goals, config=config, differences=differences, **figures)
    click.echo(f"ready after {ready_s:.1f} s; without progress {phases}; {goals}")
    sys.exit(0 if all(goals.values()) else 1)


def _fill(run: _Run, load: Load) -> float:
    """Gives each key a row, and stops the agent, which writes its snapshots."""
    run.agents[0].start()
    run.lines.state = f"sending {load.fill_records} records to each shard"
    started_s = time.monotonic()
    load.fill(load.fill_records)
    run.wait_until("filling the hot sets", lambda: run.has_counted(load.fill_records))
    run.agents[0].stop()
    return time.monotonic() - started_s


def _start_again(run: _Run) -> float:
    """Starts the agent; returns after how many seconds it counts for all shards, imports and kernels included."""
    agent = run.agents[0]
    agent.start()
    return run.wait_until("loading the shards", lambda: agent.read_log().count("continues at offset") >= run.shards)


def _rebalance(run: _Run, load: Load) -> dict[str, dict[str, float]]:
    """The longest time without progress of each shard: in calm, with three agents, and back with one."""
    run.wait_until("the load", lambda: run.has_counted(load.fill_records + 1))
    phases, begun_s = dict[str, dict[str, float]](), time.monotonic()
    run.wait(_CALM_S)
    phases["calm"] = run.standstill.summarise(begun_s)
    begun_s = time.monotonic()
    for agent in run.agents[1:]:
        agent.start()
    settled_s = run.wait_until("1 -> 3 agents", lambda: run.standstill.num_owners() == _AGENTS)
    run.wait(_CALM_S)
    phases["1 -> 3"] = {**run.standstill.summarise(begun_s), "settled_s": round(settled_s, 1)}
    begun_s = time.monotonic()
    for agent in run.agents[1:]:
        agent.stop()
    settled_s = run.wait_until("3 -> 1 agents", lambda: run.standstill.num_owners() == 1)
    run.wait(_CALM_S)
    phases["3 -> 1"] = {**run.standstill.summarise(begun_s), "settled_s": round(settled_s, 1)}
    return phases


def _differences(run: _Run) -> list[str]:
    """The shards whose published table differs from the one that the importance makes, counted in this process."""
    topic = Topics(_PREFIX).importance
    config, found = ShardConfig(capacity=run.capacity, num_shards=run.shards), list[str]()
    with HotFeatureTable(run.kafka) as late, open_partition_log(run.kafka) as log:
        if not late.table.is_verified:
            found.append(f"a new subscriber is not verified: {late.table.history.describe()}")
        for number in range(run.shards):
            shard = Shard(number, config)
            for record in log.read(topic, number, *log.bounds(topic, number)):
                batch = decode_importance(record.value, record.headers)
                assert isinstance(batch, ImportanceBatch)  # noqa: S101  this process has written it
                shard.count(record.offset, batch)
            view = late.table.shards[number]
            if (view.seq, view.table.digest) != (shard.seq, shard.table.digest):
                found.append(f"shard {number}: seq {view.seq} and digest differ, expected seq {shard.seq}")
    return found


if __name__ == "__main__":
    command()
