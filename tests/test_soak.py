"""The verdict over a soak, on series that were made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.soak.picture import draw_soak
from benchmarks.soak.samples import Samples, slope_per_minute
from benchmarks.soak.verdict import judge
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.telemetry.observer import Observer
from streams.topics import Topics

SECONDS = range(0, 600, 2)


def steady() -> Samples:
    """Ten minutes in which nothing grows but processor time and rows."""
    samples = Samples()
    for name, mib in (("agent-1", 250.0), ("train", 600.0), ("broker", 700.0)):
        samples.rss_mib[name] = [(second, mib + second % 3) for second in SECONDS]
        samples.open_files[name] = [(second, 30.0) for second in SECONDS]
        samples.cpu_s[name] = [(second, second / 4) for second in SECONDS]
    for topic in ("clicks", "importance", "assignments"):
        samples.lag[topic] = [(second, 3.0) for second in SECONDS]
    samples.latency_ms["p50"] = [(second, 40.0) for second in SECONDS]
    samples.rows = [(second, second * 600.0) for second in SECONDS]
    return samples


def problems_of(samples: Samples) -> list[str]:
    return judge(samples, warm_up_s=120, rate_rows_s=600, batch_rows=64, shards=4)[1]


def test_a_steady_pipeline_has_no_problem():
    figures, problems = judge(steady(), warm_up_s=120, rate_rows_s=600, batch_rows=64, shards=4)
    assert problems == []
    assert figures["cores"]["train"] == pytest.approx(0.25)
    assert figures["rows_per_s"] == pytest.approx(600)


def test_what_grows_is_a_problem():
    samples = steady()
    samples.rss_mib["agent-1"] = [(second, 250 + second / 30) for second in SECONDS]
    assert problems_of(samples) == ["agent-1: memory grows by 2.00 MiB a minute, expected at most 1.0"]
    samples = steady()
    samples.rss_mib["broker"].append((601.0, 2000.0))
    assert problems_of(samples) == ["broker: 2000 MiB, expected at most 1200"]
    samples = steady()
    samples.open_files["train"] = [(second, 30 + second / 10) for second in SECONDS]
    assert [problem.partition(":")[0] for problem in problems_of(samples)] == ["train"]
    samples = steady()
    samples.lag["clicks"] = [(second, float(second)) for second in SECONDS]
    assert [problem.partition(":")[0] for problem in problems_of(samples)] == ["clicks"]
    samples = steady()
    samples.rows = [(second, second * 500.0) for second in SECONDS]
    assert problems_of(samples) == ["trained: 500.0 rows/s, expected the 600 that are replayed"]


def test_growth_before_the_warm_up_does_not_count():
    assert slope_per_minute([(0, 0.0), (10, 100.0), (60, 200.0), (120, 201.0)], from_s=60) == pytest.approx(1.0)
    assert slope_per_minute([(0, 1.0)], from_s=0) == 0.0


def test_a_sample_has_the_memory_and_the_files_of_a_process(tmp_path: Path):
    broker, samples = InMemoryBroker(), Samples()
    create_topics(broker, Topics().specs())
    with Observer(broker) as observer:
        observer.look(0)
        samples.take({"this": os.getpid(), "ended": 2**22 + 1}, observer, {0: 0})
    assert 20 < samples.rss_mib["this"][0][1] < 50_000
    assert samples.open_files["this"][0][1] >= 3
    assert "ended" not in samples.rss_mib
    draw_soak(tmp_path / "soak.png", samples, title="none", warm_up_s=1)
    assert (tmp_path / "soak.png").read_bytes()[1:4] == b"PNG"
