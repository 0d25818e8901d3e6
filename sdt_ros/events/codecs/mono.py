"""mono, the deprecated 8 byte format of the first ROS drivers, still found in old bags.

One 64 bit word an event: polarity (bit 63), y (bits 48 to 62), x (bits 32 to 47), nanoseconds since `time_base`
(bits 0 to 31).
"""

from __future__ import annotations

import numpy as np
from numba import int64, uint64, uintp

from sdt_ros.compiled import njit
from sdt_ros.events.codecs import state as s
from sdt_ros.events.sinks import Sink, emit, since, until

WORD = np.dtype("<u8")
EVENTS_PER_WORD = 1
TIMES_COUNT_FROM_BASE = False


@njit(nogil=True, cache=True, _nrt=False)
def decode(  # type: ignore[no-untyped-def]
    words: np.ndarray, start: int, time_base: int, width: int, height: int, state: np.ndarray, sink: Sink
):
    """Decode `words[start:]` until their end or until the sink pauses; returns (next word, events emitted)."""
    zero, rest = time_base // 1000, uint64(time_base % 1000)
    time, first = state[s.TIME], state[s.FIRST]
    t_from, t_until = since(sink), until(sink)
    n, i, end = 0, start, words.size
    while i < end:
        word = words[uintp(i)]
        upper = int64(word >> uint64(32))
        now = zero + int64((rest + (word & uint64(0xFFFFFFFF))) // uint64(1000))
        if now < t_from or now >= t_until:
            state[s.STOP] = now
            break
        if now < time:
            state[s.BACKWARDS] += 1
        time = now
        if first == s.NO_TIME:
            first = now
        x = upper & 0xFFFF
        y = (upper >> 16) & 0x7FFF
        if x < width and y < height:
            n = emit(sink, n, now, x, y, upper >> 31)
        else:
            state[s.OUTSIDE] += 1
        i += 1
    state[s.TIME], state[s.FIRST] = time, first
    return i, n
