"""The record of a feature's value, in the topic `values`: a key of kind `hash` does not show which value it is.

key  the feature key, 8 bytes, big-endian      value  the bytes of the value
"""

from __future__ import annotations

from streams.records.headers import VERSION, BadRecord, Headers, ascii_int, check_version, read_headers

__all__ = ["MAX_VALUE_BYTES", "decode_value", "encode_value"]

MAX_VALUE_BYTES = 1 << 16
_KEY_BYTES = 8


def encode_value(key: int, value: bytes) -> tuple[bytes, bytes, list[tuple[str, bytes | None]]]:
    """Kafka key, value and headers."""
    return key.to_bytes(_KEY_BYTES, "big"), value, [("v", ascii_int(VERSION))]


def decode_value(key: bytes | None, value: bytes | None, headers: Headers) -> tuple[int, bytes] | BadRecord:
    """The feature key and its value."""
    if key is None or len(key) != _KEY_BYTES:
        return BadRecord(f"key: got {0 if key is None else len(key)} bytes, expected {_KEY_BYTES}")
    if not value or len(value) > MAX_VALUE_BYTES:
        return BadRecord(f"value: got {len(value or b'')} bytes, expected 1 to {MAX_VALUE_BYTES}")
    try:
        check_version(read_headers(headers))
    except ValueError as error:
        return BadRecord(str(error))
    return int.from_bytes(key, "big"), value
