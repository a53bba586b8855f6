"""Each metric of the table is one that a process shows, and all that is written about metrics names these."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from agent_driver import GRADIENT, SHARDS, STEPS, TOPICS, adopt, broker_with_importance, count_all, inputs
from prometheus_client import CollectorRegistry, generate_latest
from serving_site import KEYS, Site, caught_up, hot_keys
from trainer_batches import click_batch
from trainer_driver import ROWS, assignments_of

from streams.agent.figures import agent_figures
from streams.agent.progress import AgentProgress
from streams.agent.worker import AgentWorker
from streams.assignments.reader import AssignmentReader
from streams.assignments.reader_figures import ReaderFigures
from streams.clients.in_memory import InMemoryBroker
from streams.clients.topic_feed import TopicFeed
from streams.clients.worker import Worker
from streams.dashboard.access import Access
from streams.errors import ConfigError
from streams.replay.figures import ReplayFigures
from streams.replay.sender import ReplayCounts
from streams.telemetry.collector import FigureCollector
from streams.telemetry.figures import Figure
from streams.telemetry.latency import LatencyHistogram
from streams.telemetry.metric_table import METRICS, PROCESSES, markdown_table
from streams.telemetry.monitor import ProcessMonitor, Watched, open_monitor
from trainer.learning.model_config import ModelConfig
from trainer.process.figures import TrainerFigures
from trainer.process.reports import ProgressReports
from trainer.process.run import RunConfig, TrainingRun
from trainer.serving.server import InferenceServer

ROOT = Path(__file__).resolve().parent.parent
RULES, DASHBOARD = ROOT / "docker/prometheus/rules.yml", ROOT / "docker/grafana/hotstream.json"
NAME = re.compile(r"\bhotstream_[a-z0-9_]+")
PROMTOOL = shutil.which("promtool") or os.environ.get("PROMTOOL")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="needs promtool: apt-get install prometheus, or name it in the variable PROMTOOL"
)


def text_of(figures: Iterable[Figure]) -> str:
    """The figures as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(FigureCollector(lambda: figures))
    return generate_latest(registry).decode()


def names_in(text: str) -> set[str]:
    """The metrics that have a sample."""
    samples = [line.split("{")[0].split(" ")[0] for line in text.splitlines() if line[:1] != "#"]
    return {
        name for name in METRICS if any(re.fullmatch(rf"{name}(_bucket|_count|_sum)?", sample) for sample in samples)
    }


def figures_of_an_agent() -> list[Figure]:
    async def live() -> list[Figure]:
        broker = broker_with_importance()
        worker = AgentWorker(GRADIENT, broker)
        progress = AgentProgress(worker)
        await adopt(worker, set(range(SHARDS)))
        progress.note()
        for record in inputs(broker, TOPICS.importance, worker.own_offsets())[:-SHARDS]:
            await progress.count_importance(record)
        await progress.look()
        figures = list(agent_figures(progress))
        await worker.stop()
        return figures

    return asyncio.run(live())


def train(run: TrainingRun, reports: ProgressReports, steps: range) -> None:
    """Trains steps, and reports after the last one."""
    for step in steps:
        run.train(click_batch(ROWS, step))
        fetch = assignments_of(step)
        changes = [dataclasses.replace(record, event_time_ms=1000) for record in fetch.records]
        run.apply([dataclasses.replace(fetch, records=changes)])
        run.progress.latency.add(3)
    broker = InMemoryBroker({"clicks": 1})
    with Worker("decoder") as decoder, TopicFeed(
        broker, "clicks", 1, offsets={}, max_records=1, decode=bytes, worker=decoder
    ) as clicks:  # fmt: skip
        reports.take_due(clicks, force=True)


def figures_of_a_trainer(directory: Path) -> list[Figure]:
    model = ModelConfig(capacity_rows=60, dim=8, compare_hash=True)
    config = RunConfig(model=model, device=torch.device("cpu"), checkpoint_dir=directory)
    run = TrainingRun(config, 1)
    reports = ProgressReports(run, 0, 1000)
    figures = TrainerFigures(run, reports)
    train(run, reports, range(3))
    run.close()
    shown = list(figures.figures())
    return [*shown, Figure("trainer_table_verified", True)]  # no digest was read


def figures_of_a_replay() -> list[Figure]:
    figures = ReplayFigures()
    figures.counts = ReplayCounts(read=3, sent=2, bad=1, batches=1, bytes_read=10, bytes_total=20)
    return list(figures.figures())


def figures_of_a_watch() -> list[Figure]:
    broker = broker_with_importance()
    count_all(broker)
    with AssignmentReader(broker) as reader:
        reader.catch_up()
        delay = LatencyHistogram()
        delay.add_one(3)
        figures = ReaderFigures(reader, Counter(hot=3), delay)
        figures.note()
        return list(figures.figures())


def figures_of_a_serve() -> list[Figure]:
    site = Site()
    site.move(hot_keys(9))
    site.settle()
    replica = caught_up(site.broker)
    replica.lookup(KEYS)
    server = InferenceServer(replica, "hotstream", Access("127.0.0.1", None))
    return [*server.figures(), Figure("serve_requests_total", 1, {"status": "200"})]  # no request came


def figures_of(process: str, directory: Path) -> list[Figure]:
    """The figures of a process that has done all that figures are about."""
    makers: dict[str, Callable[[], list[Figure]]] = {
        "agent": figures_of_an_agent,
        "train": lambda: figures_of_a_trainer(directory),
        "replay": figures_of_a_replay,
        "watch": figures_of_a_watch,
        "serve": figures_of_a_serve,
    }
    return makers[process]()


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_shows_every_metric_of_the_table_and_promtool_finds_no_fault(process: str, tmp_path: Path) -> None:
    text = text_of(figures_of(process, tmp_path))
    own = {metric.name for metric in METRICS.values() if metric.processes == (process,)}
    assert own - names_in(text) == set()
    assert names_in(text) <= own
    if PROMTOOL is not None:
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_counters_of_a_trainer_begin_with_the_process(tmp_path: Path) -> None:
    model = ModelConfig(capacity_rows=60, dim=8)
    config = RunConfig(model=model, device=torch.device("cpu"), checkpoint_dir=tmp_path)
    for expected in (3 * ROWS, 2 * ROWS):
        run = TrainingRun(config, 1)
        reports = ProgressReports(run, 0, 1000)
        figures = TrainerFigures(run, reports)
        train(run, reports, range(run.progress.click_records, run.progress.click_records + expected // ROWS))
        shown = {figure.name: figure.value for figure in figures.figures()}
        assert shown["trainer_rows_total"] == expected
        run.checkpoint()
        run.close()


def test_a_histogram_has_the_counts_up_to_each_bound_and_the_sum() -> None:
    delay = LatencyHistogram()
    delay.add([0.2, 1.5, 3, 3, 100])
    for milliseconds in (1000, -5, 1e9):
        delay.add_one(milliseconds)
    buckets, sum_s = delay.buckets()
    assert dict(buckets)["0.002"] == 3
    assert dict(buckets)["0.004"] == 5
    assert dict(buckets)["0.128"] == 6
    assert dict(buckets)["1.024"] == 7
    assert buckets[-1] == ("+Inf", 8)
    assert sum_s == pytest.approx(1e6 + 1.1077)
    assert [float(bound) for bound, _ in buckets] == sorted(float(bound) for bound, _ in buckets)


def test_a_figure_of_no_metric_is_refused() -> None:
    with pytest.raises(KeyError, match="hotstream_agent_nothing"):
        text_of([Figure("agent_nothing", 1)])


# ---- what names metrics --------------------------------------------------------------------------------------------


def test_names_follow_the_conventions_of_prometheus() -> None:
    for metric in METRICS.values():
        assert NAME.fullmatch(metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric
        assert metric.kind != "histogram" or metric.name.endswith("_seconds"), metric
        assert not metric.help.endswith("."), metric


def test_the_page_lists_every_metric() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    command = 'python -c "from streams.telemetry.metric_table import markdown_table; print(markdown_table())"'
    assert markdown_table() in page, f"docs/metrics.md: got another table, expected the output of {command}"


@pytest.mark.parametrize("path", [RULES, DASHBOARD, ROOT / "docs/operations.md"], ids=lambda path: path.name)
def test_every_metric_that_is_named_exists(path: Path) -> None:
    named = set(NAME.findall(path.read_text()))
    assert named, f"{path} names no metric"
    series = {f"{name}{end}" for name, metric in METRICS.items() if metric.kind == "histogram"
              for end in ("_bucket", "_count", "_sum")}  # fmt: skip
    assert named - set(METRICS) - series == set()


def test_every_label_that_a_dashboard_or_a_rule_uses_exists() -> None:
    for path in (RULES, DASHBOARD):
        for name, selectors in re.findall(r"\b(hotstream_[a-z0-9_]+)\{([^}]*)\}", path.read_text()):
            metric = METRICS[re.sub(r"_(bucket|count|sum)$", "", name)]
            used = set(re.findall(r"([a-z_]+)\s*[=!]", selectors))
            assert used <= {*metric.labels, "job", "instance", "le"}, (path, name)


def test_every_alert_is_explained() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert len(alerts) >= 10
    assert alerts == headings, "docs/operations.md explains the alerts in their order"


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert board["uid"] == "hotstream"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["targets"] and panel["title"] for panel in panels)
    for panel in board["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@needs_promtool
@pytest.mark.parametrize("arguments", [("check", "rules"), ("test", "rules")], ids=" ".join)
def test_promtool_finds_no_fault_in_the_rules(arguments: tuple[str, str]) -> None:
    path = RULES if arguments[0] == "check" else RULES.with_name("rules_test.yml")
    done = subprocess.run([str(PROMTOOL), *arguments, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- over HTTP -----------------------------------------------------------------------------------------------------


def get(monitor: ProcessMonitor, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{monitor.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.02)


def watched(broker: InMemoryBroker) -> Watched:
    return Watched(
        connector=broker, topic="clicks", num_partitions=1, offsets=dict, figures=lambda: [Figure("agent_shards", 2)]
    )


def test_a_process_serves_its_metrics_and_its_health() -> None:
    with open_monitor("agent", port=0) as monitor:
        assert get(monitor, "/readyz") == (503, "starting for 0 s\n")
        assert get(monitor, "/healthz") == (200, "ok\n")
        monitor.attach(watched(InMemoryBroker({"clicks": 1})))
        wait_for(lambda: get(monitor, "/readyz") == (200, "ok\n"))
        status, text = get(monitor, "/metrics")
        assert status == 200
        assert "hotstream_agent_shards 2.0" in text
        assert "hotstream_ready 1.0" in text
        assert 'process="agent"' in text
        assert names_in(text) >= {metric.name for metric in METRICS.values() if metric.processes == PROCESSES}
        assert get(monitor, "/nothing")[0] == 404


def test_a_thread_that_dies_turns_healthz_and_is_reported_as_before() -> None:
    def fail() -> None:
        raise ValueError("broken")

    reported: list[str] = []
    before, threading.excepthook = threading.excepthook, lambda arguments: reported.append(str(arguments.exc_value))
    try:
        with open_monitor("agent", port=0) as monitor:
            thread = threading.Thread(target=fail, name="feeder")
            thread.start()
            thread.join()
            assert get(monitor, "/healthz") == (503, "ended with an error: the threads feeder\n")
    finally:
        threading.excepthook = before
    assert reported == ["broken"]


def test_without_a_port_nothing_is_started() -> None:
    threads = threading.active_count()
    with open_monitor("agent", port=None) as monitor:
        monitor.attach(watched(InMemoryBroker({"clicks": 1})))
        assert (monitor.port, threading.active_count()) == (None, threads)


def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    with open_monitor("agent", port=0) as monitor:
        taken = open_monitor("watch", port=monitor.port)
        with pytest.raises(ConfigError, match="choose another one"):
            taken.__enter__()


def test_the_address_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "streams.telemetry"), open_monitor("agent", port=0) as monitor:
        assert f"metrics at http://127.0.0.1:{monitor.port}/metrics" in caplog.text


def test_the_driver_has_all_steps() -> None:
    """So that what the agent did not count is one record a shard, its lag."""
    lag = {
        figure.labels["shard"]: figure.value for figure in figures_of_an_agent() if figure.name == "agent_lag_records"
    }
    assert lag == dict.fromkeys(("0", "1"), 1)
    assert STEPS > 1
