"""One module for each byte format of event packets.

Each has `WORD`, the dtype of its words, `EVENTS_PER_WORD`, the most events that one word can hold,
`TIMES_COUNT_FROM_BASE`, whether a packet with another time base begins to count anew, and a compiled
`decode(words, start, time_base, width, height, state, sink) -> (next word, events)` that releases the GIL.
"""
