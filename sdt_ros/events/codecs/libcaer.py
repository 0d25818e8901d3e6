"""libcaer's own 8 byte events (polarity.h of libcaer), as the DAVIS and DVXplorer drivers publish them.

Two 32 bit words an event: polarity (bit 1), y (bits 2 to 16) and x (bits 17 to 31), then signed microseconds that roll
over at 2^31; `time_base` is the time of their zero [ns]. It holds the rollovers of the packets before, and stays the
same for 35 minutes: each packet counts its own anew, so that one damaged time does no harm behind its packet.
"""

from __future__ import annotations

import numpy as np
from numba import int64, uintp

from sdt_ros.compiled import njit
from sdt_ros.events.codecs import state as s
from sdt_ros.events.sinks import Sink, emit, since, until

WORD = np.dtype("<u8")  # both words of an event in one
EVENTS_PER_WORD = 1
TIMES_COUNT_FROM_BASE = False

ROLLOVER = 1 << 31  # [us]


@njit(nogil=True, cache=True, _nrt=False)
def decode(  # type: ignore[no-untyped-def]
    words: np.ndarray, start: int, time_base: int, width: int, height: int, state: np.ndarray, sink: Sink
):
    """Decode `words[start:]` until their end or until the sink pauses; returns (next word, events emitted)."""
    zero, high, low = time_base // 1000, state[s.HIGH], state[s.LOW]
    time, first = state[s.TIME], state[s.FIRST]
    t_from, t_until = since(sink), until(sink)
    if first == s.NO_TIME:
        high, low = 0, -ROLLOVER  # whatever the first time is, it is no rollover
    n, i, end = 0, start, words.size
    while i < end:
        word = int64(words[uintp(i)])
        ticks = word >> 32
        rolled = high + ROLLOVER if ticks < low - (ROLLOVER >> 1) else high
        now = zero + rolled + ticks
        if now < t_from or now >= t_until:
            state[s.STOP] = now
            break
        high, low = rolled, ticks
        if now < time:
            state[s.BACKWARDS] += 1
        time = now
        if first == s.NO_TIME:
            first = now
        x = (word >> 17) & 0x7FFF
        y = (word >> 2) & 0x7FFF
        if x < width and y < height:
            n = emit(sink, n, now, x, y, (word >> 1) & 1)
        else:
            state[s.OUTSIDE] += 1
        i += 1
    state[s.HIGH], state[s.LOW], state[s.TIME], state[s.FIRST] = high, low, time, first
    return i, n
