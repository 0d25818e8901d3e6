"""The compiled decoders under damaged packets, in a compiled loop, with guards around all memory that they write to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mutation import LONGEST, draw, mutate
from numba import njit

from sdt_ros.events.codecs import state as s
from sdt_ros.events.encodings import CODECS
from sdt_ros.events.sinks import EVENT_DTYPE, EventSink, SpikeSink

SIZES = np.array([(346, 260), (640, 480), (1280, 720), (1, 1), (3, 2047), (2048, 2048), (8192, 512)], np.int64)
FINDS = (
    "", "stops before the packet's end", "more events than the words can hold", "an event off the sensor",
    "writes outside of the events", "writes outside of the spikes", "does not come to an end", "a state out of range",
    "another number of events in spikes than as a list", "no spike of events",
)  # fmt: skip
_GUARD = 64
_CELLS = 8  # rows and columns of the spike tensors
_PLANE = _CELLS * _CELLS
_SLOTS = 6
_FREE = 0xA5  # what guards hold


def hammer_of(name: str) -> Callable[..., tuple[int, int, int, int]]:
    """A compiled loop over one codec: `loop(random, pool, offsets, packets, memory...)`, see `run`."""
    codec: Any = CODECS[name]
    decode, per_word, size = codec.decode, codec.EVENTS_PER_WORD, codec.WORD.itemsize
    from_base = codec.TIMES_COUNT_FROM_BASE

    @njit
    def loop(random, pool, offsets, packets, octets, words, events, bare, spikes, row, column, state, twin):  # type: ignore[no-untyped-def]
        total, octets_read, time_base = 0, 0, 0
        for number in range(packets):
            if draw(random, 8) == 0:  # another camera
                state[:] = 0
                state[s.ROW] = state[s.BASE] = -1
                state[s.TIME] = s.NO_TIME
            elif draw(random, 8) == 0:  # packets lost
                state[s.SYNC], state[s.UNSETTLED], state[s.ROW], state[s.BASE] = s.NOTHING, 0, -1, -1
            if draw(random, 4) == 0:
                shift = draw(random, 63)
                time_base = (draw(random, 1 << 30) << 33 | draw(random, 1 << 30)) >> shift
                if from_base:
                    state[s.HIGH] = state[s.LOW] = state[s.SUSPECT] = 0
            state[s.FIRST] = s.NO_TIME
            twin[:] = state
            width, height = SIZES[draw(random, SIZES.shape[0])]
            n = mutate(random, pool, offsets, size, octets)
            octets_read += n
            count = n // size
            most = count * per_word

            # --- as a list of events
            for i in range(_GUARD):
                bare[most * 13 + i] = _FREE
            done, found = decode(words[:count], 0, time_base, width, height, state, EventSink(events[:most]))
            if done != count:
                return 1, number, total, octets_read
            if found > most:
                return 2, number, total, octets_read
            for i in range(_GUARD):
                if bare[most * 13 + i] != _FREE:
                    return 4, number, total, octets_read
            for i in range(found):
                event = events[i]
                if event.x >= width or event.y >= height or event.p > 1:
                    return 3, number, total, octets_read
            if not (0 <= state[s.SYNC] <= 2 and -1 <= state[s.ROW] < 2048 and -1 <= state[s.BASE] < 1 << 20):
                return 7, number, total, octets_read
            total += found

            # --- into spike tensors, with pauses
            start, marked, stops = 0, 0, 0
            base, t_from, t_until = 0, 1, 0  # takes nothing: the first time pauses it, as in the node
            overlapping = np.empty(draw(random, 3), np.int64)
            inside = spikes[_GUARD : spikes.size - _GUARD]
            inside[:] = 0
            while start < count:
                overlapping[:] = draw(random, _SLOTS) * 2 * _PLANE
                sink = SpikeSink(inside, base, overlapping, row[:height], column[:width], _PLANE, t_from, t_until)
                start, more = decode(words[:count], start, time_base, width, height, twin, sink)
                marked += more
                stops += 1
                if stops > count + 2:
                    return 6, number, total, octets_read
                stop = twin[s.STOP]
                base = draw(random, _SLOTS) * 2 * _PLANE
                t_from, t_until = stop - draw(random, 1 << 20), stop + 1 + draw(random, 1 << 20)
            if marked != found:
                return 8, number, total, octets_read
            if marked and not inside.any():
                return 9, number, total, octets_read
            for i in range(_GUARD):
                if spikes[i] != _FREE or spikes[spikes.size - 1 - i] != _FREE:
                    return 5, number, total, octets_read
        return 0, packets, total, octets_read

    return loop


class Memory:
    """What the loop works in; `arguments` are those behind the number of packets."""

    def __init__(self, name: str) -> None:
        codec: Any = CODECS[name]
        words = np.zeros(LONGEST // codec.WORD.itemsize, codec.WORD)
        events = np.zeros(words.size * codec.EVENTS_PER_WORD + _GUARD, EVENT_DTYPE)
        spikes = np.full(_SLOTS * 2 * _PLANE + 2 * _GUARD, _FREE, np.uint8)
        row = (np.arange(SIZES.max()) % _CELLS * _CELLS).astype(np.int32)
        column = (np.arange(SIZES.max()) % _CELLS).astype(np.int32)
        self.octets = words.view(np.uint8)
        self.arguments = (
            self.octets, words, events, events.view(np.uint8), spikes, row, column, s.new_state(), s.new_state(),
        )  # fmt: skip
