"""Tries the login before a client connects: kafka-python repeats a refused one for 10 s, and reports a time-out."""

from __future__ import annotations

import asyncio
import ssl
import threading
from typing import TYPE_CHECKING, Any

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection

from streams.errors import BrokerError

if TYPE_CHECKING:
    from streams.clients.config import KafkaConfig

__all__ = ["check_login"]

_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 0.5


def check_login(config: KafkaConfig) -> None:
    """Returns if a broker accepts the login, if none can be reached, or if there is nothing to log in with.

    Raises:
        BrokerError: a broker was reached and refused; the message names the property to look at.
    """
    if not config.is_secured:
        return
    arguments = config.client_arguments()
    refusals: list[str] = []
    # In a thread of its own, because the caller may run in an event loop.
    thread = threading.Thread(target=lambda: refusals.extend(asyncio.run(_refusals(config.servers, arguments))))
    thread.start()
    thread.join()
    if refusals:
        raise BrokerError(refusals[0])


async def _refusals(servers: list[str], arguments: dict[str, Any]) -> list[str]:
    """The reason of the first server that refuses; nothing if one accepts or none answers."""
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            await asyncio.wait_for(_connect(host.strip("[]"), int(port), arguments), _TIMEOUT_S)
        except (OSError, asyncio.TimeoutError, errors.KafkaError) as error:
            why = _explain(error, arguments)
            if why is not None:
                return [f"{server}: {why}"]
        else:
            return []
    return []


async def _connect(host: str, port: int, arguments: dict[str, Any]) -> None:
    """Connects and logs in, then disconnects.

    Raises:
        OSError: the server was not reached, or TLS failed.
        KafkaError: the server refused.
    """
    connection = AIOKafkaConnection(host, port, **arguments)
    try:
        await connection.connect()
    finally:
        closed = connection.close()
        if closed is not None:  # its socket closes later
            await asyncio.wait([closed], timeout=_CLOSE_TIMEOUT_S)


def _explain(error: BaseException, arguments: dict[str, Any]) -> str | None:
    """Why the broker refused; None if it was not reached."""
    mechanism = arguments.get("sasl_mechanism")
    if isinstance(error, errors.SaslAuthenticationFailed | errors.AuthenticationFailedError):
        return "the broker refused the login; check user name and password (sasl.jaas.config), and sasl.mechanism"
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return f"the broker does not offer sasl.mechanism={mechanism}; ask for the one that it does"
    if isinstance(error, errors.IllegalSaslStateError):
        return "the listener takes no login; check the port, and security.protocol"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate is not trusted ({error.verify_message}); check ssl.truststore.location, and the "
            "name in --bootstrap-servers"
        )
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection ({error.reason}); check the port, and security.protocol"
    if isinstance(error, ConnectionResetError | errors.KafkaConnectionError):
        certificate = "" if mechanism else ", and the certificate in ssl.keystore.location, which it may demand"
        return f"the broker ended the connection; check the port, security.protocol{certificate}"
    return None
