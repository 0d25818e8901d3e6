"""What a codec remembers between packets, and what it counts: one int64 array that compiled code can share."""

from __future__ import annotations

import numpy as np

# --- its place in the byte stream ----------------------------------------------------------------------------------
SYNC = 0  # how much of the time is known: NOTHING, UPPER or ALL
HIGH = 1  # upper part of the time, wraps included [us]
LOW = 2  # lower part of the time [us]
UNSETTLED = 3  # 1 when the upper part has changed and no lower part has followed yet
TIME = 4  # the last settled time [us]
ROW = 5  # row (libcaer_cmp: column) of the events to come; -1 before it is known
BASE = 6  # base coordinate of vector words; -1 before it is known
POLARITY = 7  # polarity of vector words

# --- told to the caller --------------------------------------------------------------------------------------------
FIRST = 8  # first time that the packet tells [us]; NO_TIME while it has told none
STOP = 9  # the time at which decoding paused, because the sink takes no events of that time [us]
SUSPECT = 10  # 1 once the packet's times have been found wrong

# --- counters ------------------------------------------------------------------------------------------------------
TRIGGERS = 11  # external trigger edges
UNSYNCED = 12  # events dropped because their time, row or base was not known yet
OUTSIDE = 13  # events dropped because they lie outside the sensor
UNKNOWN = 14  # words that the format does not define
BACKWARDS = 15  # times that lie before their predecessor
TRUNCATED = 16  # bytes at the end of a packet that make no whole word
MISTIMED = 17  # packets whose times cannot be trusted (libcaer_cmp longer than 65.536 ms)
SIZE = 18

NOTHING, UPPER, ALL = 0, 1, 2
NO_TIME = -(1 << 62)


def new_state() -> np.ndarray:
    """State of a codec that has seen nothing: int64 [SIZE]."""
    state = np.zeros(SIZE, np.int64)
    lose_place(state)
    state[HIGH] = 0
    state[TIME] = state[FIRST] = NO_TIME
    return state


def lose_place(state: np.ndarray) -> None:
    """Forget what the next words refer to, as after lost packets. The unrolled time stays, so that it never wraps."""
    state[SYNC] = NOTHING
    state[UNSETTLED] = 0
    state[ROW] = -1
    state[BASE] = -1
