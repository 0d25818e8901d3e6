"""Walking over the set bits of a vector word."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def lowest_bit(typing_context, mask):  # type: ignore[no-untyped-def]
    """Index of the lowest set bit of an int64 that is not zero: one instruction, where a loop would take up to 64."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate
