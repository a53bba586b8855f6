"""`ClickBatch`: rows of a click log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.keys import Field, Keys
from streams.records.more_values import MoreValues, Weights

__all__ = ["NO_LABELS", "ClickBatch"]

NO_LABELS = (
    "the rows have no labels, expected 0 or 1 in each, from which a model learns; replay a log whose schema names a "
    "label, or join the labels to the rows first (docs/schema.md)"
)


@dataclass(frozen=True, kw_only=True)
class ClickBatch:
    """Rows of a click log.

    Attributes:
        label: (B,) int8, 0 or 1; None if the rows have none.
        dense: (B, D) float32, NaN where missing.
        keys: (B, F) uint64 feature keys; column f holds field number f + 1.
        event_time_ms: (B,) int64, milliseconds since 1970, UTC.
        fields: F categorical columns.
        dense_names: D dense columns.
        weight: (B,) float32, finite and not negative, each row's share of the loss; None if all weigh 1.
        more: the second and further values of fields; None if every field has one value in every row.
        key_weights: (B, F) float32, finite, the factor of each first value's vector in its field's sum; None if that of
            all values is 1.
    """

    label: npt.NDArray[np.int8] | None
    dense: npt.NDArray[np.float32]
    keys: Keys
    event_time_ms: npt.NDArray[np.int64]
    fields: tuple[Field, ...]
    dense_names: tuple[str, ...]
    weight: npt.NDArray[np.float32] | None = None
    more: MoreValues | None = None
    key_weights: Weights | None = None

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.event_time_ms)

    @property
    def every_key(self) -> Keys:
        """The keys of all values, each as often as it occurs: `keys`, or (B F + M,) with further values."""
        if self.more is None:
            return self.keys
        return np.concatenate([self.keys.reshape(-1), self.more.keys])

    def require_labels(self) -> npt.NDArray[np.int8]:
        """The (B,) labels.

        Raises:
            ValueError: the rows have none.
        """
        if self.label is None:
            raise ValueError(NO_LABELS)
        return self.label
