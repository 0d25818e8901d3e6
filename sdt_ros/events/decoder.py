"""From the bytes of packets to events, with the state of each format kept from packet to packet."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from sdt_ros.events.codecs import state as s
from sdt_ros.events.encodings import Encoding, parse_encoding, sensor_size
from sdt_ros.events.sinks import EVENT_DTYPE, EventSink, Sink

_NOTHING = np.empty(0, np.uint8)
_WORDS_TO_JUDGE = 8
_MOST_KEPT = 1 << 24  # [bytes]; one giant packet shall not hold memory for good

Payload = bytes | bytearray | memoryview | array | np.ndarray


@dataclass(frozen=True, slots=True)
class DecoderCounters:
    """What a decoder met since it was made.

    Attributes:
        triggers: external trigger edges.
        dropped: events without a known time or row, as at the start of a stream or behind lost packets.
        outside: events outside the sensor.
        unknown: words that the format does not define.
        backwards: times that lie before their predecessor (non-monotonic).
        truncated: bytes at packets' ends that make no whole word.
        mistimed: packets whose times cannot be trusted (libcaer_cmp longer than 65.536 ms).
    """

    triggers: int = 0
    dropped: int = 0
    outside: int = 0
    unknown: int = 0
    backwards: int = 0
    truncated: int = 0
    mistimed: int = 0


class ByteStream:
    """The bytes of one camera: its codec, what that remembers, and views of payloads as the codec's words."""

    def __init__(self) -> None:
        self.encoding: Encoding | None = None
        self.width = 0
        self.height = 0
        self.state = s.new_state()
        self._time_base = 0
        self._rest = _NOTHING  # the part of a word that ended the last packet
        self._aligned = np.empty(0, np.uint64)

    def open(self, encoding: str, width: int, height: int) -> bool:
        """Take the format and sensor size of the next packet; whether they differ from the last packet's.

        Raises:
            ValueError: unknown encoding or senseless size; the stream stays as it was.
        """
        parsed = parse_encoding(encoding)
        width, height = sensor_size(parsed, width, height)
        if (parsed, width, height) == (self.encoding, self.width, self.height):
            return False
        first = self.encoding is None
        self.encoding, self.width, self.height = parsed, width, height
        self.restart()
        return not first

    def is_open(self, encoding: str, width: int, height: int) -> bool:
        """Whether packets of this format and sensor size continue the stream, as `open` would find."""
        try:
            parsed = parse_encoding(encoding)
            return (parsed, *sensor_size(parsed, width, height)) == (self.encoding, self.width, self.height)
        except ValueError:
            return False

    def restart(self) -> None:
        """Forget place and time, as for another camera; the counters stay."""
        fresh = s.new_state()
        fresh[s.TRIGGERS :] = self.state[s.TRIGGERS :]
        self.state = fresh
        self._rest = _NOTHING

    def resync(self) -> None:
        """Behind lost packets: wait for the words that tell time and place again; the time's wraps stay known."""
        s.lose_place(self.state)
        self._rest = _NOTHING

    def words(self, payload: Payload, time_base: int, is_bigendian: bool = False) -> np.ndarray:
        """The payload as words of the codec [N]; a view where alignment and byte order allow, else one reused copy.

        Raises:
            ValueError: senseless time base [ns]; the stream stays as it was.
        """
        assert self.encoding is not None, "open() comes first"
        if not 0 <= time_base < 1 << 63:
            raise ValueError(f"the packet's time_base of {time_base} ns is beyond 63 bits: the message is corrupted")
        if time_base != self._time_base and self.encoding.codec.TIMES_COUNT_FROM_BASE:
            self.state[[s.HIGH, s.LOW, s.SUSPECT]] = 0
        self._time_base = time_base
        self.state[s.FIRST] = s.NO_TIME
        octets = np.frombuffer(payload, np.uint8)
        if self._rest.size:
            octets = self._joined(octets, is_bigendian)
        rest = octets.size % self.encoding.codec.WORD.itemsize
        self._rest = octets[octets.size - rest :].copy() if rest else _NOTHING
        self.state[s.TRUNCATED] += rest
        return self._as_words(octets[: octets.size - rest], is_bigendian)

    def _as_words(self, octets: np.ndarray, is_bigendian: bool) -> np.ndarray:
        assert self.encoding is not None
        dtype: np.dtype = self.encoding.codec.WORD
        if octets.ctypes.data % dtype.itemsize == 0 and not is_bigendian and not self.encoding.swapped_halves:
            return octets.view(dtype)
        memory = self._aligned
        if memory.nbytes < octets.size:
            memory = np.empty((octets.size + 7) // 8, np.uint64)
            if memory.nbytes <= _MOST_KEPT:
                self._aligned = memory
        copy = memory.view(np.uint8)[: octets.size]
        copy[:] = octets
        words = copy.view(dtype)
        if is_bigendian:
            # The two fields of a libcaer event are swapped one by one.
            (copy.view("<u4") if self.encoding.name == "libcaer" else words).byteswap(inplace=True)
        if self.encoding.swapped_halves and dtype.itemsize == 8:
            upper, lower = copy.view("<u4")[0::2], copy.view("<u4")[1::2]
            upper ^= lower  # exchanges them without memory for a third
            lower ^= upper
            upper ^= lower
        return words

    def _joined(self, octets: np.ndarray, is_bigendian: bool) -> np.ndarray:
        """The payload behind the rest of the last one, if they are two pieces of one: if only that makes sense.

        Drivers send whole words, but whoever cuts a byte stream into packets may not.
        """
        assert self.encoding is not None
        joined = np.concatenate([self._rest, octets])
        whole = octets.size >= self.encoding.codec.WORD.itemsize
        if whole and (self._makes_sense(octets, is_bigendian) or not self._makes_sense(joined, is_bigendian)):
            return octets
        self.state[s.TRUNCATED] -= self._rest.size
        return joined

    def _makes_sense(self, octets: np.ndarray, is_bigendian: bool) -> bool:
        """Whether the first words decode to events on the sensor that follow the last one within a second."""
        assert self.encoding is not None
        codec, state = self.encoding.codec, self.state.copy()
        size = min(octets.size // codec.WORD.itemsize, _WORDS_TO_JUDGE) * codec.WORD.itemsize
        words = self._as_words(octets[:size], is_bigendian)
        sink = EventSink(np.empty(words.size * codec.EVENTS_PER_WORD, EVENT_DTYPE))
        codec.decode(words, 0, self._time_base, self.width, self.height, state, sink)
        met = state[[s.OUTSIDE, s.UNKNOWN, s.BACKWARDS]] - self.state[[s.OUTSIDE, s.UNKNOWN, s.BACKWARDS]]
        return not met.any() and bool(state[s.TIME] - self.state[s.TIME] < 1_000_000)

    def decode(self, words: np.ndarray, start: int, sink: Sink) -> tuple[int, int]:
        """Hand the events of `words[start:]` to the sink until it pauses; returns (next word, events handed over)."""
        assert self.encoding is not None, "open() comes first"
        codec = self.encoding.codec
        return codec.decode(words, start, self._time_base, self.width, self.height, self.state, sink)

    @property
    def counters(self) -> DecoderCounters:
        """What was met so far."""
        return DecoderCounters(*self.state[s.TRIGGERS : s.SIZE].tolist())


class PacketDecoder:
    """Decodes a camera's packets, in their order, to events.

    Times are exact 64 bit microseconds that never wrap: the sensor's clock unrolled (evt2, evt21, evt3), or
    microseconds since the epoch (libcaer, libcaer_cmp, mono). Sources: see `sdt_ros.events.codecs`.
    """

    def __init__(self) -> None:
        self._stream = ByteStream()

    def decode(
        self, encoding: str, width: int, height: int, time_base: int, payload: Payload, is_bigendian: bool = False
    ) -> np.ndarray:
        """Decode one packet.

        Args:
            encoding: `evt2`, `evt21`, `evt3`, `libcaer`, `libcaer_cmp` or `mono`, with optional `;key=value` suffixes.
            width: sensor columns [px]; 0 takes the encoding's suffix.
            height: sensor rows [px]; 0 takes the encoding's suffix.
            time_base: the packet's base time [ns]; not used by the evt formats.
            payload: the packet's bytes.
            is_bigendian: whether the payload's words are big-endian.

        Returns:
            EVENT_DTYPE [N]: the packet's events in their order. A change of encoding or geometry starts a new stream.

        Raises:
            ValueError: unknown encoding, senseless sensor size or time base; the decoder stays as it was.
        """
        stream = self._stream
        stream.open(encoding, width, height)
        words = stream.words(payload, time_base, is_bigendian)
        assert stream.encoding is not None
        events = np.empty(words.size * stream.encoding.codec.EVENTS_PER_WORD, EVENT_DTYPE)
        _, n = stream.decode(words, 0, EventSink(events))
        return events[:n].copy()

    def reset(self) -> None:
        """Start over, as for another recording; the counters stay."""
        self._stream.restart()

    @property
    def counters(self) -> DecoderCounters:
        """What was met so far."""
        return self._stream.counters
