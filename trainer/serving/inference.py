"""What a served model answers: its metadata, and outputs for inputs, as the Open Inference Protocol has them.

dense (B, M) FP32, keys (B, F) UINT64 -> probability (B,) FP32
keys (..., K) UINT64                  -> vectors (..., K, D) FP32, on request
keys (N,), offsets (B F,) INT64, weights (N,) FP32 -> the same of fields with several values: vectors (B, F, D)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.keys import FIELD_SHIFT
from trainer.errors import BagError, RequestError
from trainer.serving.inference_messages import InferenceRequest
from trainer.serving.predictor import Predictor, sum_bags
from trainer.serving.shape import ServedShape

__all__ = ["VERSION", "answer", "describe_model", "state_of"]

VERSION = "1"
_OUTPUTS = ("probability", "vectors")
_INPUTS = {"dense": "FP32", "keys": "UINT64", "offsets": "INT64", "weights": "FP32"}
Array = npt.NDArray[Any]


def describe_model(name: str, shape: ServedShape) -> dict[str, Any]:
    """The metadata of the model."""
    fields = shape.layout.num_fields
    return {
        "name": name, "versions": [VERSION], "platform": "hotstream",
        "inputs": [
            {"name": "dense", "datatype": "FP32", "shape": [-1, shape.num_dense]},
            {"name": "keys", "datatype": "UINT64", "shape": [-1, fields]},
        ],
        "outputs": [
            {"name": "probability", "datatype": "FP32", "shape": [-1]},
            {"name": "vectors", "datatype": "FP32", "shape": [-1, fields, shape.dim]},
        ],
        "parameters": {"fields": [name for name, _ in shape.fields], "published": list(shape.published)},
    }  # fmt: skip


def state_of(predictor: Predictor) -> dict[str, Any]:
    """What the values of a response are those of: parameters of every response."""
    known = predictor.as_of()
    return {"step": known["step"], "time_ms": known["time_ms"], "dense_version": known["dense_version"]}


def answer(predictor: Predictor, request: InferenceRequest) -> dict[str, Array]:
    """The wanted outputs, by name.

    Raises:
        KeyRangeError: the field of a key is not published.
        ReplicaError: no complete model was read yet.
        RequestError: inputs or outputs are not those of the model.
    """
    wanted = list(request.outputs) or ["probability"]
    if unknown := [name for name in wanted if name not in _OUTPUTS]:
        raise RequestError(f"outputs: got {unknown[0][:60]!r}, expected some of {', '.join(_OUTPUTS)}")
    if unknown := [name for name in request.inputs if name not in _INPUTS]:
        raise RequestError(f"inputs: got {unknown[0][:60]!r}, expected dense and keys, or offsets and weights, too")
    keys, shape = _take(request.inputs, "keys", "<u8"), predictor.shape
    if "offsets" in request.inputs or "weights" in request.inputs:
        vectors = _sum_bags(predictor, request.inputs, keys, shape)
        if "probability" not in wanted:
            return {"vectors": vectors}
        dense = _dense(request.inputs, shape, len(vectors))
        if len(dense) != len(vectors):
            raise RequestError(f"offsets.shape: got {len(vectors)} rows of bags, expected {len(dense)}, as dense has")
    else:
        if "probability" not in wanted:
            return {"vectors": predictor.lookup(keys)}
        dense = _dense(request.inputs, shape, len(keys) if keys.ndim else 0)
        _check_keys(keys, shape, len(dense))
        vectors = predictor.lookup(keys)
    logits = predictor.predict_vectors(dense, vectors)
    known = {"probability": _sigmoid(logits), "vectors": vectors}
    return {name: known[name] for name in wanted}


def _take(inputs: Mapping[str, Array], name: str, dtype: str) -> Array:
    if name not in inputs:
        raise RequestError(f"inputs: {name} is missing")
    if inputs[name].dtype != np.dtype(dtype):
        raise RequestError(f"{name}.datatype: expected {_INPUTS[name]}")
    return inputs[name]


def _dense(inputs: Mapping[str, Array], shape: ServedShape, rows: int) -> Array:
    if not shape.num_dense and "dense" not in inputs:
        return np.empty((rows, 0), np.float32)
    dense = _take(inputs, "dense", "<f4")
    if dense.ndim != 2 or dense.shape[1] != shape.num_dense:
        raise RequestError(f"dense.shape: got {list(dense.shape)}, expected [B, {shape.num_dense}]")
    return dense


def _sum_bags(predictor: Predictor, inputs: Mapping[str, Array], keys: Array, shape: ServedShape) -> Array:
    """The sums (B, F, D) of the vectors of keys (N,), a bag for each row and field, times their weights."""
    offsets, weights = _take(inputs, "offsets", "<i8"), None
    if keys.ndim != 1 or offsets.ndim != 1:
        raise RequestError(
            f"keys.shape and offsets.shape: got {list(keys.shape)} and {list(offsets.shape)}, expected [N] and [B F]"
        )
    if "weights" in inputs:
        weights = _take(inputs, "weights", "<f4")
        if weights.shape != keys.shape or not np.isfinite(weights).all():
            raise RequestError(f"weights: expected {len(keys)} finite numbers, one for each key")
    vectors = predictor.lookup(keys)
    try:
        summed = sum_bags(vectors if weights is None else vectors * weights[:, None], offsets, shape.layout.num_fields)
    except BagError as error:
        raise RequestError(str(error)) from error
    fields = np.arange(len(offsets)) % shape.layout.num_fields + 1
    expected = np.repeat(fields, np.diff(offsets, append=len(keys)))
    if (wrong := np.flatnonzero((keys >> FIELD_SHIFT).astype(np.int64) != expected)).size:
        index = int(wrong[0])
        raise RequestError(
            f"keys: index {index}: got a key of field {int(keys[index] >> FIELD_SHIFT)}, expected field "
            f"{int(expected[index])}: the bags of a row are its fields in order"
        )
    return summed


def _check_keys(keys: Array, shape: ServedShape, rows: int) -> None:
    fields = shape.layout.num_fields
    if keys.shape != (rows, fields):
        raise RequestError(
            f"keys.shape: got {list(keys.shape)}, expected [{rows}, {fields}], a row for each of dense; for several "
            "values in a field add the input offsets"
        )
    numbers = keys >> FIELD_SHIFT
    if (wrong := np.argwhere(numbers != np.arange(1, fields + 1, dtype=np.uint64))).size:
        row, column = wrong[0].tolist()
        name = shape.fields[column][0]
        raise RequestError(
            f"keys: row {row}, column {column}: got a key of field {int(numbers[row, column])}, expected field "
            f"{column + 1} ({name}): the columns are the fields in order"
        )


def _sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return (1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -700, 700)))).astype(np.float32)
