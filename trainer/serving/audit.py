"""`audit`: compares sampled vectors as they are served with those that were trained.

A key is fine if its served vector equals the trained one, bit for bit. A trainer goes on while it is audited, so keys
that differ are asked for again, and compare with what was trained before and after they were asked for. What differs in
the end is stale if what is served is of an earlier step than what was trained; otherwise it is corrupt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streams.keys import FIELD_SHIFT, PAYLOAD_BITS, Field, format_key
from trainer.errors import ReplicaError
from trainer.serving.predictor import Predictor

__all__ = ["Answer", "Audit", "Difference", "LocalSource", "Source", "audit", "sample_keys"]

Keys = npt.NDArray[np.uint64]
_PAUSE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Vectors (K, D), and the step and time (by the trainer's clock, in ms) that they are as of; None if unknown."""

    vectors: npt.NDArray[np.float32]
    step: int | None
    time_ms: int | None


class Source(Protocol):
    """What is asked for vectors."""

    name: str

    def ask(self, keys: Keys) -> Answer:
        """The vectors of keys (K,), as of now."""


class LocalSource:
    """An export, a checkpoint or a replica in this process.

    Args:
        predictor: the model.
        refresh: brings it to the present; by default it stays as it is.

    Attributes:
        name: where it comes from.
    """

    def __init__(self, predictor: Predictor, refresh: Callable[[], None] = lambda: None) -> None:
        self.predictor, self.name, self._refresh = predictor, predictor.name, refresh

    def ask(self, keys: Keys) -> Answer:
        """See `Source`."""
        self._refresh()
        known = self.predictor.as_of()
        return Answer(vectors=self.predictor.lookup(keys), step=known["step"], time_ms=known["time_ms"])


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key that is served otherwise than it was trained.

    Attributes:
        feature: the key as text; `tier` that of the trained key: `hot` or `shared`.
        is_stale: whether what is served is older; otherwise it is corrupt.
        most: the largest difference of a component.
        quanta: the same in steps of the row's format; None for formats of floating point.
    """

    feature: str
    tier: str
    is_stale: bool
    most: float
    quanta: float | None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result.

    Attributes:
        num_keys: keys compared, of which `num_hot` were hot.
        num_equal: those that are fine.
        differences: the others, the largest first.
        served_step: rows of clicks that what is served had seen; None if it does not report it.
        trained_step: those of what was trained.
        behind_ms: how much older what is served is; None if it does not report its time.
    """

    num_keys: int
    num_hot: int
    num_equal: int
    differences: tuple[Difference, ...]
    served_step: int | None
    trained_step: int
    behind_ms: int | None

    @property
    def num_corrupt(self) -> int:
        """Keys that are served wrongly, and not because they are old."""
        return sum(not one.is_stale for one in self.differences)


def sample_keys(predictor: Predictor, count: int, seed: int, also: Predictor | None = None) -> Keys:
    """Up to `count` keys of published fields: half of them hot ones, the others most likely share rows.

    Args:
        predictor: what was trained.
        count: the number.
        seed: of the choice.
        also: a second model whose hot keys are taken, too.
    """
    rng, shape = np.random.default_rng(seed), predictor.shape
    hot = np.array(sorted({key for one in (predictor, also) if one is not None for key in one.owners()}), np.uint64)
    hot = rng.permutation(hot[np.isin(hot >> FIELD_SHIFT, shape.published)])[: count // 2]
    fields = rng.choice(np.array(shape.published, np.uint64), count - len(hot))
    cold = fields << FIELD_SHIFT | rng.integers(0, 1 << PAYLOAD_BITS, len(fields), np.uint64)
    return np.concatenate([hot, cold])


def audit(served: Source, trained: LocalSource, keys: Keys, *, patience_s: float = 0.0) -> Audit:
    """Compares the vectors of keys (K,).

    Args:
        served: what is served.
        trained: what was trained.
        keys: the keys.
        patience_s: how long to ask again for keys that differ.

    Raises:
        ReplicaError: a side has no model, or vectors of another size.
    """
    before, rest, end_s = trained.ask(keys), np.arange(len(keys)), time.monotonic() + patience_s
    while True:
        found = served.ask(keys[rest])
        after = trained.ask(keys)
        _check_shapes(served.name, found, len(rest), after)
        is_equal = (found.vectors == before.vectors[rest]).all(1) | (found.vectors == after.vectors[rest]).all(1)
        rest, kept = rest[~is_equal], found.vectors[~is_equal]
        if not len(rest) or time.monotonic() >= end_s:
            return _judge(trained, keys, rest, kept, found, after)
        before = after
        time.sleep(_PAUSE_S)


def _check_shapes(name: str, found: Answer, count: int, trained: Answer) -> None:
    expected = (count, trained.vectors.shape[1])
    if found.vectors.shape != expected:
        raise ReplicaError(f"{name}: got vectors of shape {found.vectors.shape}, expected {expected}: another model")


def _judge(
    trained: LocalSource, keys: Keys, rest: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32], found: Answer,
    after: Answer,
) -> Audit:  # fmt: skip
    tables, fields = trained.predictor.tables, [Field(name, kind) for name, kind in trained.predictor.shape.fields]  # type: ignore[arg-type]
    assert after.step is not None  # noqa: S101  a local source knows it
    assert after.time_ms is not None  # noqa: S101
    is_hot = tables.routed(keys)
    is_stale = found.step is not None and found.step < after.step
    most = np.abs(vectors - after.vectors[rest]).max(1, initial=0)
    quanta = tables.quanta(keys[rest])
    listed = [
        Difference(
            feature=format_key(int(keys[one]), fields), tier="hot" if is_hot[one] else "shared", is_stale=is_stale,
            most=float(size), quanta=round(float(size / step), 3) if step else None,
        )
        for one, size, step in zip(rest.tolist(), most, quanta, strict=True)
    ]  # fmt: skip
    return Audit(
        num_keys=len(keys), num_hot=int(is_hot.sum()), num_equal=len(keys) - len(rest),
        differences=tuple(sorted(listed, key=lambda one: -one.most)), served_step=found.step, trained_step=after.step,
        behind_ms=None if found.time_ms is None else max(0, after.time_ms - found.time_ms),
    )  # fmt: skip
