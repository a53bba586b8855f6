"""`mpe`: the precision of a row by the rank of its feature (Mixed-Precision Embeddings, 2024): 16, 8, 4 or 2 bits.

    the most important features       bfloat16
    the next ones, twice as many      int8
    the next ones, four times as many int4
    all other features                a hashed row of the field, int8

`mpe-low` has 8, 4 and 2 bits instead of 16, 8 and 4.

Kept of the paper: groups by popularity, each with its own number of bits, and rare features that share. Not kept: the
search of the bits by gradient with a second training (a stream cannot train twice), its learned steps and offsets, and
0, 1 and 3 bits. Rows are trained in their format with stochastic rounding, so there is no float32 copy. The groups
follow the hot set: a feature that changes its rank is quantised again.
"""

from __future__ import annotations

from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.tiered import Tier, TieredRows, plan_tiers

__all__ = ["MixedPrecision", "build"]

_FORMATS = {"16-8-4": ("bfloat16", "int8", "int4"), "8-4-2": ("int8", "int4", "int2")}
_COLD = "int8"


class MixedPrecision(TieredRows):
    """Precision by rank. Knobs: `unique_share` (of the bytes, for tracked features), `bits` of the three tiers."""


def build(brief: Brief) -> MixedPrecision | Infeasible:
    """Three precisions of tracked features, and shared rows."""
    formats = _FORMATS[str(brief.knobs.get("bits", "16-8-4"))]
    tiers = [Tier(row_format=name, dim=brief.dim, part=2.0**step) for step, name in enumerate(formats)]
    planned = plan_tiers(brief, tiers, Tier(row_format=_COLD, dim=brief.dim))
    return planned if isinstance(planned, Infeasible) else MixedPrecision(brief, planned)
