"""Bags of several values equal `torch.nn.EmbeddingBag` over the same vectors, in values, gradients and importance."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from test_embedding_adaptive import rows_of
from test_embedding_module import DIM, FIELDS, assert_equal, both, hot, keys_of
from torch import Tensor, nn

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend
from trainer.embedding.bags import AdaptiveEmbeddingBag
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan
from trainer.errors import BagError, KeyTypeError

PLAN = EmbeddingPlan(
    layout=Layout(num_fields=FIELDS, capacity_rows=8, level_1_per_field=6, level_2_rows=12), dim=DIM, router_keys=32
)
ROWS = 5


def make(backend: Backend = "numba", **options: Any) -> AdaptiveEmbeddingBag:
    bag = AdaptiveEmbeddingBag(PLAN, seed=3, backend=backend, **options)
    bag.migrate(hot(keys_of(0)))
    return bag


def bags(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (N,) of ROWS x FIELDS bags of 0 to 3 values, where they begin, and weights (N,)."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 4, ROWS * FIELDS)
    fields = np.repeat(np.tile(np.arange(FIELDS), ROWS), lengths)
    keys = keys_of(seed, len(fields))[np.arange(len(fields)), fields]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    weights = torch.from_numpy(random.random(len(keys)).astype(np.float32))
    return torch.from_numpy(keys.view(np.int64)), torch.from_numpy(starts), weights


def loss_of(vectors: Tensor) -> Tensor:
    return vectors.sin().sum(dim=(1, 2)).mean()


@both
@pytest.mark.parametrize("mode", ["sum", "mean", "weighted"])
def test_bags_equal_torchs_and_so_do_the_updates_and_the_importance(backend: Backend, mode: str) -> None:
    keys, starts, weights = bags()
    chosen = weights.requires_grad_() if mode == "weighted" else None
    torch_mode: Any = "mean" if mode == "mean" else "sum"
    one = make(backend, mode=torch_mode)
    with torch.no_grad():
        each = AdaptiveEmbedding.forward(one, keys[:, None])[:, 0]
    theirs = nn.EmbeddingBag.from_pretrained(each, freeze=False, mode=torch_mode)
    expected = theirs(torch.arange(len(keys)), starts, chosen).view(ROWS, FIELDS, DIM)
    found = one(keys, starts, chosen)
    torch.testing.assert_close(found, expected)
    by_torch = torch.autograd.grad(loss_of(expected), [theirs.weight, *([weights] if chosen is not None else [])])
    loss_of(found).backward()  # type: ignore[no-untyped-call]
    if chosen is not None:
        torch.testing.assert_close(weights.grad, by_torch[1])
    importance = one.apply_gradients()
    scores = {int(key): 0.0 for key in keys.numpy().view(np.uint64)}
    for key, norm in zip(keys.numpy().view(np.uint64).tolist(), by_torch[0].norm(dim=1).tolist(), strict=True):
        scores[key] += ROWS * norm  # of the sum of the losses
    assert dict(zip(importance.keys.tolist(), importance.scores.tolist(), strict=True)) == pytest.approx(scores, 1e-4)


@both
def test_one_value_a_field_is_the_embedding_itself(backend: Backend) -> None:
    one, other, keys = make(backend), make(backend), torch.from_numpy(keys_of(1).view(np.int64))
    loss_of(one(keys)).backward()  # type: ignore[no-untyped-call]
    loss_of(other(keys.view(-1), torch.arange(keys.numel()))).backward()  # type: ignore[no-untyped-call]
    mine, theirs = one.apply_gradients(), other.apply_gradients()
    np.testing.assert_array_equal(mine.keys, theirs.keys)
    np.testing.assert_array_equal(mine.scores, theirs.scores)
    assert_equal(one, other)
    plain = AdaptiveEmbedding(PLAN, seed=9, backend=backend)
    plain.load_state_dict(one.state_dict())
    assert torch.equal(rows_of(plain), rows_of(one))


class Jagged:
    """What the embedding reads of a TorchRec `KeyedJaggedTensor`: all rows of a feature, then those of the next."""

    def __init__(self, keys: Tensor, starts: Tensor, weights: Tensor | None) -> None:
        ends = torch.cat([starts[1:], torch.tensor([len(keys)])])
        rows_of_field = [row * FIELDS + field for field in range(FIELDS) for row in range(ROWS)]
        parts = [torch.arange(int(starts[bag]), int(ends[bag])) for bag in rows_of_field]
        order = torch.cat(parts)
        self._values, self._weights = keys[order], None if weights is None else weights[order]
        lengths = torch.tensor([len(part) for part in parts])
        self._offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])

    def keys(self) -> list[str]:
        return ["site", "ad", "age"]

    def values(self) -> Tensor:
        return self._values

    def offsets(self) -> Tensor:
        return self._offsets

    def weights_or_none(self) -> Tensor | None:
        return self._weights


@pytest.mark.parametrize("has_weights", [True, False])
def test_a_keyed_jagged_tensor_gives_the_same_rows(has_weights: bool) -> None:
    keys, starts, weights = bags()
    bag = make()
    chosen = weights if has_weights else None
    torch.testing.assert_close(bag(Jagged(keys, starts, chosen)), bag(keys, starts, chosen))


def test_the_last_offset_and_arrays_are_accepted_and_empty_batches_are_empty() -> None:
    keys, starts, _ = bags()
    ended = make(include_last_offset=True)
    with_end = torch.cat([starts, torch.tensor([len(keys)])])
    assert torch.equal(ended(keys.numpy().view(np.uint64), with_end.int()), make()(keys, starts))
    none = torch.empty(0, dtype=torch.int64)
    assert make()(none, none).shape == (0, FIELDS, DIM)
    empty_bags = make()(none, torch.zeros(ROWS * FIELDS, dtype=torch.int64))
    assert torch.equal(empty_bags, torch.zeros(ROWS, FIELDS, DIM))


def test_wrong_bags_are_refused_with_what_was_expected() -> None:
    keys, starts, weights = bags()
    bag = make()
    with pytest.raises(BagError, match="got 14 bags, expected a multiple of the 3 fields"):
        bag(keys, starts[1:])
    with pytest.raises(BagError, match=r"expected numbers from 0 to \d+ that never decrease"):
        bag(keys, starts + 1)
    with pytest.raises(BagError, match="never decrease"):
        bag(keys, starts.flip(0) - starts[-1] + starts[0])
    with pytest.raises(BagError, match=r"weights: got shape \(1,\) in mode 'sum'"):
        bag(keys, starts, weights[:1])
    with pytest.raises(BagError, match=r"mode 'mean', expected .* in mode 'sum'"):
        make(mode="mean")(keys, starts, weights)
    with pytest.raises(BagError, match="got some without offsets"):
        bag(keys, weights=weights)
    with pytest.raises(BagError, match="int64 offsets"):
        bag(keys, starts.float())
    with pytest.raises(BagError, match="got 'max'"):
        make(mode="max")
    with pytest.raises(KeyTypeError):
        bag(keys.int(), starts)


def test_a_model_with_bags_can_be_compiled() -> None:
    keys, starts, weights = bags()
    bag = make()
    compiled = torch.compile(lambda *inputs: bag(*inputs).sin().sum(), backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code while it compiles
        found = compiled(keys, starts, weights)
    torch.testing.assert_close(found, bag(keys, starts, weights).sin().sum())


def test_offsets_and_weights_may_be_numpy_arrays_as_key_bags_gives_them() -> None:
    keys, starts, weights = bags(4)
    bag = make()
    as_numpy = bag(keys.numpy().view(np.uint64), starts.numpy(), weights.numpy())
    assert torch.equal(as_numpy, bag(keys, starts, weights))
