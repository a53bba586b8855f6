"""Requests and responses of the Open Inference Protocol (KServe v2): JSON, and the extension for binary tensors.

A body is JSON. With the header `Inference-Header-Content-Length: N` the first N bytes are JSON, and the bytes after
them the tensors with the parameter `binary_data_size`, little-endian, in the order of the JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import RequestError

__all__ = ["DATATYPES", "InferenceRequest", "decode_request", "encode_response"]

DATATYPES: Mapping[str, Any] = {"FP32": np.dtype("<f4"), "UINT64": np.dtype("<u8"), "INT64": np.dtype("<i8")}
_NUMBERS = {"FP32": (int, float), "UINT64": (int,), "INT64": (int,)}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_UNSUPPORTED = ("shared_memory_region", "classification")
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """A decoded request.

    Attributes:
        id: the caller's, which the response repeats; None without one.
        inputs: the tensors by name.
        outputs: the wanted outputs in order, and whether each is wanted as bytes; none for the model's choice.
        is_binary: whether outputs that are not listed are wanted as bytes.
    """

    id: str | None
    inputs: Mapping[str, Array]
    outputs: Mapping[str, bool] = field(default_factory=dict)
    is_binary: bool = False


def decode_request(body: bytes, header_length: str | None) -> InferenceRequest:
    """Decodes a body.

    Args:
        body: the body, not compressed.
        header_length: the header `Inference-Header-Content-Length`; None for a body that is all JSON.

    Raises:
        RequestError: it is malformed; the message names the member.
    """
    size = len(body) if header_length is None else _header_size(header_length, len(body))
    content = _object(_load(body[:size]), "body")
    parameters = _object(content.get("parameters", {}), "parameters")
    is_binary = _flag(parameters, "binary_data_output", "parameters")
    outputs = {}
    for number, one in enumerate(_list(content.get("outputs", []), "outputs")):
        name, mine = _named(one, f"outputs[{number}]")
        outputs[name] = _flag(mine, "binary_data", f"outputs[{number}].parameters", default=is_binary)
    identity = content.get("id")
    if identity is not None and not isinstance(identity, str):
        raise RequestError(f"id: got {identity!r:.60}, expected a string")
    inputs = _read_inputs(_list(content.get("inputs"), "inputs"), body[size:])
    return InferenceRequest(id=identity, inputs=inputs, outputs=outputs, is_binary=is_binary)


def _header_size(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > most:
        raise RequestError(
            f"Inference-Header-Content-Length: got {text[:30]!r}, expected 0 to {most}, the body's bytes"
        )
    return int(text)


def _load(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"body: got {data[:60]!r}, expected JSON ({error})") from error


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{name}: got {value!r:.60}, expected a JSON object")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise RequestError(f"{name}: got {value!r:.60}, expected a list")
    return value


def _named(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """The name of a tensor, and its parameters."""
    one = _object(value, where)
    if not isinstance(one.get("name"), str):
        raise RequestError(f"{where}.name: got {one.get('name')!r:.60}, expected a string")
    parameters = _object(one.get("parameters", {}), f"{where}.parameters")
    for name in _UNSUPPORTED:
        if name in parameters:
            raise RequestError(f"{where}.parameters: {name} is not supported; send and ask for the tensor itself")
    return one["name"], parameters


def _flag(parameters: Mapping[str, Any], name: str, where: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"{where}.{name}: got {value!r:.60}, expected true or false")
    return value


def _read_inputs(listed: Sequence[Any], tail: bytes) -> dict[str, Array]:
    """The tensors; `tail` has the bytes of those that are binary."""
    inputs: dict[str, Array] = {}
    for number, one in enumerate(listed):
        name, parameters = _named(one, f"inputs[{number}]")
        if name in inputs:
            raise RequestError(f"inputs[{number}]: {name!r} is there twice")
        datatype, shape = _datatype(one, name), _shape(one, name)
        size = parameters.get("binary_data_size")
        if size is None:
            inputs[name] = _from_json(one.get("data"), datatype, shape, name)
        else:
            inputs[name], tail = _from_bytes(tail, size, datatype, shape, name)
    if tail:
        raise RequestError(f"body: {len(tail)} bytes are left over after the tensors")
    return inputs


def _datatype(one: Mapping[str, Any], name: str) -> str:
    datatype = one.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise RequestError(f"{name}.datatype: got {datatype!r:.60}, expected one of {', '.join(DATATYPES)}")
    return datatype


def _shape(one: Mapping[str, Any], name: str) -> list[int]:
    shape = _list(one.get("shape"), f"{name}.shape")
    if not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise RequestError(f"{name}.shape: got {shape!r:.60}, expected numbers from 0 on")
    return shape


def _from_bytes(tail: bytes, size: Any, datatype: str, shape: list[int], name: str) -> tuple[Array, bytes]:
    dtype = DATATYPES[datatype]
    expected = math.prod(shape) * dtype.itemsize
    if type(size) is not int or size != expected:
        raise RequestError(f"{name}.binary_data_size: got {size!r:.60}, expected {expected} for {datatype} {shape}")
    if len(tail) < size:
        raise RequestError(f"{name}: got {len(tail)} bytes after the JSON, expected {size}")
    return np.frombuffer(tail[:size], dtype).reshape(shape).copy(), tail[
        size:
    ]  # torch wants arrays that can be written


def _from_json(data: Any, datatype: str, shape: list[int], name: str) -> Array:
    """A tensor of a list, flat or nested."""
    try:
        numbers = np.array(_list(data, f"{name}.data"), dtype=object).reshape(-1).tolist()
    except ValueError as error:
        raise RequestError(f"{name}.data: {error}") from error
    bad = next((one for one in numbers if type(one) not in _NUMBERS[datatype]), None)
    if bad is not None or len(numbers) != math.prod(shape):
        got = f"{len(numbers)} numbers" if bad is None else f"{bad!r:.60}"
        raise RequestError(f"{name}.data: got {got}, expected {math.prod(shape)} numbers of {datatype}, shape {shape}")
    try:
        return np.array(numbers, DATATYPES[datatype]).reshape(shape)
    except OverflowError as error:
        raise RequestError(f"{name}.data: a number is out of the range of {datatype}") from error


def encode_response(head: Mapping[str, Any], outputs: Sequence[tuple[str, Array, bool]]) -> tuple[bytes, int | None]:
    """The body of a response, and the size of its JSON if bytes follow.

    Args:
        head: the members beside `outputs`.
        outputs: name, tensor and whether it goes as bytes, in order.
    """
    described, tail = [], b""
    for name, array, is_binary in outputs:
        one: dict[str, Any] = {"name": name, "datatype": _NAMES[array.dtype], "shape": list(array.shape)}
        if is_binary:
            data = np.ascontiguousarray(array).tobytes()
            tail += data
            one["parameters"] = {"binary_data_size": len(data)}
        else:
            one["data"] = array.reshape(-1).tolist()
        described.append(one)
    text = json.dumps({**head, "outputs": described}, separators=(",", ":")).encode()
    return text + tail, len(text) if any(is_binary for _, _, is_binary in outputs) else None
