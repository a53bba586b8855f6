"""Rows of four bits with a periodic scale: what they hold, how they round, and when the scale follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.evaluate.methods.dqrm import PeriodicRows, build
from trainer.evaluate.methods.method import Brief, Infeasible


def make(period=5.0, optimizer="sgd", learning_rate=1.0):
    brief = Brief(
        budget_bytes=10_000,
        dim=6,
        field_sizes=(3, 5),
        optimizer=optimizer,
        learning_rate=learning_rate,
        knobs={"period": period},
    )
    return PeriodicRows(brief, np.array([3, 5]))


def step(rows, numbers, gradient):
    """One step with the same gradient at every value of some rows."""
    rows(np.asarray(numbers)).mul(gradient).sum().backward()
    rows.learn()


def read(rows, numbers=range(8)):
    with torch.no_grad():
        return rows.gather(np.asarray(numbers))


def test_values_are_whole_multiples_of_the_scale_of_their_field():
    rows = make()
    rows.scales[1] = 0.25
    whole = read(rows) / rows.scales[[0] * 3 + [1] * 5][:, None]
    assert torch.allclose(whole, whole.round(), atol=1e-5)
    assert whole.abs().max() <= 7


def test_a_step_rounds_to_one_of_the_two_neighbours_and_to_the_value_in_the_mean():
    rows = make(period=1e9)
    before, scale = read(rows), rows.scales[0]
    rows._write(np.arange(3), torch.zeros(3, 6))  # noqa: SLF001
    wanted, seen = torch.full((3, 6), 2.3) * scale, []
    for _ in range(400):
        rows._write(np.arange(3), wanted)  # noqa: SLF001
        seen.append(read(rows, range(3)) / scale)
    assert set(torch.stack(seen).round().unique().tolist()) == {2.0, 3.0}
    assert torch.stack(seen).mean().item() == pytest.approx(2.3, abs=0.03)
    assert torch.equal(read(rows, range(3, 8)), before[3:])


def test_what_exceeds_the_scale_is_cut_until_the_scale_is_renewed_to_hold_it():
    rows = make(period=3)
    scale = rows.scales.clone()
    for number in (1, 2):
        step(rows, [0], -2.0)
        assert read(rows, [0]).max() == pytest.approx(7 * scale[0].item())
        assert torch.equal(rows.scales, scale), number
    step(rows, [0], -2.0)
    assert rows.scales[0] == pytest.approx((7 * scale[0].item() + 2.0) / 7)
    assert rows.scales[1] <= scale[1]  # the values of the other field use its scale fully, or it shrinks


def test_a_scale_that_is_too_large_shrinks():
    rows = make(period=1)
    rows.scales[1] = 100.0
    rows._write(np.arange(3, 8), torch.zeros(5, 6))  # noqa: SLF001
    step(rows, [4], 0.001)
    assert rows.scales[1].item() == pytest.approx(0.001 / 7)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_equal_seeds_give_equal_rows_and_the_bytes_are_counted(optimizer):
    first, again = (make(optimizer=optimizer, learning_rate=0.1) for _ in range(2))
    for rows in (first, again):
        for number in range(12):
            step(rows, [number % 8, 3], 0.5)
    assert torch.equal(read(first), read(again))
    assert first.nbytes == 8 * 3 + 2 * 8 + (8 * 4 if optimizer == "adagrad" else 0)


def test_an_infeasible_budget_names_the_bytes_that_suffice():
    refused = build(Brief(budget_bytes=20, dim=16, field_sizes=(30, 40)))
    assert isinstance(refused, Infeasible)
    needed = int(refused.reason.split("need ")[1].split()[0])
    assert not isinstance(build(Brief(budget_bytes=needed, dim=16, field_sizes=(30, 40))), Infeasible)
    assert isinstance(build(Brief(budget_bytes=needed - 1, dim=16, field_sizes=(30, 40))), Infeasible)
