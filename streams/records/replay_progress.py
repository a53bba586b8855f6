"""`ReplayProgress`: how far a replay's rows are in the topics. Each transaction of a replay writes it beside its rows.

A replay has one record in the control topic, under a key of its own; the newest committed one holds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from streams.records.headers import VERSION, BadRecord, version_reason

__all__ = ["REPLAY_KEY", "ReplayProgress", "decode_progress", "encode_progress"]

REPLAY_KEY = b"replay/"
_KIND = "replay"
_MAX_BYTES = 1 << 16
_MAX_NUMBER = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class ReplayProgress:
    """The committed rows of one run of a replay.

    Attributes:
        run: the number of the run, from 1; a run that does not resume another one gets the next number.
        process: the process that wrote the record, as hex digits; it differs for each process.
        topic_id: the id of the clicks topic; empty if the broker has none.
        passes: the number of whole passes over the files.
        batch: the next batch of the present pass, from 0.
        lines: the lines of that batch that are done.
        read: the lines read in all passes.
        sent: the rows sent.
        batches: the click records sent.
        bad: the lines sent to the dead letters.
    """

    run: int
    process: str
    topic_id: str = ""
    passes: int = 0
    batch: int = 0
    lines: int = 0
    read: int = 0
    sent: int = 0
    batches: int = 0
    bad: int = 0


_TYPES = {member.name: str if member.type == "str" else int for member in fields(ReplayProgress)}


def encode_progress(name: str, progress: ReplayProgress) -> tuple[bytes, bytes]:
    """Key and value of the record of the replay `name`."""
    body = {"v": VERSION, "kind": _KIND, **asdict(progress)}
    return REPLAY_KEY + name.encode(), json.dumps(body).encode()


def decode_progress(value: bytes | None) -> ReplayProgress | BadRecord:
    """Decodes the value of a replay's record; ignores unknown members."""
    if value is None or len(value) > _MAX_BYTES:
        return BadRecord(f"{0 if value is None else len(value)} bytes, expected 1 to {_MAX_BYTES}")
    try:
        body = json.loads(value)
        if not isinstance(body, dict):
            return BadRecord(f"got a JSON {type(body).__name__}, expected an object")
        if body.get("v") != VERSION:
            return BadRecord(version_reason(body.get("v")))
        if body.get("kind") != _KIND:
            return BadRecord(f"kind {str(body.get('kind'))[:100]!r}, expected {_KIND!r}")
        return ReplayProgress(**{name: _member(body, name) for name in _TYPES})
    except (ValueError, KeyError, RecursionError) as error:
        return BadRecord(f"{type(error).__name__}: {error}")


def _member(body: dict[str, Any], name: str) -> Any:
    """One member, of its type; numbers have at most 63 bits.

    Raises:
        KeyError: the member is missing.
        ValueError: it has another type or range.
    """
    value = body[name]
    if type(value) is not _TYPES[name] or (type(value) is int and not 0 <= value <= _MAX_NUMBER):
        raise ValueError(f"{name!r}: got {str(value)[:100]!r}, expected {_TYPES[name].__name__}, 0 to 2^63 - 1")
    return value
