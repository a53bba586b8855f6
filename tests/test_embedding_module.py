"""The embeddings as torch modules: state, copies, conversions, compilation, and when gradients are captured."""

from __future__ import annotations

import copy
import gc
import io
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from test_embedding_adaptive import rows_of
from torch import Tensor, nn

import trainer
from sketch.changes import Changes
from streams.keys import FIELD_SHIFT
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.layout import Layout
from trainer.embedding.lookup import Lookup
from trainer.embedding.migration import MigrationReport
from trainer.embedding.plans import EmbeddingPlan
from trainer.embedding.stores.store import OptimizerName
from trainer.errors import DeviceError, GradientError, KeyTypeError

FIELDS, DIM, CAPACITY = 3, 4, 8
BACKENDS: list[Backend] = ["numba", "torch"]
both = pytest.mark.parametrize("backend", BACKENDS)
Embedding = AdaptiveEmbedding | HashEmbedding


def make(
    backend: Backend = "numba",
    *,
    row_format: str = "float32",
    optimizer: OptimizerName = "adagrad",
    seed: int = 3,
    capacity: int = CAPACITY,
) -> AdaptiveEmbedding:
    layout = Layout(num_fields=FIELDS, capacity_rows=capacity, level_1_per_field=6, level_2_rows=12)
    plan = EmbeddingPlan(layout=layout, dim=DIM, optimizer=optimizer, router_keys=32, row_format=row_format)
    return AdaptiveEmbedding(plan, seed=seed, backend=backend)


def make_hashed(backend: Backend = "numba", seed: int = 3) -> HashEmbedding:
    layout = Layout(num_fields=FIELDS, capacity_rows=0, level_1_per_field=20, level_2_rows=0)
    return HashEmbedding(EmbeddingPlan(layout=layout, dim=DIM), seed=seed, backend=backend)


class Model(nn.Module):
    """A linear layer over an embedding that is nested two modules deep."""

    def __init__(self, embedding: Embedding, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.ModuleDict({"embedding": embedding})
        self.linear = nn.Linear(FIELDS * DIM, 1)

    @property
    def embedding(self) -> Embedding:
        embedding = self.inner["embedding"]
        assert isinstance(embedding, AdaptiveEmbedding | HashEmbedding)
        return embedding

    def forward(self, keys: Tensor) -> Tensor:
        """The mean (,) over the batch."""
        logits: Tensor = self.linear(self.inner["embedding"](keys).flatten(1))
        return logits.sin().mean()


def keys_of(seed: int, rows: int = 32, values: int = 20) -> npt.NDArray[np.uint64]:
    payloads = np.random.default_rng(seed).integers(1, values, (rows, FIELDS)).astype(np.uint64)
    return (np.arange(1, FIELDS + 1, dtype=np.uint64) << FIELD_SHIFT) | payloads


def hot(keys: npt.NDArray[np.uint64], count: int = 6) -> Changes:
    chosen = np.unique(keys)[:count]
    return Changes(chosen, np.arange(count, dtype=np.int32), np.ones(count, np.float32))


def train(embedding: Embedding, steps: range) -> None:
    for step in steps:
        embedding(keys_of(step)).sin().sum(dim=(1, 2)).mean().backward()
        embedding.apply_gradients()
        if isinstance(embedding, AdaptiveEmbedding) and step % 3 == 0:
            embedding.migrate(hot(keys_of(step)))


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    expected, found = one.state_dict(), other.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def assert_differ(one: nn.Module, other: nn.Module) -> None:
    found = other.state_dict()
    assert not all(torch.equal(tensor, found[name]) for name, tensor in one.state_dict().items())


# ---- migrate and apply ---------------------------------------------------------------------------------------------


def test_apply_is_torchs_own_for_any_model_around_an_embedding() -> None:
    seen: list[nn.Module] = []
    model = Model(make())

    def init(module: nn.Module) -> None:
        seen.append(module)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)

    assert model.apply(init) is model
    assert torch.count_nonzero(model.linear.weight) == 0
    assert model.embedding in seen


def test_apply_with_changes_names_migrate() -> None:
    with pytest.raises(TypeError, match=r"call migrate\(changes\)"):
        make().apply(hot(keys_of(0)))  # type: ignore[arg-type]


def test_the_old_name_of_the_report_is_importable() -> None:
    assert trainer.ApplyReport is trainer.MigrationReport is MigrationReport
    assert make().migrate(hot(keys_of(0))) == trainer.ApplyReport(promoted=6)


# ---- state -----------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("row_format", ["float32", "bfloat16", "int8"])
def test_a_loaded_embedding_continues_bit_for_bit(backend: Backend, row_format: str) -> None:
    one, other = (make(backend, row_format=row_format, seed=seed) for seed in (3, 4))
    train(one, range(5))
    assert one.num_hot == 6
    assert str(other.load_state_dict(copy.deepcopy(one.state_dict()))) == "<All keys matched successfully>"
    assert other.num_hot == 6
    assert_equal(one, other)
    for embedding in (one, other):
        train(embedding, range(5, 9))
    assert_equal(one, other)


@both
def test_a_loaded_hash_table_continues_bit_for_bit(backend: Backend) -> None:
    one, other = make_hashed(backend), make_hashed(backend, seed=4)
    train(one, range(3))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for embedding in (one, other):
        train(embedding, range(3, 6))
    assert_equal(one, other)


@pytest.mark.parametrize("how", ["torch", "safetensors"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_larger_model_round_trips_through_a_file(tmp_path: Path, how: str, strict: bool) -> None:
    one, other = Model(make(row_format="int8")), Model(make(row_format="int8", seed=9), seed=1)
    train(one.embedding, range(4))
    path = tmp_path / "state"
    if how == "torch":
        torch.save(one.state_dict(), path)
        state = torch.load(path, weights_only=True)
    else:
        safetensors.torch.save_file(one.state_dict(), path)
        state = safetensors.torch.load_file(path)
    matched = other.load_state_dict(state, strict=strict)
    assert not matched.missing_keys
    assert not matched.unexpected_keys
    assert_equal(one, other)


def test_an_incomplete_state_loads_nothing_and_reports_all_of_it_missing() -> None:
    one, other = Model(make()), Model(make(seed=4))
    train(one.embedding, range(4))
    state = one.state_dict()
    del state["inner.embedding.router_keys"]
    before = copy.deepcopy(other.embedding)
    with pytest.raises(RuntimeError, match=r"Missing key.*inner\.embedding\.router_keys"):
        other.load_state_dict(state)
    matched = other.load_state_dict(state, strict=False)
    assert {"inner.embedding.router_keys", "inner.embedding.unique.values"} <= set(matched.missing_keys)
    assert_equal(before, other.embedding)


def test_an_unknown_name_in_a_state_is_reported() -> None:
    state = {**make().state_dict(), "stranger": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*stranger"):
        make().load_state_dict(state)
    assert make().load_state_dict(state, strict=False).unexpected_keys == ["stranger"]


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_another_size_or_beyond_the_capacity_is_refused(strict: bool) -> None:
    larger = make(capacity=CAPACITY + 4)
    with pytest.raises(RuntimeError, match="values: got"):
        make().load_state_dict(larger.state_dict(), strict=strict)
    state = make().state_dict() | {
        "router_keys": torch.tensor([1 << 56]),
        "router_values": torch.tensor([CAPACITY], dtype=torch.int32),
    }
    with pytest.raises(RuntimeError, match="unique rows 8 to 8, expected 0 to 7"):
        make().load_state_dict(state, strict=strict)


@pytest.mark.parametrize("name", ["shared.level_2.values", "gate", "router_keys", "router_values"])
def test_a_state_with_one_wrong_tensor_changes_nothing(name: str) -> None:
    one, other = make(), make(seed=4)
    train(one, range(4))
    before, state = copy.deepcopy(other), one.state_dict()
    wrong = torch.tensor([0, 0], dtype=torch.int32)  # for the rows of hot keys: two in one row
    state |= {name: wrong, **({"router_keys": torch.tensor([1 << 56, 2 << 56])} if name == "router_values" else {})}
    with pytest.raises(RuntimeError, match=r"got .*int32|share a unique row"):
        other.load_state_dict(state)
    assert_equal(before, other)
    assert other.num_hot == 0


# ---- copies ----------------------------------------------------------------------------------------------------------


def saved_and_loaded(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@both
@pytest.mark.parametrize("duplicate", [copy.deepcopy, saved_and_loaded])
def test_a_copy_is_equal_and_learns_independently(backend: Backend, duplicate: Callable[[Any], Any]) -> None:
    one = Model(make(backend, row_format="int8"))
    train(one.embedding, range(4))
    one(torch.from_numpy(keys_of(4).view(np.int64))).backward()  # captured gradients are copied, too
    other = duplicate(one)
    for model in (one, other):
        assert model.embedding.has_captured
        model.embedding.apply_gradients()
    assert_equal(one, other)
    before = copy.deepcopy(one.state_dict())
    train(other.embedding, range(5, 8))
    assert_differ(one, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())
    train(one.embedding, range(5, 8))
    assert_equal(one, other)


# ---- keys and batches ------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("make_one", [make, make_hashed])
def test_int64_and_uint64_keys_are_accepted_and_no_other_dtype(backend: Backend, make_one: Any) -> None:
    embedding, keys = make_one(backend), keys_of(0)
    words = torch.from_numpy(keys.view(np.int64))
    expected = embedding(keys)
    for same in (words, words.view(torch.uint64), keys.view(np.int64)):
        assert torch.equal(embedding(same), expected)
    for dtype in (torch.float32, torch.float64, torch.int32, torch.bool):
        with pytest.raises(KeyTypeError, match=f"got {dtype}, expected .*int64 or uint64"):
            embedding(words.to(dtype))
    for name in ("float64", "int32", "uint32", ">u8"):
        with pytest.raises(KeyTypeError, match=r"expected .*int64 or uint64"):
            embedding(keys.astype(name))
    with pytest.raises(KeyTypeError, match="list"):
        embedding(keys.tolist())


@both
@pytest.mark.parametrize("make_one", [make, make_hashed])
def test_an_empty_batch_learns_nothing(backend: Backend, make_one: Any) -> None:
    embedding = make_one(backend)
    before = copy.deepcopy(embedding.state_dict())
    vectors = embedding(np.empty((0, FIELDS), np.uint64))
    assert vectors.shape == (0, FIELDS, DIM)
    vectors.sum().backward()
    importance = embedding.apply_gradients()
    assert importance is None or len(importance.keys) == len(importance.scores) == 0
    after = embedding.state_dict()
    same = [name for name in before if name.endswith(("values", "state"))]
    assert len(same) >= 2
    assert all(torch.equal(after[name], before[name]) for name in same)


# ---- conversions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [
        lambda model: model.to("cpu"),
        lambda model: model.cpu(),
        lambda model: model.to(torch.float16),
        lambda model: model.half(),
        lambda model: model.double(),
        lambda model: model.bfloat16(),
    ],
)
def test_a_conversion_leaves_the_rows_alone(convert: Callable[[nn.Module], nn.Module]) -> None:
    model = Model(make())
    train(model.embedding, range(2))
    before = copy.deepcopy(model.embedding.state_dict())
    convert(model)
    after = model.embedding.state_dict()
    assert all(
        after[name].dtype == tensor.dtype and torch.equal(after[name], tensor) for name, tensor in before.items()
    )
    train(model.embedding, range(2, 4))


def test_a_move_to_another_device_is_refused_with_what_to_do() -> None:
    with pytest.raises(DeviceError, match=r"on cpu and cannot be moved to meta.*device=torch\.device\('meta'\)"):
        Model(make()).to("meta")


def test_a_model_around_an_embedding_can_be_compiled() -> None:
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("torch.compile needs a C compiler: install gcc")
    plain, other = Model(make()), Model(make())
    words = torch.from_numpy(keys_of(0).view(np.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code while it compiles
        compiled = torch.compile(other)
        for _ in range(2):
            expected, found = plain(words), compiled(words)
            torch.testing.assert_close(found, expected)
            for model, loss in ((plain, expected), (other, found)):
                loss.backward()
                model.embedding.apply_gradients()
    torch.testing.assert_close(rows_of(other.embedding), rows_of(plain.embedding))


def test_a_model_around_an_embedding_in_one_graph_is_refused_with_what_to_do() -> None:
    model = torch.compile(Model(make()), backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="compile with fullgraph=False"):
        model(torch.from_numpy(keys_of(0).view(np.int64)))


# ---- what is captured ------------------------------------------------------------------------------------------------


@both
def test_eval_under_no_grad_gives_vectors_and_captures_nothing(backend: Backend) -> None:
    embedding, keys = make(backend), keys_of(0)
    expected = embedding(keys).detach()
    embedding.eval()
    with torch.no_grad():
        vectors = embedding(keys)
    assert torch.equal(vectors, expected)
    assert not vectors.requires_grad
    assert not embedding.has_captured
    embedding.train()
    assert embedding(keys).requires_grad


@both
@pytest.mark.parametrize("num_passes", [2, 20])
@pytest.mark.parametrize("make_one", [make, make_hashed])
def test_accumulated_gradients_equal_one_merged_batch(backend: Backend, num_passes: int, make_one: Any) -> None:
    one, other = make_one(backend), make_one(backend)
    if isinstance(one, AdaptiveEmbedding):
        for embedding in (one, other):
            embedding.migrate(hot(keys_of(0)))
    parts = [keys_of(step, rows=8 + step) for step in range(num_passes)]
    for keys in parts:
        one(keys).sin().sum().backward()
    other(np.concatenate(parts)).sin().sum().backward()
    mine, expected = one.apply_gradients(), other.apply_gradients()
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    if expected is not None:
        assert set(mine.keys.tolist()) == set(expected.keys.tolist())
        assert len(mine.keys) == len(expected.keys)


@both
def test_several_forward_passes_of_one_loss_equal_one_merged_batch(backend: Backend) -> None:
    one, other = make(backend), make(backend)
    left, right = keys_of(0), keys_of(1)
    (one(left).sin().sum() + one(right).cos().sum()).backward()
    one.apply_gradients()
    both_of = other(np.concatenate([left, right]))
    (both_of[: len(left)].sin().sum() + both_of[len(left) :].cos().sum()).backward()
    other.apply_gradients()
    torch.testing.assert_close(rows_of(one), rows_of(other), rtol=1e-4, atol=1e-6)
    steps = [name for name in one.tensors() if name.endswith(".steps")]
    assert len(steps) == 3
    for name in steps:
        assert one.tensors()[name] == other.tensors()[name] == 1


def test_a_forward_whose_backward_never_comes_is_not_kept() -> None:
    embedding = make()
    gc.collect()
    before = sum(type(one) is Lookup for one in gc.get_objects())
    for step in range(5):
        embedding(keys_of(step)).sum()
    gc.collect()
    assert sum(type(one) is Lookup for one in gc.get_objects()) == before
    assert not embedding.has_captured


@both
@pytest.mark.parametrize("make_one", [make, make_hashed])
def test_a_loop_without_apply_gradients_warns_once_and_keeps_little(backend: Backend, make_one: Any) -> None:
    embedding, rows = make_one(backend), 77
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(150):
            embedding(keys_of(step, rows)).sum().backward()
    assert [str(one.message).count("apply_gradients()") for one in caught] == [1]
    held = [one for one in gc.get_objects() if type(one) is Tensor and one.shape == (rows * FIELDS, DIM)]
    assert len(held) <= 2 * 9, "at most nine passes and their gated vectors, the others are merged"


def test_captured_gradients_of_more_than_1024_passes_are_dropped() -> None:
    embedding, keys = make(optimizer="sgd"), keys_of(0, rows=1)
    before = rows_of(embedding)
    for _ in range(64):
        embedding(keys).sum().backward()
    with pytest.warns(RuntimeWarning, match="after 1024 passes they are dropped"):
        embedding(keys).sum().backward()
    for _ in range(65, 1025):
        embedding(keys).sum().backward()
    embedding.apply_gradients()
    other = make(optimizer="sgd")
    other(keys).sum().backward()
    other.apply_gradients()
    assert not torch.equal(rows_of(embedding), before)
    assert torch.equal(rows_of(embedding), rows_of(other))


def test_zero_grad_drops_captured_gradients() -> None:
    embedding = make()
    before = rows_of(embedding)
    embedding(keys_of(0)).sum().backward()
    embedding.zero_grad()
    assert not embedding.has_captured
    assert len(embedding.apply_gradients().keys) == 0
    assert torch.equal(rows_of(embedding), before)


@both
def test_a_second_backward_over_a_retained_graph_adds_up(backend: Backend) -> None:
    one, other = make(backend), make(backend)
    keys = keys_of(0)
    loss = one(keys).sin().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    other(np.concatenate([keys, keys])).sin().sum().backward()  # two passes over the rows are a batch of twice as many
    mine, expected = one.apply_gradients(), other.apply_gradients()
    torch.testing.assert_close(rows_of(one), rows_of(other))
    np.testing.assert_allclose(2 * mine.scores, expected.scores, rtol=1e-5)


def test_a_migration_between_forward_and_update_is_refused() -> None:
    embedding = make()
    vectors = embedding(keys_of(0))
    embedding.migrate(hot(keys_of(0)))
    vectors.sum().backward()
    with pytest.raises(GradientError, match="migrate between steps"):
        embedding.apply_gradients()
    assert not embedding.has_captured
