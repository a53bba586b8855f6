"""Scaled losses give the same rows and importance, and gradients that are not finite change nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from test_embedding_module import FIELDS, Model, assert_equal, both, hot, keys_of, make

from trainer.embedding.backends import Backend
from trainer.errors import DivergedError

SCALE = 2.0**16


@both
@pytest.mark.parametrize("num_passes", [1, 3, 12])
def test_a_scaled_loss_gives_the_rows_and_the_importance_of_the_loss_itself(backend: Backend, num_passes: int) -> None:
    one, other = make(backend), make(backend)
    for embedding in (one, other):
        embedding.migrate(hot(keys_of(0)))
    for step in range(num_passes):
        one(keys_of(step)).sin().sum(dim=(1, 2)).mean().backward()
        (SCALE * other(keys_of(step)).sin().sum(dim=(1, 2)).mean()).backward()
    expected, found = one.apply_gradients(), other.apply_gradients(scale=SCALE)
    np.testing.assert_array_equal(found.keys, expected.keys)
    np.testing.assert_array_equal(found.scores, expected.scores)  # a power of two: exactly
    assert_equal(one, other)


@both
def test_an_update_that_is_not_finite_is_skipped_if_the_loss_is_scaled_and_refused_otherwise(backend: Backend) -> None:
    embedding = make(backend)
    before = copy.deepcopy(embedding.state_dict())
    for bad in (torch.nan, torch.inf):
        (embedding(keys_of(0)).sum() * bad).backward()
        assert len(embedding.apply_gradients(scale=SCALE).keys) == 0
        (embedding(keys_of(0)).sum() * bad).backward()
        with pytest.raises(DivergedError, match=r"no row was changed: skip this batch .*scale=scaler\.get_scale"):
            embedding.apply_gradients()
        assert not embedding.has_captured
    assert all(torch.equal(tensor, before[name]) for name, tensor in embedding.state_dict().items())


def test_a_loop_with_a_grad_scaler_and_half_precision_learns() -> None:
    model = Model(make())
    optimizer, scaler = torch.optim.SGD(model.linear.parameters(), lr=0.1), torch.amp.GradScaler("cpu")
    words = torch.from_numpy(keys_of(0).view(np.int64))
    losses = []
    for _ in range(20):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(words)
        scaler.scale(loss).backward()
        importance = model.embedding.apply_gradients(scale=scaler.get_scale())  # type: ignore[call-arg]
        assert importance is not None
        assert len(importance.keys) <= words.numel()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    assert words.shape[1] == FIELDS
