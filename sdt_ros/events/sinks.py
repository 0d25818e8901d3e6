"""Where decoded events go: into a list of events, or straight into spike tensors.

Every codec is written once against two operations, `emit` and `outside`. Numba compiles them into the codec's loop
for the type of sink that it is given, so that neither use pays for the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types, uintp
from numba.extending import overload

EVENT_DTYPE = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
"""One event: `t` sensor time [us], never wrapping; `x` column and `y` row [px]; `p` polarity, 1 = ON (brighter)."""


class EventSink(NamedTuple):
    """Keeps every event."""

    events: np.ndarray  # EVENT_DTYPE [capacity]


class SpikeSink(NamedTuple):
    """Sets one cell of each open window's current time bin, for events with `t_from <= t < t_until`."""

    spikes: np.ndarray  # uint8 [slots * T * 2 * H * W], all windows' tensors in one piece of memory
    base: int  # where the current bin's [2, H, W] begins in the oldest open window
    overlapping: np.ndarray  # int64 [open windows - 1]: the same for the windows that overlap it
    row: np.ndarray  # int32 [sensor height]: offset of the network's row that this sensor row falls into
    column: np.ndarray  # int32 [sensor width]: the network's column that this sensor column falls into
    plane: int  # H * W, cells of one polarity
    t_from: int  # [us]
    t_until: int  # [us]


Sink = EventSink | SpikeSink


def emit(sink: Sink, n: int, t: int, x: int, y: int, p: int) -> int:
    """Hand over one event whose x and y lie on the sensor; returns the number of events handed over, n + 1."""
    raise NotImplementedError("compiled code only")


def since(sink: Sink) -> int:
    """The first time whose events the sink takes [us]; at an earlier one decoding pauses, so that its owner can act."""
    raise NotImplementedError("compiled code only")


def until(sink: Sink) -> int:
    """The time at and behind which the sink takes no events [us] before its owner has moved it on."""
    raise NotImplementedError("compiled code only")


_FOREVER = 1 << 62
_PLAIN = {"_nrt": False}  # without it numba counts references to the sink's arrays at every event: half the speed


def _holds(sink: types.Type, kind: type) -> bool:
    return isinstance(sink, types.BaseNamedTuple) and sink.instance_class is kind


@overload(emit, jit_options=_PLAIN)
def _emit(sink, n, t, x, y, p):  # type: ignore[no-untyped-def]
    if _holds(sink, EventSink):

        def keep(sink, n, t, x, y, p):  # type: ignore[no-untyped-def]
            event = sink.events[uintp(n)]
            event.t = t
            event.x = x
            event.y = y
            event.p = p
            return n + 1

        return keep
    if _holds(sink, SpikeSink):

        def mark(sink, n, t, x, y, p):  # type: ignore[no-untyped-def]
            cell = p * sink.plane + sink.row[uintp(y)] + sink.column[uintp(x)]
            sink.spikes[uintp(sink.base + cell)] = 1
            for window in range(sink.overlapping.size):
                sink.spikes[uintp(sink.overlapping[uintp(window)] + cell)] = 1
            return n + 1

        return mark
    return None


@overload(since, jit_options=_PLAIN)
def _since(sink):  # type: ignore[no-untyped-def]
    if _holds(sink, EventSink):
        return lambda sink: -_FOREVER
    if _holds(sink, SpikeSink):
        return lambda sink: sink.t_from
    return None


@overload(until, jit_options=_PLAIN)
def _until(sink):  # type: ignore[no-untyped-def]
    if _holds(sink, EventSink):
        return lambda sink: _FOREVER
    if _holds(sink, SpikeSink):
        return lambda sink: sink.t_until
    return None
