"""`Predictor`: lookups and predictions of a served model, and its figures; without torch until `predict`.

An export is served without a broker::

    predictor = Predictor.of_export(Path("out"))
    vectors = predictor.lookup(keys)   # (..., D) float32
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.telemetry.figures import Figure
from trainer.errors import BagError, ReplicaError
from trainer.serving.exported import Exported
from trainer.serving.replica_state import ReplicaState
from trainer.serving.shape import ServedShape
from trainer.serving.tables import ServedTables

__all__ = ["Predictor", "sum_bags"]

_TIERS = ("hot", "shared")


class Predictor:
    """Serves a state; any number of threads may ask it.

    Args:
        state: the state.
        name: where it comes from, for messages.

    Attributes:
        state: tables, digests and counts.
        name: as given.
    """

    def __init__(self, state: ReplicaState, name: str) -> None:
        self.state, self.name = state, name
        self._dense: tuple[str, int, Any] | None = None

    @classmethod
    def of_export(cls, directory: Path) -> Predictor:
        """Serves an export as it is.

        Raises:
            CheckpointError: the export is damaged, or of another version.
        """
        return cls.of(Exported.read(directory), str(directory))

    @classmethod
    def of(cls, exported: Exported, name: str) -> Predictor:
        """Serves what was exported."""
        state = ReplicaState(exported.shape.partitions)
        state.load(exported)
        return cls(state, name)

    # ---- serving ----

    @property
    def is_ready(self) -> bool:
        """Whether a complete model was read."""
        return self.state.served is not None

    @property
    def can_predict(self) -> bool:
        """Whether a dense part of that model was read, too."""
        served, versions = self.state.served, self.state.dense
        return served is not None and versions.version > 0 and versions.model == f"{served.shape.fingerprint:016x}"

    @property
    def why_not_live(self) -> str | None:
        """Why the process should be started again; None if it works."""
        return None

    @property
    def why_not_ready(self) -> str | None:
        """Why it cannot predict now; None if it can."""
        if self.why_not_live is not None or self.can_predict:
            return self.why_not_live
        return f"{self.name}: no {'dense part' if self.is_ready else 'complete model'} was read yet"

    @property
    def shape(self) -> ServedShape:
        """The shape of the served model.

        Raises:
            ReplicaError: as `lookup`.
        """
        return self.tables.shape

    @property
    def tables(self) -> ServedTables:
        """The tables that are served.

        Raises:
            ReplicaError: as `lookup`.
        """
        if self.state.served is None:
            raise ReplicaError(f"{self.name}: no complete model was read yet; call `catch_up` beside a trainer")
        return self.state.served

    @property
    def num_hot(self) -> int:
        """Keys with a unique row.

        Raises:
            ReplicaError: as `lookup`.
        """
        return self.tables.num_hot

    def owners(self) -> dict[int, int]:
        """The unique row of each key that has one.

        Raises:
            ReplicaError: as `lookup`.
        """
        return self.tables.owners()

    def lookup(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """The vectors (..., D) float32 of feature keys of any shape.

        Raises:
            KeyRangeError: the field of a key is not published.
            ReplicaError: no complete model was read yet, or following has failed.
        """
        return self.tables.lookup(keys)

    def predict(
        self,
        dense: npt.NDArray[np.float32],
        keys: npt.NDArray[np.uint64],
        offsets: npt.NDArray[np.int64] | None = None,
        weights: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """The logits (B,) of dense (B, M) and keys (B, F) by the newest dense part; needs torch.

        Args:
            dense: dense features.
            keys: (B, F), or (N,) with `offsets`.
            offsets: (B F,) where the values of each row and field begin, as `hotstream.key_bags` gives them; their
                vectors are summed, as the trainer does.
            weights: (N,) with `offsets`, the factor of each key's vector; None for 1.

        Raises:
            KeyRangeError: as `lookup`.
            BagError: the offsets or the weights do not fit the keys.
            ReplicaError: as `lookup`, or no dense part of this model was read yet.
        """
        if weights is not None and (offsets is None or weights.shape != keys.shape):
            raise BagError(f"weights: got shape {weights.shape}, expected {keys.shape}, one for each key, and offsets")
        vectors = self.lookup(keys)
        if weights is not None:
            vectors = vectors * weights[:, None]
        if offsets is not None:
            vectors = sum_bags(vectors, offsets, self.shape.layout.num_fields)
        return self.predict_vectors(dense, vectors)

    def predict_vectors(
        self, dense: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """The logits (B,) of dense (B, M) and what `lookup` returned, vectors (B, F, D); needs torch.

        Raises:
            ReplicaError: no dense part of this model was read yet.
        """
        from trainer.serving.dense_part import compute, load_dense_part  # noqa: PLC0415  torch is optional

        shape, versions = self.tables.shape, self.state.dense
        if not self.can_predict:
            raise ReplicaError(f"{self.name}: no dense part of this model was read yet")
        known = self._dense
        if known is None or known[:2] != (versions.model, versions.version):
            known = (versions.model, versions.version, load_dense_part(shape, versions.data))
            self._dense = known
        return compute(known[2], dense, vectors)

    # ---- what is known of it ----

    def as_of(self) -> dict[str, Any]:
        """What was read: the trained rows, the trainer's time and the offsets by partition, the dense version."""
        states = self.state.partitions
        return {
            "step": min(state.step for state in states),
            "time_ms": min(state.time_ms for state in states),
            "offsets": {number: state.offset for number, state in enumerate(states)},
            "dense_version": self.state.dense.version,
        }

    def staleness_ms(self) -> float | None:
        """The age of the oldest partition's newest record; a trainer with nothing to send sends digests each second."""
        oldest = min(state.time_ms for state in self.state.partitions)
        return None if not oldest else max(0.0, time.time() * 1000 - oldest)

    def hits(self) -> dict[str, dict[str, int]]:
        """Lookups by field and by the tier that served them."""
        tables = self.tables
        names = [name for name, _ in tables.shape.fields]
        return {
            name: dict(zip(_TIERS, counts, strict=True))
            for name, counts in zip(names, tables.hits.tolist(), strict=True)
        }

    def verify(self) -> list[bool | None]:
        """Whether the rows in memory have the trainer's last digest, by partition; None while rows are under way."""
        return self.state.check_rows()

    def figures(self) -> Iterator[Figure]:
        """The figures of the metrics; may be called in any thread."""
        state, staleness_ms = self.state, self.staleness_ms()
        yield Figure("replica_staleness_seconds", None if staleness_ms is None else staleness_ms / 1000)
        yield Figure("replica_trained_rows", self.as_of()["step"])
        yield Figure("replica_digest_mismatches_total", state.num_mismatches)
        yield Figure("replica_refused_records_total", state.num_refused)
        if state.served is None:
            return
        yield Figure("replica_hot_features", self.num_hot)
        for name, tiers in self.hits().items():
            for tier, count in tiers.items():
                yield Figure("replica_lookups_total", count, {"field": name, "tier": tier})


def sum_bags(
    vectors: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], num_fields: int
) -> npt.NDArray[np.float32]:
    """The sums (B, F, D) of the vectors (N, D) of bags that begin at offsets (B F,).

    Raises:
        BagError: a bag is empty, or the offsets do not begin at 0 or are not those of whole rows.
    """
    ends = np.append(offsets[1:], len(vectors))
    if len(offsets) % num_fields or (len(offsets) and offsets[0] != 0) or (ends <= offsets).any():
        raise BagError(
            f"offsets: got {len(offsets)}, expected a bag of one or more keys for each row and each of {num_fields} "
            "fields, from 0 on; hotstream.key_bags gives a key to a field without a value"
        )
    sums: npt.NDArray[np.float32] = np.add.reduceat(vectors, offsets, axis=0) if len(offsets) else vectors
    return sums.reshape(-1, num_fields, vectors.shape[1])
