"""From packets to finished windows with ROS stamps: decoder, clock and bins of one camera, and the watch over them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sdt_ros.events.clock import SensorClock
from sdt_ros.events.codecs import state as s
from sdt_ros.events.decoder import ByteStream, DecoderCounters
from sdt_ros.events.external import EventCameraPyStream
from sdt_ros.events.packet import EventPacket
from sdt_ros.events.reduce import reduced_size
from sdt_ros.events.spikes import SPARE_WINDOWS, DamagedTimesError, SpikeBinner, SpikeWindow, WindowCounters
from sdt_ros.events.windows import WindowConfig

DECODERS = {"native": ByteStream, "event_camera_py": EventCameraPyStream}

STAMP_BACK_NS = 500_000_000  # stamps of one run never go back by more: bags that loop and reset clocks do
CLOCK_AHEAD_NS = -500_000_000  # a packet cannot arrive before it was sent: the sensor's clock has leapt
CLOCK_BEHIND_NS = 5_000_000_000  # nor be delayed by this much in any living system
LATEST_STAMP_NS = ((1 << 31) - 86_400) * 10**9  # ROS counts seconds in 31 bits, and windows may end behind packets
MOST_LOST = 10_000_000  # packets in a row, an hour and more; further on is another numbering, or a damaged number
STRAGGLERS = 16  # packets behind their time in a row, at most: more are another run, as of a short bag that loops


@dataclass(slots=True)
class PacketCounters:
    """What became of packets.

    Attributes:
        received: packets taken or rejected.
        rejected: packets that could not be read (unknown encoding, senseless geometry, damaged times).
        lost: packets that were not there when their turn came, by gaps in `seq`.
        duplicates: packets that had arrived before.
        reordered: packets that arrived behind a later one, and were dropped; they were counted as lost.
        shed: packets left undecoded by `shed`.
        restarts: times that the stream started over.
        clock_leaps: times that the sensor's clock leapt against the packets' stamps, and both went on.
        payload_bytes: bytes of events.
    """

    received: int = 0
    rejected: int = 0
    lost: int = 0
    duplicates: int = 0
    reordered: int = 0
    shed: int = 0
    restarts: int = 0
    clock_leaps: int = 0
    payload_bytes: int = 0


class EventStream:
    """Takes one camera's packets in the order of their arrival and hands over finished windows.

    The same packets give the same windows, bit for bit, in the node and offline. Not safe for use by several threads;
    the windows that it hands over may be released by any thread.
    """

    def __init__(
        self,
        config: WindowConfig,
        on_window: Callable[[SpikeWindow], None],
        scale: float = 1.0,
        decoder: str = "native",
        spare_windows: int = SPARE_WINDOWS,
        on_notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Make a stream that has seen nothing.

        Args:
            config: the windows.
            on_window: takes every finished window and must release it; called from within `push`.
            scale: size of the spike tensors as a fraction of the sensor's, in (0, 1].
            decoder: `native` or, where it is installed, `event_camera_py`.
            spare_windows: finished windows that there is memory for until they are released.
            on_notice: takes a line of text when the stream starts over, or cannot trust the packets' times.

        Raises:
            ValueError: scale out of range, or unknown decoder.
            ImportError: event_camera_py is asked for and not installed.
        """
        if not 0.0 < scale <= 1.0:
            raise ValueError(f"scale={scale} is outside of (0, 1]")
        if decoder not in DECODERS:
            raise ValueError(f"unknown decoder {decoder!r}; known are {', '.join(DECODERS)}")
        self.config = config
        self.packets = PacketCounters()
        self.windows = WindowCounters()
        self._bytes = DECODERS[decoder]()
        self._clock = SensorClock()
        self._binner: SpikeBinner | None = None
        self._scale = scale
        self._spare_windows = spare_windows
        self._on_window = on_window
        self._on_notice = on_notice
        self._packet: EventPacket | None = None  # the last one taken
        self._rejected_since_packet = 0
        self._numbers: deque[int] = deque(maxlen=1000)  # of packets taken, to tell a duplicate from a straggler
        self._stragglers = 0  # in a row
        self._received_ns = 0
        self._last_stamp_ns: int | None = None
        self._lost_since_window = 0

    @property
    def decoding(self) -> DecoderCounters:
        """What the decoder met."""
        return self._bytes.counters

    @property
    def frame_id(self) -> str:
        """Optical frame of the camera that the last packet is from; empty before the first."""
        return "" if self._packet is None else self._packet.frame_id

    @property
    def sensor_size(self) -> tuple[int, int]:
        """Height and width of the sensor [px]; (0, 0) before the first packet."""
        return self._bytes.height, self._bytes.width

    @property
    def spike_size(self) -> tuple[int, int]:
        """Height and width of the spike tensors [px]; (0, 0) before the first packet."""
        height, width = self.sensor_size
        return reduced_size(height, width, self._scale) if height else (0, 0)

    def push(self, packet: EventPacket, received_ns: int | None = None) -> None:
        """Take the next packet; calls `on_window` for every window that it finishes.

        Args:
            packet: the packet.
            received_ns: when it was received, on the monotonic clock [ns]; now by default.

        Raises:
            ValueError: unknown encoding, senseless sensor size, stamp, time base or times; the packet is counted as
                rejected and the stream goes on with the next one.
        """
        self._received_ns = time.monotonic_ns() if received_ns is None else received_ns
        self.packets.received += 1
        try:
            if not 0 <= packet.stamp_ns < LATEST_STAMP_NS:
                raise ValueError(f"the packet's stamp of {packet.stamp_ns / 1e9:.3f} s makes no sense")
            if self._bytes.open(packet.encoding, packet.width, packet.height):
                self.restart(f"the camera now sends {packet.encoding} of {packet.width}x{packet.height} px")
                self._binner = None
            if not self._in_sequence(packet):
                return
            words = self._bytes.words(packet.payload, packet.time_base, packet.is_bigendian)
        except ValueError:
            self.packets.rejected += 1
            self._rejected_since_packet += 1
            raise
        self._note(packet)
        self.packets.payload_bytes += packet.payload.nbytes
        if self._binner is None:
            self._binner = self._make_binner()
        mistimed, jumps = self._bytes.state[s.MISTIMED], self.windows.time_jumps
        try:
            self._binner.add(self._bytes, words)
        except BaseException as error:
            if isinstance(error, DamagedTimesError):
                self.packets.rejected += 1
                self._binner.restart()  # its windows have times that the clock has never heard of
            self._bytes.resync()  # the rest of the packet is not decoded
            raise
        if self.windows.time_jumps != jumps:
            self._follow_jump(packet, self._binner.began_us)
        else:
            self._follow_clock(packet)
        if self._bytes.state[s.MISTIMED] != mistimed and mistimed == 0:
            self._on_notice(
                "a libcaer_cmp packet spans more than 65.536 ms, so that the driver has cut off its times; "
                "set a shorter event_message_time_threshold in the driver"
            )

    def shed(self, packet: EventPacket) -> None:
        """Take note of the next packet without decoding it, because decoding is behind.

        The windows that it belongs to are neither finished nor empty: they count as `shed`. A packet that could not
        be read, or that begins another stream, is decoded all the same, so that nothing is lost but depth.

        Args:
            packet: the packet.

        Raises:
            ValueError: as `push` does.
        """
        known = self._bytes.is_open(packet.encoding, packet.width, packet.height)
        if self._binner is None or not known or not 0 <= packet.stamp_ns < LATEST_STAMP_NS:
            self.push(packet)
            return
        self.packets.received += 1
        if not self._in_sequence(packet):
            return
        self.packets.shed += 1
        self._note(packet)
        self._bytes.resync()
        self._binner.shed()

    def close_open_windows(self) -> None:
        """Hand over the windows that hold events, as after a silence in which no packet has shown that they ended.

        Events of their time that come yet are counted as late.
        """
        if self._binner is not None and self._packet is not None:
            self._received_ns = time.monotonic_ns()
            self._binner.close_open()

    def _note(self, packet: EventPacket) -> None:
        """Remember a packet as the last one."""
        self._packet = packet
        self._rejected_since_packet = self._stragglers = 0
        self._numbers.append(packet.seq)

    def restart(self, reason: str) -> None:
        """Start over, as for another camera: state, clock and open windows are given up; the counters stay."""
        self.packets.restarts += 1
        self._bytes.restart()
        self._clock.reset()
        if self._binner is not None:
            self._binner.restart()
        self._packet = None
        self._rejected_since_packet = self._stragglers = 0
        self._numbers.clear()
        self._last_stamp_ns = None
        self._on_notice(f"event stream started over: {reason}")

    def reconfigure(self, config: WindowConfig) -> None:
        """Take other windows from now on; the open ones are given up, clock and counters stay."""
        self.config = config
        if self._binner is not None:
            self._binner.restart()
            self._binner = self._make_binner()

    def _in_sequence(self, packet: EventPacket) -> bool:
        """Compare with the packet before: count what is missing, start over where time or numbers go back."""
        last = self._packet
        if last is None:
            return True
        numbered = packet.seq != 0 or last.seq != 0
        if numbered and packet.seq == last.seq and packet.stamp_ns == last.stamp_ns:
            self.packets.duplicates += 1
            return False
        if packet.stamp_ns < last.stamp_ns - STAMP_BACK_NS:
            self.restart(f"stamps went back by {(last.stamp_ns - packet.stamp_ns) / 1e9:.3f} s")
            return True
        if numbered and packet.seq <= last.seq and packet.stamp_ns <= last.stamp_ns and self._stragglers < STRAGGLERS:
            # Behind its time by number and stamp: a detour on its way. Stamps of a camera that starts anew grow.
            self._stragglers += 1
            if packet.seq in self._numbers:
                self.packets.duplicates += 1
            else:
                self.packets.reordered += 1
            return False
        if numbered and packet.seq <= last.seq:
            self.restart(f"packet numbers went back from {last.seq} to {packet.seq}")
            return True
        missing = packet.seq - last.seq - 1 if numbered else 0
        if missing > MOST_LOST:
            self.restart(f"packet numbers leapt from {last.seq} to {packet.seq}")
            return True
        if missing > 0 or self._rejected_since_packet:
            self._bytes.resync()
            lost = max(0, missing - self._rejected_since_packet)
            self.packets.lost += lost
            self._lost_since_window += lost
        return True

    def _follow_jump(self, packet: EventPacket, began_us: int) -> None:
        """Begin a new clock where the sensor's time has jumped: what it was before says nothing about it now."""
        self._clock.reset()
        self._clock.update(packet.stamp_ns, began_us)
        self._on_notice(f"the sensor's time jumped to {began_us / 1e6:.3f} s; open windows are given up")

    def _follow_clock(self, packet: EventPacket) -> None:
        """Update the clock by the packet's first time, unless that has been done for it already."""
        first = int(self._bytes.state[s.FIRST])
        if first == s.NO_TIME:
            return
        excess = self._clock.excess_ns(packet.stamp_ns, first)
        if not CLOCK_AHEAD_NS <= excess <= CLOCK_BEHIND_NS:
            self._clock.reset()
            self._last_stamp_ns = None
            self.packets.clock_leaps += 1
            self._on_notice(f"the sensor's clock leapt by {-excess / 1e9:.3f} s against the packets' stamps")
        if step_ns := self._clock.update(packet.stamp_ns, first):
            self.packets.clock_leaps += 1
            self._on_notice(
                f"the packets' stamps went forward by {step_ns / 1e9:.3f} s against the sensor's clock, as where the "
                "host's clock is set: stamps of depth follow, those of the last seconds were too early by as much"
            )

    def _make_binner(self) -> SpikeBinner:
        return SpikeBinner(
            self.config, self.sensor_size, self.spike_size, self._finish, self._spare_windows, self.windows
        )

    def _finish(self, window: SpikeWindow) -> None:
        """Stamp a window and hand it over."""
        packet = self._packet
        assert packet is not None
        self._follow_clock(packet)
        stamp_ns = self._clock.to_ros(window.t_end_us)
        # The estimate of the offset only ever falls; stamps must still grow.
        if self._last_stamp_ns is not None and stamp_ns <= self._last_stamp_ns:
            stamp_ns = self._last_stamp_ns + 1
        self._last_stamp_ns = window.stamp_ns = stamp_ns
        window.received_ns = self._received_ns
        window.frame_id, window.sensor_size = packet.frame_id, self.sensor_size
        window.packets_lost, self._lost_since_window = self._lost_since_window, 0
        window.finished_ns = time.monotonic_ns()
        self._on_window(window)
