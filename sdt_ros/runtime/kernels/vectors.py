"""Vectors of numbers inside compiled loops: which of 64 spikes are there, places in a narrower type, sums of rows.

The same as `bits`, for many values at once: numba leaves each of these to a loop over single values, or keeps sums in
memory where they belong into registers. LLVM splits the vectors into what the CPU has.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from sdt_ros.runtime.kernels.bits import Code

LANES = 64
"""Values of a row that `add_rows` sums up."""
UNROLLED = 8
"""Rows that `add_rows` takes at once."""
SAFE_ROWS = 256
"""Rows of int8 whose sum an int16 holds in any case."""
SPARE = 16
"""Values at a time that `copy_places` reads and writes, so that it may go beyond the last by one less."""

_BYTE, _HALF, _INT, _WORD = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _data(context: Any, builder: Any, kind: Any, array: Any, first: Any) -> Any:
    """Pointer to a place in a contiguous array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [first])


def _check(kind: Any, dtype: Any, name: str) -> None:
    if not (isinstance(kind, types.Array) and kind.dtype == dtype and kind.layout == "C"):
        raise TypingError(f"{name} must be a contiguous array of {dtype}, not {kind}")


@intrinsic
def mask_of(typing: Any, spikes: Any, first: Any) -> Code:
    """Which of 64 bytes from `first` on are not 0, the first as the lowest bit of a uint64."""
    _check(spikes, types.uint8, "spikes")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(_BYTE, 64)
        place = builder.bitcast(_data(context, builder, spikes, *args), vector.as_pointer())
        bytes_ = builder.load(place, align=1)
        return builder.bitcast(builder.icmp_unsigned("!=", bytes_, ir.Constant(vector, None)), _WORD)

    return types.uint64(spikes, first), code


@intrinsic
def copy_places(typing: Any, places: Any, first: Any, count: Any, shift: Any, to: Any, at: Any) -> Code:
    """Write `count` of uint32 `places` from `first` on, each less `shift`, to uint16 `to` from `at` on.

    Up to `SPARE - 1` values behind the last are read and written too.
    """
    _check(places, types.uint32, "places")
    _check(to, types.uint16, "to")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide, slim = ir.VectorType(_INT, SPARE), ir.VectorType(_HALF, SPARE)
        source = _data(context, builder, places, args[0], args[1])
        target = _data(context, builder, to, args[4], args[5])
        shifts: Any = ir.Constant(wide, ir.Undefined)
        shift_ = builder.trunc(args[3], _INT)
        for lane in range(SPARE):
            shifts = builder.insert_element(shifts, shift_, ir.Constant(_INT, lane))
        before = builder.block
        loop, body, done = (builder.append_basic_block(name) for name in ("copy", "copy.body", "copy.done"))
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(_WORD)
        index.add_incoming(ir.Constant(_WORD, 0), before)
        builder.cbranch(builder.icmp_unsigned("<", index, args[2]), body, done)
        builder.position_at_end(body)
        values = builder.load(builder.bitcast(builder.gep(source, [index]), wide.as_pointer()), align=4)
        narrow = builder.trunc(builder.sub(values, shifts), slim)
        builder.store(narrow, builder.bitcast(builder.gep(target, [index]), slim.as_pointer()), align=2)
        index.add_incoming(builder.add(index, ir.Constant(_WORD, SPARE)), body)
        builder.branch(loop)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(places, first, count, shift, to, at), code


@intrinsic
def add_rows(typing: Any, table: Any, base: Any, rows: Any, first: Any, end: Any, total: Any) -> Code:
    """Sum rows of a flat table of int8 [.., LANES], of which row 0 lies at `base`, into `total`, int32 [LANES].

    The rows are those whose numbers stand in uint16 `rows` from `first` to `end`, a multiple of `UNROLLED`.
    """
    _check(table, types.int8, "table")
    _check(rows, types.uint16, "rows")
    _check(total, types.int32, "total")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of_bytes, of_halves, of_ints = (ir.VectorType(kind, LANES) for kind in (_BYTE, _HALF, _INT))
        weights = _data(context, builder, table, args[0], args[1])
        numbers = _data(context, builder, rows, args[2], ir.Constant(_WORD, 0))
        into = builder.bitcast(_data(context, builder, total, args[5], ir.Constant(_WORD, 0)), of_ints.as_pointer())
        before = builder.block
        names = ("chunk", "chunk.body", "row", "row.body", "chunk.end", "done")
        chunk, chunk_body, row, row_body, chunk_end, done = (builder.append_basic_block(name) for name in names)
        builder.branch(chunk)

        builder.position_at_end(chunk)  # as many rows as an int16 can sum up
        begin, whole = builder.phi(_WORD), builder.phi(of_ints)
        begin.add_incoming(args[3], before)
        whole.add_incoming(ir.Constant(of_ints, None), before)
        builder.cbranch(builder.icmp_unsigned("<", begin, args[4]), chunk_body, done)
        builder.position_at_end(chunk_body)
        limit = builder.add(begin, ir.Constant(_WORD, SAFE_ROWS))
        stop = builder.select(builder.icmp_unsigned("<", limit, args[4]), limit, args[4])
        builder.branch(row)

        builder.position_at_end(row)
        index, part = builder.phi(_WORD), builder.phi(of_halves)
        index.add_incoming(begin, chunk_body)
        part.add_incoming(ir.Constant(of_halves, None), chunk_body)
        builder.cbranch(builder.icmp_unsigned("<", index, stop), row_body, chunk_end)
        builder.position_at_end(row_body)
        summed = part
        for ahead in range(UNROLLED):
            number = builder.load(builder.gep(numbers, [builder.add(index, ir.Constant(_WORD, ahead))]))
            place = builder.mul(builder.zext(number, _WORD), ir.Constant(_WORD, LANES))
            values = builder.load(builder.bitcast(builder.gep(weights, [place]), of_bytes.as_pointer()), align=1)
            summed = builder.add(summed, builder.sext(values, of_halves))
        index.add_incoming(builder.add(index, ir.Constant(_WORD, UNROLLED)), row_body)
        part.add_incoming(summed, row_body)
        builder.branch(row)

        builder.position_at_end(chunk_end)
        begin.add_incoming(stop, chunk_end)
        whole.add_incoming(builder.add(whole, builder.sext(part, of_ints)), chunk_end)
        builder.branch(chunk)
        builder.position_at_end(done)
        builder.store(whole, into, align=4)
        return context.get_dummy_value()

    return types.void(table, base, rows, first, end, total), code
