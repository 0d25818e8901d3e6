"""event_camera_py, the C++ decoder of the ROS event camera drivers, in the place of our own codecs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, njit, uintp

from sdt_ros.events.codecs import state as s
from sdt_ros.events.decoder import ByteStream, Payload
from sdt_ros.events.encodings import parse_encoding
from sdt_ros.events.sinks import EVENT_DTYPE, Sink, emit, since, until

SUPPORTED = ("evt3", "libcaer_cmp")  # of the others it cuts nanoseconds down to 32 bits, which overflow in 2 s


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

    Its 32 bit times are unrolled to 64 bits. The library keeps no counters of what it drops.
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

    def words(self, payload: Payload, time_base: int, is_bigendian: bool = False) -> np.ndarray:
        """The packet's events, EVENT_DTYPE [N], decoded by the library.

        Raises:
            ValueError: senseless time base, or the library refuses the packet.
        """
        assert self.encoding is not None, "open() comes first"
        octets = super().words(payload, time_base, is_bigendian).view(np.uint8)
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

    def decode(self, words: np.ndarray, start: int, sink: Sink) -> tuple[int, int]:
        """As `ByteStream.decode`, of events."""
        return _replay(words, start, self.state, sink)
