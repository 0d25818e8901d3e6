"""EVT3, the 16 bit format of Prophesee sensors (EVT 3.0 data format, Metavision documentation).

The code is in bits 12 to 15. Times are 24 bits of microseconds, in two words, and wrap every 16.777 s.
"""

from __future__ import annotations

import numpy as np
from numba import int64, uintp

from sdt_ros.compiled import njit
from sdt_ros.events.codecs import state as s
from sdt_ros.events.codecs.bits import lowest_bit
from sdt_ros.events.codecs.unroll import unroll
from sdt_ros.events.sinks import Sink, emit, since, until

WORD = np.dtype("<u2")
EVENTS_PER_WORD = 12
TIMES_COUNT_FROM_BASE = False

ADDR_Y, ADDR_X, VECT_BASE_X, VECT_12, VECT_8 = 0x0, 0x2, 0x3, 0x4, 0x5
TIME_LOW, TIME_HIGH, EXT_TRIGGER = 0x6, 0x8, 0xA
CONTINUED_4, OTHERS, CONTINUED_12 = 0x7, 0xE, 0xF
PADDING = 0x9999  # Lucid cameras fill up their packets with it


@njit(nogil=True, cache=True, _nrt=False)
def decode(  # type: ignore[no-untyped-def]
    words: np.ndarray, start: int, time_base: int, width: int, height: int, state: np.ndarray, sink: Sink
):
    """Decode `words[start:]` until their end or until the sink pauses; returns (next word, events emitted)."""
    sync, high, low, unsettled, time = state[s.SYNC], state[s.HIGH], state[s.LOW], state[s.UNSETTLED], state[s.TIME]
    row, base, polarity, first = state[s.ROW], state[s.BASE], state[s.POLARITY], state[s.FIRST]
    t_from, t_until = since(sink), until(sink)
    n, i, end = 0, start, words.size
    while i < end:
        # Most words of a sparse scene are (time, row, column) triples. This loop takes them, and whatever else needs
        # no more than the time and the row; it leaves the first word that does to the general case below.
        if sync == s.ALL and unsettled == 0 and first != s.NO_TIME and row >= 0:
            same_high = (TIME_HIGH << 12) | ((high >> 12) & 0xFFF)
            while i + 3 < end:
                word = int64(words[uintp(i)])
                code = word >> 12
                if code == TIME_LOW:
                    now = high | (word & 0xFFF)
                    if now < time or now >= t_until:
                        break
                    time = now
                    word = int64(words[uintp(i + 1)])
                    after = int64(words[uintp(i + 2)])
                    i += 1
                    if word >> 12 == ADDR_Y and after >> 12 == ADDR_X:
                        i += 2
                        # A repeated TIME_HIGH often follows. Stepping over it without asking is faster than a jump
                        # that cannot be foretold.
                        i += int64(words[uintp(i)]) == same_high
                        row = word & 0x7FF
                        x = after & 0x7FF
                        if x < width and row < height:
                            n = emit(sink, n, time, x, row, (after >> 11) & 1)
                        else:
                            state[s.OUTSIDE] += 1
                elif word == same_high:
                    i += 1
                elif code == ADDR_X:
                    i += 1
                    x = word & 0x7FF
                    if x < width and row < height:
                        n = emit(sink, n, time, x, row, (word >> 11) & 1)
                    else:
                        state[s.OUTSIDE] += 1
                elif code == ADDR_Y:
                    i += 1
                    row = word & 0x7FF
                else:
                    break
            low = time & 0xFFF
            if i == end:
                break

        word = int64(words[uintp(i)])
        code = word >> 12
        if code == TIME_LOW:
            if sync != s.NOTHING:
                now = high | (word & 0xFFF)
                if now < t_from or now >= t_until:
                    state[s.STOP] = now
                    break
                sync = s.ALL
                unsettled = 0
                low = word & 0xFFF
                state[s.BACKWARDS] += now < time
                time = now
                if first == s.NO_TIME:
                    first = now

        elif code == TIME_HIGH:
            upper = unroll(high, word & 0xFFF, 12, 12)
            if upper != high or sync == s.NOTHING:
                high = upper
                unsettled = 1
                sync = max(sync, s.UPPER)

        elif code == ADDR_Y:
            row = word & 0x7FF

        elif code == ADDR_X or code == VECT_8 or code == VECT_12:
            if unsettled != 0 and sync == s.ALL:
                now = high | low
                if now < t_from or now >= t_until:
                    state[s.STOP] = now
                    break
                unsettled = 0
                state[s.BACKWARDS] += now < time
                time = now
                if first == s.NO_TIME:
                    first = now
            if code == ADDR_X:
                x, sign, mask = word & 0x7FF, (word >> 11) & 1, int64(1)
            elif code == VECT_8:
                x, sign, mask = base, polarity, word & 0xFF
                base += 8 if base >= 0 else 0
            else:
                x, sign, mask = base, polarity, word & 0xFFF
                base += 12 if base >= 0 else 0
            known = sync == s.ALL and row >= 0 and x >= 0
            while mask != 0:
                column = x + lowest_bit(mask)
                mask &= mask - 1
                if not known:
                    state[s.UNSYNCED] += 1
                elif column < width and row < height:
                    n = emit(sink, n, time, column, row, sign)
                else:
                    state[s.OUTSIDE] += 1

        elif code == VECT_BASE_X:
            base = word & 0x7FF
            polarity = (word >> 11) & 1

        elif code == EXT_TRIGGER:
            state[s.TRIGGERS] += 1

        elif code != OTHERS and code != CONTINUED_4 and code != CONTINUED_12 and word != PADDING:
            state[s.UNKNOWN] += 1
        i += 1

    state[s.SYNC], state[s.HIGH], state[s.LOW], state[s.UNSETTLED], state[s.TIME] = sync, high, low, unsettled, time
    state[s.ROW], state[s.BASE], state[s.POLARITY], state[s.FIRST] = row, base, polarity, first
    return i, n
