"""Brokers for the tests: each engine is started once a session, when the first test asks for it."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# Where there is no GPU, Triton interprets its kernels; it reads this when it is first imported.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

from streams.broker import BrokerProcess, run_broker

if TYPE_CHECKING:
    from secured_kafka import SecuredKafka

# The first call of a kernel compiles it, so examples have no deadline; CI must fail or pass the same way each time.
settings.register_profile("hotstream", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("hotstream")


# The files that take a minute or more begin first, so that no process is left alone with one at the end.
_SLOW_FILES = (
    "test_commands_secured.py",
    "test_process_session.py",
    "test_agent_broker.py",
    "test_docs_tutorial.py",
    "test_demo_stage.py",
    "test_end_to_end.py",
    "test_process_checkpoint.py",
    "test_embedding_stores.py",
    "test_process_publication.py",
    "test_commands_watch.py",
    "test_learning_models.py",
    "test_embedding_fused.py",
    "test_process_outbox.py",
    "test_replay_sender.py",
    "test_chaos.py",
    "test_structure.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of slow files first; the order within a file stays."""
    ranks = {name: rank for rank, name in enumerate(_SLOW_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


def pytest_configure(config: pytest.Config) -> None:
    """Every warning is an error but two. kafka-python 3.0.12 reads its schemas in a way that Python 3.11 deprecates."""
    # A shell starts a background job with SIGINT ignored, which children inherit: then no test could send Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")
    # It also leaves the socket of a connection that was refused or lost to the garbage collector, which then finds it
    # in the middle of some other test.
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket:ResourceWarning")


def require_java() -> None:
    """Skip where Apache Kafka cannot run; in CI (CI=true) it has to, so there the test goes on and fails."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"Apache Kafka needs {' and '.join(missing)}: install Java 17 or newer and Maven")


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[BrokerProcess]:
    """The embedded broker of this session; leave it running."""
    with run_broker("embedded") as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_broker() -> Iterator[BrokerProcess]:
    """The Apache Kafka of this session; leave it running (a test that kills one starts its own)."""
    require_java()
    with run_broker("apache") as broker:
        yield broker


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """The Apache Kafka of this session that demands TLS, a login and rights."""
    from secured_kafka import run_secured_kafka  # noqa: PLC0415  after `pytest_configure`

    require_java()
    with run_secured_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.broker),
        pytest.param("apache", marks=pytest.mark.broker),
    ]
)
def bootstrap_servers(request: pytest.FixtureRequest) -> str:
    """A running broker's address; the test runs once on each engine."""
    broker = request.getfixturevalue(f"{request.param}_broker")
    assert isinstance(broker, BrokerProcess)
    return broker.bootstrap_servers


@pytest.fixture
def topic_prefix() -> str:
    """What this test's topic names begin with; no other test has it."""
    return f"t-{uuid.uuid4().hex[:8]}"
