"""`hotstream sink redis`: a real Redis has the vectors of hot keys, byte for byte, and no others."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from click import ClickException
from click.testing import CliRunner
from serving_site import Site, caught_up, hot_keys

from trainer.commands.sink import command, write
from trainer.serving.replica import Replica
from trainer.serving.row_sink import AS_OF, RowSink, raw_keys

REDIS = shutil.which("redis-server")
redis = pytest.importorskip("redis", reason="needs redis-py: pip install 'hotstream[redis]'")
pytestmark = pytest.mark.skipif(REDIS is None, reason="needs redis-server: apt-get install redis-server")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of the test's own, on a free port; it ends with the module."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([str(REDIS), *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as lines:
        assert any("Ready to accept connections" in line for line in lines)
        yield f"redis://127.0.0.1:{port}/0"
        process.terminate()
        lines.read()
    assert process.wait(10) == 0


@pytest.fixture
def store(server: str) -> Iterator[Any]:
    with redis.Redis.from_url(server) as client:
        client.flushall()
        yield client


def content(store: Any) -> dict[bytes, bytes]:
    return {name: store.get(name) for name in store.keys("*") if name != AS_OF}


def expected(site: Site) -> dict[bytes, bytes]:
    keys = np.sort(np.array(list(site.embedding.router.items()[0]), np.uint64))
    return dict(zip(raw_keys(keys), (one.tobytes() for one in site.vectors(keys[:, None])[:, 0]), strict=True))


def step(site: Site, replica: Replica, sink: RowSink) -> int:
    site.settle()
    replica.catch_up()
    return sink.write()


def test_the_store_has_the_vectors_of_hot_keys_and_follows(store: Any) -> None:
    site = Site(hot_store="int8")
    site.move(hot_keys(30))
    site.train()
    replica = Replica(site.broker)
    sink = RowSink(replica, store)
    assert step(site, replica, sink) == 30
    assert content(store) == expected(site)
    assert len(content(store)) == 30
    assert json.loads(store.get(AS_OF))["step"] == 1
    assert sink.write() == 0  # nothing has changed
    keys = list(hot_keys(40))
    site.move({**dict.fromkeys(keys[:9], -1), keys[35]: hot_keys(40)[keys[0]]})  # one takes over a row
    site.train(2)
    step(site, replica, sink)
    assert content(store) == expected(site)
    assert (len(content(store)), sink.num_deleted) == (22, 9)
    site.embedding.gate.values[1, 0] += 0.5  # the vectors of a field's hot keys change, and no row
    site.publisher.note_keys(np.empty(0, np.uint64), np.empty(0, np.float32))
    step(site, replica, sink)
    assert content(store) == expected(site)


def test_what_became_cold_while_the_sink_was_away_is_deleted_and_other_keys_stay(store: Any) -> None:
    site = Site()
    site.move(hot_keys(30))
    site.settle()
    RowSink(caught_up(site.broker), store).write()
    others = {b"8 bytes!": b"a", (200 << 56).to_bytes(8, "little"): b"b", b"other": b"c"}
    for name, value in others.items():
        store.set(name, value)
    site.move(dict.fromkeys(list(hot_keys(30))[:9], -1))
    site.settle()
    sink = RowSink(caught_up(site.broker), store)
    sink.write()
    known = int.from_bytes(b"8 bytes!", "little") >> 56
    assert known > site.shape.layout.num_fields
    assert content(store) == {**expected(site), **others}
    assert sink.num_deleted == 9


def test_a_model_that_begins_replaces_the_one_before_it(store: Any) -> None:
    site = Site(run=1)
    site.move(hot_keys(30))
    replica = Replica(site.broker)
    sink = RowSink(replica, store)
    step(site, replica, sink)
    again = Site(run=2, broker=site.broker)
    again.move(hot_keys(12))
    again.train()
    step(again, replica, sink)
    assert content(store) == expected(again)
    assert sink.num_deleted == 18


def test_what_the_store_did_not_take_is_written_later(server: str, store: Any) -> None:
    site = Site()
    site.move(hot_keys(30))
    replica = Replica(site.broker)
    with redis.Redis.from_url(server) as mine:
        sink = RowSink(replica, mine)
        step(site, replica, sink)
        site.train()
        mine.config_set("maxmemory", "1")  # from now on it refuses to write
        with pytest.raises(redis.exceptions.ResponseError, match="maxmemory"):
            step(site, replica, sink)
        mine.config_set("maxmemory", "0")
        assert sink.write() > 0
    assert content(store) == expected(site)


def test_a_store_that_is_away_is_asked_again_and_one_that_refuses_ends_the_command(server: str, store: Any) -> None:
    site = Site()
    site.move(hot_keys(3))
    site.settle()
    replica = caught_up(site.broker)
    with redis.Redis(port=9, retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0)) as away:
        assert write(replica, RowSink(replica, away)) is False
    store.config_set("requirepass", "secret")
    try:
        with redis.Redis.from_url(server) as other, pytest.raises(ClickException, match="refuses the login"):
            write(replica, RowSink(replica, other))
    finally:
        store.config_set("requirepass", "")
    assert write(replica, RowSink(replica, store))
    assert content(store) == expected(site)
    done = CliRunner().invoke(command, ["redis", "--url", "ftp://x"])
    assert (done.exit_code, "redis://" in done.output) == (2, True), done.output
