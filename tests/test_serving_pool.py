"""`hotstream serve --workers`: real processes on a real broker."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from processes import running, wait_until, where
from serving_site import DIM, KEYS, PARTITIONS, Site, hot_keys

from streams.broker.process import free_port
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.topics import Topics
from trainer.commands.serve import command


def members_of(pid: int) -> dict[str, int]:
    """The process of each role."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        if "--pool-member" in words:
            found[words[words.index("--pool-member") + 1].split(":")[0]] = int(child)
    return found


def fetch(url: str, content: Any = None) -> tuple[int, str]:
    data = None if content is None else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=20) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def vectors_of(url: str) -> np.ndarray:
    keys = {"name": "keys", "shape": list(KEYS.shape), "datatype": "UINT64", "data": KEYS.reshape(-1).tolist()}
    status, body = fetch(f"{url}/models/hotstream/infer", {"inputs": [keys], "outputs": [{"name": "vectors"}]})
    assert status == 200, body
    return np.array(json.loads(body)["outputs"][0]["data"], np.float32).reshape(*KEYS.shape, DIM)


@pytest.mark.parametrize("bootstrap_servers", ["apache"], indirect=True)
def test_killed_processes_are_replaced_and_a_dead_writer_is_not_ready(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    kafka, port = KafkaConfig(bootstrap_servers=bootstrap_servers, prefix=topic_prefix), free_port()
    create_topics(kafka, [Topics(topic_prefix).embeddings_spec(shards=PARTITIONS)])
    site = Site(broker=kafka)
    site.move(hot_keys(30))
    site.train(2)
    site.settle()
    url = f"http://127.0.0.1:{port}/v2"
    with running(tmp_path / "log", "serve", "--port", port, "--workers", 2, *where(kafka)) as serve:
        pid = serve.process.pid

        def is_ready() -> bool:
            return fetch(f"{url}/health/ready")[0] == 200

        wait_until(lambda: "worker-2" in members_of(pid) and is_ready(), serve)
        np.testing.assert_array_equal(vectors_of(url), site.vectors())
        roles = {"writer", "worker-1", "worker-2"}

        def has_metrics_of_all() -> bool:
            text = fetch(f"http://127.0.0.1:{port}/metrics")[1]
            return all(f'process="{role}"' in text for role in roles) and "hotstream_serve_requests_total{" in text

        wait_until(has_metrics_of_all, serve)

        killed = members_of(pid)
        os.kill(killed["worker-1"], signal.SIGKILL)
        wait_until(lambda: members_of(pid).get("worker-1", killed["worker-1"]) != killed["worker-1"], serve)
        np.testing.assert_array_equal(vectors_of(url), site.vectors())

        os.kill(killed["writer"], signal.SIGKILL)
        wait_until(lambda: fetch(f"{url}/health/ready")[0] == 503, serve)
        np.testing.assert_array_equal(vectors_of(url), site.vectors())
        wait_until(is_ready, serve)
        site.train(2)
        site.settle()
        wait_until(lambda: np.array_equal(vectors_of(url), site.vectors()), serve)

        assert serve.stop() == 0
    assert not list(Path("/dev/shm").glob(f"hotstream.serve-{port}*"))  # noqa: S108


@pytest.mark.parametrize("bootstrap_servers", ["apache"], indirect=True)
def test_a_writer_that_ends_by_itself_ends_all(bootstrap_servers: str, topic_prefix: str, tmp_path: Path) -> None:
    kafka, log = KafkaConfig(bootstrap_servers=bootstrap_servers, prefix=topic_prefix), tmp_path / "log"
    with running(log, "serve", "--port", free_port(), "--workers", 1, *where(kafka)) as serve:
        assert serve.process.wait(60) == 1
    said = log.read_text()
    assert f"{topic_prefix}.embeddings" in said
    assert "the writer ended with code 1" in said
    assert "Traceback" not in said


def test_an_export_alone_has_no_writer(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--offline", "--export", str(tmp_path), "--workers", "2"])
    assert result.exit_code == 2
    assert "--workers: expected no --offline" in result.output
