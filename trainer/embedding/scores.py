"""The scores of the keys of each click record, for a step that trains several records as one batch.

A key's score is the sum of its lookups' gradient norms, so the scores of a batch's records are parts of a sum.

    N lookups, R records, P pairs of a record and one of its keys
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding.lookup import Lookup, Scores, distinct

__all__ = ["score_records"]


def score_records(lookup: Lookup, gradient: Tensor) -> Scores | None:
    """The scores of the keys of each click record of a pass; None if it has one record.

    Args:
        lookup: the lookups (N,) of a batch, row by row.
        gradient: (N, D), at their vectors.
    """
    if not lookup.record_lookups:
        return None
    norms = gradient.norm(dim=1) * lookup.batch_rows
    ends = list(accumulate(lookup.record_lookups))
    if lookup.inverse is None:
        return _score_torch(lookup.keys, norms, ends)
    return _score_numba(lookup.keys.numpy().view(np.uint64)[lookup.inverse], norms.numpy(), ends)


def _score_numba(keys: npt.NDArray[np.uint64], norms: npt.NDArray[np.float32], ends: Sequence[int]) -> Scores:
    """The scores of each record, its keys in order of first occurrence.

    Args:
        keys: (N,) keys of the lookups, record by record.
        norms: (N,) gradient norms, times the rows of the batch.
        ends: (R,) the end of each record's lookups.
    """
    found, sums, start = [], [], 0
    for end in ends:
        unique, inverse = distinct(keys[start:end])
        found.append(unique.view(np.int64))
        sums.append(np.bincount(inverse, norms[start:end], len(unique)).astype(np.float32))
        start = end
    return Scores(
        keys=torch.from_numpy(np.concatenate(found)),
        scores=torch.from_numpy(np.concatenate(sums)),
        counts=torch.tensor([len(one) for one in found]),
    )


def _score_torch(keys: Tensor, norms: Tensor, ends: Sequence[int]) -> Scores:
    """As `_score_numba`, each record's keys in ascending order, padded to N; the torch body.

    No shape depends on the data, so it does not synchronise with the device.
    """
    num_records, positions = len(ends), torch.arange(len(keys), device=keys.device)
    records = torch.zeros_like(keys)
    for end in ends[:-1]:
        records += positions >= end
    ordered, order = keys.sort(stable=True)  # so equal keys stay in the order of their records
    of_ordered = records[order]
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]) | (of_ordered[1:] != of_ordered[:-1])
    pair = is_new.cumsum(0) - 1  # (N,)
    sums = torch.zeros_like(norms).index_add_(0, pair, norms[order])
    pair_keys = torch.zeros_like(keys).scatter_(0, pair, ordered)
    pair_records = torch.full_like(records, num_records).scatter_(0, pair, of_ordered)
    by_record, position = pair_records.to(torch.int16).sort(stable=True)
    counts = torch.zeros(num_records + 1, dtype=torch.int64, device=keys.device)
    counts.index_add_(0, by_record.long(), torch.ones_like(records))
    return Scores(keys=pair_keys[position], scores=sums[position], counts=counts[:num_records])
