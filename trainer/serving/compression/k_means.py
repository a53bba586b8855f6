"""Weighted k-means, as Saec runs it: on the rows that matter most, then one pass that assigns all others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.serving.compression.codec import Vectors

__all__ = ["cluster", "nearest"]

_ROUNDS = 10
_SHARE = 0.98  # of the weight, that the rows clusters are made from carry
_DISTANCES = 1 << 22  # computed at once
Weights = npt.NDArray[np.float64]


def nearest(vectors: Vectors, centroids: Vectors) -> npt.NDArray[np.int64]:
    """The number (K,) of the centroid (k, d) nearest to each vector (K, d), by the squared distance."""
    found = np.zeros(len(vectors), np.int64)
    if not len(centroids):
        return found
    norms = np.square(centroids).sum(axis=1)
    piece = max(1, _DISTANCES // len(centroids))
    for start in range(0, len(vectors), piece):
        distances = norms - 2 * (vectors[start : start + piece] @ centroids.T)
        found[start : start + piece] = distances.argmin(axis=1)
    return found


def cluster(vectors: Vectors, weights: Weights, count: int, rng: np.random.Generator) -> Vectors:
    """At most `count` centroids (k, d) of vectors (K, d) that weigh (K,); all of the vectors if they are no more."""
    if len(vectors) <= count:
        return vectors
    chosen = _important(weights, count)
    vectors, weights = vectors[chosen], weights[chosen]
    if len(vectors) <= count:
        return vectors
    # Distinct rows with a probability that grows with their weight: the largest exponential clocks.
    clocks = rng.exponential(size=len(weights)) / np.maximum(weights, weights.max(initial=0.0) * 1e-9 + 1e-300)
    centroids = vectors[np.argsort(clocks, kind="stable")[:count]].copy()
    for _ in range(_ROUNDS):
        codes = nearest(vectors, centroids)
        mass: Weights = np.bincount(codes, weights, count).astype(np.float64)
        for column in range(vectors.shape[1]):
            sums = np.bincount(codes, weights * vectors[:, column], count)
            centroids[mass > 0, column] = sums[mass > 0] / mass[mass > 0]
        _revive(vectors, weights, codes, centroids, mass)
    return centroids


def _important(weights: Weights, count: int) -> npt.NDArray[np.int64]:
    """The fewest rows, `count` at least, that carry most of the weight."""
    order = np.argsort(-weights, kind="stable")
    carried = np.cumsum(weights[order])
    enough = int(np.searchsorted(carried, _SHARE * carried[-1])) + 1
    return np.sort(order[: max(enough, count)])


def _revive(
    vectors: Vectors, weights: Weights, codes: npt.NDArray[np.int64], centroids: Vectors, mass: Weights
) -> None:
    """Moves each centroid that no row reads to one of the rows whose weighted error is the largest."""
    dead = np.flatnonzero(mass == 0)
    if len(dead):
        errors = weights * np.square(vectors - centroids[codes]).sum(axis=1)
        centroids[dead] = vectors[np.argsort(-errors, kind="stable")[: len(dead)]]
