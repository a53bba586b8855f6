"""Vectors of eight words for numba.

A vector is a value of its own, so that it stays in a vector register from load to store. A *mask* is a vector of eight
16-bit words, all bits of a lane set or none. Each function is a portable LLVM operation, except the smallest of eight
words: x86 has an instruction for it that LLVM does not find by itself. Addresses are plain integers, as in
`sketch/simd.py`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.extending import models, register_model

from sketch.simd import at, define, splat

__all__ = [
    "at_least_u16x8",
    "both",
    "but_not",
    "choose_bytes",
    "choose_u16x8",
    "choose_u32x8",
    "either",
    "equal_bytes",
    "equal_u16x8",
    "equal_u32x8",
    "first_lanes",
    "first_smallest",
    "first_word",
    "float_of_word",
    "gather_bytes",
    "invert",
    "is_less",
    "lane_found",
    "load_bytes",
    "load_u16x8",
    "load_u32x8",
    "mask_bits",
    "put_last_u16x8",
    "put_last_u32x8",
    "repeat_byte",
    "repeat_u16x8",
    "repeat_u32x8",
    "second_word",
    "store_bytes",
    "store_u16x8",
    "store_u32x8",
    "words_of_float",
]

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_HAS_MINPOS = bool(binding.get_host_cpu_features().get("sse4.1"))
_TWO, _THREE = (types.int64,) * 2, (types.int64,) * 3


class Words(types.Type):
    """The numba type of a vector of eight words."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(name=f"u{bits}x8")


@register_model(Words)
class _WordsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Words) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(kind.bits), 8))


_U8X8, _U16X8, _U32X8 = (Words(bits) for bits in (8, 16, 32))


def _vector_loader(kind: Words) -> Any:
    def body(builder: Any, values: Any) -> Any:
        item = ir.IntType(kind.bits)
        return builder.load(at(builder, values[0], ir.VectorType(item, 8)), align=kind.bits // 8)

    return define(f"The eight {kind.bits}-bit words at an address.", kind, (types.int64,), body)


def _vector_storer(kind: Words) -> Any:
    def body(builder: Any, values: Any) -> None:
        # An empty piece of assembly hides that the words were read from the same address. LLVM would write the changed
        # lanes alone, and the next read of the vector, which comes soon for a hot key, would wait for the cache.
        address = builder.asm(ir.FunctionType(_I64, [_I64]), "", "=r,0", [values[0]], side_effect=False)
        builder.store(values[1], at(builder, address, values[1].type), align=kind.bits // 8)

    return define(f"Writes eight {kind.bits}-bit words at an address.", types.void, (types.int64, kind), body)


def _repeater(kind: Words) -> Any:
    def body(builder: Any, values: Any) -> Any:
        return splat(builder, values[0], ir.IntType(kind.bits))

    return define(f"Eight times the low {kind.bits} bits of a word.", kind, (types.int64,), body)


def _comparer(kind: Words) -> Any:
    def body(builder: Any, values: Any) -> Any:
        return builder.sext(builder.icmp_unsigned("==", *values), ir.VectorType(_I16, 8))

    return define("The mask of the lanes in which two vectors are equal.", _U16X8, (kind, kind), body)


def _chooser(kind: Words) -> Any:
    def body(builder: Any, values: Any) -> Any:
        zero = ir.Constant(values[0].type, [0] * 8)
        return builder.select(builder.icmp_signed("<", values[0], zero), values[1], values[2])

    return define("The first vector in the masked lanes, the second in the others.", kind, (_U16X8, kind, kind), body)


def _last_putter(kind: Words) -> Any:
    def body(builder: Any, values: Any) -> Any:
        parts = builder.bitcast(values[1], ir.VectorType(ir.IntType(kind.bits), 64 // kind.bits))
        part = builder.extract_element(parts, builder.trunc(values[2], _I32))
        return builder.insert_element(values[0], part, _I32(7))

    doc = f"The words with part i (third argument, a constant) of the bytes, of {kind.bits} bits, as the eighth."
    return define(doc, kind, (kind, _U8X8, types.int64), body)


def _gather_bytes(builder: Any, values: Any) -> Any:
    words = builder.insert_element(
        ir.Constant(ir.VectorType(_I32, 2), [0, 0]), builder.load(at(builder, values[0], _I32), align=4), _I32(0)
    )
    words = builder.bitcast(words, ir.VectorType(_I16, 4))
    for lane, address in ((2, values[1]), (3, values[2])):
        words = builder.insert_element(words, builder.load(at(builder, address, _I16), align=2), _I32(lane))
    return builder.bitcast(words, ir.VectorType(_I8, 8))


def _load_bytes(builder: Any, values: Any) -> Any:
    return builder.load(at(builder, values[0], ir.VectorType(_I8, 8)), align=8)


def _store_bytes(builder: Any, values: Any) -> None:
    builder.store(values[1], at(builder, values[0], values[1].type), align=8)


def _mask_bits(builder: Any, values: Any) -> Any:
    zero = ir.Constant(values[0].type, [0] * 8)
    return builder.zext(builder.bitcast(builder.icmp_signed("<", values[0], zero), _I8), _I64)


def _first_lanes(builder: Any, values: Any) -> Any:
    lanes = builder.icmp_unsigned(
        "<", ir.Constant(ir.VectorType(_I16, 8), list(range(8))), splat(builder, values[0], _I16)
    )
    return builder.sext(lanes, ir.VectorType(_I16, 8))


def _first_smallest(builder: Any, values: Any) -> Any:
    words = values[0]
    if _HAS_MINPOS:
        kind = ir.FunctionType(words.type, [words.type])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse41.phminposuw")
        return builder.call(function, [words])
    kind = ir.FunctionType(_I16, [words.type])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.umin.v8i16")
    smallest = builder.call(function, [words])
    same = builder.bitcast(builder.icmp_unsigned("==", words, splat(builder, builder.zext(smallest, _I64), _I16)), _I8)
    lane = builder.zext(builder.cttz(same, _I1(1)), _I16)
    result = builder.insert_element(ir.Constant(words.type, [0] * 8), smallest, _I32(0))
    return builder.insert_element(result, lane, _I32(1))


def _lane_found(builder: Any, values: Any) -> Any:
    kind = values[0].type
    lane = builder.shuffle_vector(values[0], values[0], ir.Constant(ir.VectorType(_I32, 8), [1] * 8))
    return builder.sext(builder.icmp_unsigned("==", lane, ir.Constant(kind, list(range(8)))), kind)


def _float_of_word(builder: Any, values: Any) -> Any:
    # Vector operations on one word: the number never leaves the vector registers.
    pair = ir.VectorType(_I64, 2)
    words = builder.and_(builder.bitcast(values[0], pair), ir.Constant(pair, [0xFFFF, 0]))
    words = builder.shl(builder.add(words, splat(builder, values[1], _I64, 2)), splat(builder, values[2], _I64, 2))
    return builder.extract_element(builder.bitcast(words, ir.VectorType(ir.DoubleType(), 2)), _I32(0))


def _words_of_float(builder: Any, values: Any) -> Any:
    number, addend, shift, bias = values
    pair = ir.VectorType(_I64, 2)
    floats = ir.Constant(ir.VectorType(ir.DoubleType(), 2), ir.Undefined)
    words = builder.bitcast(builder.insert_element(floats, number, _I32(0)), pair)
    words = builder.add(words, builder.insert_element(ir.Constant(pair, ir.Undefined), addend, _I32(0)))
    words = builder.sub(builder.lshr(words, splat(builder, shift, _I64, 2)), splat(builder, bias, _I64, 2))
    words = builder.bitcast(words, ir.VectorType(_I16, 8))
    return builder.shuffle_vector(words, words, ir.Constant(ir.VectorType(_I32, 8), [0] * 8))


def _is_less(builder: Any, values: Any) -> Any:
    # The sign of the difference: LLVM would turn a comparison into a branch, here on a random number.
    floats = ir.Constant(ir.VectorType(ir.DoubleType(), 2), ir.Undefined)
    difference = builder.insert_element(floats, builder.fsub(*values), _I32(0))
    words = builder.bitcast(difference, ir.VectorType(_I16, 8))
    words = builder.shuffle_vector(words, words, ir.Constant(ir.VectorType(_I32, 8), [3] * 8))
    return builder.ashr(words, ir.Constant(words.type, [15] * 8))


load_u16x8, load_u32x8 = (_vector_loader(kind) for kind in (_U16X8, _U32X8))
store_u16x8, store_u32x8 = (_vector_storer(kind) for kind in (_U16X8, _U32X8))
repeat_byte, repeat_u16x8, repeat_u32x8 = (_repeater(kind) for kind in (_U8X8, _U16X8, _U32X8))
equal_bytes, equal_u16x8, equal_u32x8 = (_comparer(kind) for kind in (_U8X8, _U16X8, _U32X8))
choose_bytes, choose_u16x8, choose_u32x8 = (_chooser(kind) for kind in (_U8X8, _U16X8, _U32X8))
put_last_u16x8, put_last_u32x8 = (_last_putter(kind) for kind in (_U16X8, _U32X8))
load_bytes = define("The eight bytes at an address.", _U8X8, (types.int64,), _load_bytes)
store_bytes = define("Writes eight bytes at an address.", types.void, (types.int64, _U8X8), _store_bytes)
gather_bytes = define(
    "The eight bytes at three addresses: four at the first, two at each of the others.", _U8X8, _THREE, _gather_bytes
)
at_least_u16x8 = define(
    "The mask of the lanes in which a >= b, unsigned.",
    _U16X8,
    (_U16X8, _U16X8),
    lambda b, v: b.sext(b.icmp_unsigned(">=", *v), v[0].type),
)
both = define("a & b", _U16X8, (_U16X8, _U16X8), lambda b, v: b.and_(*v))
either = define("a | b", _U16X8, (_U16X8, _U16X8), lambda b, v: b.or_(*v))
but_not = define("a & ~b", _U16X8, (_U16X8, _U16X8), lambda b, v: b.and_(v[0], b.not_(v[1])))
invert = define("~a", _U16X8, (_U16X8,), lambda b, v: b.not_(v[0]))
mask_bits = define("Bit i is set if lane i of the mask is.", types.int64, (_U16X8,), _mask_bits)
first_lanes = define("The mask of the first lanes, as many as given.", _U16X8, (types.int64,), _first_lanes)
first_smallest = define("The smallest word (word 0) and its first lane (word 1).", _U16X8, (_U16X8,), _first_smallest)
lane_found = define("The mask of the lane that `first_smallest` found.", _U16X8, (_U16X8,), _lane_found)
first_word = define("Word 0.", types.int64, (_U16X8,), lambda b, v: b.zext(b.extract_element(v[0], _I32(0)), _I64))
second_word = define("Word 1.", types.int64, (_U16X8,), lambda b, v: b.zext(b.extract_element(v[0], _I32(1)), _I64))
float_of_word = define(
    "The float64 whose bits are word 0 plus `bias`, shifted to the left by `shift`.",
    types.float64,
    (_U16X8, types.int64, types.int64),
    _float_of_word,
)
words_of_float = define(
    "Eight times the low 16 bits of (bits of a float64 + `addend` >> `shift`) - `bias`.",
    _U16X8,
    (types.float64, types.int64, types.int64, types.int64),
    _words_of_float,
)
is_less = define("The mask of all lanes if a < b, else of none.", _U16X8, (types.float64, types.float64), _is_less)
