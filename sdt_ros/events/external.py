"""event_camera_py, the C++ decoder of the ROS event camera drivers, in the place of our own codecs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import int64, uintp

from sdt_ros.compiled import njit
from sdt_ros.events.codecs import evt3, libcaer_cmp
from sdt_ros.events.codecs import state as s
from sdt_ros.events.decoder import ByteStream, Payload
from sdt_ros.events.encodings import parse_encoding
from sdt_ros.events.sinks import EVENT_DTYPE, Sink, emit, since, until

SUPPORTED = ("evt3", "libcaer_cmp")  # of the others it cuts nanoseconds down to 32 bits, which overflow in 2 s


class _Codes(NamedTuple):
    """The words of a format that tell and use time and place, by bits 12 to 15."""

    times: tuple[int, ...]  # words that must come, in this order, before the time is known
    place: int  # the row (libcaer_cmp: the column) of the events to come
    event: int
    base: int  # where vectors begin
    vectors: tuple[int, int]  # with masks of 8 and 12 bits


_CODES = {
    "evt3": _Codes(
        (evt3.TIME_HIGH, evt3.TIME_LOW), evt3.ADDR_Y, evt3.ADDR_X, evt3.VECT_BASE_X, (evt3.VECT_8, evt3.VECT_12)
    ),
    "libcaer_cmp": _Codes(
        (), libcaer_cmp.ADDR_X, libcaer_cmp.ADDR_Y, libcaer_cmp.VECT_BASE_Y, (libcaer_cmp.VECT_8, libcaer_cmp.VECT_12)
    ),
}


@njit(nogil=True, cache=True, _nrt=False)
def _replay(events: np.ndarray, start: int, state: np.ndarray, sink: Sink):  # type: ignore[no-untyped-def]
    """Hand over decoded events until their end or until the sink pauses; returns (next event, events emitted)."""
    time, first = state[s.TIME], state[s.FIRST]
    t_from, t_until = since(sink), until(sink)
    n, i, end = 0, start, events.size
    while i < end:
        event = events[uintp(i)]
        now = int64(event.t)
        if now < t_from or now >= t_until:
            state[s.STOP] = now
            break
        if now < time:
            state[s.BACKWARDS] += 1
        time = now
        if first == s.NO_TIME:
            first = now
        n = emit(sink, n, now, int64(event.x), int64(event.y), int64(event.p))
        i += 1
    state[s.TIME], state[s.FIRST] = time, first
    return i, n


class EventCameraPyStream(ByteStream):
    """A camera's bytes, decoded by event_camera_py; its words are events.

    Its 32 bit times are unrolled to 64 bits. The library keeps no counters of what it drops or does not know.
    """

    def __init__(self) -> None:
        """Import the library.

        Raises:
            ImportError: event_camera_py is not installed.
        """
        super().__init__()
        try:
            import event_camera_py
        except ImportError as error:
            raise ImportError(
                "decoder event_camera_py is not installed (ros-$ROS_DISTRO-event-camera-py); use decoder native"
            ) from error
        self._library: Any = event_camera_py
        self._decoder: Any = event_camera_py.Decoder()
        self._latest = 0  # last time without the start time [us]
        self._told: set[int] = set()  # the words of `_Codes` that have come

    def open(self, encoding: str, width: int, height: int) -> bool:
        """As `ByteStream.open`; refuses encodings that event_camera_py does not know."""
        name = parse_encoding(encoding).name
        if name not in SUPPORTED:
            raise ValueError(
                f"decoder event_camera_py does not give exact times for {name}, only for {', '.join(SUPPORTED)}; "
                "use decoder native"
            )
        return super().open(encoding, width, height)

    def restart(self) -> None:
        """As `ByteStream.restart`, with a new decoder of the library."""
        super().restart()
        self._decoder = self._library.Decoder()
        self._latest = 0
        self._told.clear()

    def resync(self) -> None:
        """As `ByteStream.resync`; the library's decoder stays, because it counts the time's wraps."""
        super().resync()
        self._told.clear()

    def words(self, payload: Payload, time_base: int, is_bigendian: bool = False) -> np.ndarray:
        """The packet's events, EVENT_DTYPE [N], decoded by the library.

        Raises:
            ValueError: senseless time base, or the library refuses the packet.
        """
        assert self.encoding is not None, "open() comes first"
        octets = self._placed(super().words(payload, time_base, is_bigendian)).view(np.uint8)
        try:
            self._decoder.decode_array(self.encoding.name, self.width, self.height, time_base, octets)
        except RuntimeError as error:
            raise ValueError(f"event_camera_py refuses a packet: {error}") from error
        decoded = self._decoder.get_cd_events()
        events = np.empty(decoded.size, EVENT_DTYPE)
        for name in ("x", "y", "p"):
            events[name] = decoded[name]
        # Distances from the last time are right modulo 2^32, whatever the library has cut off.
        distance = (decoded["t"].astype(np.int64) - self._latest).astype(np.int32)
        events["t"] = self._latest + distance.astype(np.int64)
        if events.size:
            self._latest = int(events["t"][-1])
        events["t"] += self._decoder.get_start_time() or 0
        return events

    def _placed(self, words: np.ndarray) -> np.ndarray:
        """Drop events whose time, row or base is not known yet; the library would put them to old ones or to 0."""
        assert self.encoding is not None
        codes = _CODES[self.encoding.name]
        if self._told.issuperset((*codes.times, codes.place, codes.base)):
            return words
        kinds = words >> 12
        known_from = 0
        for code in codes.times:
            known_from = self._told_from(kinds, code, known_from)
        known_from = max(known_from, self._told_from(kinds, codes.place))
        vectors_from = max(known_from, self._told_from(kinds, codes.base))
        events = np.flatnonzero(kinds[:known_from] == codes.event)
        dropped, words = events.size, words.copy()
        for code, mask in zip(codes.vectors, (0xFF, 0xFFF), strict=True):
            vectors = np.flatnonzero(kinds[:vectors_from] == code)
            dropped += int(np.unpackbits((words[vectors] & mask).view(np.uint8)).sum(dtype=np.int64))
            words[vectors] &= 0xF000  # an empty vector still moves the base
        self.state[s.UNSYNCED] += dropped
        return np.delete(words, events)

    def _told_from(self, kinds: np.ndarray, code: int, begin: int = 0) -> int:
        """Index behind which what the word tells is known."""
        if code in self._told:
            return 0
        found = np.flatnonzero(kinds[begin:] == code)
        if not found.size:
            return int(kinds.size)
        self._told.add(code)
        return begin + int(found[0])

    def decode(self, words: np.ndarray, start: int, sink: Sink) -> tuple[int, int]:
        """As `ByteStream.decode`, of events."""
        return _replay(words, start, self.state, sink)
