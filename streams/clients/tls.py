"""The TLS context of a connection, from Kafka's `ssl.*` properties (Java's and librdkafka's names).

Java's rules hold: certificates are checked, and the broker's name, unless `ssl.endpoint.identification.algorithm` is
empty; without a trust store, the certificate authorities of this machine are trusted. No error shows a value.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from streams.clients.key_stores import KeyPair, load_key_pair, read_certificates, read_key_pair, read_store
from streams.errors import ConfigError

__all__ = ["TLS_PROPERTIES", "create_ssl_context"]

_TRUST = ("ssl.truststore.location", "ssl.truststore.certificates", "ssl.ca.location")
_IDENTITY = ("ssl.keystore.location", "ssl.keystore.key", "ssl.certificate.location")
_STORE_TYPES = ("PKCS12", "PEM", "JKS")
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
# property -> the property without which it has no effect
_NEEDS = {
    "ssl.truststore.password": "ssl.truststore.location",
    "ssl.keystore.password": "ssl.keystore.location",
    "ssl.keystore.certificate.chain": "ssl.keystore.key",
    "ssl.keystore.key": "ssl.keystore.certificate.chain",
    "ssl.certificate.location": "ssl.key.location",
    "ssl.key.location": "ssl.certificate.location",
}
TLS_PROPERTIES = {
    *_TRUST,
    *_IDENTITY,
    *_NEEDS,
    "ssl.enabled.protocols",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.password",
    "ssl.keystore.type",
    "ssl.truststore.type",
}


def create_ssl_context(properties: Mapping[str, str]) -> ssl.SSLContext:
    """The context for clients with these properties.

    Raises:
        ConfigError: a property is malformed or contradicts another, or a store cannot be read.
    """
    _check(properties)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _limit_versions(context, properties.get("ssl.enabled.protocols"))
    context.check_hostname = _checks_hostname(properties)
    trusted = _read_trusted(properties)
    if trusted is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(cadata=trusted)
        except ssl.SSLError as error:
            name = _only(properties, _TRUST)
            raise ConfigError(f"client property {name!r}: its certificates cannot be read ({error.reason})") from None
    pair = _read_identity(properties)
    if pair is not None:
        load_key_pair(context, pair)
    return context


def _only(properties: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    """The one of these properties that is set.

    Raises:
        ConfigError: two are set.
    """
    found = [name for name in names if name in properties]
    if len(found) > 1:
        raise ConfigError(f"client property {found[1]!r}: got it beside {found[0]!r}, expected one of the two")
    return found[0] if found else None


def _check(properties: Mapping[str, str]) -> None:
    identity = _only(properties, _IDENTITY)
    for name, needed in _NEEDS.items():
        if name in properties and needed not in properties:
            raise ConfigError(f"client property {name!r}: has no effect without {needed!r}; set both")
    if "ssl.key.password" in properties and identity is None:
        raise ConfigError("client property 'ssl.key.password': has no effect without a key; set ssl.keystore.location")
    for name in ("ssl.keystore.type", "ssl.truststore.type"):
        if properties.get(name, "PEM").upper() not in _STORE_TYPES:
            raise ConfigError(f"client property {name!r}: got another type, expected {', '.join(_STORE_TYPES)}")


def _limit_versions(context: ssl.SSLContext, listed: str | None) -> None:
    names = [name.strip() for name in (listed or ",".join(_VERSIONS)).split(",")]
    if any(name not in _VERSIONS for name in names):
        raise ConfigError(f"client property 'ssl.enabled.protocols': expected a list of {', '.join(_VERSIONS)}")
    context.minimum_version = min(_VERSIONS[name] for name in names)
    context.maximum_version = max(_VERSIONS[name] for name in names)


def _checks_hostname(properties: Mapping[str, str]) -> bool:
    name = "ssl.endpoint.identification.algorithm"
    algorithm = properties.get(name, "https").lower()
    if algorithm not in {"https", "", "none"}:
        raise ConfigError(f"client property {name!r}: got another value, expected https, or nothing to skip the check")
    return algorithm == "https"


def _read_trusted(properties: Mapping[str, str]) -> str | None:
    """The certificates to trust, as PEM; None for those of this machine."""
    name = _only(properties, _TRUST)
    if name is None:
        return None
    inline = name == "ssl.truststore.certificates"
    content = properties[name].encode() if inline else read_store(name, properties[name])
    return read_certificates(name, content, properties.get("ssl.truststore.password"))


def _read_identity(properties: Mapping[str, str]) -> KeyPair | None:
    """The key and certificates with which the client identifies itself (mTLS), if any."""
    name = _only(properties, _IDENTITY)
    key_password = properties.get("ssl.key.password")
    if name is None:
        return None
    if name == "ssl.keystore.location":
        content = read_store(name, properties[name])
        return read_key_pair(name, content, store_password=properties.get("ssl.keystore.password"),
                             key_password=key_password)  # fmt: skip
    if name == "ssl.keystore.key":
        content = (properties[name] + "\n" + properties["ssl.keystore.certificate.chain"]).encode()
    else:
        content = b"\n".join(read_store(name, properties[name]) for name in ("ssl.key.location", name))
    return read_key_pair(name, content, store_password=None, key_password=key_password)
