"""The Faust app of an agent connects as the Kafka properties demand."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
import sys
from typing import Any

import pytest
from certificates import Authority

from streams.agent.app import create_app
from streams.agent.faust_worker import OneLine
from streams.agent.progress import AgentProgress
from streams.agent.shard_config import ShardConfig
from streams.agent.worker import AgentConfig, AgentWorker
from streams.clients.config import KafkaConfig
from streams.errors import BrokerError
from streams.logs.schema import load_schema

TRUST = {"ssl.truststore.certificates": Authority().pem}
LOGIN = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "me", "sasl.password": "s3cret"}


def make_clients(properties: dict[str, str]) -> list[dict[str, Any]]:
    """The attributes of what an agent opens: Faust's consumer, its own consumer and producer; none is connected."""
    kafka = KafkaConfig(bootstrap_servers="127.0.0.1:1", properties=properties)
    config = AgentConfig(shards=ShardConfig(capacity=4, num_shards=1), schema=load_schema("criteo-kaggle"))

    async def make() -> list[dict[str, Any]]:
        app = create_app(AgentProgress(AgentWorker(config, kafka)), kafka)
        thread = vars(type(app.consumer))["_new_consumer_thread"](app.consumer)
        create = thread._create_worker_consumer  # noqa: SLF001  Faust has no public way to it
        made = [create(app.transport), kafka.create_async_consumer(), kafka.create_batch_producer()]
        for client in made:
            await client.stop()
        return [dict(vars(client)) for client in made]

    return asyncio.run(make())


@pytest.mark.parametrize(
    ("protocol", "properties"),
    [("SSL", TRUST), ("SASL_SSL", {**TRUST, **LOGIN}), ("SASL_PLAINTEXT", LOGIN), ("PLAINTEXT", {})],
)
def test_an_agent_connects_by_every_protocol(protocol, properties):
    for made in make_clients({"security.protocol": protocol, "client.id": "hot", **properties}):
        client = vars(made.get("_client") or made["client"])
        assert client["_security_protocol"] == protocol
        assert client["_client_id"] == "hot"
        assert isinstance(client["_ssl_context"], ssl.SSLContext) == protocol.endswith("SSL")
        if protocol.startswith("SASL"):
            assert client["_sasl_mechanism"] == "SCRAM-SHA-512"
            assert (client["_sasl_plain_username"], client["_sasl_plain_password"]) == ("me", "s3cret")


@pytest.mark.parametrize("level", [None, "read_uncommitted"])
def test_an_agent_skips_aborted_transactions_unless_told_otherwise(level):
    counting, reading_state, _ = make_clients({} if level is None else {"isolation.level": level})
    assert counting["_isolation_level"] == (level or "read_committed")
    assert reading_state["_isolation_level"] == "read_committed"


def test_an_agent_leaves_no_folder_where_it_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kafka = KafkaConfig(bootstrap_servers="127.0.0.1:1")
    config = AgentConfig(shards=ShardConfig(capacity=4, num_shards=1), schema=load_schema("criteo-kaggle"))

    async def start() -> None:
        await create_app(AgentProgress(AgentWorker(config, kafka)), kafka).on_first_start()

    asyncio.run(start())
    assert list(tmp_path.iterdir()) == []


def test_faust_starts_no_producer_of_its_own_which_would_not_wait_for_a_broker() -> None:
    kafka = KafkaConfig(bootstrap_servers="127.0.0.1:1")
    config = AgentConfig(shards=ShardConfig(capacity=4, num_shards=1), schema=load_schema("criteo-kaggle"))

    async def services() -> list[Any]:
        app = create_app(AgentProgress(AgentWorker(config, kafka)), kafka)
        return [app.producer, *app.boot_strategy.server()]

    producer, *started = asyncio.run(services())
    assert started
    assert producer not in started


def test_the_error_that_ends_the_process_is_logged_though_it_is_of_a_connection() -> None:
    waits = KafkaConfig(bootstrap_servers="127.0.0.1:1").waits
    error = {"msg": "KafkaConnectionError: Unable to bootstrap from [...]", "levelno": logging.ERROR}
    assert waits.filter(logging.makeLogRecord({"name": "faust.worker", **error}))
    assert not waits.filter(logging.makeLogRecord({"name": "aiokafka.client", **error}))


def test_after_the_error_that_ends_the_process_faust_logs_nothing_more() -> None:
    first = BrokerError("this user lacks READ on topic t.importance")
    seen = OneLine()
    assert seen.filter(logging.makeLogRecord({"name": "mode", "exc_info": (BrokerError, first, None)}))
    late = RuntimeError("Event loop is closed")
    stopping = {
        "name": "streams.agent.app",
        "msg": "[^-_App]: Error while stopping child",
        "exc_info": (RuntimeError, late, None),
    }
    assert not seen.filter(logging.makeLogRecord({"levelno": logging.ERROR, **stopping}))
    forgotten = {"name": "asyncio", "msg": "Task exception was never retrieved", "exc_info": (RuntimeError, late, None)}
    assert not seen.filter(logging.makeLogRecord(forgotten))
    assert OneLine().filter(logging.makeLogRecord(forgotten))  # no error has been reported
    assert seen.filter(logging.makeLogRecord({"name": "streams.agent.app", "msg": "stopped while it waits"}))


def test_what_faust_says_of_its_services_is_not_logged() -> None:
    starting = logging.makeLogRecord({"name": "streams.agent.app", "msg": "[^-_App]: Starting...", "levelno": 20})
    assert not OneLine().filter(starting)


def test_an_error_of_the_consumer_ends_the_process_though_the_shutdown_hangs() -> None:
    program = """
import asyncio
from streams.agent import faust_worker
from streams.agent.app import create_app
from streams.agent.progress import AgentProgress
from streams.agent.shard_config import ShardConfig
from streams.agent.worker import AgentConfig, AgentWorker
from streams.clients.config import KafkaConfig
from streams.errors import BrokerError
from streams.logs.schema import load_schema

faust_worker._CRASH_SHUTDOWN_S = 0.2

async def run():
    kafka = KafkaConfig(bootstrap_servers="127.0.0.1:1")
    config = AgentConfig(shards=ShardConfig(capacity=4, num_shards=1), schema=load_schema("criteo-kaggle"))
    app = create_app(AgentProgress(AgentWorker(config, kafka)), kafka)
    worker = faust_worker.FaustWorker(app, override_logging=False, redirect_stdouts=False, quiet=True)
    worker.on_end = lambda in_order: print("in order:", in_order, flush=True)
    worker.on_init_dependencies()  # as at its start: an error of the app is one of the worker, too
    await app.consumer.crash(BrokerError("a right was taken away"))
    await asyncio.sleep(300)

asyncio.run(run())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "in order: False\n"), done.stderr
