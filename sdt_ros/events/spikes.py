"""Spike tensors, filled packet by packet straight from the bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdt_ros.events.codecs import state as s
from sdt_ros.events.decoder import ByteStream
from sdt_ros.events.sinks import SpikeSink
from sdt_ros.events.windows import WindowConfig, WindowSchedule

JUMP_FORWARD_US = 10_000_000  # further ahead than this is another time, not a scene at rest
JUMP_BACK_US = 100_000  # further back than this is another time, not jitter of the sensor
MOST_WALKED_US = 30_000_000  # that the times of one packet may go up and down in all; packets hold milliseconds
MOVE_US = 1_000  # what a move of the sink counts at least: each costs time, however short it is
SPARE_WINDOWS = 3  # one in the network, one waiting for it, one being handed over


class DamagedTimesError(ValueError):
    """The times of a packet are impossible, or lead up and down so far that following them would take seconds."""


@dataclass(slots=True)
class SpikeWindow:
    """The spikes of one finished window. Its memory is lent: `release()` gives it back, then `spikes` is void.

    Attributes:
        index: number of the window on the grid of sensor time; its end is index / rate_hz.
        spikes: uint8 [T, 2, H, W] in {0, 1}; polarity 0 is OFF, 1 is ON.
        t_start_us: the window's first sensor time [us].
        t_end_us: the sensor time that the window ends before [us].
        events: events that fell into it.
        decode_ns: time spent on decoding and binning since the window before [ns].
        stamp_ns: the window's end in ROS time [ns since the epoch].
        received_ns: when the packet that showed its end was received, on the monotonic clock [ns].
        finished_ns: when it was handed over, on the same clock [ns].
        packets_lost: packets that went missing since the window before.
        frame_id: optical frame of the camera.
        sensor_size: height and width of the sensor that it is of [px].
    """

    index: int
    spikes: np.ndarray
    t_start_us: int
    t_end_us: int
    events: int
    decode_ns: int = 0
    stamp_ns: int = 0
    received_ns: int = 0
    finished_ns: int = 0
    packets_lost: int = 0
    frame_id: str = ""
    sensor_size: tuple[int, int] = (0, 0)
    _home: list[int] | None = None
    _slot: int = -1

    def release(self) -> None:
        """Clear the memory and give it back. A second call does nothing."""
        if self._home is not None:
            self.spikes.fill(0)
            home, self._home = self._home, None
            home.append(self._slot)

    def detach(self) -> SpikeWindow:
        """Give the memory back and keep a copy of the spikes instead."""
        spikes = self.spikes.copy()
        self.release()
        self.spikes = spikes
        return self


@dataclass(slots=True)
class WindowCounters:
    """What became of the windows: finished + empty + shed = due.

    Attributes:
        due: windows whose time has passed since the stream began.
        finished: windows handed over.
        empty: windows with too few events.
        shed: windows of which packets were left undecoded.
        early: windows closed by `close_open`, among the finished and empty ones.
        events: events that fell into any window's time.
        decoded: events on the sensor, those between windows and those that came late among them.
        late: events that arrived after a window of their time was closed.
        time_jumps: jumps of the sensor's time that made the windows start over.
        abandoned: open windows given up because the stream started over; they were not due.
    """

    due: int = 0
    finished: int = 0
    empty: int = 0
    shed: int = 0
    early: int = 0
    events: int = 0
    decoded: int = 0
    late: int = 0
    time_jumps: int = 0
    abandoned: int = 0


@dataclass(slots=True)
class _OpenWindow:
    index: int
    slot: int
    edges: list[int]
    events: int = 0
    is_whole: bool = True


class SpikeBinner:
    """Fills the tensors of all open windows from packets' words, in one pass over them.

    Memory for every window that can be open, waiting or in use is taken once; a packet allocates nothing.
    """

    def __init__(
        self,
        config: WindowConfig,
        sensor_size: tuple[int, int],
        spike_size: tuple[int, int],
        on_window: Callable[[SpikeWindow], None],
        spare_windows: int = SPARE_WINDOWS,
        counters: WindowCounters | None = None,
    ) -> None:
        """Make a binner.

        Args:
            config: the windows.
            sensor_size: height and width of the sensor [px].
            spike_size: height and width of the spike tensors [px], at most the sensor's; each of their cells takes
                the events of the sensor's pixels that it covers.
            on_window: takes every finished window, in the order of time, and must release it.
            spare_windows: finished windows that there is memory for until they are released.
            counters: where to go on counting, new ones by default.
        """
        (sensor_height, sensor_width), (height, width) = sensor_size, spike_size
        if not (0 < height <= sensor_height and 0 < width <= sensor_width):
            raise ValueError(f"spikes of {width}x{height} px do not fit a sensor of {sensor_width}x{sensor_height} px")
        self.config = config
        self.counters = counters or WindowCounters()
        self._schedule = WindowSchedule(config)
        self._on_window = on_window
        self._plane = height * width
        self._row = ((np.arange(sensor_height) * height // sensor_height) * width).astype(np.int32)
        self._column = (np.arange(sensor_width) * width // sensor_width).astype(np.int32)
        slots = config.most_open + spare_windows
        tensors = slots * config.bins * 2 * self._plane
        self._memory = np.zeros(tensors + 2 * self._plane, np.uint8)
        self._nowhere = tensors  # events of no window fall here, so that the compiled loop need not ask
        self._tensors = self._memory[:tensors].reshape(slots, config.bins, 2, height, width)
        self._free = list(range(slots))  # the last one released is taken first: it is still in the cache
        self._decode_ns = 0
        self._filling: list[_OpenWindow]  # the windows that events fall into, as the sink is aimed now
        self._late: bool  # whether they fall into a closed window too
        self._open: list[_OpenWindow] = []
        self._nothing = self._make_sink(self._nowhere, [], 1, 0)
        self.began_us = 0  # the first time since the last restart
        self.restart()

    @property
    def latest_us(self) -> int | None:
        """The latest sensor time seen since the last restart [us]."""
        return self._latest

    def restart(self) -> None:
        """Give up the open windows and begin with the next packet's time."""
        self.counters.abandoned += len(self._open)
        for window in self._open:
            self._tensors[window.slot].fill(0)
            self._free.append(window.slot)
        self._open.clear()
        self._latest: int | None = None
        self._has_gap = False  # packets were left out since the latest time
        self._first = self._next = 0  # index of the first window since the restart, and of the next one to open
        self._aim_at_nothing()

    def shed(self) -> None:
        """Packets are left out from here to the next ones that are added: no window that they may touch is finished."""
        for window in self._open:
            window.is_whole = False
        self._has_gap = self._latest is not None
        self._aim_at_nothing()

    def close_open(self) -> None:
        """Close the windows that have begun, though no time has come that shows their end."""
        self._aim_at_nothing()
        while self._open:
            self.counters.early += 1
            self._close(self._open.pop(0))

    def add(self, stream: ByteStream, words: np.ndarray) -> None:
        """Bin the events of a packet's words; hands over each window that they finish.

        Raises:
            DamagedTimesError: the packet's times make no sense; what came before that place is binned.
        """
        start, before, walked = 0, self._latest, 0
        while True:
            began = time.perf_counter_ns()
            start, events = stream.decode(words, start, self._sink)
            self._decode_ns += time.perf_counter_ns() - began
            self._count(events)
            if start == words.size:
                return
            t = int(stream.state[s.STOP])
            walked += min(max(abs(t - before), MOVE_US), JUMP_FORWARD_US) if before is not None else 0
            if walked > MOST_WALKED_US:
                raise DamagedTimesError(
                    f"the packet's times go up and down by more than {MOST_WALKED_US / 1e6:g} s: it is damaged; "
                    "its rest is not decoded"
                )
            if t < 0:
                raise DamagedTimesError(f"the packet has a time of {t} us: times begin at 0; its rest is not decoded")
            before = t
            self._move_to(t)

    def _count(self, events: int) -> None:
        if events:
            self.counters.decoded += events
            for window in self._filling:
                window.events += events
            if self._filling:
                self.counters.events += events
            if self._late:
                self.counters.late += events

    def _move_to(self, t: int) -> None:
        """Close what has ended at time t, open what has begun, and aim the sink at the bins that hold t."""
        self._aim_at_nothing()  # whatever fails below, no memory that is handed over is written to
        latest = self._latest
        if latest is not None and not -JUMP_BACK_US <= t - latest <= JUMP_FORWARD_US:
            self.counters.time_jumps += 1
            self.restart()
            latest = None
        if latest is None:
            self._next = self._first = self._schedule.first_from(t)
            self.began_us = latest = t
        self._latest = max(t, latest)
        while self._open and self._open[0].edges[-1] <= t:
            self._close(self._open.pop(0))
        self._pass_over(t)
        while self._schedule.start(self._next) <= t:
            self._open_next()
            self._open[-1].is_whole = not (self._has_gap and self._open[-1].edges[0] < t)
        self._has_gap = False
        self._aim(t)

    def _pass_over(self, t: int) -> None:
        """Count the windows that no event fell into, from begin to end."""
        missed = self._schedule.ended_by(t) - self._next + 1
        if missed > 0:
            self.counters.due += missed
            if self._has_gap:
                self.counters.shed += missed
            else:
                self.counters.empty += missed
            self._next += missed

    def _open_next(self) -> None:
        if not self._free:
            raise RuntimeError("no memory for another window: finished windows must be released or detached")
        self._open.append(_OpenWindow(self._next, self._free.pop(), self._schedule.edges(self._next)))
        self._next += 1

    def _close(self, window: _OpenWindow) -> None:
        self.counters.due += 1
        spikes = self._tensors[window.slot]
        finished = SpikeWindow(
            window.index, spikes, window.edges[0], window.edges[-1], window.events, self._decode_ns,
            _home=self._free, _slot=window.slot,
        )  # fmt: skip
        self._decode_ns = 0
        if not window.is_whole:
            self.counters.shed += 1
            finished.release()
        elif window.events < max(1, self.config.min_events):
            self.counters.empty += 1
            finished.release()
        else:
            self.counters.finished += 1
            self._on_window(finished)

    def _aim(self, t: int) -> None:
        """Make the sink for the stretch of time around t within which every open window stays in one bin."""
        # The first window that ends behind t is the one that a late event falls into, if any.
        k = max(self._first, self._schedule.ended_by(t) + 1)
        start, end = self._schedule.start(k), self._schedule.end(k)
        oldest = self._open[0].index if self._open else self._next
        late = k < oldest and start <= t
        bounds = [self._schedule.start(self._next), self._schedule.end(k - 1), start, end]
        filling, bases = [], []
        for window in self._open:
            bounds += window.edges
            if window.edges[0] <= t:
                bin_of_t = sum(edge <= t for edge in window.edges) - 1
                filling.append(window)
                bases.append((window.slot * self.config.bins + bin_of_t) * 2 * self._plane)
        t_from = max((bound for bound in bounds if bound <= t), default=s.NO_TIME)
        t_until = min(bound for bound in bounds if bound > t)
        base, *overlapping = bases or [self._nowhere]
        self._filling, self._late = filling, late
        self._sink = self._make_sink(base, overlapping, t_from, t_until)

    def _aim_at_nothing(self) -> None:
        """Make a sink that takes no events: the next time that comes pauses it."""
        self._filling, self._late, self._sink = [], False, self._nothing

    def _make_sink(self, base: int, overlapping: list[int], t_from: int, t_until: int) -> SpikeSink:
        others = np.array(overlapping, np.int64)
        return SpikeSink(self._memory, base, others, self._row, self._column, self._plane, t_from, t_until)
