"""One module for each byte format of event packets.

Each has `WORD`, the dtype of its words, `EVENTS_PER_WORD`, the most events that one word can hold, and a compiled
`decode(words, start, time_base, width, height, state, sink) -> (next word, events)` that releases the GIL.
"""
