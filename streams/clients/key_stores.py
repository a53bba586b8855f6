"""Reads Java's trust stores and key stores in the formats PKCS12 and PEM; Java's own format JKS is refused.

A store's first bytes decide its format, as in Java, where the type `JKS` reads PKCS12, too.
"""

from __future__ import annotations

import re
import secrets
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.errors import ConfigError

__all__ = ["KeyPair", "load_key_pair", "read_certificates", "read_key_pair", "read_store"]

_JKS_MAGIC = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")
_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s*([A-Za-z0-9+/=\s]+?)-----END \1-----")


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A private key and its certificates.

    Attributes:
        name: the property that they come from.
        key: the key in PEM (PKCS8), encrypted with `password`.
        certificates: the chain in PEM, the key's own certificate first.
        password: a random one of this process, so that no readable key is ever written to a file.
    """

    name: str
    key: bytes
    certificates: str
    password: str


def read_store(name: str, location: str) -> bytes:
    """The content of the file that a property names.

    Raises:
        ConfigError: it cannot be read, or is a JKS store.
    """
    try:
        content = Path(location).read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a path"
        raise ConfigError(
            f"client property {name!r}: the file cannot be read ({why}); expected a readable file"
        ) from None
    if content[:4] in _JKS_MAGIC:
        raise ConfigError(
            f"client property {name!r}: got a JKS store, expected PKCS12 or PEM; convert it with `keytool "
            "-importkeystore -srckeystore OLD.jks -destkeystore NEW.p12 -deststoretype PKCS12`"
        )
    return content


def read_certificates(name: str, content: bytes, password: str | None) -> str:
    """All certificates of a store, as PEM.

    Raises:
        ConfigError: there is none, the password is wrong, or the content is neither PKCS12 nor PEM.
    """
    if _is_pem(content):
        found = [block for kind, block in _pem_blocks(content) if kind.endswith("CERTIFICATE")]
    else:
        _, found = _open_pkcs12(name, content, password)
    if not found:
        raise ConfigError(f"client property {name!r}: got no certificate, expected at least one")
    return "".join(found)


def read_key_pair(name: str, content: bytes, *, store_password: str | None, key_password: str | None) -> KeyPair:
    """The key and the certificates of a store.

    Raises:
        ConfigError: one is missing, a password is wrong, or the content is neither PKCS12 nor PEM.
    """
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  only TLS needs it
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
    )

    if _is_pem(content):
        blocks = _pem_blocks(content)
        key = _read_key(name, [block for kind, block in blocks if kind.endswith("PRIVATE KEY")], key_password)
        found = [block for kind, block in blocks if kind.endswith("CERTIFICATE")]
    else:
        key, found = _open_pkcs12(name, content, store_password)
    if key is None or not found:
        missing = "private key" if key is None else "certificate"
        raise ConfigError(f"client property {name!r}: got no {missing}, expected a key and its certificates")
    password = secrets.token_urlsafe()
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    return KeyPair(name=name, key=encrypted, certificates="".join(found), password=password)


def load_key_pair(context: ssl.SSLContext, pair: KeyPair) -> None:
    """Lets the context identify itself with the key; Python reads keys from files only, so it is written, encrypted.

    Raises:
        ConfigError: the key does not belong to the first certificate.
    """
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # its mode is 600
        file.write(pair.key + pair.certificates.encode())
        file.flush()
        try:
            context.load_cert_chain(file.name, password=pair.password)
        except ssl.SSLError as error:
            raise ConfigError(
                f"client property {pair.name!r}: the key cannot be used ({error.reason}); expected a key and its own "
                "certificate first"
            ) from None


def _is_pem(content: bytes) -> bool:
    return b"-----BEGIN " in content


def _pem_blocks(content: bytes) -> list[tuple[str, str]]:
    """Kind and text of each block, its lines broken again: a property may hold a block on one line."""
    blocks = []
    for kind, body in _PEM_BLOCK.findall(content.decode("ascii", "replace")):
        letters = "".join(body.split())
        lines = [letters[start : start + 64] for start in range(0, len(letters), 64)]
        blocks.append((kind, "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""])))
    return blocks


def _read_key(name: str, blocks: list[str], password: str | None) -> Any:
    """The first private key of these blocks; None without blocks."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    if not blocks:
        return None
    try:
        return load_pem_private_key(blocks[0].encode(), password.encode() if password else None)
    except (ValueError, TypeError):
        raise ConfigError(
            f"client property {name!r}: the key cannot be read; expected PKCS8 in PEM, and its password in "
            "'ssl.key.password' if it has one"
        ) from None


def _open_pkcs12(name: str, content: bytes, password: str | None) -> tuple[Any, list[str]]:
    """The key, or None, and the certificates as PEM, the key's own first.

    Raises:
        ConfigError: the content is not PKCS12, or the password is wrong.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs12  # noqa: PLC0415

    try:
        store = pkcs12.load_pkcs12(content, password.encode() if password else None)
    except ValueError:
        needed = name.replace("location", "password")
        raise ConfigError(
            f"client property {name!r}: the store cannot be opened; expected PKCS12 or PEM, and the store's password "
            f"in {needed!r}"
        ) from None
    certificates = [store.cert] if store.cert is not None else []
    certificates += store.additional_certs
    return store.key, [entry.certificate.public_bytes(Encoding.PEM).decode() for entry in certificates]
