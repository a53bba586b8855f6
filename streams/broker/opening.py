"""From what the user wrote, `embedded | apache | HOST:PORT`, to a broker that answers."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from streams.broker.apache import apache_command
from streams.broker.embedded import embedded_command
from streams.broker.process import BrokerCommand, BrokerProcess, free_port
from streams.clients.config import KafkaConfig
from streams.errors import BrokerError, ConfigError

__all__ = ["ENGINES", "open_broker", "run_broker"]

# engine -> how to make its command from a folder and a port
ENGINES: dict[str, Callable[[Path, int], BrokerCommand]] = {
    "apache": apache_command,
    "embedded": embedded_command,
}
_CONNECT_DEADLINE_S = 5.0


@contextmanager
def run_broker(
    engine: str, *, data_dir: Path | None = None, port: int = 0, deadline_s: float = 60.0
) -> Iterator[BrokerProcess]:
    """A broker of our own that answers inside the `with` and is gone after it.

    Args:
        engine: `embedded` or `apache`.
        data_dir: made if missing, kept afterwards; default: a temporary folder, removed afterwards.
        port: where to listen on 127.0.0.1; 0 takes a free one.
        deadline_s: how long it may take from its start to its first answer.

    Raises:
        ConfigError: no such engine.
        BrokerError: it cannot be started; the message says why and what to do.
    """
    if engine not in ENGINES:
        raise ConfigError(f"broker engine: got {engine!r}, expected {' or '.join(sorted(ENGINES))}")
    with ExitStack() as stack:
        if data_dir is None:
            data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"hotstream-{engine}-")))
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            (data_dir / "lock").touch()
        except OSError as error:
            raise BrokerError(
                f"the data folder {data_dir} cannot be written ({error.strerror}); choose another with --data-dir"
            ) from error
        broker = BrokerProcess(ENGINES[engine](data_dir.resolve(), port or free_port()))
        stack.callback(broker.stop)
        broker.start(deadline_s=deadline_s)
        yield broker


@contextmanager
def open_broker(spec: str, *, data_dir: Path | None = None, port: int = 0) -> Iterator[str]:
    """The bootstrap servers of a broker that answers: one of our own, stopped at the end, or the user's.

    Args:
        spec: `embedded`, `apache`, or `HOST:PORT[,HOST:PORT...]`.
        data_dir: for a broker of our own, see `run_broker`.
        port: for a broker of our own, see `run_broker`.

    Raises:
        ConfigError: the specification cannot be meant.
        BrokerError: the broker cannot be started, or nothing listens at any of the addresses.
    """
    if spec in ENGINES:
        with run_broker(spec, data_dir=data_dir, port=port) as broker:
            yield broker.bootstrap_servers
    elif ":" in spec:
        _require_listener(KafkaConfig(bootstrap_servers=spec).servers)
        yield spec
    else:
        raise ConfigError(f"--broker: got {spec!r}, expected embedded, apache or HOST:PORT[,HOST:PORT...]")


def _require_listener(servers: list[str]) -> None:
    """Fail early if nobody listens; no more than that, for only the client has the credentials to ask further."""
    refusals = []
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_DEADLINE_S).close()
        except (OSError, OverflowError) as error:
            refusals.append(f"{server}: {error}")
        else:
            return
    raise BrokerError(
        f"no broker answers ({'; '.join(refusals)}); start one with `hotstream broker`, or correct the address"
    )
