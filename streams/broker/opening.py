"""Opens a broker from its specification, `embedded | apache | HOST:PORT`."""

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

# engine -> function that makes its command from a folder and a port
ENGINES: dict[str, Callable[[Path, int], BrokerCommand]] = {
    "apache": apache_command,
    "embedded": embedded_command,
}
_CONNECT_DEADLINE_S = 5.0


@contextmanager
def run_broker(engine: str, *, data_dir: Path | None = None, port: int = 0) -> Iterator[BrokerProcess]:
    """Starts a broker; it accepts requests inside the `with` and is stopped at the end.

    With a temporary folder it is killed there: it has nothing to save, and Apache Kafka's own end takes seconds.

    Args:
        engine: `embedded` or `apache`.
        data_dir: the folder of data and log, created if missing and kept; None for a temporary folder.
        port: the TCP port on 127.0.0.1; 0 chooses a free one.

    Raises:
        ConfigError: the engine is unknown.
        BrokerError: the broker cannot be started; the message gives the reason and the remedy.
    """
    if engine not in ENGINES:
        raise ConfigError(f"broker engine: got {engine!r}, expected {' or '.join(sorted(ENGINES))}")
    with ExitStack() as stack:
        is_temporary = data_dir is None
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
        stack.callback(broker.kill if is_temporary else broker.stop)
        broker.start()
        yield broker


@contextmanager
def open_broker(spec: str) -> Iterator[str]:
    """The bootstrap servers of a running broker: a new one, stopped at the end of the `with`, or an existing one.

    Args:
        spec: `embedded` or `apache` to start a broker, or `HOST:PORT[,HOST:PORT...]` of an existing one.

    Raises:
        ConfigError: the specification is invalid.
        BrokerError: the broker cannot be started, or no address accepts a connection.
    """
    if spec in ENGINES:
        with run_broker(spec) as broker:
            yield broker.bootstrap_servers
    elif ":" in spec:
        _require_listener(KafkaConfig(bootstrap_servers=spec).servers)
        yield spec
    else:
        raise ConfigError(f"--broker: got {spec!r}, expected embedded, apache or HOST:PORT[,HOST:PORT...]")


def _require_listener(servers: list[str]) -> None:
    """Fails early if no server accepts a connection; a request would need the credentials of the client."""
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
