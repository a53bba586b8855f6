"""Operations that numba lacks: memory access by address, vector instructions, the bits of a float.

Each is a portable LLVM operation: it runs on any CPU, and in one or two instructions on one with wide vectors. The
exception is the minimum of eight words: x86 has an instruction for it that LLVM does not find by itself. Addresses are
plain integers from `array.ctypes.data`: a kernel that uses them pays for neither bounds checks nor reference counts,
and must stay inside its arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

__all__ = [
    "at",
    "bits_of",
    "bits_of_float32",
    "define",
    "float32_of_bits",
    "float_of",
    "load_i32",
    "load_u16",
    "load_u32",
    "load_u64",
    "lowest_bit",
    "match_u64x4",
    "prefetch",
    "select",
    "splat",
    "store_u32",
    "store_u64",
]

_I1, _I4, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 4, 8, 16, 32, 64))


def at(builder: Any, address: Any, kind: Any) -> Any:
    """An address as a pointer to this LLVM type."""
    return builder.inttoptr(address, kind.as_pointer())


def splat(builder: Any, word: Any, item: Any, lanes: int = 8) -> Any:
    """A vector with `word`, or its low bits, in every lane."""
    vector = ir.VectorType(item, lanes)
    word = word if item is _I64 else builder.trunc(word, item)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), word, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _mask(builder: Any, booleans: Any, bits: Any = _I8) -> Any:
    return builder.zext(builder.bitcast(booleans, bits), _I64)


def define(doc: str, result: Any, arguments: tuple[Any, ...], body: Callable[[Any, Any], Any]) -> Any:
    """A numba function with this signature; `body(builder, arguments)` emits its LLVM code and returns its value."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
        value = body(builder, values)
        return context.get_dummy_value() if value is None else value

    signature = result(*arguments)
    if len(arguments) == 1:

        def typed(typingctx: Any, a: Any) -> Any:  # noqa: ARG001
            return signature, generate
    elif len(arguments) == 2:

        def typed(typingctx: Any, a: Any, b: Any) -> Any:  # type: ignore[misc]  # noqa: ARG001
            return signature, generate
    elif len(arguments) == 3:

        def typed(typingctx: Any, a: Any, b: Any, c: Any) -> Any:  # type: ignore[misc]  # noqa: ARG001
            return signature, generate
    else:

        def typed(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:  # type: ignore[misc]  # noqa: ARG001
            return signature, generate

    typed.__doc__ = doc
    return intrinsic(typed)


def _loader(item: Any) -> Any:
    def body(builder: Any, values: Any) -> Any:
        word = builder.load(at(builder, values[0], item), align=item.width // 8)
        return word if item is _I64 else builder.zext(word, _I64)

    return define(f"The {item.width}-bit word at an address.", types.int64, (types.int64,), body)


def _load_signed(builder: Any, values: Any) -> Any:
    return builder.sext(builder.load(at(builder, values[0], _I32), align=4), _I64)


def _storer(item: Any) -> Any:
    def body(builder: Any, values: Any) -> None:
        word = values[1] if item is _I64 else builder.trunc(values[1], item)
        builder.store(word, at(builder, values[0], item), align=item.width // 8)

    return define(f"Writes the low {item.width} bits at an address.", types.void, (types.int64, types.int64), body)


def _match_quads(builder: Any, values: Any) -> Any:
    words = builder.load(at(builder, values[0], ir.VectorType(_I64, 4)), align=8)
    return _mask(builder, builder.icmp_unsigned("==", words, splat(builder, values[1], _I64, 4)), _I4)


def _prefetch(builder: Any, values: Any) -> None:
    pointer = at(builder, values[0], _I8)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
    builder.call(function, [pointer, _I32(1), _I32(3), _I32(1)])


def _select(builder: Any, values: Any) -> Any:
    return builder.select(builder.icmp_signed("!=", values[0], _I64(0)), values[1], values[2])


_TWO, _THREE = (types.int64,) * 2, (types.int64,) * 3

load_u16, load_u32, load_u64 = (_loader(item) for item in (_I16, _I32, _I64))
load_i32 = define("The signed 32-bit word at an address.", types.int64, (types.int64,), _load_signed)
store_u32, store_u64 = (_storer(item) for item in (_I32, _I64))
match_u64x4 = define(
    "The mask of the lanes, of four uint64 at an address (8-byte aligned), that equal `word`.",
    types.int64,
    (types.int64, types.uint64),
    _match_quads,
)
prefetch = define(
    "Fetches the cache line at an address for a later write; never faults.",
    types.void,
    (types.int64,),
    _prefetch,
)
select = define("The second word if the first is not 0, else the third; never a jump.", types.int64, _THREE, _select)
lowest_bit = define(
    "The index of the lowest set bit of a word that is not 0.",
    types.int64,
    (types.int64,),
    lambda b, v: b.cttz(v[0], _I1(1)),
)
bits_of = define("The IEEE 754 bits of a float64.", types.int64, (types.float64,), lambda b, v: b.bitcast(v[0], _I64))
float_of = define(
    "The float64 with these bits.", types.float64, (types.int64,), lambda b, v: b.bitcast(v[0], ir.DoubleType())
)
bits_of_float32 = define(
    "The IEEE 754 bits of a float32, as uint32.",
    types.uint32,
    (types.float32,),
    lambda b, v: b.bitcast(v[0], _I32),
)
float32_of_bits = define(
    "The float32 with these bits (uint32).",
    types.float32,
    (types.uint32,),
    lambda b, v: b.bitcast(v[0], ir.FloatType()),
)
