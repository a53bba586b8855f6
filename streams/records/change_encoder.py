"""Encodes the changes of a hot set as assignment records, a batch at a time.

A kernel writes `seq` and value of every change as two lines of one buffer, and `bytes.split` cuts it. So the only
Python that runs for each change makes the tuple and the headers that a producer takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import njit

from sketch.changes import Changes
from streams.digits import MAX_NUMBER_BYTES, write_hex, write_number
from streams.keys import FIELD_SHIFT, MISSING_WORD, Field, Keys
from streams.records.headers import VERSION, ascii_int
from streams.records.key_checks import find_invalid

__all__ = ["ChangeEncoder", "Encoded"]

Encoded = tuple[bytes, bytes | None, list[tuple[str, bytes]]]  # Kafka key, value, headers

Bytes = npt.NDArray[np.uint8]
_NEWLINE, _TILDE = ord("\n"), ord("~")
_HEX_TOKEN_DIGITS, _HASH_DIGITS = 8, 14


class ChangeEncoder:
    """Encodes the changes that one importance record caused.

    Args:
        shard: the shard of the changes.
        epoch: the epoch of its configuration.
        source: partition and offset of the importance record.
        event_time_ms: the event time of the importance record.
        ingest_ms: the click record's Kafka timestamp; None omits the header.
        fields: the categorical columns that the keys' field numbers count.
        generation: the number of the ownership of the shard; 0 omits the header.
        is_restated: whether the records repeat the tiers of features as of one `seq`, and change none.
    """

    def __init__(
        self,
        *,
        shard: int,
        epoch: int,
        source: tuple[int, int],
        event_time_ms: int,
        ingest_ms: int | None,
        fields: Sequence[Field],
        generation: int = 0,
        is_restated: bool = False,
    ) -> None:
        self._seq_step = 0 if is_restated else 1
        self._fields = tuple(fields)
        self._before = [("v", ascii_int(VERSION)), ("shard", ascii_int(shard)), ("epoch", ascii_int(epoch))]
        numbers = {"generation": generation or None, "restated": int(is_restated) or None, "ingest-ms": ingest_ms}
        self._after = [(name, ascii_int(number)) for name, number in numbers.items() if number is not None]
        self._version = f',"shard":{shard},"epoch":{epoch},"seq":'
        self._end = f',"source":{{"partition":{source[0]},"offset":{source[1]}}},"event_time_ms":{event_time_ms}}}'

    def encode(self, changes: Changes, first_seq: int) -> list[Encoded]:
        """Kafka key, value and headers of each change, numbered from `first_seq` on (restated: all `first_seq`).

        Cold is a tombstone.

        Cost: 0.2 us a change in the kernel and C's `%.9g`, 0.5 us to make the Python objects, 20 us a call.

        Raises:
            ValueError: a key is not of one of the fields.
        """
        if len(changes) == 0:
            return []
        keys = changes.key.byteswap().view("V8").tolist()  # big-endian bytes
        lines = self._write_lines(changes, first_seq).split(b"\n")
        before, after = self._before, self._after
        return [
            (key, value or None, [*before, ("seq", seq), *after])
            for key, seq, value in zip(keys, lines[::2], lines[1::2], strict=True)
        ]

    def _write_lines(self, changes: Changes, first_seq: int) -> bytes:
        """Two lines for each change: its `seq`, and its value, which is empty for cold."""
        if (reason := find_invalid(changes.key, self._fields)) is not None:
            raise ValueError(reason)
        scores = _buffer("%.9g\n" * len(changes) % tuple(changes.score.tolist()))
        end = _buffer(self._end)
        texts, ends = _texts_of(self._fields, self._version)
        line_bytes = ends[_NUM_COMMON] + np.diff(ends).max() + len(end) + _HASH_DIGITS + 3 * MAX_NUMBER_BYTES + 2
        seqs = first_seq + self._seq_step * np.arange(len(changes), dtype=np.int64)
        out = np.empty(len(changes) * int(line_bytes) + len(scores), np.uint8)
        written = _write_changes(changes.key, changes.row, seqs, scores, end, texts, ends, out)
        return out[: written - 1].tobytes()


def _buffer(text: str) -> Bytes:
    return np.frombuffer(text.encode(), np.uint8)


# Indices of the texts that a kernel copies; those of field f follow at _NUM_COMMON + 2 * f. No field's name has a
# character that JSON escapes.
_ROW, _SCORE, _VERSION, _NUM_COMMON = range(4)


@lru_cache(maxsize=64)
def _texts_of(fields: tuple[Field, ...], version: str) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """The texts one after the other, and the start of each, followed by the end of the last one.

    Of each field: the start of a value up to the payload's digits, and up to the end of the missing value.
    """
    texts = ['","tier":"hot","row":', ',"score":', version]
    for field in fields:
        start = f'{{"v":{VERSION},"feature":"{field.name}:'
        texts += [start if field.kind == "hex32" else f"{start}~", f"{start}missing"]
    return _buffer("".join(texts)), np.cumsum([0, *map(len, texts)])


@njit(nogil=True, cache=True)
def _write_changes(
    keys: Keys,
    rows: npt.NDArray[np.int32],
    seqs: npt.NDArray[np.int64],
    scores: Bytes,
    value_end: Bytes,
    texts: Bytes,
    ends: npt.NDArray[np.int64],
    out: Bytes,
) -> int:
    """Writes two lines for each of K changes to the start of `out`; returns their number of bytes."""
    end = score = 0
    for change in range(keys.shape[0]):
        seq_start = end
        end = write_number(seqs[change], out, end)
        seq_end = end
        out[end] = _NEWLINE
        end += 1
        score_start = score
        while scores[score] != _NEWLINE:
            score += 1
        if rows[change] >= 0:
            end = _write_feature(keys[change], texts, ends, out, end)
            end = _append(texts, ends[_ROW], ends[_ROW + 1], out, end)
            end = write_number(np.int64(rows[change]), out, end)
            end = _append(texts, ends[_SCORE], ends[_SCORE + 1], out, end)
            end = _append(scores, score_start, score, out, end)
            end = _append(texts, ends[_VERSION], ends[_VERSION + 1], out, end)
            end = _append(out, seq_start, seq_end, out, end)
            end = _append(value_end, 0, value_end.shape[0], out, end)
        score += 1
        out[end] = _NEWLINE
        end += 1
    return end


@njit(nogil=True, cache=True)
def _write_feature(key: np.uint64, texts: Bytes, ends: npt.NDArray[np.int64], out: Bytes, end: int) -> int:
    """Appends the start of a value, up to the end of the feature."""
    text = _NUM_COMMON + 2 * (np.int64(key >> FIELD_SHIFT) - 1)
    payload = key & MISSING_WORD
    if payload == MISSING_WORD:
        return _append(texts, ends[text + 1], ends[text + 2], out, end)
    end = _append(texts, ends[text], ends[text + 1], out, end)
    return write_hex(payload, _HASH_DIGITS if out[end - 1] == _TILDE else _HEX_TOKEN_DIGITS, out, end)


@njit(nogil=True, cache=True)
def _append(source: Bytes, start: int, stop: int, out: Bytes, end: int) -> int:
    """Appends `source[start:stop]` at offset `end`; returns the new end."""
    for position in range(start, stop):
        out[end] = source[position]
        end += 1
    return end
