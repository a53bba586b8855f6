"""The bytes of a record as a person can read them: text as text, an Arrow stream by its first row."""

from __future__ import annotations

import base64

from streams.escapes import escape
from streams.records.dead_letters import DeadLetter

__all__ = ["letter_as_json", "readable"]

_SHOWN_BYTES = 100
_ARROW_BEGINS = b"\xff\xff\xff\xff"


def readable(value: bytes | None) -> str:
    r"""One line of bounded length.

    >>> readable(None), readable("café\n".encode()), readable(b"\x00\xff")
    ('null', "'café\\n'", "'\\x00\\xff'")
    """
    if value is None:
        return "null"
    if value.startswith(_ARROW_BEGINS) and (row := _first_row(value)) is not None:
        return row
    text = _text(value[:_SHOWN_BYTES], is_whole=len(value) <= _SHOWN_BYTES)
    shown = repr(value[:_SHOWN_BYTES])[1:] if text is None else f"'{escape(text)}'"
    return shown if len(value) <= _SHOWN_BYTES else f"{shown} ... {len(value)} bytes"


def letter_as_json(letter: DeadLetter) -> dict[str, object]:
    """A dead letter as JSON has it: text as text; other bytes readable, and whole in a member `..._base64`."""
    return {
        "origin": letter.origin,
        "error": letter.error,
        "message": letter.message,
        "time_ms": letter.time_ms,
        **_member("key", letter.key),
        **_member("value", letter.value),
        "headers": [{"name": name, **_member("value", value)} for name, value in letter.headers],
        "is_cut": letter.is_cut,
    }


def _member(name: str, value: bytes | None) -> dict[str, object]:
    text = None if value is None else _text(value, is_whole=True)
    if value is None or text is not None:
        return {name: text}
    return {name: readable(value), f"{name}_base64": base64.b64encode(value).decode()}


def _text(value: bytes, *, is_whole: bool) -> str | None:
    """The text of UTF-8, of which the last character may be cut; None for other bytes."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        is_cut = not is_whole and error.reason == "unexpected end of data"
        return value[: error.start].decode() if is_cut else None


def _first_row(value: bytes) -> str | None:
    """The first row of an Arrow stream; None if it is malformed, too."""
    from streams.records.arrow import read_stream  # noqa: PLC0415  texts need no Arrow

    try:
        batch = read_stream(value)
        row = batch.slice(0, 1).to_pylist()
    except (ValueError, ArithmeticError, LookupError, RecursionError):
        return None
    cells = ", ".join(f"{name}={cell!r}" for name, cell in (row[0] if row else {}).items())
    return escape(f"{batch.num_rows} rows, the first: {cells}" if row else "no rows")
