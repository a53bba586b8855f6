"""The security properties of Kafka, as arguments for the clients of kafka-python and aiokafka, which share the names.

A property that would have no effect is an error: a connection without the protection that a file asks for is worse than
none. No error shows a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from streams.clients.tls import TLS_PROPERTIES, create_ssl_context
from streams.errors import ConfigError

__all__ = ["SECURITY_PROPERTIES", "security_arguments"]

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SASL_PROPERTIES = {"sasl.jaas.config", "sasl.mechanism", "sasl.mechanisms", "sasl.password", "sasl.username"}
SECURITY_PROPERTIES = {"security.protocol"} | _SASL_PROPERTIES | TLS_PROPERTIES
_JAAS_OPTION = re.compile(r"""\b(username|password|tokenauth)\s*=\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s;"']+)""")


def security_arguments(properties: Mapping[str, str]) -> dict[str, Any]:
    """The arguments that make a client connect as the properties demand; none for a plain connection.

    Raises:
        ConfigError: properties are missing, malformed, contradictory or without effect.
    """
    protocol = _choose(properties, "security.protocol", _PROTOCOLS, default="PLAINTEXT").upper()
    for names, part in ((_SASL_PROPERTIES, "SASL"), (TLS_PROPERTIES, "SSL")):
        unused = sorted(names & properties.keys()) if part not in protocol else []
        if unused:
            wanted = " or ".join(name for name in _PROTOCOLS if part in name)
            raise ConfigError(
                f"client property {unused[0]!r}: has no effect with security.protocol={protocol}"
                f"{'' if 'security.protocol' in properties else ', the default'}; expected {wanted}"
            )
    arguments: dict[str, Any] = {} if protocol == "PLAINTEXT" else {"security_protocol": protocol}
    if "SASL" in protocol:
        arguments |= _sasl_arguments(properties)
    if "SSL" in protocol:
        arguments["ssl_context"] = create_ssl_context(properties)
    return arguments


def _choose(properties: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    """The value of a property.

    Raises:
        ConfigError: it is missing without a default, or not one of the allowed.
    """
    value = properties.get(name, default)
    if value is None or value.upper() not in allowed:
        got = "nothing" if value is None else "another value"
        raise ConfigError(f"client property {name!r}: got {got}, expected {', '.join(allowed)}")
    return value.upper()


def _sasl_arguments(properties: Mapping[str, str]) -> dict[str, Any]:
    if {"sasl.mechanism", "sasl.mechanisms"} <= properties.keys():
        raise ConfigError("client property 'sasl.mechanisms': got it beside 'sasl.mechanism', expected one of the two")
    name = "sasl.mechanisms" if "sasl.mechanisms" in properties else "sasl.mechanism"
    mechanism = _choose(properties, name, _MECHANISMS)
    username, password = _find_credentials(properties, mechanism)
    return {"sasl_mechanism": mechanism, "sasl_plain_username": username, "sasl_plain_password": password}


def _find_credentials(properties: Mapping[str, str], mechanism: str) -> tuple[str, str]:
    pair = properties.get("sasl.username"), properties.get("sasl.password")
    if "sasl.jaas.config" in properties:
        if pair != (None, None):
            raise ConfigError(
                "client property 'sasl.jaas.config': got it beside sasl.username or sasl.password, expected either"
            )
        return _parse_jaas(properties["sasl.jaas.config"], mechanism)
    username, password = pair
    if username is None or password is None:
        raise ConfigError(
            f"client property {'sasl.username' if username is None else 'sasl.password'!r}: got nothing, expected "
            "sasl.username and sasl.password, or sasl.jaas.config"
        )
    return username, password


def _parse_jaas(value: str, mechanism: str) -> tuple[str, str]:
    """Username and password of a `sasl.jaas.config`.

    Raises:
        ConfigError: it lacks one, asks for a delegation token, or names the login module of another mechanism.
    """
    where = "client property 'sasl.jaas.config'"
    found = {name: _unquote(text) for name, text in _JAAS_OPTION.findall(value)}
    module = value.split(maxsplit=1)[0].rpartition(".")[2] if value.split() else ""
    if module in {"PlainLoginModule", "ScramLoginModule"} and mechanism[:5].upper() != module[:5].upper():
        raise ConfigError(f"{where}: got {module}, expected the login module of sasl.mechanism={mechanism}")
    if found.pop("tokenauth", "false").lower() != "false":
        raise ConfigError(f"{where}: got tokenauth, expected a user's name and password")
    if found.keys() != {"username", "password"}:
        raise ConfigError(f'{where}: expected a login module with username="..." password="..."')
    return found["username"], found["password"]


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] in "\"'" else text
