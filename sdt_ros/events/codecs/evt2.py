"""EVT2, the 32 bit format of Prophesee sensors (EVT 2.0 data format, Metavision documentation).

The type is in bits 28 to 31. Every event carries the lower 6 bits of its time; TIME_HIGH the upper 28. They wrap every
4.77 hours.
"""

from __future__ import annotations

import numpy as np
from numba import int64, uintp

from sdt_ros.compiled import njit
from sdt_ros.events.codecs import state as s
from sdt_ros.events.codecs.unroll import unroll
from sdt_ros.events.sinks import Sink, emit, since, until

WORD = np.dtype("<u4")
EVENTS_PER_WORD = 1
TIMES_COUNT_FROM_BASE = False

CD_OFF, CD_ON, TIME_HIGH, EXT_TRIGGER, OTHERS, CONTINUED = 0x0, 0x1, 0x8, 0xA, 0xE, 0xF


@njit(nogil=True, cache=True, _nrt=False)
def decode(  # type: ignore[no-untyped-def]
    words: np.ndarray, start: int, time_base: int, width: int, height: int, state: np.ndarray, sink: Sink
):
    """Decode `words[start:]` until their end or until the sink pauses; returns (next word, events emitted)."""
    sync, high, time, first = state[s.SYNC], state[s.HIGH], state[s.TIME], state[s.FIRST]
    t_from, t_until = since(sink), until(sink)
    n, i, end = 0, start, words.size
    while i < end:
        word = int64(words[uintp(i)])
        kind = word >> 28
        if kind == CD_OFF or kind == CD_ON:
            if sync == s.ALL:
                now = high | ((word >> 22) & 0x3F)
                if now < t_from or now >= t_until:
                    state[s.STOP] = now
                    break
                if now < time:
                    state[s.BACKWARDS] += 1
                time = now
                if first == s.NO_TIME:
                    first = now
                x = (word >> 11) & 0x7FF
                y = word & 0x7FF
                if x < width and y < height:
                    n = emit(sink, n, now, x, y, kind)
                else:
                    state[s.OUTSIDE] += 1
            else:
                state[s.UNSYNCED] += 1
        elif kind == TIME_HIGH:
            high = unroll(high, word & 0xFFFFFFF, 28, 6)
            sync = s.ALL
        elif kind == EXT_TRIGGER:
            state[s.TRIGGERS] += 1
        elif kind != OTHERS and kind != CONTINUED:
            state[s.UNKNOWN] += 1
        i += 1
    state[s.SYNC], state[s.HIGH], state[s.TIME], state[s.FIRST] = sync, high, time, first
    return i, n
