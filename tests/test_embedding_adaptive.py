"""The adaptive embedding: routes, migrations and updates, equal in the numba and torch bodies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sketch.changes import NO_ROW, Changes
from sketch.hashing import mix64_array
from sketch.keymap import ABSENT
from streams.keys import FIELD_SHIFT
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend, has_triton, is_interpreted
from trainer.embedding.gathers import mix64_tensor
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan, hash_plan, plan, plan_for_capacity
from trainer.embedding.stores.rows import RowOptimizer, RowStore
from trainer.embedding.stores.store import OptimizerName
from trainer.embedding.stores.two_level import LEVEL_1_RATE, shrink_factor
from trainer.errors import CapacityError, GradientError, KeyRangeError, PlanError

FIELDS, DIM, CAPACITY = 3, 5, 8  # an odd D: quarters of different lengths
BACKENDS: list[Backend] = ["numba", "torch"]
INTERPRETED = pytest.mark.skipif(
    not (has_triton() and is_interpreted()), reason="needs Triton, and no GPU: there it runs compiled, on CUDA"
)
BODIES = [*BACKENDS, pytest.param("triton", marks=INTERPRETED)]
Keys = npt.NDArray[np.uint64]


def make_plan(optimizer: OptimizerName = "adagrad", level_2: int = 12) -> EmbeddingPlan:
    layout = Layout(num_fields=FIELDS, capacity_rows=CAPACITY, level_1_per_field=6, level_2_rows=level_2)
    return EmbeddingPlan(layout=layout, dim=DIM, optimizer=optimizer, router_keys=32)


def make(
    backend: Backend = "numba", optimizer: OptimizerName = "adagrad", learning_rate: float = 0.1
) -> AdaptiveEmbedding:
    return AdaptiveEmbedding(
        make_plan(optimizer), optimizer=RowOptimizer(learning_rate=learning_rate), seed=3, backend=backend
    )


def keys_of(payloads: list[list[int]] | npt.NDArray[np.int64]) -> Keys:
    """Keys (B, F) of payloads (B, F)."""
    return (np.arange(1, FIELDS + 1, dtype=np.uint64) << FIELD_SHIFT) | np.asarray(payloads, np.uint64)


def random_keys(seed: int, rows: int = 64, values: int = 12) -> Keys:
    return keys_of(np.random.default_rng(seed).integers(0, values, (rows, FIELDS)) * 0x9E3779B9 % (1 << 32))


def changes_of(*changes: tuple[int, int]) -> Changes:
    """Changes from (key, row); `NO_ROW` makes a key cold."""
    keys, rows = zip(*changes, strict=True)
    return Changes(np.array(keys, np.uint64), np.array(rows, np.int32), np.ones(len(changes), np.float32))


def vectors_of(embedding: AdaptiveEmbedding | HashEmbedding, keys: Keys) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        return embedding(keys).numpy()


def learn(embedding: AdaptiveEmbedding | HashEmbedding, keys: Keys, weights: torch.Tensor) -> torch.Tensor:
    """One step on the mean over the batch of sum(weights * sin(vectors)); returns the gradient (B, F, D)."""
    vectors = embedding(keys)
    vectors.retain_grad()
    (weights * vectors.sin()).sum(dim=(1, 2)).mean().backward()
    assert vectors.grad is not None
    return vectors.grad


def rows_of(embedding: AdaptiveEmbedding | HashEmbedding) -> torch.Tensor:
    """A copy of the rows of all stores (R, D): unique, level 1, level 2."""
    if isinstance(embedding, HashEmbedding):
        return embedding.rows.values.clone()
    return torch.cat([store.values for store in stores_of(embedding)])


def stores_of(embedding: AdaptiveEmbedding) -> list[RowStore]:
    return [embedding.unique, embedding.shared.level_1, embedding.shared.level_2]


def sums_of(embedding: AdaptiveEmbedding) -> torch.Tensor:
    """The optimizer sums of all stores (R,)."""
    return torch.cat([store.state for store in stores_of(embedding)])


def routes_of(embedding: AdaptiveEmbedding, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What keys (N,) read of `rows_of`: a whole row (N,), and the rows (N, 4) of quarters, negative for none."""
    layout, row = embedding.plan.layout, embedding.router.route(keys).long()
    addresses = torch.as_tensor(embedding.shared.address(keys)).long()
    is_hot = row >= 0
    quarters = addresses[:, 1:] + layout.capacity_rows + layout.level_1_rows
    return torch.where(is_hot, row, addresses[:, 0] + layout.capacity_rows), torch.where(is_hot[:, None], -1, quarters)


def composed(table: torch.Tensor, routes: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts (N, D) of the vectors of (N,) routes, of float32 rows (R, D) as the layout specifies."""
    whole, quarters = routes
    dim = table.shape[1]
    parts = [
        torch.where(rows[:, None] < 0, 0.0, table[rows.clamp(min=0)])[:, part * dim // 4 : (part + 1) * dim // 4]
        for part, rows in enumerate(quarters.unbind(1))
    ]
    return table[whole], torch.cat(parts, dim=1) if parts else torch.zeros_like(table[whole])


def rates_of(embedding: AdaptiveEmbedding, learning_rate: float) -> torch.Tensor:
    """The learning rate (R, 1) of each row of `rows_of`."""
    factors = [1.0, LEVEL_1_RATE, 1.0]
    sizes = [len(store.values) for store in stores_of(embedding)]
    return torch.cat([torch.full((size, 1), learning_rate * one) for size, one in zip(sizes, factors, strict=True)])


def weights_for(keys: Keys, seed: int = 0) -> torch.Tensor:
    return torch.randn(*keys.shape, DIM, generator=torch.Generator().manual_seed(seed))


def test_torch_hash_equals_numpy_hash_also_over_two_to_the_63() -> None:
    words = np.random.default_rng(0).integers(0, 1 << 64, 1000, dtype=np.uint64)
    words[:4] = [0, 1, (1 << 64) - 1, 1 << 63]
    hashed = mix64_tensor(torch.from_numpy(words.view(np.int64))).numpy().view(np.uint64)
    np.testing.assert_array_equal(hashed, mix64_array(words))


def test_both_bodies_of_the_router_agree() -> None:
    numba, torch_body = make("numba"), make("torch")
    keys = random_keys(1, rows=500, values=200)
    some = np.unique(keys)[:60]
    changes = changes_of(
        *[(int(key), row) for row, key in enumerate(some[:CAPACITY])],
        *[(int(key), NO_ROW) for key in some[CAPACITY:]],
    )
    numba.migrate(changes)
    torch_body.migrate(changes)
    words = torch.from_numpy(keys.reshape(-1).view(np.int64))
    for mine, other in zip(routes_of(numba, words), routes_of(torch_body, words), strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())
    row, quarters = (rows.numpy() for rows in routes_of(numba, words))
    is_hot = np.isin(keys, some[:CAPACITY]).reshape(-1)
    np.testing.assert_array_equal(row < CAPACITY, is_hot)
    np.testing.assert_array_equal(quarters < 0, np.repeat(is_hot[:, None], 4, axis=1))


def test_each_field_has_its_range_of_level_1_and_all_share_level_2() -> None:
    embedding = make()
    layout = embedding.plan.layout
    keys = random_keys(2, rows=300, values=1 << 20)
    routes = routes_of(embedding, torch.from_numpy(keys.reshape(-1).view(np.int64)))
    row, quarters = routes[0].numpy().reshape(keys.shape), routes[1].numpy().reshape(*keys.shape, 4)
    for field in range(FIELDS):
        start = CAPACITY + 6 * field
        assert set(row[:, field]) == set(range(start, start + 6))
        for part in range(4):
            assert set(quarters[:, field, part]) == set(range(CAPACITY + layout.level_1_rows, layout.num_rows))
    assert len(np.unique(quarters.reshape(-1, 4), axis=0)) > 0.95 * keys.size, "quarters make many vectors of few rows"


@pytest.mark.parametrize("backend", BODIES)
def test_without_a_second_level_there_is_one_row_per_key(backend: Backend) -> None:
    embedding = AdaptiveEmbedding(make_plan(level_2=0), optimizer=RowOptimizer(learning_rate=0.1), backend=backend)
    keys = random_keys(3)
    embedding.migrate(changes_of((int(keys[0, 0]), 0)))
    row, quarters = routes_of(embedding, torch.from_numpy(keys.reshape(-1).view(np.int64)))
    assert quarters.shape == (keys.size, 0)
    expected = rows_of(embedding)[row].view(*keys.shape, DIM)
    np.testing.assert_array_equal(vectors_of(embedding, keys), expected.numpy())
    learn(embedding, keys, weights_for(keys))
    embedding.apply_gradients()
    assert not np.array_equal(vectors_of(embedding, keys), expected.numpy())


@pytest.mark.parametrize("backend", BODIES)
def test_promotion_keeps_the_vector_for_every_field(backend: Backend) -> None:
    embedding = make(backend)
    keys = keys_of([[11, 12, 13], [21, 22, 23], [31, 32, 33]])
    embedding.migrate(changes_of((int(keys[2, 0]), 0)))
    learn(embedding, keys, weights_for(keys))
    embedding.apply_gradients()
    before = vectors_of(embedding, keys)
    report = embedding.migrate(
        changes_of(
            *[(int(key), 1 + row) for row, key in enumerate(keys[:2].reshape(-1))],
            (int(keys[2, 0]), 7),  # from another row
        )
    )
    np.testing.assert_allclose(vectors_of(embedding, keys), before, rtol=1e-6, atol=1e-7)  # divided by a gate
    assert (report.promoted, report.moved) == (6, 1)
    assert torch.equal(sums_of(embedding)[1:7], torch.zeros(6)), "the optimizer starts afresh"
    assert sums_of(embedding)[7] == sums_of(embedding)[0] > 0, "a moved row takes its state along"


@pytest.mark.parametrize("backend", BODIES)
def test_migrate_leaves_untouched_keys_untouched(backend: Backend) -> None:
    embedding = make(backend)
    keys = random_keys(4, values=40)
    distinct = np.unique(keys)
    embedding.migrate(changes_of(*[(int(key), row) for row, key in enumerate(distinct[:4])]))
    before = vectors_of(embedding, keys)
    changed = [(int(distinct[0]), NO_ROW), (int(distinct[10]), 0), (int(distinct[11]), NO_ROW)]
    embedding.migrate(changes_of(*changed))
    named = np.isin(keys, np.array([key for key, _ in changed], np.uint64))
    np.testing.assert_array_equal(vectors_of(embedding, keys)[~named], before[~named])


def test_the_latest_record_that_names_a_row_owns_it() -> None:
    embedding = make()
    one, two, three = (int(key) for key in keys_of([[1, 2, 3]])[0])
    embedding.migrate(changes_of((one, 5)))
    report = embedding.migrate(changes_of((two, 5)))
    assert (report.promoted, report.demoted, report.evicted) == (1, 1, 1)
    report = embedding.migrate(changes_of((one, 5), (three, 5), (three, NO_ROW)))
    values = embedding.router.values(np.array([one, two, three], np.uint64))
    np.testing.assert_array_equal(values, [ABSENT, ABSENT, ABSENT])
    assert (report.promoted, report.demoted, report.evicted, report.ignored) == (0, 1, 1, 3)


def test_a_row_beyond_the_capacity_is_refused_and_changes_nothing() -> None:
    embedding = make()
    keys = keys_of([[1, 2, 3]])
    with pytest.raises(CapacityError, match=r"names unique row 8, this trainer has 0 to 7.*--capacity"):
        embedding.migrate(changes_of((int(keys[0, 0]), 0), (int(keys[0, 1]), CAPACITY)))
    assert len(embedding.router) == 0


class Oracle:
    """An oracle that applies the rules of the assignments topic one change at a time."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}

    def apply(self, changes: Changes) -> None:
        for key, row in zip(changes.key.tolist(), changes.row.tolist(), strict=True):
            if row != NO_ROW:
                self.values = {other: value for other, value in self.values.items() if value != row}
                self.values[key] = row
            else:
                self.values.pop(key, None)


one_change = st.tuples(st.integers(1, 12), st.sampled_from([NO_ROW, *range(CAPACITY)]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(one_change, min_size=1, max_size=14), min_size=1, max_size=5), st.sampled_from(BACKENDS))
def test_any_batches_of_changes_equal_one_change_at_a_time(
    batches: list[list[tuple[int, int]]], backend: Backend
) -> None:
    embedding, oracle = make(backend), Oracle()
    for batch in batches:
        changes = changes_of(*[((1 << 56) | payload, row) for payload, row in batch])
        hot_before = embedding.num_hot
        report = embedding.migrate(changes)
        oracle.apply(changes)
        keys, values = embedding.router.items()
        assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == oracle.values
        assert embedding.num_hot == hot_before + report.promoted - report.demoted <= CAPACITY
        rows = values[values >= 0]
        assert len(np.unique(rows)) == len(rows)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_updates_equal_a_dense_reference(backend: Backend, optimizer: OptimizerName) -> None:
    embedding = make(backend, optimizer)
    keys = random_keys(5, rows=16 if backend == "triton" else 64)  # interpreted, it is slow
    distinct = np.unique(keys)
    embedding.migrate(changes_of(*[(int(key), row) for row, key in enumerate(distinct[:5])]))
    routes = routes_of(embedding, torch.from_numpy(keys.reshape(-1).view(np.int64)))
    table, rates = rows_of(embedding).requires_grad_(), rates_of(embedding, 0.1)
    keep = torch.ones(len(table))
    keep[routes[1][routes[1] >= 0].unique()] = shrink_factor(len(keys))
    state, gate, gate_state = torch.zeros(len(table)), torch.ones(FIELDS, 3), torch.zeros(FIELDS, 3)
    is_hot = (routes[0] < CAPACITY).view(keys.shape)
    assert is_hot.any()
    assert not is_hot.all()
    for step in range(4):
        gate, weights = gate.detach().requires_grad_(), weights_for(keys, step)
        whole, second = (part.view(*keys.shape, DIM) for part in composed(table, routes))
        first_gate = torch.where(is_hot, gate[:, 0], gate[:, 1])
        vectors = whole * first_gate[..., None] + second * gate[:, 2, None]
        loss = (weights * vectors.sin()).sum(dim=(1, 2)).mean()
        gradient, gate_gradient = torch.autograd.grad(loss, (table, gate))
        state += gradient.square().mean(dim=1)
        divisor = state.sqrt()[:, None] + RowOptimizer.epsilon if optimizer == "adagrad" else 1.0
        table = (keep[:, None] * table - rates * gradient / divisor).detach().requires_grad_()
        gate_state = gate_state + gate_gradient.square()
        gate = (gate - 0.1 * gate_gradient / (gate_state.sqrt() + 1e-6)).detach()
        learn(embedding, keys, weights)
        embedding.apply_gradients()
    torch.testing.assert_close(rows_of(embedding), table.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedding.gate.values, gate, rtol=1e-4, atol=1e-4)
    assert ((gate != 1) == (gate_state > 0)).all(), "a gate learns where its part occurs"


@pytest.mark.parametrize("backend", BODIES)
def test_importance_is_the_sum_of_raw_gradient_norms_per_sample(backend: Backend) -> None:
    embedding = make(backend)
    keys = random_keys(6)
    gradient = learn(embedding, keys, weights_for(keys))
    importance = embedding.apply_gradients()
    norms = gradient.norm(dim=2).numpy() * len(keys)
    assert len(np.unique(importance.keys)) == len(importance.keys)
    assert set(importance.keys.tolist()) == set(keys.reshape(-1).tolist())
    expected = [norms[keys == key].sum() for key in importance.keys]
    np.testing.assert_allclose(importance.scores, expected, rtol=1e-5)


def test_forward_changes_nothing_and_a_step_is_deterministic() -> None:
    one, other = make(), make()
    keys = random_keys(7)
    before = {name: tensor.clone() for name, tensor in one.tensors().items()}
    for _ in range(3):
        one(keys)
        vectors_of(one, keys)
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, before[name]), name
    assert not one.has_captured
    for embedding in (one, other):
        learn(embedding, keys, weights_for(keys))
        embedding.apply_gradients()
    assert torch.equal(rows_of(one), rows_of(other))


def test_read_only_keys_of_an_arrow_batch_are_accepted() -> None:
    keys = random_keys(8)
    keys.flags.writeable = False
    assert vectors_of(make(), keys).shape == (*keys.shape, DIM)


def test_keys_of_other_fields_are_refused() -> None:
    for embedding in (make(), HashEmbedding(hash_plan(4096, DIM, FIELDS))):
        for unknown in (1, (FIELDS + 1) << 56):
            with pytest.raises(KeyRangeError, match="field number is not 1 to 3"):
                embedding(np.full((1, FIELDS), unknown, np.uint64))


def test_migrate_between_backward_and_update_is_refused() -> None:
    embedding = make()
    keys = random_keys(9)
    learn(embedding, keys, weights_for(keys))
    with pytest.raises(GradientError, match="apply_gradients before migrate"):
        embedding.migrate(changes_of((int(keys[0, 0]), 0)))
    embedding.apply_gradients()
    vectors = embedding(keys)
    embedding.migrate(changes_of((int(keys[0, 0]), 0)))
    vectors.sum().backward()
    with pytest.raises(GradientError, match="between forward and apply_gradients"):
        embedding.apply_gradients()


def test_several_forwards_of_a_step_add_up() -> None:
    embedding = make(optimizer="sgd")
    keys = random_keys(10)
    weights = weights_for(keys)
    (embedding(keys) * weights).sum().backward()
    (embedding(keys) * weights).sum().backward()
    twice = embedding.apply_gradients()
    other = make(optimizer="sgd")
    (other(np.concatenate([keys, keys])) * torch.cat([weights, weights])).sum().backward()
    once = other.apply_gradients()
    np.testing.assert_array_equal(twice.keys, once.keys)
    np.testing.assert_allclose(
        2 * twice.scores, once.scores, rtol=1e-6
    )  # a score counts a mean over twice as many rows
    np.testing.assert_allclose(vectors_of(embedding, keys), vectors_of(other, keys), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
@pytest.mark.parametrize("backend", BODIES)
def test_the_hash_table_equals_a_dense_reference(backend: Backend, optimizer: OptimizerName) -> None:
    sizes = hash_plan(3000, DIM, FIELDS, optimizer=optimizer)
    embedding = HashEmbedding(sizes, optimizer=RowOptimizer(learning_rate=0.1), backend=backend)
    keys = random_keys(11)
    lookup = embedding.look_up(torch.from_numpy(keys.reshape(-1).view(np.int64)), len(keys))
    if backend == "triton":
        rows = lookup.routed.long()
    else:
        reads = lookup.reads["rows"]
        rows = torch.as_tensor(reads.addresses)[:, 0].long()
        rows = rows if reads.inverse is None else rows[torch.from_numpy(reads.inverse).long()]
    table = rows_of(embedding).requires_grad_()
    weights = weights_for(keys)
    vectors = table[rows].view(*keys.shape, DIM)
    (gradient,) = torch.autograd.grad((weights * vectors.sin()).sum(dim=(1, 2)).mean(), table)
    divisor = gradient.square().mean(dim=1).sqrt()[:, None] + RowOptimizer.epsilon if optimizer == "adagrad" else 1.0
    learn(embedding, keys, weights)
    embedding.apply_gradients()
    expected = (table - 0.1 * gradient / divisor).detach()
    torch.testing.assert_close(rows_of(embedding), expected, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(20_000, 3_000_000), st.sampled_from([4, 16, 64]), st.sampled_from(["adagrad", "sgd"]))
def test_nbytes_equal_what_is_allocated_and_fit_the_budget(size: int, dim: int, optimizer: OptimizerName) -> None:
    sizes = plan(size, dim, 26, optimizer=optimizer)
    embedding = AdaptiveEmbedding(sizes)
    allocated = embedding.nbytes
    assert {name: allocated[name] for name in sizes.nbytes} == sizes.nbytes
    for part, tensors in (("rows", rows_of(embedding)), ("optimizer", sums_of(embedding))):
        assert allocated[part] == tensors.untyped_storage().nbytes()
    assert 0.97 * size - 27 * (dim + 1) * 4 <= allocated["total"] <= size
    baseline = HashEmbedding(hash_plan(allocated["total"], dim, 26, optimizer=optimizer))
    assert 0 <= allocated["total"] - baseline.nbytes["total"] <= 27 * (dim + 1) * 4


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(PlanError, match="too few for 26 fields"):
        plan(1000, 16, 26)
    with pytest.raises(PlanError, match="at least 1"):
        plan_for_capacity(0, 16, 26)
    assert plan_for_capacity(1000, 16, 26).capacity_rows == 1000


def test_memory_stays_flat_over_many_distinct_keys() -> None:
    embedding = make()
    before = embedding.nbytes
    for step in range(20):
        keys = random_keys(step, rows=2000, values=1 << 30)
        learn(embedding, keys, weights_for(keys))
        embedding.apply_gradients()
    assert embedding.nbytes == before
