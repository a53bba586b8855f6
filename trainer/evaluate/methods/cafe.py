"""`hotstream`: our method. The agent's hot set and the trainer's embedding run in lockstep, without a broker.

The budget covers what both allocate: rows, optimizer state, router, sketch, and the tables of the hot set. In a real
deployment the sketch is memory of the agent and not of the trainer; `hotstream-remote` is that case.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from torch import Tensor

from sketch.hotset import HotSet
from sketch.hotsketch import HotSketch
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.plans import EmbeddingPlan, filled, largest_fitting, map_bytes, plan_for_capacity
from trainer.errors import PlanError
from trainer.evaluate.methods.method import Brief, Infeasible, Method
from trainer.evaluate.methods.row_tables import scale_initial_values

__all__ = ["Cafe", "agent_bytes", "build", "build_remote", "fixed_bytes"]

_DEFAULTS = {
    "unique_share": 0.2,  # less than in `trainer.embedding.plans`: here a unique row also costs agent memory
    "most_level_1": 4.0,
    "buckets_per_row": 0.34,
}
_DEFAULT_FORMAT = "int8"
_FEW_KEYS, _BUCKET_BYTES = 512, 48
_FEW_BUCKETS = 256  # a smaller sketch has wider tags


@lru_cache(maxsize=1)
def fixed_bytes() -> int:
    """Bytes of a hot set that do not depend on its size: the histogram and the candidates of one review."""
    smallest = HotSet(1, HotSketch(1))
    return smallest.nbytes - agent_bytes(1, 1)


def agent_bytes(capacity_rows: int, num_buckets: int) -> int:
    """Bytes of sketch and hot set that grow with their sizes."""
    few = HotSketch(min(num_buckets, _FEW_BUCKETS))
    return HotSet.growing_bytes(capacity_rows, num_buckets) + num_buckets * (few.nbytes // few.num_buckets)


def _growth(plan: EmbeddingPlan) -> int:
    """Bytes by which the map of a small router may grow once, because its buckets fill unevenly."""
    return map_bytes(plan.router_keys) // 4 + _BUCKET_BYTES if plan.router_keys < _FEW_KEYS else 0


class Cafe(Method):
    """The hot set and the embedding that follows it.

    Knobs: `row_format`, `hot_store` (of unique rows alone), `unique_share`, `most_level_1` (rows per field),
    `buckets_per_row`, `half_life` (events per row) and `first_values` (factor of initial values).

    Args:
        brief: with the knobs.
        plan: the embedding's sizes.
        num_buckets: buckets of the sketch.
        is_remote: whether sketch and hot set are memory of another machine.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"adaptive"})
    reads_ids: ClassVar[bool] = False
    reads_lists: ClassVar[bool] = True

    def __init__(self, brief: Brief, plan: EmbeddingPlan, num_buckets: int, *, is_remote: bool) -> None:
        super().__init__()
        self.embedding = AdaptiveEmbedding(plan, optimizer=brief.row_optimizer, seed=brief.seed)
        for store in (self.embedding.unique, *self.embedding.shared.levels.values()):
            scale_initial_values(store, brief)
        half_life = brief.number("half_life", 0) * plan.capacity_rows
        self.hot_set = HotSet(
            plan.capacity_rows,
            HotSketch(num_buckets, seed=brief.seed),
            half_life_events=half_life or None,
        )
        self._is_remote = is_remote
        self.num_promoted = self.num_demoted = 0

    def forward(self, words: Tensor) -> Tensor:
        """As `Method.forward`."""
        vectors: Tensor = self.embedding(words)
        return vectors

    def forward_values(self, words: Tensor, batch_rows: int) -> Tensor:
        """As `Method.forward_values`."""
        return self.embedding.vectors_of(words, batch_rows=batch_rows)

    def learn(self) -> None:
        """As `Method.learn`."""
        importance = self.embedding.apply_gradients()
        report = self.embedding.migrate(self.hot_set.update(importance.keys, importance.scores))
        self.num_promoted += report.promoted
        self.num_demoted += report.demoted

    @property
    def sketch_bytes(self) -> int:
        """Bytes of sketch and hot set, without the buffers of fixed size that serve one review."""
        return self.hot_set.nbytes - fixed_bytes()

    @property
    def nbytes(self) -> int:
        """As `Method.nbytes`."""
        return self.embedding.nbytes["total"] + (0 if self._is_remote else self.sketch_bytes)

    @property
    def paper_bytes(self) -> int:
        """As `Method.paper_bytes`."""
        return self.embedding.nbytes["rows"] + (0 if self._is_remote else self.hot_set.sketch.nbytes)

    def describe(self) -> dict[str, float]:
        """As `Method.describe`."""
        counts = {"hot": self.hot_set.num_hot, "promotions": self.num_promoted, "demotions": self.num_demoted}
        return {**counts, "capacity": self.hot_set.capacity, "sketch_bytes": self.sketch_bytes}


def _plan(brief: Brief, capacity_rows: int) -> EmbeddingPlan:
    return plan_for_capacity(
        capacity_rows,
        brief.dim,
        len(brief.field_sizes),
        unique_share=brief.number("unique_share", _DEFAULTS["unique_share"]),
        most_level_1=int(brief.number("most_level_1", _DEFAULTS["most_level_1"])),
        optimizer=brief.optimizer,
        row_format=brief.word("row_format", _DEFAULT_FORMAT),
        hot_store=brief.word("hot_store", "") or None,
    )


def _build(brief: Brief, *, is_remote: bool) -> Cafe | Infeasible:
    per_row = brief.number("buckets_per_row", 1.0 if is_remote else _DEFAULTS["buckets_per_row"])

    def buckets(capacity_rows: int) -> int:
        return max(1, round(per_row * capacity_rows))

    def agent(capacity_rows: int) -> int:
        return 0 if is_remote else agent_bytes(capacity_rows, buckets(capacity_rows))

    def total(capacity_rows: int) -> int:
        plan = _plan(brief, capacity_rows)
        return plan.nbytes["total"] + _growth(plan) + agent(capacity_rows)

    try:
        least = total(1)
    except PlanError as error:
        return Infeasible(str(error))
    if least > brief.budget_bytes:
        return Infeasible(f"one unique row and one shared row per field need {least} bytes, got {brief.budget_bytes}")
    fits = largest_fitting(lambda rows: total(rows) <= brief.budget_bytes, 1, max(2, brief.budget_bytes // 8))
    while fits > 1 and total(fits) > brief.budget_bytes:
        fits -= 1
    plan = _plan(brief, fits)
    plan = filled(plan, brief.budget_bytes - agent(fits) - _growth(plan))
    return Cafe(brief, plan, buckets(fits), is_remote=is_remote)


def build(brief: Brief) -> Cafe | Infeasible:
    """The largest capacity that fits, everything counted."""
    return _build(brief, is_remote=False)


def build_remote(brief: Brief) -> Cafe | Infeasible:
    """The largest capacity that fits if the agent's memory is not counted."""
    return _build(brief, is_remote=True)
