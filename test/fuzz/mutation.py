"""Damage to packets, compiled: what cables, drivers and malice do to bytes, millions of times a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numba import njit, uint64

from sdt_ros.bags import open_bag, parse_event_packet
from sdt_ros.events.encoder import PacketEncoder
from sdt_ros.events.sinks import EVENT_DTYPE

RECORDINGS = Path(__file__).parents[3] / "shared/data/recordings"
LONGEST = 1 << 14  # [bytes] of a mutated packet; most have 8 to 512
_SEED_BYTES = 1 << 16  # taken from each packet of a recording
_RECORDED = 200  # packets taken from a recording


def seed_packets(encoding: str, seed: int) -> list[bytes]:
    """Sound packets of an encoding: of the recordings, where there are any, and of the encoder."""
    random = np.random.default_rng(seed)
    found = []
    for folder in sorted(RECORDINGS.glob(f"{encoding.partition(';')[0]}_[0-9]*")):
        with open_bag(folder) as bag:
            packets = (parse_event_packet(message.data) for message in bag.messages())
            found += [
                packet.payload[:_SEED_BYTES].tobytes() for packet, _ in zip(packets, range(_RECORDED), strict=False)
            ]
    for vectors in (False, True):
        encoder = PacketEncoder(encoding, 346, 260, vectors)
        t = 10**15 if encoder.since_epoch else 0
        for number in range(40):
            events = np.zeros(60, EVENT_DTYPE)
            span = 60_000 if number % 8 else 8_000  # [us]
            events["t"] = t + np.sort(random.integers(0, span, 60)) // 16 * 16
            t += span
            events["x"], events["y"] = np.arange(60) % 346 + random.integers(0, 200), random.integers(0, 3, 60) + number
            events["p"] = random.integers(0, 2)
            found.append(encoder.encode(events)[1])
    return found


def pooled(packets: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Packets in one piece: uint8 [bytes], and int64 [N + 1] where each begins."""
    offsets = np.cumsum([0, *map(len, packets)])
    return np.frombuffer(b"".join(packets), np.uint8), offsets.astype(np.int64)


@njit(cache=True)
def draw(random, below):  # type: ignore[no-untyped-def]
    """A number from 0 to below - 1; `random` is uint64 [1], not zero (xorshift64*, Vigna 2014)."""
    state = random[0]
    state ^= state >> uint64(12)
    state ^= state << uint64(25)
    state ^= state >> uint64(27)
    random[0] = state
    return np.int64(((state * uint64(2685821657736338717)) >> uint64(33)) % uint64(below))


@njit(cache=True)
def _extreme(random):  # type: ignore[no-untyped-def]
    kind = draw(random, 6)
    return 0 if kind == 0 else 0xFF if kind == 1 else 0x7F if kind == 2 else 0x80 if kind == 3 else draw(random, 256)


@njit(cache=True)
def mutate(random, pool, offsets, word, out):  # type: ignore[no-untyped-def]
    """Write a damaged packet into `out` (uint8 [LONGEST]); `word` is the size of the format's words [bytes].

    Returns:
        Its length [bytes].
    """
    which = draw(random, offsets.size - 1)
    begin, length = offsets[which], offsets[which + 1] - offsets[which]
    most = LONGEST // 2 if draw(random, 128) == 0 else 512
    if draw(random, 16) == 0 or length == 0:
        n = 8 + draw(random, most - 7)
        for i in range(n):
            out[i] = draw(random, 256)
    else:
        n = min(8 + draw(random, most - 7), length)
        start = draw(random, length - n + 1)
        if draw(random, 8) != 0:
            start -= start % word
        for i in range(n):
            out[i] = pool[begin + start + i]
    for _ in range(1 + draw(random, 7)):
        if n == 0:
            break
        what, at = draw(random, 11), draw(random, n)
        aligned = at - at % word
        if what <= 1:
            out[at] ^= 1 << draw(random, 8)
        elif what == 2:
            out[at] = draw(random, 256)
        elif what == 3:  # an extreme word, or half of one
            half = word // 2 if word > 2 and draw(random, 2) == 0 else 0
            value = _extreme(random)
            for i in range(aligned + half, min(aligned + word, n)):
                out[i] = value
        elif what == 4 and n + word <= LONGEST:  # a word twice
            for i in range(n - 1, aligned - 1, -1):
                out[i + word] = out[i]
            n += word
        elif what == 5 and aligned + word <= n:  # a word lost
            for i in range(aligned, n - word):
                out[i] = out[i + word]
            n -= word
        elif what == 6:
            n = at
        elif what == 7:  # a byte lost
            for i in range(at, n - 1):
                out[i] = out[i + 1]
            n -= 1
        elif what == 8:  # another code over the same value: in most formats a time, a row, a vector
            out[min(aligned + word, n) - 1] = (draw(random, 16) << 4) | (out[min(aligned + word, n) - 1] & 0xF)
        elif what == 9:  # an extreme time: TIME_HIGH of the evt formats, or the time half of an event
            last = min(aligned + word, n) - 1
            for i in range(aligned, last + 1):
                out[i] = _extreme(random)
            if draw(random, 2) == 0:
                out[last] = 0x80 | (out[last] & 0xF)
        else:  # a piece of another packet
            other = draw(random, offsets.size - 1)
            size = offsets[other + 1] - offsets[other]
            for i in range(min(draw(random, 64), size, n - at)):
                out[at + i] = pool[offsets[other] + i]
    return n
