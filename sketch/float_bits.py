"""A float32's bits inside a numba kernel, and a float32 from bits: what bfloat16 arithmetic needs and numba lacks."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

__all__ = ["bits_of_float32", "float32_of_bits"]


@intrinsic
def bits_of_float32(typingctx: Any, number: Any) -> Any:  # noqa: ARG001
    """The IEEE 754 bits of a float32, as uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def float32_of_bits(typingctx: Any, bits: Any) -> Any:  # noqa: ARG001
    """The float32 with these IEEE 754 bits (uint32)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), generate
