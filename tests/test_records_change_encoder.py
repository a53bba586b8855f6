"""`ChangeEncoder`: the bytes of a batch equal those of an encoder that formats one change at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sketch.changes import NO_ROW, Changes
from streams.keys import MISSING, Field, format_key
from streams.records import VERSION, ChangeEncoder, Encoded

FIELDS = (Field("C1", "hex32"), Field("device_ip"), Field("a-field.with_a-long-name" * 2, "hex32"))
EDGES = np.float32(
    [0, 1e-45, 9.9999994e-05, 1e-4, 0.5, 99999.9921875, 2**20, 999999936, 1e9, 3.4028235e38, 1234567.125]
)
SCORES = st.floats(0, width=32, allow_infinity=False) | st.sampled_from(EDGES.tolist())


@st.composite
def changes(draw: Any) -> tuple[int, int, float]:
    """Key, row and score of a change."""
    number = draw(st.integers(1, len(FIELDS)))
    bits = 32 if FIELDS[number - 1].kind == "hex32" else 56
    payload = draw(st.just(MISSING) | st.integers(0, (1 << bits) - 1))
    return number << 56 | payload, draw(st.just(NO_ROW) | st.integers(0, (1 << 27) - 1)), draw(SCORES)


def columns(rows: list[tuple[int, int, float]]) -> Changes:
    key, row, score = zip(*rows, strict=True) if rows else ([], [], [])
    return Changes(np.array(key, np.uint64), np.array(row, np.int32), np.array(score, np.float32))


def encoder(*, ingest_ms: int | None = 1700) -> ChangeEncoder:
    return ChangeEncoder(shard=3, epoch=7, source=(3, 4711), event_time_ms=-5, ingest_ms=ingest_ms, fields=FIELDS)


def encode_one(key: int, row: int, score: float, seq: int, ingest_ms: int | None) -> Encoded:
    """One change as the protocol specifies it, with Python's own formatting."""
    headers = [("v", b"%d" % VERSION), ("shard", b"3"), ("epoch", b"7"), ("seq", b"%d" % seq)]
    headers += [] if ingest_ms is None else [("ingest-ms", b"%d" % ingest_ms)]
    value = (
        f'{{"v":{VERSION},"feature":"{format_key(key, FIELDS)}","tier":"hot","row":{row},"score":{score:.9g},'
        f'"shard":3,"epoch":7,"seq":{seq},"source":{{"partition":3,"offset":4711}},"event_time_ms":-5}}'
    )
    return key.to_bytes(8, "big"), None if row == NO_ROW else value.encode(), headers


@given(
    st.lists(changes(), max_size=12),
    st.sampled_from([1, 9, 999_990]) | st.integers(1, (1 << 63) - 13),
    st.sampled_from([None, 0, 1_700_000_000_000]),
)
@example([(1 << 56 | MISSING, NO_ROW, 0.0)], 1, None)
def test_a_batch_has_the_bytes_of_its_changes_formatted_one_by_one(rows, first_seq, ingest_ms):
    assert encoder(ingest_ms=ingest_ms).encode(columns(rows), first_seq) == [
        encode_one(*row, first_seq + number, ingest_ms) for number, row in enumerate(rows)
    ]


def test_a_batch_of_the_longest_values_fits_its_buffer():
    longest = (3 << 56 | 1, (1 << 31) - 1, float(np.float32(1.2345679e-38)))
    seq = (1 << 63) - 65
    assert encoder().encode(columns([longest] * 64), seq)[-1] == encode_one(*longest, seq + 63, 1700)


@pytest.mark.parametrize("key", [5, 4 << 56, 1 << 56 | 1 << 40], ids=["no field", "unknown field", "wide payload"])
def test_a_key_of_no_field_is_not_written(key):
    with pytest.raises(ValueError, match="keys: got a"):
        encoder().encode(columns([(key, 1, 1.0)]), 1)
