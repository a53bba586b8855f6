"""`encode_rows`: many records of rows of one kind at once, as `encode_row` makes each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streams.records.embeddings import ROW_HEADERS, EmbeddingKind, Encoded

__all__ = ["encode_rows"]

_KEY = np.dtype([("kind", "S1"), ("number", ">u4")])


def encode_rows(
    kind: EmbeddingKind, numbers: npt.NDArray[Any], bodies: npt.NDArray[np.uint8], *, model: int,
    features: npt.NDArray[np.uint64], step: int, time_ms: int, versions: npt.NDArray[np.uint64] | None = None,
) -> list[Encoded]:  # fmt: skip
    """Kafka key, value and headers of each; a tombstone for a unique row that is free.

    Args:
        kind: as in `RowRecord`; so are the others.
        numbers: (K,) integers.
        bodies: (K, W).
        model: of all.
        features: (K,), 0 of a unique row that is free, and of the other kinds.
        step: of all.
        time_ms: of all.
        versions: (K, 2) epoch and seq; None for zeros.
    """
    count, width = bodies.shape
    values = np.empty(count, np.dtype([("head", "<u8", 6), ("body", "u1", width)]))
    head = values["head"]
    head[:, 0], head[:, 1], head[:, 2:4] = model, features, 0 if versions is None else versions
    head[:, 4], head[:, 5] = step, time_ms
    values["body"] = bodies
    keys = np.empty(count, _KEY)
    keys["kind"], keys["number"] = kind.encode(), numbers
    names, content, size = keys.tobytes(), values.tobytes(), values.itemsize
    is_free = (features == 0).tolist() if kind == "u" else [False] * count
    return [
        (
            names[i * _KEY.itemsize : (i + 1) * _KEY.itemsize],
            None if free else content[i * size : (i + 1) * size],
            ROW_HEADERS,
        )
        for i, free in enumerate(is_free)
    ]
