"""`attract`: rows of a store as centroids, which move towards the vectors that come to them (mini-batch k-means)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.embedding.stores.rows import RowStore

__all__ = ["attract"]

_MASS_KEPT = 0.99  # of a centroid's mass, each time that vectors come to it


def attract(
    store: RowStore, first: int, mass: npt.NDArray[np.float32], vectors: Tensor, weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """The numbers (K,), from 0, of the centroids nearest to vectors (K, d), each of which moves to the mean of its own.

    Args:
        store: whose rows `first` to `first` + k are the centroids.
        first: the first of them.
        mass: (k,) the weight of what came to each so far; what comes now is added.
        vectors: the vectors; they weigh (K,), and optimizer state stays.
        weights: their weights, more than 0.
    """
    addresses = torch.arange(first, first + len(mass))[:, None]
    centroids = store.read(addresses)  # (k, d)
    nearest = torch.cdist(vectors, centroids).argmin(dim=1)
    weighed = torch.from_numpy(weights)
    added = torch.zeros(len(centroids)).index_add_(0, nearest, weighed)
    sums = torch.zeros_like(centroids).index_add_(0, nearest, vectors * weighed[:, None])
    reached = added > 0
    held = torch.from_numpy(mass)
    kept = held[reached] * _MASS_KEPT + added[reached]
    share = added[reached] / kept
    means = sums[reached] / added[reached][:, None]
    moved = centroids[reached] + share[:, None] * (means - centroids[reached])
    store.write(addresses[reached], moved, state=store.state_of(addresses[reached]))
    held[reached] = kept
    return nearest.numpy()
