"""Records every call by which a step would wait for its device, on a CPU too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# What a tensor of a device has to be copied to the host for; methods of `Tensor` by name.
METHODS = {
    "item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__",
    "__contains__", "nonzero", "unique", "unique_consecutive", "masked_select", "is_nonzero", "equal", "allclose",
    "bincount", "repeat_interleave",
}  # fmt: skip
OPERATORS = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_consecutive",
    "aten::equal", "aten::bincount", "aten::repeat_interleave.Tensor",
}  # fmt: skip


class _Methods(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        self.found = found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        if name in METHODS:
            self.found.append(name)
        if name == "__setitem__" and isinstance(args[1], Tensor) and not isinstance(args[2], Tensor):
            self.found.append("__setitem__ of a number")  # which torch copies to the device
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = f"aten::{func.__name__}".removesuffix(".default")
        if name in OPERATORS:
            self.found.append(name)
        if name.startswith("aten::index") and len(args) > 1 and isinstance(args[1], list | tuple):
            masks = [part for part in args[1] if isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)]
            self.found += [f"{name} with a mask"] * len(masks)
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded_calls() -> Iterator[list[str]]:
    """The synchronising calls of this thread in the `with` block."""
    found: list[str] = []
    with _Methods(found), _Operators(found):
        yield found
