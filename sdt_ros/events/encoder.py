"""Events to packet bytes, in every encoding that the decoder reads: for simulated recordings and for tests.

Each packet begins with its full time and row, so that a decoder which lost the packets before it goes on at once.
The byte layouts are those of the Metavision documentation (EVT 2.0, 2.1 and 3.0) and of the libcaer driver. EVT 2.1
words exist in two orders: GenX320 sends each 64 bit word little-endian (`evt21`), IMX636 sends its upper 32 bits first
and each half little-endian (`evt21;endianness=legacy`, the name that Metavision gives this order).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdt_ros.compiled import njit
from sdt_ros.events.sinks import EVENT_DTYPE

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class _Format:
    """What an encoding can hold."""

    word: str  # dtype of one word
    max_side: int  # columns and rows [px]
    max_span_us: int  # first to last event of a packet; for wrapping formats, from one packet's end to the next's start
    since_epoch: bool  # times are microseconds since the epoch rather than the sensor's clock
    words_per_event: int  # at most
    wrap_step_us: int = 0  # a longer pause needs a time word in between, or the decoder misses a wrap


_FORMATS = {
    "evt3": _Format("<u2", 2048, _DAY_US, False, 4, 1 << 23),
    "evt2": _Format("<u4", 2048, 1 << 50, False, 2, 1 << 33),
    "evt21": _Format("<u8", 2048, 1 << 50, False, 2, 1 << 33),
    "libcaer_cmp": _Format("<u2", 2048, (1 << 16) - 1, True, 4),
    "libcaer": _Format("<u8", 1 << 15, (1 << 31) - 1, True, 1),
    "mono": _Format("<u8", 1 << 15, ((1 << 32) - 1) // 1000, True, 1),
}

ENCODINGS = tuple(_FORMATS)
"""Names of all encodings."""


@njit(nogil=True, cache=True)
def _evt3(t, x, y, p, out, high, vectors):  # type: ignore[no-untyped-def]
    """Write evt3 words; `high` is the last TIME_HIGH unrolled, -1 at first. Returns (words, high)."""
    n, i, low, row = 0, 0, -1, -1
    while i < t.size:
        now = t[i] >> 12
        if low < 0 or now != high:
            while high >= 0 and now - high > 0x800:
                high += 0x800
                out[n] = 0x8000 | (high & 0xFFF)
                n += 1
            high = now
            low = -1
            out[n] = 0x8000 | (high & 0xFFF)
            n += 1
        if low != t[i] & 0xFFF:
            low = t[i] & 0xFFF
            out[n] = 0x6000 | low
            n += 1
        if row != y[i]:
            row = y[i]
            out[n] = row
            n += 1
        polarity = p[i] << 11
        base = x[i]
        written = i
        # A vector pays with three events in its first mask (base + mask), and with two in each one after.
        while vectors:
            mask, k = 0, written
            while (
                k < t.size
                and t[k] == t[i]
                and y[k] == row
                and p[k] == p[i]
                and base <= x[k] < base + 12
                and (k == i or x[k] > x[k - 1])
            ):
                mask |= 1 << (x[k] - base)
                k += 1
            if k - written < (3 if written == i else 2):
                break
            if written == i:
                out[n] = 0x3000 | polarity | base
                n += 1
            out[n] = (0x5000 if mask < 256 else 0x4000) | mask
            n += 1
            base += 8 if mask < 256 else 12
            written = k
        if written == i:
            out[n] = 0x2000 | polarity | x[i]
            n += 1
            written += 1
        i = written
    return n, high


@njit(nogil=True, cache=True)
def _evt2(t, x, y, p, out, high, vectors):  # type: ignore[no-untyped-def]
    """Write evt2 words: one an event, 6 bits of time in it, the upper 28 bits in words of their own."""
    n, fresh = 0, True
    for i in range(t.size):
        now = t[i] >> 6
        if fresh or now != high:
            while high >= 0 and now - high > 1 << 27:
                high += 1 << 27
                out[n] = 0x8000_0000 | (high & 0xFFF_FFFF)
                n += 1
            high = now
            fresh = False
            out[n] = 0x8000_0000 | (high & 0xFFF_FFFF)
            n += 1
        out[n] = (p[i] << 28) | ((t[i] & 0x3F) << 22) | (x[i] << 11) | y[i]
        n += 1
    return n, high


@njit(nogil=True, cache=True)
def _evt21(t, x, y, p, out, high, vectors):  # type: ignore[no-untyped-def]
    """Write evt21 words: above as in evt2, below a mask of 32 columns; the first of them is a multiple of 32."""
    n, i, fresh = 0, 0, True
    while i < t.size:
        now = t[i] >> 6
        if fresh or now != high:
            while high >= 0 and now - high > 1 << 27:
                high += 1 << 27
                out[n] = (0x8000_0000 | (high & 0xFFF_FFFF)) << 32
                n += 1
            high = now
            fresh = False
            out[n] = (0x8000_0000 | (high & 0xFFF_FFFF)) << 32
            n += 1
        base = x[i] & ~31
        mask, k = 1 << (x[i] - base), i + 1
        while (
            vectors
            and k < t.size
            and t[k] == t[i]
            and y[k] == y[i]
            and p[k] == p[i]
            and x[k] > x[k - 1]
            and x[k] < base + 32
        ):
            mask |= 1 << (x[k] - base)
            k += 1
        out[n] = (((p[i] << 28) | ((t[i] & 0x3F) << 22) | (base << 11) | y[i]) << 32) | mask
        n += 1
        i = k
    return n, high


@njit(nogil=True, cache=True)
def _libcaer_cmp(t, x, y, p, out, high, vectors):  # type: ignore[no-untyped-def]
    """Write libcaer_cmp words; times count from the packet's first event, at which the decoder begins with 0."""
    n, i, high, low, column = 0, 0, 0, 0, -1
    while i < t.size:
        passed = t[i] - t[0]
        if passed >> 12 != high:
            high = passed >> 12
            out[n] = high
            n += 1
        if passed & 0xFFF != low:
            low = passed & 0xFFF
            out[n] = 0x1000 | low
            n += 1
        if column != x[i]:
            column = x[i]
            out[n] = 0x2000 | column
            n += 1
        polarity = p[i] << 11
        base = y[i]
        written = i
        while vectors:  # as in _evt3
            mask, k = 0, written
            while (
                k < t.size
                and t[k] == t[i]
                and x[k] == column
                and p[k] == p[i]
                and base <= y[k] < base + 8
                and (k == i or y[k] > y[k - 1])
            ):
                mask |= 1 << (y[k] - base)
                k += 1
            if k - written < (3 if written == i else 2):
                break
            if written == i:
                out[n] = 0x4000 | polarity | base
                n += 1
            out[n] = 0x5000 | mask
            n += 1
            base += 8
            written = k
        if written == i:
            out[n] = 0x3000 | polarity | y[i]
            n += 1
            written += 1
        i = written
    return n, 0


_KERNELS: dict[str, Callable[..., tuple[int, int]]] = {
    "evt3": _evt3,
    "evt2": _evt2,
    "evt21": _evt21,
    "libcaer_cmp": _libcaer_cmp,
}


class PacketEncoder:
    """Encodes one camera's events, packet by packet.

    Args:
        encoding: one of `ENCODINGS`, with optional suffixes such as `evt21;endianness=legacy`.
        width: columns of the sensor [px].
        height: rows of the sensor [px].
        vectors: write neighbours of one time, row and polarity as one vector word where that is shorter (evt3, evt21,
            and columns in libcaer_cmp); otherwise one word an event.

    Raises:
        ValueError: the encoding is unknown or cannot hold such a sensor.
    """

    def __init__(self, encoding: str, width: int, height: int, vectors: bool = True) -> None:
        name, _, suffix = encoding.partition(";")
        if name not in _FORMATS:
            raise ValueError(f"encoding {encoding!r} is unknown; choose one of {', '.join(ENCODINGS)}")
        options = dict(option.partition("=")[::2] for option in suffix.split(";") if option)
        endianness = options.get("endianness", "little")
        if endianness not in (("little", "legacy") if name == "evt21" else ("little",)):
            raise ValueError(f"encoding {encoding!r}: endianness {endianness!r} is not known for {name}")
        self._format = _FORMATS[name]
        if not (0 < width <= self._format.max_side and 0 < height <= self._format.max_side):
            raise ValueError(
                f"{name} holds sensors of 1 to {self._format.max_side} pixels a side, not {width}x{height}"
            )
        self.encoding = encoding
        self.width = width
        self.height = height
        self.vectors = vectors
        self._name = name
        self._swap_halves = endianness == "legacy"
        self._high = -1
        self._last_us = -1

    @property
    def since_epoch(self) -> bool:
        """Whether event times must be microseconds since the epoch rather than of the sensor's clock."""
        return self._format.since_epoch

    def encode(self, events: np.ndarray) -> tuple[int, bytes]:
        """Encode one packet.

        Args:
            events: EVENT_DTYPE [N], ordered by time, not before the events of earlier packets. For evt2, evt21 and evt3
                the decoder gives times back less a multiple of the format's wrap, that of the first packet.

        Returns:
            The packet's `time_base` (0 where the encoding has none) and its payload.

        Raises:
            ValueError: events outside the sensor or out of order, or a time span that the encoding cannot hold.
        """
        if events.dtype != EVENT_DTYPE:
            raise ValueError(f"events have dtype {events.dtype}, not {EVENT_DTYPE}")
        if not events.size:
            return 0, b""
        t, x, y, p = (events[name].astype(np.int64) for name in ("t", "x", "y", "p"))
        self._check(t, x, y, p)
        pause_us = 0 if self._high < 0 else int(t[0]) - self._last_us
        self._last_us = int(t[-1])
        if self._name == "libcaer":
            base_us = int(t[0]) & ~0x7FFF_FFFF
            words = ((t - base_us) & 0x7FFF_FFFF) << 32 | x << 17 | y << 2 | p << 1
            return base_us * 1000, words.astype("<u8").tobytes()
        if self._name == "mono":
            words = (t - t[0]) * 1000 | x << 32 | y << 48 | p << 63
            return int(t[0]) * 1000, words.astype("<u8").tobytes()
        fill = (pause_us + int(t[-1] - t[0])) // self._format.wrap_step_us if self._format.wrap_step_us else 0
        out = np.empty(self._format.words_per_event * t.size + fill + 1, self._format.word)
        count, self._high = _KERNELS[self._name](t, x, y, p, out, self._high, self.vectors)
        payload = out[:count]
        if self._swap_halves:
            payload = payload.view("<u4").reshape(-1, 2)[:, ::-1]
        return int(t[0]) * 1000 if self._format.since_epoch else 0, payload.tobytes()

    def _check(self, t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> None:
        if t[0] < max(self._last_us, 0):
            what = "negative" if t[0] < 0 else f"before the last packet's end, {self._last_us} us"
            raise ValueError(f"event 0 has time {t[0]} us, which is {what}")
        if (steps := np.diff(t)).size and steps.min() < 0:
            index = int(np.argmax(steps < 0)) + 1
            raise ValueError(
                f"event {index} at {t[index]} us comes after one at {t[index - 1]} us; sort events by time"
            )
        if x.max() >= self.width or y.max() >= self.height or p.max() > 1:
            index = int(np.argmax((x >= self.width) | (y >= self.height) | (p > 1)))
            raise ValueError(
                f"event {index} (x {x[index]}, y {y[index]}, p {p[index]}) lies outside {self.width}x{self.height}x2"
            )
        start = int(t[0]) if self._format.since_epoch or self._last_us < 0 else self._last_us
        if (span := int(t[-1]) - start) > self._format.max_span_us:
            raise ValueError(
                f"{self._name} cannot hold a packet that spans {span} us, only {self._format.max_span_us}; split it"
            )
