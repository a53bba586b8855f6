"""`MetricsServer`: `/metrics`, `/healthz` and `/readyz` of a process over HTTP."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from streams.errors import ConfigError
from streams.telemetry.health import Health

__all__ = ["MetricsServer"]

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_PLAIN = "text/plain; charset=utf-8"


class MetricsServer:
    """Serves in threads of its own until it is closed.

    It answers anybody who can connect, without a password: bind it to the loopback device or a private network.

    Args:
        host: the address to bind to.
        port: the port; 0 for any free one.
        registry: the metrics.
        health: the health of the process.

    Attributes:
        port: the port that is bound.

    Raises:
        ConfigError: the port cannot be bound.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: Health) -> None:
        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True

        try:
            self._server = Server((host, port), _make_handler(registry, health))
        except OSError as error:
            raise ConfigError(
                f"--metrics-host {host} --metrics-port {port}: got {error}, expected a free port of an address of this "
                "machine; choose another one"
            ) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        shown = f"[{host}]" if ":" in host else host
        logger.info("metrics at http://%s:%d/metrics, and /readyz and /healthz", shown, self.port)

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _make_handler(registry: CollectorRegistry, health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S
        server_version = "hotstream"
        sys_version = ""

        def do_GET(self) -> None:
            """Answers a request."""
            path = urlsplit(self.path).path
            if path == "/metrics":
                encode, kind = choose_encoder(self.headers.get("Accept") or "")
                self._send(HTTPStatus.OK, kind, encode(registry))
            elif path == "/readyz":
                self._send_verdict(health.why_not_ready)
            elif path == "/healthz":
                self._send_verdict(health.why_not_healthy)
            else:
                self._send(HTTPStatus.NOT_FOUND, _PLAIN, b"expected /metrics, /readyz or /healthz\n")

        do_HEAD = do_GET  # noqa: N815  the name that http.server calls

        def _send_verdict(self, why_not: Callable[[], str | None]) -> None:
            reason = why_not()
            status = HTTPStatus.OK if reason is None else HTTPStatus.SERVICE_UNAVAILABLE
            self._send(status, _PLAIN, f"{reason or 'ok'}\n".encode())

        def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name that http.server passes
            """Logs a request as debug."""
            logger.debug(format, *args)

    return Handler
