"""The six packet encodings decoded the slow and obvious way, straight from their description.

One plain function an encoding, a word at a time, no numpy in the loops and nothing shared with `sdt_ros`: what the
compiled decoders are tested against. Rules beyond the plain layout:

- evt3: events before the first TIME_HIGH followed by a TIME_LOW are dropped, and so are events before the first row.
- evt2, evt21: events before the first TIME_HIGH are dropped.
- A TIME_HIGH that goes back by 1 to 10 is jitter of the sensor: time goes back with it. Going back by more is a wrap:
  of 2^24 us in evt3, and of 2^34 us in evt2 and evt21.
- A part of a word at a packet's end is ignored, its bytes are counted. (The compiled decoders join it with the next
  packet where only that makes sense; random bytes do not.)
- `unknown` counts words with a code that the format does not define, `outside` counts events off the sensor.
- libcaer_cmp times count from zero in a packet with another time base than the one before.
- libcaer times roll over inside a packet when they go back by more than half of their range, 2^31 us.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np

Event = tuple[int, int, int, int]  # t [us], x, y, p
Packet = tuple[int, bytes]  # time_base, payload

JITTER = 10
UNSEEN = -1


def words_of(payload: bytes, code: str, counters: Counter[str]) -> Iterator[int]:
    size = struct.calcsize(code)
    whole = len(payload) // size * size
    counters["truncated"] += len(payload) - whole
    for (word,) in struct.iter_unpack("<" + code, payload[:whole]):
        yield word


def unroll(high: int, value: int, wrap: int) -> int:
    """The unrolled TIME_HIGH after one that reads `value`, given the unrolled one before it."""
    if high == UNSEEN:
        return value
    back = high % wrap - value
    return high - back + (wrap if back > JITTER else 0)


def decode_evt3(packets: Iterable[Packet], counters: Counter[str]) -> Iterator[Event]:
    high = low = row = base = UNSEEN
    polarity = 0
    for _, payload in packets:
        for word in words_of(payload, "H", counters):
            code, value = word >> 12, word & 0xFFF
            if word == 0x9999:
                continue
            if code == 0x8:
                high = unroll(high, value, 1 << 12)
            elif code == 0x6:
                if high != UNSEEN:
                    low = value
            elif code in (0x7, 0xA, 0xE, 0xF):
                pass
            elif code not in (0x0, 0x2, 0x3, 0x4, 0x5):
                counters["unknown"] += 1
            elif code == 0x0:
                row = value & 0x7FF
            elif code == 0x2:
                if UNSEEN in (low, row):
                    counters["unsynced"] += 1
                else:
                    yield high << 12 | low, value & 0x7FF, row, value >> 11
            elif code == 0x3:
                base, polarity = value & 0x7FF, value >> 11
            else:
                length = 12 if code == 0x4 else 8
                for bit in range(length):
                    if value >> bit & 1:
                        if UNSEEN in (low, row, base):
                            counters["unsynced"] += 1
                        else:
                            yield high << 12 | low, base + bit, row, polarity
                if base != UNSEEN:
                    base += length


def decode_evt2(packets: Iterable[Packet], counters: Counter[str]) -> Iterator[Event]:
    high = UNSEEN
    for _, payload in packets:
        for word in words_of(payload, "I", counters):
            code = word >> 28
            if code == 0x8:
                high = unroll(high, word & 0xFFFFFFF, 1 << 28)
            elif code in (0x0, 0x1):
                if high == UNSEEN:
                    counters["unsynced"] += 1
                else:
                    yield high << 6 | (word >> 22 & 0x3F), word >> 11 & 0x7FF, word & 0x7FF, code
            elif code not in (0xA, 0xE, 0xF):
                counters["unknown"] += 1


def decode_evt21(packets: Iterable[Packet], counters: Counter[str], upper_half_first: bool) -> Iterator[Event]:
    high = UNSEEN
    for _, payload in packets:
        for word in words_of(payload, "Q", counters):
            upper, mask = word >> 32, word & 0xFFFFFFFF
            if upper_half_first:
                upper, mask = mask, upper
            code = upper >> 28
            if code == 0x8:
                high = unroll(high, upper & 0xFFFFFFF, 1 << 28)
            elif code in (0x0, 0x1):
                for bit in range(32):
                    if mask >> bit & 1:
                        if high == UNSEEN:
                            counters["unsynced"] += 1
                        else:
                            x = (upper >> 11 & 0x7FF) + bit
                            yield high << 6 | (upper >> 22 & 0x3F), x, upper & 0x7FF, code
            elif code not in (0xA, 0xE, 0xF):
                counters["unknown"] += 1


def decode_libcaer_cmp(packets: Iterable[Packet], counters: Counter[str]) -> Iterator[Event]:
    column = base = UNSEEN
    polarity, last_base = 0, UNSEEN
    for time_base, payload in packets:
        if time_base != last_base:
            high = low = 0
        last_base = time_base
        for word in words_of(payload, "H", counters):
            code, value = word >> 12, word & 0xFFF
            t = time_base // 1000 + (high << 12 | low)
            if code == 0:
                high = value
            elif code == 1:
                low = value
            elif code == 2:
                column = value & 0x7FF
            elif code == 3:
                if column == UNSEEN:
                    counters["unsynced"] += 1
                else:
                    yield t, column, value & 0x7FF, value >> 11
            elif code == 4:
                base, polarity = value & 0x7FF, value >> 11
            elif code in (5, 6):
                length = 8 if code == 5 else 12
                for bit in range(length):
                    if value >> bit & 1:
                        if UNSEEN in (column, base):
                            counters["unsynced"] += 1
                        else:
                            yield t, column, base + bit, polarity
                if base != UNSEEN:
                    base += length
            else:
                counters["unknown"] += 1


def decode_libcaer(packets: Iterable[Packet], counters: Counter[str]) -> Iterator[Event]:
    for time_base, payload in packets:
        rollovers, before = 0, None
        for word in words_of(payload, "Q", counters):
            data, time = struct.unpack("<Ii", struct.pack("<Q", word))
            if before is not None and before - time > 1 << 30:
                rollovers += 1
            before = time
            t = (time_base + (time + (rollovers << 31)) * 1000) // 1000
            yield t, data >> 17, data >> 2 & 0x7FFF, data >> 1 & 1


def decode_mono(packets: Iterable[Packet], counters: Counter[str]) -> Iterator[Event]:
    for time_base, payload in packets:
        for word in words_of(payload, "Q", counters):
            yield (time_base + (word & 0xFFFFFFFF)) // 1000, word >> 32 & 0xFFFF, word >> 48 & 0x7FFF, word >> 63


DECODERS: dict[str, Callable[[Iterable[Packet], Counter[str]], Iterator[Event]]] = {
    "evt3": decode_evt3,
    "evt2": decode_evt2,
    "evt21": lambda packets, counters: decode_evt21(packets, counters, False),
    "evt21;endianness=legacy": lambda packets, counters: decode_evt21(packets, counters, True),
    "libcaer_cmp": decode_libcaer_cmp,
    "libcaer": decode_libcaer,
    "mono": decode_mono,
}


def decode_reference(
    encoding: str, width: int, height: int, packets: Iterable[Packet]
) -> tuple[np.ndarray, dict[str, int]]:
    """Decode packets (time_base, payload) in order.

    Returns:
        The events on the sensor (t <i8 us, x <u2, y <u2, p u1), and counters `outside`, `unknown`, `truncated` (bytes)
        and `unsynced` (events dropped because time, row or base were not known yet).
    """
    counters: Counter[str] = Counter(outside=0, unknown=0, truncated=0, unsynced=0)
    name, *options = encoding.split(";")
    if "endianness=legacy" in options:
        name += ";endianness=legacy"
    kept = []
    for event in DECODERS[name](packets, counters):
        if event[1] < width and event[2] < height:
            kept.append(event)
        else:
            counters["outside"] += 1
    dtype = [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")]
    return np.array(kept, dtype=dtype), dict(counters)
