"""SIMD intrinsics for numba kernels: read, add, square and round rows of every format.

LLVM vectorises a plain loop over a row only if it can prove that nothing overlaps and that the row is long, and never
if a sum must keep its order; so these emit vector instructions. Every sum uses the same lanes and then a fixed tree on
any CPU, so results do not depend on the vector width of the machine. A row is an address (`array.ctypes.data` plus a
byte offset) and `dim` values; the dtype of the table tells how they are stored:

    float32    as they are         uint16    bfloat16, the upper halves of float32         int8    times the row's scale

`_noise` gives 16 random bits for one value of a row, a function of the row's salt and the value's column
(`stores.noise.Noise` is the torch body).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

__all__ = [
    "NOISE_CONSTANTS",
    "add_row",
    "add_vector",
    "dot",
    "read_row",
    "round_row",
    "scale_vector",
    "step_row",
]

NOISE_CONSTANTS = (0x9E3779B9, 0x7FEB352D, 0x846CA68B)  # 2^32 / golden ratio, and "lowbias32" (C. Wellons)

_WIDTHS = (16, 8, 4, 1)  # lanes; 4 for a quarter of 16 values
_HALF = 8  # consecutive values that share no random word
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_FLOAT = ir.FloatType()
_VALUE_BYTES = {types.float32: 4, types.uint16: 2, types.int8: 1}
_SIGN = 0x7FFFFFFF


def _of(item: Any, lanes: int) -> Any:
    return ir.VectorType(item, lanes)


def _splat(builder: Any, word: Any, lanes: int) -> Any:
    vector = _of(word.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), word, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(_of(_I32, lanes), [0] * lanes))


def _all(item: Any, value: float, lanes: int) -> Any:
    return ir.Constant(_of(item, lanes), [value] * lanes)


def _pointer(builder: Any, address: Any, index: Any, item_bytes: int, vector: Any) -> Any:
    at = builder.add(address, builder.mul(index, _I64(item_bytes)))
    return builder.inttoptr(at, vector.as_pointer())


def _load(builder: Any, address: Any, index: Any, kind: Any, lanes: int) -> Any:
    item = {types.float32: _FLOAT, types.uint16: _I16, types.int8: _I8}[kind]
    size = _VALUE_BYTES[kind]
    return builder.load(_pointer(builder, address, index, size, _of(item, lanes)), align=size)


def _store(builder: Any, vector: Any, address: Any, index: Any, size: int) -> None:
    builder.store(vector, _pointer(builder, address, index, size, vector.type), align=size)


def _each(builder: Any, dim: Any, body: Callable[[Any, int], None]) -> None:
    """Emits `body(index, lanes)` for the widest vectors first, then narrower ones for the rest, down to one lane.

    Reads use the same widths as writes: a read that spans two writes would stall until both are in the cache.
    """
    start = _I64(0)
    for lanes in _WIDTHS:
        stop = builder.and_(dim, _I64(-lanes))
        with cgutils.for_range_slice(builder, start, stop, _I64(lanes), _I64) as (index, _):
            body(index, lanes)
        start = stop


class _Lanes:
    """A sum or a maximum, accumulated per lane and then reduced in a fixed tree."""

    def __init__(self, builder: Any, item: Any, neutral: float, join: Callable[[Any, Any], Any]) -> None:
        self._builder, self._join = builder, join
        self._parts = {lanes: cgutils.alloca_once(builder, _of(item, lanes)) for lanes in _WIDTHS}
        for lanes, part in self._parts.items():
            builder.store(_all(item, neutral, lanes), part)

    def take(self, vector: Any, lanes: int) -> None:
        part = self._parts[lanes]
        self._builder.store(self._join(self._builder.load(part), vector), part)

    def total(self) -> Any:
        builder, lanes = self._builder, _WIDTHS[0]
        vector = builder.load(self._parts[lanes])
        while lanes > 1:
            lanes //= 2
            halves = [ir.Constant(_of(_I32, lanes), [start + lane for lane in range(lanes)]) for start in (0, lanes)]
            vector = self._join(*(builder.shuffle_vector(vector, vector, half) for half in halves))
            if lanes in self._parts:
                vector = self._join(vector, builder.load(self._parts[lanes]))
        return builder.extract_element(vector, _I32(0))


def _widen(builder: Any, words: Any, lanes: int) -> Any:
    bits = builder.shl(builder.zext(words, _of(_I32, lanes)), _all(_I32, 16, lanes))
    return builder.bitcast(bits, _of(_FLOAT, lanes))


def _row_values(builder: Any, kind: Any, address: Any, scale: Any, index: Any, lanes: int) -> Any:
    """Loads values of a row as float32, times `scale`."""
    words = _load(builder, address, index, kind, lanes)
    if kind is types.uint16:
        words = _widen(builder, words, lanes)
    elif kind is types.int8:
        words = builder.sitofp(words, _of(_FLOAT, lanes))
    return builder.fmul(words, _splat(builder, scale, lanes))


def _noise(builder: Any, salt: Any, index: Any, lanes: int) -> Any:
    """16 random bits per value; columns d and d + 8 share a word if d mod 16 < 8."""
    count = min(lanes, _HALF)  # words
    step, factor_1, factor_2, half, shift = (_all(_I32, word, count) for word in (*NOISE_CONSTANTS, 16, 15))
    index = builder.trunc(index, _I32)
    word_index = builder.or_(builder.lshr(builder.and_(index, _I32(-16)), _I32(1)), builder.and_(index, _I32(7)))
    word_index = builder.add(_splat(builder, word_index, count), ir.Constant(_of(_I32, count), list(range(count))))
    word = builder.add(_splat(builder, salt, count), builder.mul(word_index, step))
    word = builder.mul(builder.xor(word, builder.lshr(word, half)), factor_1)
    word = builder.mul(builder.xor(word, builder.lshr(word, shift)), factor_2)
    low, high = builder.and_(word, _all(_I32, 0xFFFF, count)), builder.lshr(word, half)
    if lanes > _HALF:
        return builder.shuffle_vector(low, high, ir.Constant(_of(_I32, lanes), list(range(lanes))))
    return builder.select(builder.trunc(builder.lshr(index, _I32(3)), _I1), high, low)


def _floor(builder: Any, values: Any) -> Any:
    name = f"llvm.floor.v{values.type.count}f32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(values.type, [values.type]), name)
    return builder.call(function, [values])


def _rounded(builder: Any, kind: Any, values: Any, scale: Any, noise: Any, lanes: int) -> Any:
    """Converts values to the stored format with stochastic rounding."""
    if kind is types.float32:
        return values
    if kind is types.uint16:
        bits = builder.add(builder.bitcast(values, _of(_I32, lanes)), noise)
        return builder.trunc(builder.lshr(bits, _all(_I32, 16, lanes)), _of(_I16, lanes))
    offset = builder.fadd(builder.sitofp(noise, _of(_FLOAT, lanes)), _all(_FLOAT, 0.5, lanes))
    offset = builder.fmul(offset, _all(_FLOAT, 1 / 65536, lanes))
    quotient = builder.fdiv(values, _splat(builder, scale, lanes))
    whole = _floor(builder, builder.fadd(quotient, offset))
    return builder.trunc(builder.fptosi(whole, _of(_I32, lanes)), _of(_I8, lanes))


def _magnitudes(builder: Any) -> _Lanes:
    """A maximum of magnitudes, as the bits of floats, whose integer order is that of the floats."""
    return _Lanes(builder, _I32, 0, lambda a, b: builder.select(builder.icmp_unsigned(">", a, b), a, b))


def _sum(builder: Any) -> _Lanes:
    return _Lanes(builder, _FLOAT, -0.0, builder.fadd)  # the neutral element: x + -0.0 is x for every x, 0.0 included


_ADDRESS, _COUNT, _VALUE, _WORD = types.int64, types.int64, types.float32, types.uint32


@intrinsic
def read_row(typingctx: Any, table: Any, row: Any, scale: Any, target: Any, dim: Any) -> Any:  # noqa: ARG001
    """Writes the values of a row to `target` as float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        _, row, scale, target, dim = args
        _each(
            builder,
            dim,
            lambda index, lanes: _store(
                builder, _row_values(builder, table.dtype, row, scale, index, lanes), target, index, 4
            ),
        )
        return context.get_dummy_value()

    return types.void(table, _ADDRESS, _VALUE, _ADDRESS, _COUNT), generate


@intrinsic
def add_row(typingctx: Any, table: Any, row: Any, scale: Any, target: Any, dim: Any) -> Any:  # noqa: ARG001
    """Adds the values of a row to those at `target`, float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        _, row, scale, target, dim = args

        def body(index: Any, lanes: int) -> None:
            sums = _load(builder, target, index, types.float32, lanes)
            values = _row_values(builder, table.dtype, row, scale, index, lanes)
            _store(builder, builder.fadd(sums, values), target, index, 4)

        _each(builder, dim, body)
        return context.get_dummy_value()

    return types.void(table, _ADDRESS, _VALUE, _ADDRESS, _COUNT), generate


@intrinsic
def step_row(
    typingctx: Any,  # noqa: ARG001
    table: Any,
    row: Any,  # noqa: ARG001
    scale: Any,  # noqa: ARG001
    gradient: Any,  # noqa: ARG001
    learning_rate: Any,  # noqa: ARG001
    target: Any,  # noqa: ARG001
    dim: Any,  # noqa: ARG001
) -> Any:
    """Writes row - learning_rate * gradient to `target` as float32; returns the peak magnitude, 0 without scales."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        _, row, scale, gradient, learning_rate, target, dim = args
        peaks = _magnitudes(builder)

        def body(index: Any, lanes: int) -> None:
            slopes = _load(builder, gradient, index, types.float32, lanes)
            values = _row_values(builder, table.dtype, row, scale, index, lanes)
            values = builder.fsub(values, builder.fmul(_splat(builder, learning_rate, lanes), slopes))
            _store(builder, values, target, index, 4)
            if table.dtype is types.int8:
                bits = builder.bitcast(values, _of(_I32, lanes))
                peaks.take(builder.and_(bits, _all(_I32, _SIGN, lanes)), lanes)

        _each(builder, dim, body)
        return builder.bitcast(peaks.total(), _FLOAT)

    return _VALUE(table, _ADDRESS, _VALUE, _ADDRESS, _VALUE, _ADDRESS, _COUNT), generate


@intrinsic
def round_row(typingctx: Any, table: Any, source: Any, scale: Any, salt: Any, row: Any, dim: Any) -> Any:  # noqa: ARG001
    """Writes float32 values at `source` into a row, with stochastic rounding if the format is smaller."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        _, source, scale, salt, row, dim = args

        def body(index: Any, lanes: int) -> None:
            values = _load(builder, source, index, types.float32, lanes)
            noise = _noise(builder, salt, index, lanes)
            words = _rounded(builder, table.dtype, values, scale, noise, lanes)
            _store(builder, words, row, index, _VALUE_BYTES[table.dtype])

        _each(builder, dim, body)
        return context.get_dummy_value()

    return types.void(table, _ADDRESS, _VALUE, _WORD, _ADDRESS, _COUNT), generate


@intrinsic
def dot(typingctx: Any, left: Any, right: Any, dim: Any) -> Any:  # noqa: ARG001
    """The dot product of float32 values at two addresses."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        products = _sum(builder)

        def body(index: Any, lanes: int) -> None:
            pair = (_load(builder, address, index, types.float32, lanes) for address in args[:2])
            products.take(builder.fmul(*pair), lanes)

        _each(builder, args[2], body)
        return products.total()

    return _VALUE(_ADDRESS, _ADDRESS, _COUNT), generate


@intrinsic
def add_vector(typingctx: Any, source: Any, factor: Any, target: Any, dim: Any) -> Any:  # noqa: ARG001
    """Adds `factor` times the float32 values at `source` to those at `target`; returns the sum of source squares."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        source, factor, target, dim = args
        squares = _sum(builder)

        def body(index: Any, lanes: int) -> None:
            values = _load(builder, source, index, types.float32, lanes)
            sums = _load(builder, target, index, types.float32, lanes)
            added = builder.fmul(values, _splat(builder, factor, lanes))
            _store(builder, builder.fadd(sums, added), target, index, 4)
            squares.take(builder.fmul(values, values), lanes)

        _each(builder, dim, body)
        return squares.total()

    return _VALUE(_ADDRESS, _VALUE, _ADDRESS, _COUNT), generate


@intrinsic
def scale_vector(typingctx: Any, target: Any, factor: Any, dim: Any) -> Any:  # noqa: ARG001
    """Multiplies float32 values in place."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        target, factor, dim = args

        def body(index: Any, lanes: int) -> None:
            values = _load(builder, target, index, types.float32, lanes)
            _store(builder, builder.fmul(values, _splat(builder, factor, lanes)), target, index, 4)

        _each(builder, dim, body)
        return context.get_dummy_value()

    return types.void(_ADDRESS, _VALUE, _COUNT), generate
