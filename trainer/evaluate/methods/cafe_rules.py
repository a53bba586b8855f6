"""Variants of what promotions and demotions do to rows, for the ablation only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sketch.changes import Changes
from streams.keys import FIELD_SHIFT
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.lookup import Importance
from trainer.embedding.migration import MigrationReport, resolve
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.tiers import HOT_STORE, SHARED_STORES
from trainer.evaluate.methods.method import Brief

__all__ = ["RuledEmbedding", "Rules", "rated"]

_WRITTEN_BACK = 0.1  # fraction of the distance from the shared row to the row that is given up


@dataclass(frozen=True)
class Rules:
    """The rules that vary.

    Args:
        promotion: `copy` the vector (the default), or start from `zero`.
        state: the optimizer state of a promoted row: `fresh` (zero, the default), that of the `shared` row, or `own`,
            an estimate from the score of the key.
        is_written_back: whether the shared row of a demoted key moves a tenth of the way to the key's vector.
    """

    promotion: str = "copy"
    state: str = "fresh"
    is_written_back: bool = False

    @classmethod
    def of(cls, brief: Brief) -> Rules:
        """The knobs `promotion`, `state` and `write_back`."""
        written_back = bool(brief.number("write_back", 0))
        return cls(brief.word("promotion", "copy"), brief.word("state", "fresh"), written_back)


class RuledEmbedding(AdaptiveEmbedding):
    """An adaptive embedding with other rules.

    Args:
        plan: the sizes.
        brief: optimizer and seed.
        rules: the rules.
    """

    def __init__(self, plan: EmbeddingPlan, brief: Brief, rules: Rules) -> None:
        super().__init__(plan, optimizer=brief.row_optimizer, seed=brief.seed)
        self._rules, self._dim = rules, brief.dim
        self._batch_rows, self._mean_score = 1, 0.0

    def look_up(self, keys: Tensor, batch_rows: int) -> object:  # type: ignore[override]
        """As `AdaptiveEmbedding.look_up`."""
        self._batch_rows = batch_rows
        return super().look_up(keys, batch_rows)

    def apply_gradients(self) -> Importance:
        """As `AdaptiveEmbedding.apply_gradients`."""
        importance = super().apply_gradients()
        lookups = self._batch_rows * self.plan.layout.num_fields
        self._mean_score += (float(importance.scores.sum()) / lookups - self._mean_score) / 16
        return importance

    @torch.no_grad()
    def migrate(self, changes: Changes) -> MigrationReport:
        """As `AdaptiveEmbedding.migrate`, and then applies the rules."""
        if not len(changes):
            return super().migrate(changes)
        migration = resolve(changes, self.router, self.plan.capacity_rows)
        new = migration.takes_row & (migration.before < 0)
        lost = (migration.before >= 0) & (migration.after < 0)
        hot, shared = self.store(HOT_STORE), self.store(SHARED_STORES[0])
        shared_state = shared.state_of(shared.address(_words(migration.keys[new])))
        given_up = hot.read(_addresses(migration.before[lost]))  # (L, D)
        report = super().migrate(changes)
        rows = _addresses(migration.after[new])
        vectors, state = hot.read(rows), hot.state_of(rows)
        if self._rules.state == "shared":
            state = shared_state
        elif self._rules.state == "own":
            state = self._state_of(_scores(changes, migration.keys[new]))
        if self._rules.promotion == "zero":
            vectors = torch.zeros_like(vectors)
        hot.write(rows, vectors, state=state, like=hot.scales(rows))
        if self._rules.is_written_back and lost.any():
            self._write_back(migration.keys[lost], given_up)
        return report

    def _state_of(self, scores: npt.NDArray[np.float32]) -> Tensor:
        """Estimates the Adagrad sums (K,) that the keys would have if they had never shared rows.

        A score is the sum of a key's gradient norms (times B), so the sum of squares is about the score times the norm
        of one lookup's gradient.
        """
        return torch.from_numpy((scores * self._mean_score / (self._batch_rows**2 * self._dim)).astype(np.float32))

    def _write_back(self, keys: npt.NDArray[np.uint64], vectors: Tensor) -> None:
        store = self.store(SHARED_STORES[0])
        rows, first = np.unique(store.address(_words(keys)).numpy()[:, 0], return_index=True)
        shared = _addresses(rows)
        now = store.read(shared)
        moved = now + _WRITTEN_BACK * (vectors[torch.from_numpy(first)] - now)
        store.write(shared, moved, state=store.state_of(shared), like=store.scales(shared))


def rated(importance: Importance, how: str, words: Tensor) -> npt.NDArray[np.float32]:
    """The scores (U,) of distinct keys for the hot set.

    Args:
        importance: sums of gradient norms.
        how: `raw` for the sums, `field` for the sums divided by the mean of the field in the batch, `count` for the
            number of lookups.
        words: the looked-up keys (B, F).
    """
    if how == "raw":
        return importance.scores
    looked_up = words.numpy().reshape(-1).view(np.uint64)
    if how == "count":
        keys, counts = np.unique(looked_up, return_counts=True)
        counted: npt.NDArray[np.float32] = counts[np.searchsorted(keys, importance.keys)].astype(np.float32)
        return counted
    fields = (importance.keys >> FIELD_SHIFT).astype(np.int64)
    sums = np.bincount(fields, importance.scores)
    weighed: npt.NDArray[np.float32] = importance.scores * np.float32(len(words)) / np.maximum(sums, 1e-30)[fields]
    return weighed.astype(np.float32)


def _words(keys: npt.NDArray[np.uint64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(keys).view(np.int64))


def _addresses(rows: npt.NDArray[np.int32]) -> Tensor:
    return torch.from_numpy(rows.astype(np.int64))[:, None]


def _scores(changes: Changes, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    """The last scores in the changes of hot keys (K,)."""
    hot = changes.is_hot
    last = dict(zip(changes.key[hot].tolist(), changes.score[hot].tolist(), strict=True))
    return np.array([last[key] for key in keys.tolist()], np.float32)
