"""Numbers inside compiled loops: bfloat16 as the upper half of a float32, a multiply-add that rounds once, set bits.

numpy has no bfloat16, so kernels see such tensors as uint16 and convert each value in a register. These are functions
that numba puts into the loop as instructions; they cannot be called from Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

_FLOAT, _BITS, _HALF, _SPIKE = ir.FloatType(), ir.IntType(32), ir.IntType(16), ir.IntType(8)
Code = tuple[Any, Callable[..., Any]]


def _is_stored(kind: Any) -> bool:
    return bool(kind in (types.float32, types.uint16))


def _is_spike(kind: Any) -> bool:
    return bool(kind == types.uint8)


@intrinsic
def widen(typing: Any, stored: Any) -> Code:
    """The float32 of a stored value: itself, or the bfloat16 that a uint16 holds."""
    if not _is_stored(stored):
        raise TypingError(f"a kernel stores float32 or uint16 (bfloat16), not {stored}")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if stored == types.float32:
            return args[0]
        bits = builder.shl(builder.zext(args[0], _BITS), ir.Constant(_BITS, 16))
        return builder.bitcast(bits, _FLOAT)

    return types.float32(stored), code


@intrinsic
def narrow(typing: Any, value: Any, stored: Any) -> Code:
    """A float32 as the type of `stored` (whose value is not read): itself, or bfloat16 rounded to nearest even.

    As a uint8, which holds a spike, it is cut to a whole number.
    """
    if not (_is_stored(stored) or _is_spike(stored)) or value != types.float32:
        raise TypingError(f"narrow() takes a float32 and a stored value, not {value} and {stored}")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if stored == types.float32:
            return args[0]
        if _is_spike(stored):
            return builder.fptoui(args[0], _SPIKE)
        bits = builder.bitcast(args[0], _BITS)
        odd = builder.and_(builder.lshr(bits, ir.Constant(_BITS, 16)), ir.Constant(_BITS, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(_BITS, 0x7FFF)))
        # Rounding could carry a NaN's payload into an infinity or a zero.
        is_nan = builder.fcmp_unordered("uno", args[0], args[0])
        chosen = builder.select(is_nan, ir.Constant(_BITS, 0x7FC00000), rounded)
        return builder.trunc(builder.lshr(chosen, ir.Constant(_BITS, 16)), _HALF)

    return stored(value, stored), code


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Code:
    """Float32 a * b + c in one rounding, as torch's vectorised `add(alpha=...)` does it."""
    if (a, b, c) != (types.float32,) * 3:
        raise TypingError(f"fma() takes three float32, not {a}, {b}, {c}")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(a, b, c), code


@intrinsic
def lowest_bit(typing: Any, word: Any) -> Code:
    """Place of the lowest bit that is set in a uint64 other than 0, as an unsigned index."""
    if word != types.uint64:
        raise TypingError(f"lowest_bit() takes a uint64, not {word}")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(word), code


@intrinsic
def eight_bits(typing: Any, spikes: Any, first: Any) -> Code:
    """Eight spikes of a contiguous uint8 array from `first` on, each 0 or 1, as the low bits of a uint64."""
    if not (isinstance(spikes, types.Array) and spikes.dtype == types.uint8 and spikes.layout == "C"):
        raise TypingError(f"eight_bits() takes a contiguous uint8 array, not {spikes}")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(spikes)(context, builder, args[0])
        word = ir.IntType(64)
        place = builder.bitcast(builder.gep(array.data, [args[1]]), word.as_pointer())
        bytes_ = builder.load(place, align=1)
        return builder.lshr(builder.mul(bytes_, ir.Constant(word, 0x0102040810204080)), ir.Constant(word, 56))

    return types.uint64(spikes, first), code
