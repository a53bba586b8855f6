"""The profile of a log's features: how many there are, how skewed their lookups are, and how far they drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.keys import FIELD_SHIFT, MISSING_WORD, Field, Keys
from trainer.advise.lookups import Lookups

__all__ = ["Drift", "FieldProfile", "LogProfile", "profile"]

_TOP_SHARES = (0.001, 0.01, 0.1)
_FEWEST_LOOKUPS = 5  # of a rank that counts for the exponent: rarer ones have noise of their own
_HOT_PART = 0.01  # of the features of one half: the hot set whose age the drift measures

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class FieldProfile:
    """One categorical column.

    Attributes:
        name: its name.
        features: distinct values, a missing one included.
        once: share of them that occur once.
        missing: share of the rows without a value.
        lookups_per_row: its values in a row, a missing one included: 1 unless the field has lists of values.
        top: share of the lookups of its most frequent value.
        exponent: Zipf's exponent, see `LogProfile`; None with fewer than three ranks.
    """

    name: str
    features: int
    once: float
    missing: float
    lookups_per_row: float
    top: float
    exponent: float | None


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How a hot set ages: the most frequent hundredth of the features of one half of the rows, in the other half.

    Attributes:
        new: share of the lookups of the second half whose features are not in the first.
        hits_same_time: share of the lookups of the odd rows that the hot set of the even rows holds: no time lies
            between the two.
        hits_later: the same for the hot set of the first half, and the lookups of the second.
    """

    new: float
    hits_same_time: float
    hits_later: float

    @property
    def lost(self) -> float:
        """The share of lookups that a hot set that does not follow loses to time."""
        return self.hits_same_time - self.hits_later


@dataclass(frozen=True, kw_only=True)
class LogProfile:
    """N rows of F fields.

    Attributes:
        rows: N.
        features: distinct features.
        once: share of them that occur once.
        growth: the features of all rows over those of the first half of the rows; 2 if every lookup is new.
        exponent: Zipf's exponent: minus the slope of log(lookups) over log(rank) at ranks 1, 2, 4, ..., least squares,
            of the features with at least 5 lookups.
        top_shares: share of the lookups of the most frequent .1, 1 and 10 % of the features, by that part.
        rank_shares: share of the lookups of the features up to a rank, by rank: 1, 10, 100, ... and the last one.
        counts: (features,) lookups of each, descending.
        drift: how a hot set ages.
        fields: the columns.
    """

    rows: int
    features: int
    once: float
    growth: float
    exponent: float | None
    top_shares: dict[float, float]
    rank_shares: dict[int, float]
    counts: Counts
    drift: Drift
    fields: tuple[FieldProfile, ...]

    def share_of(self, num_features: int) -> float:
        """Share of the lookups of the most frequent features, in hindsight."""
        return float(self.counts[:num_features].sum() / self.counts.sum())


def profile(lookups: Lookups, fields: Sequence[Field]) -> LogProfile:
    """The profile of L lookups, in the order of the log; at least 2 rows. O(L log L)."""
    distinct, ids, counts = np.unique(lookups.keys, return_inverse=True, return_counts=True)
    ranked = np.sort(counts)[::-1]
    shares = np.cumsum(ranked) / ids.size
    first_half = np.bincount(ids[lookups.rows < lookups.num_rows // 2], minlength=len(distinct))
    ranks = [10**power for power in range(int(math.log10(len(ranked))) + 1)]
    return LogProfile(
        rows=lookups.num_rows,
        features=len(distinct),
        once=float((counts == 1).mean()),
        growth=len(distinct) / max(1, int(np.count_nonzero(first_half))),
        exponent=_exponent(ranked),
        top_shares={part: float(shares[max(0, round(part * len(ranked)) - 1)]) for part in _TOP_SHARES},
        rank_shares={rank: float(shares[rank - 1]) for rank in dict.fromkeys([*ranks, len(ranked)])},
        counts=ranked,
        drift=_drift(ids, lookups, len(distinct)),
        fields=_fields(distinct, counts, fields, lookups.num_rows),
    )


def _exponent(ranked: Counts) -> float | None:
    """Zipf's exponent of descending counts; None with fewer than three ranks."""
    last = int(np.searchsorted(-ranked, -_FEWEST_LOOKUPS, side="right"))
    ranks = 2 ** np.arange(int(last).bit_length())
    ranks = ranks[ranks <= last]
    if len(ranks) < 3:
        return None
    return float(-np.polyfit(np.log(ranks), np.log(ranked[ranks - 1]), 1)[0])


def _drift(ids: npt.NDArray[np.intp], lookups: Lookups, num_features: int) -> Drift:
    """The drift of the feature numbers (L,) of the lookups."""

    def count(is_counted: npt.NDArray[np.bool_]) -> Counts:
        return np.bincount(ids[is_counted], minlength=num_features)

    def hits(past: Counts, lookups: Counts) -> float:
        num_hot = max(1, round(_HOT_PART * np.count_nonzero(past)))
        hot = np.argpartition(-past, num_hot - 1)[:num_hot]
        return float(lookups[hot].sum() / lookups.sum())

    is_first_half, is_even = lookups.rows < lookups.num_rows // 2, lookups.rows % 2 == 0
    before, after = count(is_first_half), count(~is_first_half)
    return Drift(
        new=float(after[before == 0].sum() / after.sum()),
        hits_same_time=hits(count(is_even), count(~is_even)),
        hits_later=hits(before, after),
    )


def _fields(distinct: Keys, counts: Counts, fields: Sequence[Field], num_rows: int) -> tuple[FieldProfile, ...]:
    """The profile of each column; the keys are sorted, so those of a field lie together."""
    numbers = np.arange(1, len(fields) + 2, dtype=np.uint64) << FIELD_SHIFT
    bounds = np.searchsorted(distinct, numbers)
    profiles = []
    for field, start, end in zip(fields, bounds[:-1], bounds[1:], strict=True):
        own = counts[start:end]
        missing = own[(distinct[start:end] & MISSING_WORD) == MISSING_WORD].sum()
        ranked = np.sort(own)[::-1]
        profiles.append(
            FieldProfile(
                name=field.name,
                features=len(own),
                once=float((own == 1).mean()),
                missing=float(missing / num_rows),
                lookups_per_row=float(own.sum() / num_rows),
                top=float(ranked[0] / own.sum()),
                exponent=_exponent(ranked),
            )
        )
    return tuple(profiles)
