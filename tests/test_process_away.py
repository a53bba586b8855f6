"""Agent, trainer, replay and watch while their Apache Kafka is away: they wait, go on, and stop when asked to."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import require_java
from processes import (
    Running,
    change,
    once_each,
    publish_by_rule,
    read_changes,
    read_topic,
    running,
    sources_of,
    wait_until,
    where,
    write_criteo_log,
)

from benchmarks.chaos.proxy import Proxy
from streams.agent.shard import ShardConfig
from streams.assignments.subscription import HotFeatureTable
from streams.broker.apache import apache_command
from streams.broker.process import BrokerProcess, free_port, log_tail
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.topics import Topics

SHARDS, CAPACITY, ROWS, BATCH_ROWS = 2, 60, 40_000, 100
RATE_ROWS_S = 500
AWAY_S = float(os.environ.get("HOTSTREAM_AWAY_S", "20"))  # how long the broker is away at least
MOST_GROWTH_MIB = 100.0

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif("HOTSTREAM_CHAOS" not in os.environ, reason="minutes each: `make chaos` runs them"),
    pytest.mark.timeout(900),
]


class Site:
    """A broker behind a proxy, and the processes that use it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        port = free_port()
        self.proxy = stack.enter_context(Proxy(port))
        (folder / "kafka").mkdir()
        self.broker = BrokerProcess(apache_command(folder / "kafka", port, advertised_port=self.proxy.port))
        stack.callback(self.broker.stop)
        self.broker.start()
        self.kafka = KafkaConfig(bootstrap_servers=self.proxy.bootstrap_servers, prefix="away")
        create_topics(self.kafka, Topics("away").specs(click_partitions=2, shards=SHARDS))
        self.processes: dict[str, Running] = {}

    def start(self, command: str, *arguments: object) -> None:
        log = self.folder / f"{command}.log"
        self.processes[command] = self.stack.enter_context(running(log, command, *arguments, *where(self.kafka)))

    def start_all(self) -> None:
        """Starts everything, and returns when each process has worked."""
        checkpoints = self.folder / "checkpoints"
        path = write_criteo_log(self.folder / "log.tsv", ROWS)
        size = ("--capacity", CAPACITY)
        self.start("agent", "--signal", "both", *size, "--snapshot-every", 20, "--session-timeout", 6)
        self.start("train", *size, "--threads", 1, "--checkpoint-dir", checkpoints, "--checkpoint-every", 1000)
        self.start("watch")
        wait_until(self.are_ready, *self.processes.values(), timeout_s=300)  # a new checkout compiles first
        self.start("replay", path, "--rate", RATE_ROWS_S, "--batch-rows", BATCH_ROWS)
        wait_until(lambda: any(checkpoints.glob("*")) and "hot" in self.log("watch"), *self.processes.values())

    def are_ready(self) -> bool:
        """Whether trainer and agent have compiled everything, and the agent has its shards."""
        return "ready" in self.log("train") and self.log("agent").count("continues at offset") == SHARDS

    def log(self, command: str) -> str:
        return (self.folder / f"{command}.log").read_text()

    def num_lines(self, command: str) -> int:
        return len(self.log(command).splitlines())

    def peaks_mib(self) -> dict[str, float]:
        """The peak of each process's resident memory so far."""
        peaks = {}
        for name, process in self.processes.items():
            status = Path(f"/proc/{process.process.pid}/status").read_text()
            peaks[name] = int(status.split("VmHWM:")[1].split()[0]) / 1024
        return peaks

    def cpu_s(self) -> dict[str, float]:
        """The processor time that each process has used so far."""
        used = {}
        for name, process in self.processes.items():
            columns = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
            used[name] = (int(columns[11]) + int(columns[12])) / os.sysconf("SC_CLK_TCK")
        return used

    def wait_for_reports(self, number: int) -> None:
        """Waits until each process has so many lines about the broker, 5 s apart."""

        def are_there() -> bool:
            return all(self.log(name).count("does not answer since") >= number for name in self.processes)

        wait_until(are_there, *self.processes.values())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    require_java()
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def test_all_go_on_by_themselves_after_a_network_that_holds_and_a_broker_that_is_killed(site: Site) -> None:
    site.start_all()
    before, started_s = {name: site.num_lines(name) for name in ("agent", "train", "replay")}, time.monotonic()
    site.proxy.hold()
    site.wait_for_reports(2)
    site.proxy.cut()
    site.proxy.forward()
    wait_until(lambda: "answers again" in site.log("agent"), *site.processes.values())
    site.proxy.refuse()  # as the port of a dead broker
    site.broker.kill()
    peaks_mib, used_s, killed_s = site.peaks_mib(), site.cpu_s(), time.monotonic()
    site.wait_for_reports(4)
    wait_until(lambda: time.monotonic() - killed_s > AWAY_S, *site.processes.values(), timeout_s=AWAY_S + 30)
    away_s = time.monotonic() - started_s
    growth_mib = {name: peak - peaks_mib[name] for name, peak in site.peaks_mib().items()}
    assert max(growth_mib.values()) < MOST_GROWTH_MIB, growth_mib
    lines = {name: site.num_lines(name) - number for name, number in before.items()}
    cpu = {name: round((used - used_s[name]) / (time.monotonic() - killed_s), 3) for name, used in site.cpu_s().items()}
    print(f"away for {away_s:.0f} s: log lines {lines}, growth in MiB {growth_mib}, processors used {cpu}")  # noqa: T201
    for name, number in before.items():
        assert site.num_lines(name) - number < away_s, log_tail(site.folder / f"{name}.log", 40)
    site.broker.start(deadline_s=120)
    site.proxy.forward()

    replay = site.processes.pop("replay")
    assert replay.process.wait(120) == 0
    wait_until(lambda: is_trained(site, ROWS), *site.processes.values())
    for name in ("train", "watch", "agent"):  # the agent last: it counts what the trainer sends at its end
        if name == "agent":
            wait_until(lambda: all(counted_all(site)), site.processes["agent"])
        assert site.processes[name].stop() == 0
    for name in ("agent", "train", "replay", "watch"):
        assert "Traceback" not in site.log(name)

    batches = ROWS // BATCH_ROWS
    clicks = [record for records in read_topic(site.kafka, "away.clicks").values() for record in records]
    first_rows = sorted(int(dict(record.headers)["first-row"]) for record in clicks)
    assert first_rows == list(range(1, ROWS + 1, BATCH_ROWS))
    assert [len(sources) for sources in sources_of(site.kafka)] == [batches, batches]
    _, expected = publish_by_rule(site.kafka, ShardConfig(capacity=CAPACITY, num_shards=SHARDS))
    for shard, records in read_changes(site.kafka).items():
        assert once_each(records) == expected[shard]
    with HotFeatureTable(site.kafka) as hot:
        assert hot.table.is_verified


def is_trained(site: Site, rows: int) -> bool:
    counts = re.findall(r"(\d+) rows, \d+ rows/s, 0 records behind", site.log("train"))
    return bool(counts) and int(counts[-1]) == rows


def counted_all(site: Site) -> Iterator[bool]:
    """Whether the agent has written the digest of each shard's last importance record."""
    _, expected = publish_by_rule(site.kafka, ShardConfig(capacity=CAPACITY, num_shards=SHARDS))
    for shard, records in read_changes(site.kafka).items():
        yield change(records[-1])[:2] == expected[shard][-1][:2]


FAULTS: dict[str, Callable[[Site], None]] = {
    "hold": lambda site: site.proxy.hold(),
    "refuse": lambda site: (site.proxy.refuse(), site.proxy.cut()),  # type: ignore[func-returns-value, return-value]
}


@pytest.mark.parametrize("fault", FAULTS)
def test_without_a_broker_each_process_ends_within_ten_seconds_of_a_signal(site: Site, fault: str) -> None:
    site.start_all()
    FAULTS[fault](site)
    site.wait_for_reports(1)
    started_s = time.monotonic()
    for process in site.processes.values():
        process.process.terminate()
    codes = {name: process.process.wait(30) for name, process in site.processes.items()}
    assert time.monotonic() - started_s < 10
    assert codes == {"agent": 1, "train": 1, "replay": 1, "watch": 0}
    for name in ("agent", "train", "replay"):
        assert site.log(name).count("stopped while the broker") == 1, site.log(name)
        assert "Traceback" not in site.log(name)
