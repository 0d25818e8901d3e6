"""Windows that end at given stamps, from packets as they come: the field's protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdt_ros.events import EVENT_DTYPE, EventPacket, SensorClock
from sdt_ros.events.binning import bin_edges, bin_on_cells
from sdt_ros.events.codecs import state as s
from sdt_ros.events.decoder import ByteStream
from sdt_ros.events.reduce import reduced_size
from sdt_ros.events.sinks import EventSink
from sdt_ros.events.stream import CLOCK_AHEAD_NS, CLOCK_BEHIND_NS

_SLACK_US = 100_000  # events kept before the next window: the clock's offset may yet rise with a drift


@dataclass(frozen=True, slots=True)
class StampedWindow:
    """The spikes before one stamp.

    Attributes:
        number: index of the stamp.
        spikes: uint8 [T, 2, H, W] in {0, 1}; polarity 0 is OFF, 1 is ON.
        events: events in the window.
    """

    number: int
    spikes: np.ndarray
    events: int


class StampedWindows:
    """Cuts a window out of the stream of events before each stamp.

    A stamp is brought to sensor time by the inverse of `SensorClock`, as it stands when the events reach it. Only
    the events that a window may still need are kept, so that memory does not grow with the recording.

    Attributes:
        before: stamps without a whole window before them, at the start or after the sensor's clock was set.
        after: stamps that the events did not reach; known after `finish`.
        lost: packets missing, by gaps in their numbers.
        restarts: times that the packets or the sensor's clock started over.
        events: events decoded.
        kept: the most events kept at once.
    """

    def __init__(
        self,
        stamps: np.ndarray,
        window_us: int,
        bins: int,
        scale: float,
        on_window: Callable[[StampedWindow], None],
    ) -> None:
        """Prepare for packets.

        Args:
            stamps: int64 [N] ns since the epoch, growing.
            window_us: duration of a window [us].
            bins: time bins T of a window.
            scale: size of the spike tensors as a fraction of the sensor's, in (0, 1].
            on_window: takes each window with events in it or not, in the order of the stamps.
        """
        self.before = self.after = self.lost = self.restarts = self.events = self.kept = 0
        self._stamps = stamps
        self._window_us = window_us
        self._bins = bins
        self._scale = scale
        self._on_window = on_window
        self._next = 0
        self._bytes = ByteStream()
        self._clock = SensorClock()
        self._last: EventPacket | None = None
        self._chunks: deque[np.ndarray] = deque()
        self._began_us: int | None = None  # events are known from here on
        self._reached_us = 0

    @property
    def sensor_size(self) -> tuple[int, int]:
        """Height and width of the sensor [px]; (0, 0) before the first packet."""
        return self._bytes.height, self._bytes.width

    def push(self, packet: EventPacket) -> None:
        """Take the next packet; calls `on_window` for each window that is complete.

        Raises:
            ValueError: the packet cannot be read.
        """
        if self._bytes.open(packet.encoding, packet.width, packet.height):
            raise ValueError(
                f"the camera changes to {packet.encoding} of {packet.width}x{packet.height} px; record it apart"
            )
        if not self._in_sequence(packet):
            return
        words = self._bytes.words(packet.payload, packet.time_base, packet.is_bigendian)
        assert self._bytes.encoding is not None
        events = np.empty(words.size * self._bytes.encoding.codec.EVENTS_PER_WORD, EVENT_DTYPE)
        _, count = self._bytes.decode(words, 0, EventSink(events))
        self._follow_clock(packet, int(self._bytes.state[s.FIRST]))
        self.events += count
        if not count:
            return
        events = events[:count].copy()
        if self._began_us is None:
            self._began_us = self._reached_us = int(events["t"].min())
        self._chunks.append(events)
        self._reached_us = max(self._reached_us, int(events["t"].max()))
        self.kept = max(self.kept, sum(chunk.size for chunk in self._chunks))
        self._cut()
        self._forget()

    def finish(self) -> None:
        """Count the stamps that the events have not reached."""
        self.after = len(self._stamps) - self._next

    def _in_sequence(self, packet: EventPacket) -> bool:
        last, self._last = self._last, packet
        if last is None:
            return True
        numbered = packet.seq != 0 or last.seq != 0
        if numbered and packet.seq == last.seq and packet.stamp_ns == last.stamp_ns:
            return False
        if (numbered and packet.seq <= last.seq) or packet.stamp_ns < last.stamp_ns + CLOCK_AHEAD_NS:
            self._bytes.restart()
            self._start_over()
        elif numbered and packet.seq > last.seq + 1:
            self.lost += packet.seq - last.seq - 1
            self._bytes.resync()
        return True

    def _follow_clock(self, packet: EventPacket, first_us: int) -> None:
        if first_us == s.NO_TIME:
            return
        if not CLOCK_AHEAD_NS <= self._clock.excess_ns(packet.stamp_ns, first_us) <= CLOCK_BEHIND_NS:
            self._start_over()
        self.restarts += self._clock.update(packet.stamp_ns, first_us) != 0

    def _start_over(self) -> None:
        self.restarts += 1
        self._clock.reset()
        self._chunks.clear()
        self._began_us = None

    def _end_us(self, number: int) -> int:
        """The sensor time of a stamp: all events whose ROS time is before the stamp lie before it."""
        return -((self._clock.to_ros(0) - int(self._stamps[number])) // 1000)

    def _cut(self) -> None:
        assert self._began_us is not None
        while self._next < len(self._stamps) and (end := self._end_us(self._next)) <= self._reached_us:
            if end - self._window_us < self._began_us:
                self.before += 1
            else:
                self._on_window(self._window(self._next, end))
            self._next += 1

    def _window(self, number: int, end: int) -> StampedWindow:
        edges = bin_edges(end, self._window_us, self._bins)
        height, width = self.sensor_size
        rows, columns = reduced_size(height, width, self._scale)
        row = np.arange(height, dtype=np.int32) * rows // height
        cells = row[:, None] * columns + np.arange(width, dtype=np.int32) * columns // width
        spikes = np.zeros((self._bins, 2, rows, columns), np.uint8)
        total = 0
        for chunk in self._chunks:
            events = chunk[(chunk["t"] >= edges[0]) & (chunk["t"] < edges[-1])]
            total += events.size
            spikes |= bin_on_cells(events["t"], events["x"], events["y"], events["p"], cells, (rows, columns), edges)
        return StampedWindow(number, spikes, total)

    def _forget(self) -> None:
        if self._next == len(self._stamps):
            self._chunks.clear()
            return
        needed = self._end_us(self._next) - self._window_us - _SLACK_US
        while self._chunks and int(self._chunks[0]["t"].max()) < needed:
            self._chunks.popleft()
