"""EVT2.1, the 64 bit vectorised format of Prophesee sensors (EVT 2.1 data format, Metavision documentation).

The type is in bits 60 to 63; an event word holds up to 32 events of one row, time and polarity in a bit mask. Times as
in EVT2.
"""

from __future__ import annotations

import numpy as np
from numba import int64, uint64, uintp

from sdt_ros.compiled import njit
from sdt_ros.events.codecs import state as s
from sdt_ros.events.codecs.bits import lowest_bit
from sdt_ros.events.codecs.unroll import unroll
from sdt_ros.events.sinks import Sink, emit, since, until

WORD = np.dtype("<u8")
EVENTS_PER_WORD = 32
TIMES_COUNT_FROM_BASE = False

EVT_NEG, EVT_POS, TIME_HIGH, EXT_TRIGGER, OTHERS, CONTINUED = 0x0, 0x1, 0x8, 0xA, 0xE, 0xF


@njit(nogil=True, cache=True, _nrt=False)
def decode(  # type: ignore[no-untyped-def]
    words: np.ndarray, start: int, time_base: int, width: int, height: int, state: np.ndarray, sink: Sink
):
    """Decode `words[start:]` until their end or until the sink pauses; returns (next word, events emitted)."""
    sync, high, time, first = state[s.SYNC], state[s.HIGH], state[s.TIME], state[s.FIRST]
    t_from, t_until = since(sink), until(sink)
    n, i, end = 0, start, words.size
    while i < end:
        word = words[uintp(i)]
        upper = int64(word >> uint64(32))
        mask = int64(word & uint64(0xFFFFFFFF))
        kind = upper >> 28
        if kind == EVT_NEG or kind == EVT_POS:
            now = high | ((upper >> 22) & 0x3F)
            if sync == s.ALL:
                if now < t_from or now >= t_until:
                    state[s.STOP] = now
                    break
                if now < time:
                    state[s.BACKWARDS] += 1
                time = now
                if first == s.NO_TIME:
                    first = now
            x = (upper >> 11) & 0x7FF
            y = upper & 0x7FF
            while mask != 0:
                column = x + lowest_bit(mask)
                mask &= mask - 1
                if sync != s.ALL:
                    state[s.UNSYNCED] += 1
                elif column < width and y < height:
                    n = emit(sink, n, now, column, y, kind)
                else:
                    state[s.OUTSIDE] += 1
        elif kind == TIME_HIGH:
            high = unroll(high, upper & 0xFFFFFFF, 28, 6)
            sync = s.ALL
        elif kind == EXT_TRIGGER:
            state[s.TRIGGERS] += 1
        elif kind != OTHERS and kind != CONTINUED:
            state[s.UNKNOWN] += 1
        i += 1
    state[s.SYNC], state[s.HIGH], state[s.TIME], state[s.FIRST] = sync, high, time, first
    return i, n
