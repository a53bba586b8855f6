"""A served model is plain tensors: it predicts what the embedding predicts, and goes to `torch.export` and ONNX."""

from __future__ import annotations

import importlib.util
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from test_embedding_module import both, hot, keys_of, make, train
from torch import Tensor, nn

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.backends import Backend
from trainer.embedding.plans import plan_for_capacity
from trainer.embedding.stores.registry import ROW_FORMATS
from trainer.learning.models import build_model
from trainer.serving.served import ServedEmbedding, ServedModel

FIELDS, DIM = 3, 8


def served() -> tuple[ServedModel, nn.Module, AdaptiveEmbedding]:
    embedding = AdaptiveEmbedding(plan_for_capacity(20, DIM, FIELDS, row_format="int8"))
    embedding.migrate(hot(keys_of(0)))
    model = build_model("dlrm", num_dense=2, num_fields=FIELDS, dim=DIM)
    return ServedModel(model, embedding).eval(), model, embedding


def inputs(seed: int, rows: int) -> tuple[Tensor, Tensor]:
    dense = torch.from_numpy(np.random.default_rng(seed).random((rows, 2), np.float32))
    return dense, torch.from_numpy(keys_of(seed, rows).view(np.int64))


@both
@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_a_served_embedding_gives_the_vectors_and_stays_as_it_is(backend: Backend, row_format: str) -> None:
    embedding = make(backend, row_format=row_format)
    train(embedding, range(4))
    words = torch.from_numpy(keys_of(9).view(np.int64))
    copy, expected = ServedEmbedding(embedding), embedding(words).detach()
    torch.testing.assert_close(copy(words), expected, rtol=1e-6, atol=1e-6)
    train(embedding, range(4, 8))
    torch.testing.assert_close(copy(words), expected, rtol=1e-6, atol=1e-6)
    assert not list(copy.parameters())


def test_a_served_model_is_exported_for_any_batch_and_loads_without_hotstream() -> None:
    whole, model, embedding = served()
    batch = torch.export.Dim("batch", min=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code while it traces
        program = torch.export.export(whole, inputs(0, 8), dynamic_shapes=({0: batch}, {0: batch}))
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file).module()
    dense, words = inputs(1, 33)
    with torch.no_grad():
        expected = model(dense, embedding(words))
        torch.testing.assert_close(loaded(dense, words), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: pip install 'hotstream[onnx]'",
)
def test_a_served_model_runs_in_an_onnx_runtime(tmp_path: Path) -> None:
    import onnxruntime  # noqa: PLC0415

    whole, model, embedding = served()
    batch = torch.export.Dim("batch", min=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole, inputs(0, 8), tmp_path / "model.onnx", dynamo=True, dynamic_shapes=({0: batch}, {0: batch})
        )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    dense, words = inputs(1, 33)
    names = [one.name for one in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (dense.numpy(), words.numpy()), strict=True)))
    with torch.no_grad():
        np.testing.assert_allclose(found, model(dense, embedding(words)), rtol=1e-4, atol=1e-5)
