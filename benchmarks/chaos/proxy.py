"""`Proxy`: a TCP proxy between clients and a broker, whose network fails on demand.

The broker must advertise the proxy's port; otherwise a client's second connection goes past the proxy:

    with Proxy(broker_port) as proxy:
        broker = BrokerProcess(apache_command(folder, broker_port, advertised_port=proxy.port))
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType

__all__ = ["Proxy"]

_HOST = "127.0.0.1"
_CHUNK_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with 0 s: a close sends a reset


class _Connection:
    """A client's connection and the proxy's own to the broker."""

    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self.client = client
        self.broker = broker
        self.is_open = True
        self.is_lost = False  # nothing more of it is delivered

    def reset(self) -> None:
        """Ends both directions; the threads that forward them then close the sockets."""
        self.is_open = False
        for end in (self.client, self.broker):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Forwards TCP connections to a port of this machine; methods switch its faults, from any thread.

    Guarantee: what is delivered of a connection is a prefix of what was sent, unchanged and in order. A connection that
    a client opens while nothing listens on the target port is reset.

    Args:
        target_port: the broker's port on 127.0.0.1.
        port: the proxy's port; 0 chooses a free one.

    Attributes:
        port: the proxy's port.
    """

    def __init__(self, target_port: int, *, port: int = 0) -> None:
        self._target_port = target_port
        self._listener: socket.socket | None = socket.create_server((_HOST, port))
        self.port = int(self._listener.getsockname()[1])
        self._connections: set[_Connection] = set()
        self._changed = threading.Condition()  # guards the attributes below and `_connections`
        self._is_holding = self._is_dropping = False
        self._delay_s = 0.0

    def __enter__(self) -> Proxy:
        self._start_accepting()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self.cut()

    @property
    def bootstrap_servers(self) -> str:
        """`HOST:PORT` of the proxy for Kafka clients."""
        return f"{_HOST}:{self.port}"

    @property
    def num_connections(self) -> int:
        """The number of open connections."""
        with self._changed:
            return len(self._connections)

    # ---- faults ----------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Resets all connections; new ones are accepted."""
        with self._changed:
            for connection in self._connections:
                connection.reset()
            self._changed.notify_all()

    def refuse(self) -> None:
        """Stops listening, so that new connections are refused; those that are open stay."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # ends `accept`
            listener.close()

    def hold(self) -> None:
        """Accepts connections and delivers nothing, in both directions, until `forward`, which delivers all of it."""
        with self._changed:
            self._is_holding = True

    def drop(self) -> None:
        """Loses all that is sent from now on through connections open now, or opened before `forward`.

        Neither end learns of it, as behind a router that has lost its state. These connections stay dead after
        `forward`.
        """
        with self._changed:
            self._is_dropping = True
            for connection in self._connections:
                connection.is_lost = True

    def delay(self, seconds: float) -> None:
        """Delivers every piece of data at least this much later, in both directions; 0 ends it."""
        self._delay_s = seconds

    def forward(self) -> None:
        """Ends all faults but those of connections that have lost data; listens again after `refuse`."""
        with self._changed:
            self._is_holding = self._is_dropping = False
            self._delay_s = 0.0
            self._changed.notify_all()
        if self._listener is None:
            self._listener = socket.create_server((_HOST, self.port))
            self._start_accepting()

    # ---- threads ---------------------------------------------------------------------------------------------------

    def _start_accepting(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), name="proxy", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # `refuse` closed it
            try:
                broker = socket.create_connection((_HOST, self._target_port), timeout=5.0)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
                continue
            broker.settimeout(None)
            self._connect(_Connection(client, broker))

    def _connect(self, connection: _Connection) -> None:
        with self._changed:
            connection.is_lost = self._is_dropping
            self._connections.add(connection)
        ends = connection.client, connection.broker
        forwarding = [threading.Thread(target=self._pump, args=(connection, *pair), daemon=True)
                      for pair in (ends, ends[::-1])]  # fmt: skip
        for thread in forwarding:
            thread.start()
        threading.Thread(target=self._close, args=(connection, forwarding), daemon=True).start()

    def _pump(self, connection: _Connection, source: socket.socket, target: socket.socket) -> None:
        """Forwards one direction until an end closes."""
        with suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                time.sleep(self._delay_s)
                with self._changed:
                    self._changed.wait_for(lambda: not (self._is_holding and connection.is_open))
                if not connection.is_lost:
                    target.sendall(data)
        if not connection.is_lost:
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

    def _close(self, connection: _Connection, forwarding: list[threading.Thread]) -> None:
        for thread in forwarding:
            thread.join()
        with self._changed:
            self._connections.discard(connection)
        connection.client.close()
        connection.broker.close()
