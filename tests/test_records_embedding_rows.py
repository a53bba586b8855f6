from __future__ import annotations

import numpy as np
import pytest

from streams.records.embedding_rows import encode_rows
from streams.records.embeddings import RowRecord, encode_row


@pytest.mark.parametrize(("kind", "width"), [("u", 7), ("1", 16), ("2", 1), ("g", 12)])
def test_many_records_are_those_that_are_encoded_one_by_one(kind: str, width: int) -> None:
    random = np.random.default_rng(width)
    numbers, bodies = np.array([0, 5, (1 << 32) - 1]), random.integers(0, 256, (3, width), np.uint8)
    is_unique = kind == "u"
    features = np.array([1 << 56 | 3, 0, (1 << 64) - 1] if is_unique else [0, 0, 0], np.uint64)
    versions = np.array([[0, 1], [2, 3], [1 << 40, (1 << 63) - 1]], np.uint64) if is_unique else None
    found = encode_rows(
        kind, numbers, bodies, model=(1 << 64) - 1, features=features, step=9, time_ms=1 << 41, versions=versions
    )
    assert found == [
        encode_row(
            RowRecord(
                kind=kind, number=number, model=(1 << 64) - 1, feature=feature, epoch=epoch, seq=seq, step=9,
                time_ms=1 << 41, body=body.tobytes() if feature or not is_unique else None,
            )
        )
        for number, feature, body, (epoch, seq) in zip(
            numbers.tolist(), features.tolist(), bodies,
            [[0, 0]] * 3 if versions is None else versions.tolist(), strict=True,
        )
    ]  # fmt: skip


def test_no_records_are_none() -> None:
    empty = np.empty(0, np.int64)
    assert not encode_rows("u", empty, np.empty((0, 4), np.uint8), model=1, features=empty.astype(np.uint64), step=0,
                           time_ms=0, versions=np.empty((0, 2), np.uint64))  # fmt: skip
