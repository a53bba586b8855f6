"""Operations that numba lacks: memory access by address, vector instructions, the bits of a float.

Each is a portable LLVM operation: it runs on any CPU, and in one or two instructions on one with wide vectors. The
exception is the minimum of eight words: x86 has an instruction for it that LLVM does not find by itself. Addresses are
plain integers from `array.ctypes.data`: a kernel that uses them pays for neither bounds checks nor reference counts,
and must stay inside its arrays. A `mask` is an integer whose bit i stands for lane i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

__all__ = [
    "bits_of",
    "bits_of_float32",
    "float32_of_bits",
    "float_of",
    "load_i32",
    "load_u16",
    "load_u32",
    "load_u64",
    "lowest_bit",
    "match_bytes",
    "match_u16x8",
    "match_u32x8",
    "match_u64x4",
    "min_u16x8",
    "prefetch",
    "put_bytes",
    "put_last_u16x8",
    "put_last_u32x8",
    "put_u16x8",
    "put_u32x8",
    "select",
    "store_u32",
    "store_u64",
]

_I1, _I4, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 4, 8, 16, 32, 64))
_LANES = ir.VectorType(_I1, 8)
_HAS_MINPOS = bool(binding.get_host_cpu_features().get("sse4.1"))


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _splat(builder: Any, word: Any, item: Any, lanes: int = 8) -> Any:
    vector = ir.VectorType(item, lanes)
    word = word if item is _I64 else builder.trunc(word, item)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), word, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _mask(builder: Any, booleans: Any, bits: Any = _I8) -> Any:
    return builder.zext(builder.bitcast(booleans, bits), _I64)


def _lanes(builder: Any, mask: Any) -> Any:
    return builder.bitcast(builder.trunc(mask, _I8), _LANES)


def _define(doc: str, result: Any, arguments: tuple[Any, ...], body: Callable[[Any, Any], Any]) -> Any:
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
        word = builder.load(_at(builder, values[0], item), align=item.width // 8)
        return word if item is _I64 else builder.zext(word, _I64)

    return _define(f"The {item.width}-bit word at an address.", types.int64, (types.int64,), body)


def _load_signed(builder: Any, values: Any) -> Any:
    return builder.sext(builder.load(_at(builder, values[0], _I32), align=4), _I64)


def _storer(item: Any) -> Any:
    def body(builder: Any, values: Any) -> None:
        word = values[1] if item is _I64 else builder.trunc(values[1], item)
        builder.store(word, _at(builder, values[0], item), align=item.width // 8)

    return _define(f"Writes the low {item.width} bits at an address.", types.void, (types.int64, types.int64), body)


def _matcher(item: Any) -> Any:
    def body(builder: Any, values: Any) -> Any:
        words = builder.load(_at(builder, values[0], ir.VectorType(item, 8)), align=item.width // 8)
        return _mask(builder, builder.icmp_unsigned("==", words, _splat(builder, values[1], item)))

    doc = f"The mask of the lanes, of eight {item.width}-bit words at an address, that equal `word`."
    return _define(doc, types.int64, (types.int64, types.int64), body)


def _putter(item: Any, *, and_last: bool = False) -> Any:
    def body(builder: Any, values: Any) -> None:
        kind = ir.VectorType(item, 8)
        words = builder.load(_at(builder, values[0], kind), align=item.width // 8)
        words = builder.select(_lanes(builder, values[1]), _splat(builder, values[2], item), words)
        if and_last:
            words = builder.insert_element(words, builder.trunc(values[3], item), _I32(7))
        # An empty piece of assembly hides that both addresses are equal. LLVM would write the masked lanes alone, and
        # the next read of the vector, which comes soon for a hot key, would wait until the cache has them.
        address = builder.asm(ir.FunctionType(_I64, [_I64]), "", "=r,0", [values[0]], side_effect=False)
        builder.store(words, _at(builder, address, kind), align=item.width // 8)

    doc = f"Writes `word` into the masked lanes of the eight {item.width}-bit words at an address."
    if and_last:
        doc = doc[:-1] + ", and `last` into the eighth."
    return _define(doc, types.void, (types.int64,) * (4 if and_last else 3), body)


def _match_quads(builder: Any, values: Any) -> Any:
    words = builder.load(_at(builder, values[0], ir.VectorType(_I64, 4)), align=8)
    return _mask(builder, builder.icmp_unsigned("==", words, _splat(builder, values[1], _I64, 4)), _I4)


def _match_bytes(builder: Any, values: Any) -> Any:
    items = builder.bitcast(values[0], ir.VectorType(_I8, 8))
    return _mask(builder, builder.icmp_unsigned("==", items, _splat(builder, values[1], _I8)))


def _put_byte(builder: Any, values: Any) -> Any:
    items = builder.bitcast(values[0], ir.VectorType(_I8, 8))
    changed = builder.select(_lanes(builder, values[1]), _splat(builder, values[2], _I8), items)
    return builder.bitcast(changed, _I64)


def _minimum(builder: Any, values: Any) -> Any:
    words = builder.load(_at(builder, values[0], ir.VectorType(_I16, 8)), align=2)
    words = builder.or_(words, builder.sext(_lanes(builder, values[1]), words.type))
    if _HAS_MINPOS:
        kind = ir.FunctionType(words.type, [words.type])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse41.phminposuw")
        packed = builder.bitcast(builder.call(function, [words]), ir.VectorType(_I32, 4))
        return builder.zext(builder.extract_element(packed, _I32(0)), _I64)
    kind = ir.FunctionType(_I16, [words.type])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.umin.v8i16")
    smallest = builder.zext(builder.call(function, [words]), _I64)
    lane = builder.cttz(_mask(builder, builder.icmp_unsigned("==", words, _splat(builder, smallest, _I16))), _I1(1))
    return builder.or_(builder.shl(lane, _I64(16)), smallest)


def _prefetch(builder: Any, values: Any) -> None:
    pointer = _at(builder, values[0], _I8)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
    builder.call(function, [pointer, _I32(1), _I32(3), _I32(1)])


def _select(builder: Any, values: Any) -> Any:
    return builder.select(builder.icmp_signed("!=", values[0], _I64(0)), values[1], values[2])


_TWO, _THREE = (types.int64,) * 2, (types.int64,) * 3

load_u16, load_u32, load_u64 = (_loader(item) for item in (_I16, _I32, _I64))
load_i32 = _define("The signed 32-bit word at an address.", types.int64, (types.int64,), _load_signed)
store_u32, store_u64 = (_storer(item) for item in (_I32, _I64))
match_u16x8, match_u32x8 = _matcher(_I16), _matcher(_I32)
put_u16x8, put_u32x8 = _putter(_I16), _putter(_I32)
put_last_u16x8, put_last_u32x8 = _putter(_I16, and_last=True), _putter(_I32, and_last=True)
match_bytes = _define("The mask of the bytes in a word that equal `byte`.", types.int64, _TWO, _match_bytes)
match_u64x4 = _define(
    "The mask of the lanes, of four uint64 at an address (8-byte aligned), that equal `word`.",
    types.int64,
    (types.int64, types.uint64),
    _match_quads,
)
put_bytes = _define("The word with `byte` in the masked ones of its eight bytes.", types.int64, _THREE, _put_byte)
min_u16x8 = _define(
    "The smallest unmasked one of the eight 16-bit words at an address, plus 2^16 times its first lane.",
    types.int64,
    _TWO,
    _minimum,
)
prefetch = _define(
    "Fetches the cache line at an address for a later write; never faults.",
    types.void,
    (types.int64,),
    _prefetch,
)
select = _define("The second word if the first is not 0, else the third; never a jump.", types.int64, _THREE, _select)
lowest_bit = _define(
    "The index of the lowest set bit of a word that is not 0.",
    types.int64,
    (types.int64,),
    lambda b, v: b.cttz(v[0], _I1(1)),
)
bits_of = _define("The IEEE 754 bits of a float64.", types.int64, (types.float64,), lambda b, v: b.bitcast(v[0], _I64))
float_of = _define(
    "The float64 with these bits.", types.float64, (types.int64,), lambda b, v: b.bitcast(v[0], ir.DoubleType())
)
bits_of_float32 = _define(
    "The IEEE 754 bits of a float32, as uint32.",
    types.uint32,
    (types.float32,),
    lambda b, v: b.bitcast(v[0], _I32),
)
float32_of_bits = _define(
    "The float32 with these bits (uint32).",
    types.float32,
    (types.uint32,),
    lambda b, v: b.bitcast(v[0], ir.FloatType()),
)
