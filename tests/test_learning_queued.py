"""The step that only queues work: nothing in it waits for the device, and the device decides whether it counts.

The torch body on a CPU takes the same path as on CUDA, so that it is tried without a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from synchronising_calls import recorded_calls
from test_embedding_cuda import INTERPRETED
from trainer_batches import NUM_FIELDS, click_batch

from sketch.changes import Changes
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.plans import hash_plan, plan_for_capacity
from trainer.embedding.stores.registry import DEFAULT_LEARNING_RATE, ROW_FORMATS
from trainer.embedding.stores.rows import RowOptimizer
from trainer.learning.dense_part import DENSE_OPTIMIZERS, DenseOptimizer, DenseOptions
from trainer.learning.models import build_model
from trainer.learning.trainer import ADAPTIVE, HASH, Trainer

CAPACITY, DIM = 60, 8
ON_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: run `make gpu` where there is one"),
]
WHERE: list[tuple[str, Backend]] = [("cpu", "torch"), ("cuda", "torch"), ("cuda", "triton")]


def marks_of(device: str) -> list[pytest.MarkDecorator]:
    """The marks of a test on a device."""
    return ON_CUDA if device == "cuda" else []


FAST = [pytest.param(*where, marks=marks_of(where[0])) for where in WHERE]
ALL = [*FAST, pytest.param("cpu", "triton", marks=INTERPRETED)]


def make_trainer(
    device: str = "cpu",
    backend: Backend = "torch",
    *,
    dense: DenseOptimizer | None = None,
    options: DenseOptions | None = None,
    row_format: str = "float32",
    compare: bool = True,
    rate: float = DEFAULT_LEARNING_RATE,
) -> Trainer:
    on = torch.device(device)
    plan = plan_for_capacity(CAPACITY, DIM, NUM_FIELDS, row_format=row_format)
    embedding = AdaptiveEmbedding(plan, optimizer=RowOptimizer(learning_rate=rate), device=on, backend=backend)

    def model() -> torch.nn.Module:
        return build_model("dlrm", num_dense=2, num_fields=NUM_FIELDS, dim=DIM)

    baseline = None
    if compare:
        sizes = hash_plan(embedding.nbytes["total"], DIM, NUM_FIELDS, row_format=row_format)
        baseline = (model(), HashEmbedding(sizes, device=on, backend=backend))
    return Trainer(model(), embedding, optimizer=dense, options=options, baseline=baseline)


def changes_after(step: int) -> Changes:
    """Promotes keys of a step's batch, each in the row of an earlier one."""
    keys = np.unique(click_batch(64, step).keys)[:20]
    rows = ((np.arange(len(keys)) + 20 * step) % CAPACITY).astype(np.int32)
    return Changes(keys, rows, np.ones(len(keys), np.float32))


@contextmanager
def no_synchronisation(device: str) -> Iterator[None]:
    """Fails if a call in the block waits for the device."""
    if device == "cpu":
        with recorded_calls() as found:
            yield
        assert found == []
        return
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("device", "backend"), FAST)
@pytest.mark.parametrize("record_rows", [None, [16, 40, 8]], ids=["one record", "three records"])
@pytest.mark.parametrize("row_format", ["float32", "int8"])
def test_a_step_and_its_changes_wait_for_nothing(
    row_format: str, record_rows: list[int] | None, device: str, backend: Backend
) -> None:
    trainer = make_trainer(device, backend, row_format=row_format)
    for step in range(2):  # optimizers make their state, kernels are compiled, pinned memory is allocated
        trainer.step(click_batch(64, step), record_rows=record_rows)
        trainer.migrate(changes_after(step))
    with no_synchronisation(device):
        first = trainer.start(click_batch(64, 2), record_rows=record_rows)
        trainer.migrate(changes_after(2))
        second = trainer.start(click_batch(64, 3), record_rows=record_rows)
    assert np.isfinite([*first.finish().loss.values(), *second.finish().loss.values()]).all()


def test_the_recorder_finds_what_waits() -> None:
    numbers = torch.arange(4)
    with recorded_calls() as found:
        if numbers[0] == 0:
            numbers[numbers > 1].sum().item()
        numbers.cpu().numpy()
        float(numbers[1])
        numbers.nonzero()
        numbers[torch.tensor([0])] = 1
    expected = {"__bool__", "item", "cpu", "numpy", "__float__", "nonzero", "__setitem__ of a number"}
    assert expected | {"aten::index.Tensor with a mask"} <= set(found)


REFUSED = [
    *((ADAPTIVE, "adam", row_format, *where) for row_format in ROW_FORMATS for where in WHERE),
    *((HASH, optimizer, "bfloat16", *where) for optimizer in DENSE_OPTIMIZERS for where in WHERE),
]


@pytest.mark.parametrize(
    ("name", "optimizer", "row_format", "device", "backend"),
    [
        *(pytest.param(*one, marks=marks_of(one[3])) for one in REFUSED),
        pytest.param(ADAPTIVE, "adam", "float32", "cpu", "triton", marks=INTERPRETED),
    ],
)
def test_a_refused_step_changes_nothing_although_the_host_learns_of_it_later(
    name: str, optimizer: str, row_format: str, device: str, backend: Backend
) -> None:
    trainer = make_trainer(device, backend, dense=DenseOptimizer(name=optimizer), row_format=row_format)  # type: ignore[arg-type]
    rows = 8 if (device, backend) == ("cpu", "triton") else 64  # an interpreter is slow
    trainer.step(click_batch(rows, 0))
    weights = [weight for weight in trainer.learners[name].model.parameters() if weight.ndim == 2]
    good = weights[-1].detach().clone()
    uncounted = (".steps", ".step") if optimizer == "adagrad" else (".steps",)  # nothing depends on Adagrad's step
    before = {part: tensor.clone() for part, tensor in trainer.tensors().items() if not part.endswith(uncounted)}
    with torch.no_grad():
        weights[-1][0, 0] = float("nan")
    started = trainer.start(click_batch(rows, 1))
    with torch.no_grad():
        weights[-1].copy_(good)
    report = started.finish()
    assert (report.diverged, report.importances) == ((name,), ())
    after = trainer.tensors()
    for part, tensor in before.items():
        assert torch.equal(after[part], tensor), part
    assert trainer.step(click_batch(rows, 2)).diverged == ()


def test_without_a_cold_key_the_shared_rows_stay_as_they_are() -> None:
    trainer = make_trainer(compare=False)
    batch = click_batch(8, 0)
    keys = np.unique(batch.keys)
    trainer.migrate(Changes(keys, np.arange(len(keys), dtype=np.int32), np.ones(len(keys), np.float32)))
    before = trainer.embedding.shared.level_2.values.clone()
    trainer.step(batch)
    assert torch.equal(trainer.embedding.shared.level_2.values, before)


def train_both(one: Trainer, other: Trainer, steps: int) -> tuple[list[float], dict[int, float], dict[int, float]]:
    """Trains both on the same batches and changes; the differences of the losses, and the importance of each key."""
    differences, sums = [], ({}, {})  # type: ignore[var-annotated]
    for step in range(steps):
        reports = [trainer.step(click_batch(64, step)) for trainer in (one, other)]
        differences.append(abs(reports[0].loss[ADAPTIVE] - reports[1].loss[ADAPTIVE]))
        for report, total in zip(reports, sums, strict=True):
            assert report.importance is not None
            for key, score in zip(report.importance.keys.tolist(), report.importance.scores.tolist(), strict=True):
                total[key] = total.get(key, 0.0) + score
        for trainer in (one, other):
            trainer.migrate(changes_after(step))
    return differences, *sums


@pytest.mark.parametrize(("device", "backend"), FAST)
def test_two_hundred_steps_equal_the_cpus_in_loss_and_in_the_order_of_importance(device: str, backend: Backend) -> None:
    # At higher rates training amplifies differences of rounding tenfold every ten steps, on a CPU alone as well.
    rates: dict[str, Any] = {"dense": DenseOptimizer(learning_rate=1e-4), "rate": 0.02, "compare": False}
    reference, other = make_trainer(backend="numba", **rates), make_trainer(device, backend, **rates)
    differences, mine, theirs = train_both(reference, other, 200)
    assert max(differences) < 1e-4
    order = sorted(mine, key=mine.__getitem__, reverse=True)[:1000]
    assert mine.keys() == theirs.keys()
    scores = np.array([theirs[key] for key in order])
    assert (scores[1:] <= scores[:-1] * (1 + 1e-3)).all(), "scores within 1e-3 of each other may swap"
    np.testing.assert_allclose(scores, [mine[key] for key in order], rtol=1e-3)


@pytest.mark.parametrize(("device", "backend"), [("cpu", "numba"), *ALL])
def test_the_records_of_a_step_have_the_importance_that_is_theirs(device: str, backend: Backend) -> None:
    rows = [16, 40, 8]
    together, whole = make_trainer(device, backend), make_trainer(device, backend)
    batch = click_batch(64, 5)
    report, expected = together.step(batch, record_rows=rows), whole.step(batch)
    for name, tensor in whole.tensors().items():
        if device == "cpu":  # on a GPU torch's sums have no order
            assert torch.equal(tensor, together.tensors()[name]), f"{name}: the same model as from one record"
    assert expected.importance is not None
    totals: dict[int, float] = {}
    for importance, end, count in zip(report.importances, np.cumsum(rows), rows, strict=True):
        np.testing.assert_array_equal(np.sort(importance.keys), np.unique(batch.keys[end - count : end]))
        for key, score in zip(importance.keys.tolist(), importance.scores.tolist(), strict=True):
            totals[key] = totals.get(key, 0.0) + score
    assert totals == pytest.approx(
        dict(zip(expected.importance.keys.tolist(), expected.importance.scores.tolist(), strict=True)), rel=1e-5
    )


@pytest.mark.parametrize(("device", "backend"), FAST)
def test_bfloat16_products_stay_near_float32_and_train(device: str, backend: Backend) -> None:
    exact, rounded = (
        make_trainer(device, backend, options=DenseOptions(precision=name)) for name in ("float32", "bf16")
    )  # type: ignore[arg-type]
    for step in range(8):
        losses = [trainer.step(click_batch(64, step)).loss[ADAPTIVE] for trainer in (exact, rounded)]
        assert losses[0] != losses[1]
        assert losses[0] == pytest.approx(losses[1], abs=0.02)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:TensorFloat32:UserWarning")  # of torch's compiler
@pytest.mark.parametrize("mode", [pytest.param(mode, marks=ON_CUDA) for mode in ("graph", "compile")])
def test_a_graph_and_compiled_kernels_train_like_single_operators(mode: str) -> None:
    eager, other = (make_trainer("cuda", "triton", options=DenseOptions(mode=name)) for name in ("eager", mode))  # type: ignore[arg-type]
    for step in range(12):
        rows = 64 if step % 4 else 48  # two sizes
        reports = [trainer.step(click_batch(rows, step)) for trainer in (eager, other)]
        for name in (ADAPTIVE, HASH):
            assert reports[0].loss[name] == pytest.approx(reports[1].loss[name], abs=1e-4)
