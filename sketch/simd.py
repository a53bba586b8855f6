"""The four things that numba has no word for: prefetch a line, compare or minimise a vector, see a float's bits.

Each is LLVM's own portable vector operation, so any CPU runs it and a wide one runs it in one or two instructions.
Addresses are plain integers, taken from `array.ctypes.data`; a kernel must stay inside its array.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

__all__ = ["bits_of", "float_of", "lowest_bit", "match_u32x8", "min_u16x8", "prefetch"]

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))


def _load(builder: Any, address: Any, item: Any, align: int) -> Any:
    vector = ir.VectorType(item, 8)
    return builder.load(builder.inttoptr(address, vector.as_pointer()), align=align)


def _splat(builder: Any, word: Any) -> Any:
    vector = ir.VectorType(word.type, 8)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), word, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, 8), [0] * 8))


def _mask(builder: Any, booleans: Any) -> Any:
    return builder.zext(builder.bitcast(booleans, _I8), _I64)


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:  # noqa: ARG001
    """Asks for the cache line at `address`, to be written soon; never faults."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        pointer = builder.inttoptr(args[0], _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(function, [pointer, _I32(1), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def match_u32x8(typingctx: Any, address: Any, word: Any) -> Any:  # noqa: ARG001
    """Bit i is set where the i-th of the eight uint32 at `address` (4-byte aligned) equals `word`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        words = _load(builder, args[0], _I32, 4)
        return _mask(builder, builder.icmp_unsigned("==", words, _splat(builder, args[1])))

    return types.int64(types.int64, types.uint32), generate


@intrinsic
def min_u16x8(typingctx: Any, address: Any, unused: Any) -> Any:  # noqa: ARG001
    """The smallest of the eight uint16 at `address` whose bit in `unused` is not set, times 8, plus its place."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        words = _load(builder, args[0], _I16, 2)
        lanes = ir.VectorType(_I1, 8)
        ones = builder.sext(builder.bitcast(builder.trunc(args[1], _I8), lanes), words.type)
        words = builder.or_(words, ones)
        kind = ir.FunctionType(_I16, [words.type])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.umin.v8i16")
        smallest = builder.call(function, [words])
        places = _mask(builder, builder.icmp_unsigned("==", words, _splat(builder, smallest)))
        place = builder.cttz(places, _I1(1))
        return builder.or_(builder.shl(builder.zext(smallest, _I64), _I64(3)), place)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def lowest_bit(typingctx: Any, word: Any) -> Any:  # noqa: ARG001
    """The place of the lowest set bit of a word that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.cttz(args[0], _I1(1))

    return types.int64(types.int64), generate


@intrinsic
def bits_of(typingctx: Any, number: Any) -> Any:  # noqa: ARG001
    """The IEEE 754 bits of a float64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(args[0], _I64)

    return types.int64(types.float64), generate


@intrinsic
def float_of(typingctx: Any, bits: Any) -> Any:  # noqa: ARG001
    """The float64 with these IEEE 754 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate
