"""libcaer_cmp, libcaer events packed into 16 bit words as by EVT3, but with columns before rows.

The code is in bits 12 to 15. Times count microseconds from the packet's `time_base` [ns].
"""

from __future__ import annotations

import numpy as np
from numba import int64, uintp

from sdt_ros.compiled import njit
from sdt_ros.events.codecs import state as s
from sdt_ros.events.codecs.bits import lowest_bit
from sdt_ros.events.sinks import Sink, emit, since, until

WORD = np.dtype("<u2")
EVENTS_PER_WORD = 12
TIMES_COUNT_FROM_BASE = True

TIME_HIGH, TIME_LOW, ADDR_X, ADDR_Y, VECT_BASE_Y, VECT_8, VECT_12 = 0x0, 0x1, 0x2, 0x3, 0x4, 0x5, 0x6
# The driver keeps 4 bits of TIME_HIGH, so that a packet's times start over after 65.536 ms; nothing else makes the
# sorted events of a packet go back by half of that.
TRUNCATED_SPAN = 1 << 16  # [us]


@njit(nogil=True, cache=True, _nrt=False)
def decode(  # type: ignore[no-untyped-def]
    words: np.ndarray, start: int, time_base: int, width: int, height: int, state: np.ndarray, sink: Sink
):
    """Decode `words[start:]` until their end or until the sink pauses; returns (next word, events emitted)."""
    zero, high, low, column = time_base // 1000, state[s.HIGH], state[s.LOW], state[s.ROW]
    base, polarity, suspect = state[s.BASE], state[s.POLARITY], state[s.SUSPECT]
    time, first = state[s.TIME], state[s.FIRST]
    t_from, t_until = since(sink), until(sink)
    n, i, end = 0, start, words.size
    while i < end:
        word = int64(words[uintp(i)])
        code = word >> 12
        if code == TIME_LOW:
            low = word & 0xFFF
        elif code == ADDR_X:
            column = word & 0x7FF
        elif code == ADDR_Y or code == VECT_8 or code == VECT_12:
            now = zero + (high | low)
            if now != time:
                if now < t_from or now >= t_until:
                    state[s.STOP] = now
                    break
                if now < time:
                    state[s.BACKWARDS] += 1
                    if suspect == 0 and first != s.NO_TIME and time - now > TRUNCATED_SPAN // 2:
                        suspect = 1
                        state[s.MISTIMED] += 1
                time = now
            if first == s.NO_TIME:
                first = now
            if code == ADDR_Y:
                y = word & 0x7FF
                if column < 0:
                    state[s.UNSYNCED] += 1
                elif column < width and y < height:
                    n = emit(sink, n, now, column, y, (word >> 11) & 1)
                else:
                    state[s.OUTSIDE] += 1
            else:
                length = 8 if code == VECT_8 else 12
                mask = word & ((1 << length) - 1)
                while mask != 0:
                    y = base + lowest_bit(mask)
                    mask &= mask - 1
                    if column < 0 or base < 0:
                        state[s.UNSYNCED] += 1
                    elif column < width and y < height:
                        n = emit(sink, n, now, column, y, polarity)
                    else:
                        state[s.OUTSIDE] += 1
                if base >= 0:
                    base += length
        elif code == TIME_HIGH:
            high = (word & 0xFFF) << 12
        elif code == VECT_BASE_Y:
            base = word & 0x7FF
            polarity = (word >> 11) & 1
        else:
            state[s.UNKNOWN] += 1
        i += 1
    state[s.HIGH], state[s.LOW], state[s.ROW], state[s.TIME], state[s.FIRST] = high, low, column, time, first
    state[s.BASE], state[s.POLARITY], state[s.SUSPECT] = base, polarity, suspect
    return i, n
