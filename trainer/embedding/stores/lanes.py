"""Rows of numbers inside numba kernels, as vectors: read, add, square, round, whatever a row is stored as.

LLVM vectorises a plain loop over a row only where it can see that nothing overlaps and that the row is long, and not
at all where a sum must keep its order; so these are written as vectors. Every sum has the same lanes and then a fixed
tree on any CPU: results depend on no machine's width. A row is an address (`array.ctypes.data` plus its place) and
`dim` numbers; what it holds is known from the type of its table:

    float32    the numbers         uint16    bfloat16, the upper halves of float32         int8    of the row's scale

`noise` is 16 random bits for one number of a row, a function of the row's salt and the number's place in it
(`row_format.Chance` has it in torch).
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
    "add_numbers",
    "add_row",
    "dot",
    "read_row",
    "round_row",
    "step_row",
]

NOISE_CONSTANTS = (0x9E3779B9, 0x7FEB352D, 0x846CA68B)  # 2^32 / golden ratio, and "lowbias32" (C. Wellons)

_WIDTHS = (16, 8, 1)  # lanes
_HALF = 8  # numbers that share no random word
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_FLOAT = ir.FloatType()
_NUMBER_BYTES = {types.float32: 4, types.uint16: 2, types.int8: 1}
_SIGN = 0x7FFFFFFF


def _of(item: Any, lanes: int) -> Any:
    return ir.VectorType(item, lanes)


def _splat(builder: Any, word: Any, lanes: int) -> Any:
    vector = _of(word.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), word, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(_of(_I32, lanes), [0] * lanes))


def _all(item: Any, number: float, lanes: int) -> Any:
    return ir.Constant(_of(item, lanes), [number] * lanes)


def _place(builder: Any, address: Any, index: Any, item_bytes: int, vector: Any) -> Any:
    at = builder.add(address, builder.mul(index, _I64(item_bytes)))
    return builder.inttoptr(at, vector.as_pointer())


def _load(builder: Any, address: Any, index: Any, kind: Any, lanes: int) -> Any:
    item = {types.float32: _FLOAT, types.uint16: _I16, types.int8: _I8}[kind]
    size = _NUMBER_BYTES[kind]
    return builder.load(_place(builder, address, index, size, _of(item, lanes)), align=size)


def _store(builder: Any, vector: Any, address: Any, index: Any, size: int) -> None:
    builder.store(vector, _place(builder, address, index, size, vector.type), align=size)


def _each(builder: Any, dim: Any, body: Callable[[Any, int], None]) -> None:
    """Emits `body(index, lanes)` for as many lanes at a time as go, then for what is left, at last one at a time.

    What is written so is read so: a read that spans two writes would have to wait until both are in the cache.
    """
    start = _I64(0)
    for lanes in _WIDTHS:
        stop = builder.and_(dim, _I64(-lanes))
        with cgutils.for_range_slice(builder, start, stop, _I64(lanes), _I64) as (index, _):
            body(index, lanes)
        start = stop


class _Lanes:
    """A sum or a maximum, kept in as many lanes as are read at a time, then joined in a fixed tree."""

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


def _numbers(builder: Any, kind: Any, address: Any, scale: Any, index: Any, lanes: int) -> Any:
    """What a row holds, as float32, times `scale`."""
    words = _load(builder, address, index, kind, lanes)
    if kind is types.uint16:
        words = _widen(builder, words, lanes)
    elif kind is types.int8:
        words = builder.sitofp(words, _of(_FLOAT, lanes))
    return builder.fmul(words, _splat(builder, scale, lanes))


def _noise(builder: Any, salt: Any, index: Any, lanes: int) -> Any:
    """16 random bits a number; the numbers d and d + 8 share a word, where d / 16 leaves a rest less than 8."""
    count = min(lanes, _HALF)  # words
    step, factor_1, factor_2, half, shift = (_all(_I32, word, count) for word in (*NOISE_CONSTANTS, 16, 15))
    index = builder.trunc(index, _I32)
    number = builder.or_(builder.lshr(builder.and_(index, _I32(-16)), _I32(1)), builder.and_(index, _I32(7)))
    number = builder.add(_splat(builder, number, count), ir.Constant(_of(_I32, count), list(range(count))))
    word = builder.add(_splat(builder, salt, count), builder.mul(number, step))
    word = builder.mul(builder.xor(word, builder.lshr(word, half)), factor_1)
    word = builder.mul(builder.xor(word, builder.lshr(word, shift)), factor_2)
    low, high = builder.and_(word, _all(_I32, 0xFFFF, count)), builder.lshr(word, half)
    if lanes > _HALF:
        return builder.shuffle_vector(low, high, ir.Constant(_of(_I32, lanes), list(range(lanes))))
    return builder.select(builder.trunc(builder.lshr(index, _I32(3)), _I1), high, low)


def _floor(builder: Any, numbers: Any) -> Any:
    name = f"llvm.floor.v{numbers.type.count}f32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(numbers.type, [numbers.type]), name)
    return builder.call(function, [numbers])


def _rounded(builder: Any, kind: Any, numbers: Any, scale: Any, noise: Any, lanes: int) -> Any:
    """Numbers as the row stores them, rounded up or down by chance."""
    if kind is types.float32:
        return numbers
    if kind is types.uint16:
        bits = builder.add(builder.bitcast(numbers, _of(_I32, lanes)), noise)
        return builder.trunc(builder.lshr(bits, _all(_I32, 16, lanes)), _of(_I16, lanes))
    chance = builder.fadd(builder.sitofp(noise, _of(_FLOAT, lanes)), _all(_FLOAT, 0.5, lanes))
    chance = builder.fmul(chance, _all(_FLOAT, 1 / 65536, lanes))
    quotient = builder.fdiv(numbers, _splat(builder, scale, lanes))
    whole = _floor(builder, builder.fadd(quotient, chance))
    return builder.trunc(builder.fptosi(whole, _of(_I32, lanes)), _of(_I8, lanes))


def _magnitudes(builder: Any) -> _Lanes:
    """A maximum of magnitudes, as integers, which order as the numbers do."""
    return _Lanes(builder, _I32, 0, lambda a, b: builder.select(builder.icmp_unsigned(">", a, b), a, b))


def _sum(builder: Any) -> _Lanes:
    return _Lanes(builder, _FLOAT, -0.0, builder.fadd)  # what any number is left alone by


_WHERE, _COUNT, _NUMBER, _WORD = types.int64, types.int64, types.float32, types.uint32


@intrinsic
def read_row(typingctx: Any, table: Any, row: Any, scale: Any, target: Any, dim: Any) -> Any:  # noqa: ARG001
    """Writes the numbers of a row to `target` as float32."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
        _, row, scale, target, dim = values
        _each(
            builder,
            dim,
            lambda index, lanes: _store(
                builder, _numbers(builder, table.dtype, row, scale, index, lanes), target, index, 4
            ),
        )
        return context.get_dummy_value()

    return types.void(table, _WHERE, _NUMBER, _WHERE, _COUNT), generate


@intrinsic
def add_row(typingctx: Any, table: Any, row: Any, scale: Any, target: Any, dim: Any) -> Any:  # noqa: ARG001
    """Adds the numbers of a row to those at `target`, float32."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
        _, row, scale, target, dim = values

        def body(index: Any, lanes: int) -> None:
            sums = _load(builder, target, index, types.float32, lanes)
            numbers = _numbers(builder, table.dtype, row, scale, index, lanes)
            _store(builder, builder.fadd(sums, numbers), target, index, 4)

        _each(builder, dim, body)
        return context.get_dummy_value()

    return types.void(table, _WHERE, _NUMBER, _WHERE, _COUNT), generate


@intrinsic
def step_row(
    typingctx: Any,  # noqa: ARG001
    table: Any,
    row: Any,  # noqa: ARG001
    scale: Any,  # noqa: ARG001
    gradient: Any,  # noqa: ARG001
    rate: Any,  # noqa: ARG001
    target: Any,  # noqa: ARG001
    dim: Any,  # noqa: ARG001
) -> Any:
    """Writes row - rate * gradient to `target` as float32; returns the largest magnitude, 0 without scales."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
        _, row, scale, gradient, rate, target, dim = values
        peaks = _magnitudes(builder)

        def body(index: Any, lanes: int) -> None:
            slopes = _load(builder, gradient, index, types.float32, lanes)
            numbers = _numbers(builder, table.dtype, row, scale, index, lanes)
            numbers = builder.fsub(numbers, builder.fmul(_splat(builder, rate, lanes), slopes))
            _store(builder, numbers, target, index, 4)
            if table.dtype is types.int8:
                bits = builder.bitcast(numbers, _of(_I32, lanes))
                peaks.take(builder.and_(bits, _all(_I32, _SIGN, lanes)), lanes)

        _each(builder, dim, body)
        return builder.bitcast(peaks.total(), _FLOAT)

    return _NUMBER(table, _WHERE, _NUMBER, _WHERE, _NUMBER, _WHERE, _COUNT), generate


@intrinsic
def round_row(typingctx: Any, table: Any, source: Any, scale: Any, salt: Any, row: Any, dim: Any) -> Any:  # noqa: ARG001
    """Writes float32 numbers at `source` into a row, those that do not fit rounded up or down by chance."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
        _, source, scale, salt, row, dim = values

        def body(index: Any, lanes: int) -> None:
            numbers = _load(builder, source, index, types.float32, lanes)
            noise = _noise(builder, salt, index, lanes)
            words = _rounded(builder, table.dtype, numbers, scale, noise, lanes)
            _store(builder, words, row, index, _NUMBER_BYTES[table.dtype])

        _each(builder, dim, body)
        return context.get_dummy_value()

    return types.void(table, _WHERE, _NUMBER, _WORD, _WHERE, _COUNT), generate


@intrinsic
def dot(typingctx: Any, numbers: Any, others: Any, dim: Any) -> Any:  # noqa: ARG001
    """The sum of the products of float32 numbers at two addresses."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
        products = _sum(builder)

        def body(index: Any, lanes: int) -> None:
            pair = (_load(builder, address, index, types.float32, lanes) for address in values[:2])
            products.take(builder.fmul(*pair), lanes)

        _each(builder, values[2], body)
        return products.total()

    return _NUMBER(_WHERE, _WHERE, _COUNT), generate


@intrinsic
def add_numbers(typingctx: Any, source: Any, factor: Any, target: Any, dim: Any) -> Any:  # noqa: ARG001
    """Adds `factor` times the float32 numbers at `source` to those at `target`; returns the sum of their squares."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
        source, factor, target, dim = values
        squares = _sum(builder)

        def body(index: Any, lanes: int) -> None:
            numbers = _load(builder, source, index, types.float32, lanes)
            sums = _load(builder, target, index, types.float32, lanes)
            added = builder.fmul(numbers, _splat(builder, factor, lanes))
            _store(builder, builder.fadd(sums, added), target, index, 4)
            squares.take(builder.fmul(numbers, numbers), lanes)

        _each(builder, dim, body)
        return squares.total()

    return _NUMBER(_WHERE, _NUMBER, _WHERE, _COUNT), generate
