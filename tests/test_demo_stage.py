"""The demo as a user runs it: real processes on a real broker, its audit, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from processes import wait_until

from streams.processes.parent_death import die_with_parent

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
TIMEOUT_S = 200
FIXED = {
    "rows": {"replayed", "in_topic", "trained"},
    "importance": {"records", "counted"},
    "hot": {"capacity", "max", "final", "recall"},
    "changes": {"promotions", "demotions"},
    "latency_ms": {"event_to_assignment", "assignment_to_trainer"},
    "auc": {"adaptive", "hash"},
    "embedding_bytes": {"adaptive", "hash"},
}

pytestmark = pytest.mark.broker


@contextmanager
def start(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Starts the demo; killed at the end of the `with` if it still runs, and reaped in any case."""
    command = [sys.executable, "-m", "trainer", "demo", "--out", str(folder), "--rate", "0", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "HOTSTREAM_"))}
    with subprocess.Popen(
        die_with_parent(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def run(folder: Path, *options: str) -> dict:
    with start(folder, *options) as demo:
        output, _ = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 0, output
    return json.loads((folder / "report.json").read_text())


def options_of(pid: int) -> list[str]:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")


def children_of(pid: int) -> dict[str, int]:
    """Returns {name: pid} of the hotstream commands that are children of a process."""
    pids = {}
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except (OSError, IndexError):
            continue
        if int(status[1]) == pid and "trainer" in words:
            pids[words[words.index("trainer") + 1]] = int(entry.name)
    return pids


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_audit_of_a_generated_run_passes_and_the_report_has_every_fixed_key(tmp_path):
    report = run(tmp_path, "--rows", "6000", "--embedding-bytes", "300000")
    assert report["ok"]
    assert all(report["checks"].values())
    assert {"command", "version", "machine", "ok", "seconds"} <= set(report)
    assert all(set(names) <= set(report[part]) for part, names in FIXED.items())
    assert report["rows"] == {"replayed": 6000, "in_topic": 6000, "trained": 6000}
    assert 0 < report["hot"]["final"] <= report["hot"]["max"] <= report["hot"]["capacity"]
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_a_log_in_another_format_needs_only_a_schema(tmp_path):
    random = np.random.default_rng(1)
    names = ["id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id",
             "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
             *(f"C{number}" for number in range(14, 22))]  # fmt: skip
    lines = [",".join(names)]
    for row in range(3000):
        values = [f"v{value:x}" for value in np.minimum(random.zipf(1.3, len(names) - 3), 5000)]
        lines.append(",".join([str(row), str((row % 4 == 0 and 1) or 0), "14102100", *values]))
    log = tmp_path / "avazu.csv"
    log.write_text("\n".join(lines) + "\n")
    report = run(tmp_path / "out", "--data", str(log), "--schema", "avazu", "--embedding-bytes", "300000")
    assert report["ok"]
    assert report["rows"]["trained"] == 3000
    assert report["hot"]["final"] > 0


@pytest.mark.parametrize(
    ("name", "schema", "rows"),
    [("criteo_kaggle_head.tsv", "criteo-kaggle", 10_001), ("criteo_tb_day0_head.tsv", "criteo-terabyte", 10_000)],
)
def test_real_rows_through_a_real_kafka(apache_broker, topic_prefix, tmp_path, name, schema, rows):
    if not (DATA / name).exists():
        pytest.skip(f"{name} is missing: its licence forbids committing it; see the README of shared/data")
    broker = ["--broker", apache_broker.bootstrap_servers, "--prefix", topic_prefix]
    report = run(tmp_path, "--data", str(DATA / name), "--schema", schema, *broker)
    assert report["ok"]
    assert set(report["rows"].values()) == {rows}
    watch = subprocess.run(
        [sys.executable, "-m", "trainer", "watch", "--until-end", "--prefix", topic_prefix,
         "--bootstrap-servers", apache_broker.bootstrap_servers],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    printed = [line.split()[1] for line in watch.stdout.splitlines() if line.startswith("hot")]
    assert len(printed) > 1000
    cells = [line.split("\t") for line in (DATA / name).read_text().splitlines()]
    tokens = {f"C{field}:{row[13 + field] or 'missing'}" for row in cells for field in range(1, 27)}
    assert set(printed) <= tokens


def test_every_child_receives_the_file_of_the_properties(tmp_path):
    file = tmp_path / "client.properties"
    file.write_text("client.id=demo\n")
    with start(tmp_path / "out", "--rows", "200000", "--config", str(file)) as demo:
        wait_until(lambda: "replay" in children_of(demo.pid) or demo.poll() is not None, timeout_s=TIMEOUT_S)
        lines = {name: options_of(pid) for name, pid in children_of(demo.pid).items()}
    assert lines.keys() == {"agent", "train", "replay"}
    assert all(line[line.index("--config") + 1] == str(file) for line in lines.values())


def test_if_a_child_dies_the_demo_fails_and_prints_its_name_and_the_end_of_its_log(tmp_path):
    with start(tmp_path, "--rows", "200000", "--embedding-bytes", "300000") as demo:
        wait_until(lambda: "replay" in children_of(demo.pid) or demo.poll() is not None, timeout_s=TIMEOUT_S)
        others = children_of(demo.pid)
        os.kill(others["agent"], signal.SIGKILL)
        output, _ = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 1, output
    assert "agent ended with exit status -9" in output
    assert "continues at offset" in output  # the end of its log
    assert not any(is_running(pid) for pid in others.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_no_process_behind(tmp_path, number):
    with start(tmp_path, "--rows", "200000", "--embedding-bytes", "300000") as demo:
        wait_until(lambda: len(children_of(demo.pid)) >= 2 or demo.poll() is not None, timeout_s=TIMEOUT_S)
        others = children_of(demo.pid)
        assert len(others) >= 2
        demo.send_signal(number)
        demo.communicate(timeout=10)
    assert demo.returncode != 0
    deadline_s = time.monotonic() + 10
    while any(is_running(pid) for pid in others.values()) and time.monotonic() < deadline_s:
        continue
    assert not any(is_running(pid) for pid in others.values())
