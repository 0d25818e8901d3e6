"""A recording as a source of windows: at the stamps of the truth, or the node's own windows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from sdt_ros.bags import BagError, BagReader, parse_event_packet
from sdt_ros.evaluation.errors import EvaluationError
from sdt_ros.evaluation.rectify import Rectifier
from sdt_ros.evaluation.source import Window
from sdt_ros.evaluation.truth import Truth, nearest
from sdt_ros.evaluation.windows import StampedWindow, StampedWindows
from sdt_ros.events import EventPacket, EventStream, SpikeWindow, WindowConfig

SCHEDULES = ("truth", "node")
_log = logging.getLogger(__name__)


class RecordingSource:
    """The windows of a bag's events, with the truth of the same bag.

    Args:
        bag: the recording.
        topic: of the event packets.
        truth: its depth images.
        windows: the rate is that of the schedule "node".
        rectifier: brings depth to the grid of the truth.
        schedule: "truth" or "node".
    """

    def __init__(
        self,
        bag: BagReader,
        topic: str,
        truth: Truth,
        windows: WindowConfig,
        rectifier: Rectifier,
        schedule: str = "truth",
    ) -> None:
        self.where = f"{bag.path}: {truth.topic}"
        self._bag = bag
        self._topic = topic
        self._truth = truth
        self._windows = windows
        self._rectifier = rectifier
        self._schedule = schedule
        self._span: list[int] = []  # stamps of the first and the last packet
        self._packet = 0
        self._counts: dict[str, int] = {}
        self._unreadable: list[str] = []  # why each packet is none that the node would leave out
        self._given: list[int | None] = []  # index of the truth of each window given

    def __iter__(self) -> Iterator[Window]:
        """The windows, in the order of time.

        Raises:
            BagError: the recording is damaged.
            EvaluationError: a packet cannot be read. The node goes on without it, so that its own windows do too.
        """
        windows = self._as_the_node() if self._schedule == "node" else self._at_the_truth()
        for number, stamp_ns, spikes, events, end_ns in windows:
            self._given.append(number)
            truth = None if number is None else self._truth.frames[number]
            truth_ns = None if number is None else int(self._truth.stamps[number])
            focal_px = self._rectifier.focal_px(*spikes.shape[2:])
            yield Window(self._bag.path.stem, stamp_ns, spikes, truth, truth_ns, events, focal_px, end_ns)

    def finish(self, depth: np.ndarray) -> np.ndarray:
        """Depth on the rectified grid, as the node publishes it."""
        return self._rectifier(depth)

    def notes(self) -> dict[str, str]:
        """What is worth knowing of the calibration."""
        return {"rectification": self._rectifier.text}

    def counts(self) -> dict[str, int]:
        """What became of windows, truth and packets."""
        matched = {number for number in self._given if number is not None}
        return self._counts | {
            "truth_images": len(self._truth.stamps),
            "truth_dropped": self._truth.dropped,
            "truth_unmatched": len(self._truth.stamps) - len(matched),
            "depth_images": len(self._given),
            "depth_unmatched": sum(number is None for number in self._given),
        }

    def _at_the_truth(self) -> Iterator[tuple[int | None, int, np.ndarray, int, int | None]]:
        truth, config = self._truth, self._windows
        ready: list[StampedWindow] = []
        stream = StampedWindows(truth.stamps, config.window_us, config.bins, 1.0, ready.append)
        empty = 0
        for packet in self._packets():
            self._push(stream, packet)
            for window in ready:
                if window.events < max(1, config.min_events):
                    empty += 1
                    continue
                yield window.number, int(truth.stamps[window.number]), window.spikes, window.events, None
            ready.clear()
        stream.finish()
        self._counts = {
            "windows_empty": empty,
            "windows_before_events": stream.before,
            "windows_after_events": stream.after,
            "packets_lost": stream.lost,
            "stream_restarts": stream.restarts,
            "events": stream.events,
        }

    def _as_the_node(self) -> Iterator[tuple[int | None, int, np.ndarray, int, int | None]]:
        unreadable = self._unreadable
        half_period_ns = round(float(self._windows.period_us) * 500)
        ready: list[SpikeWindow] = []
        stream = EventStream(self._windows, lambda window: ready.append(window.detach()))
        for packet in self._packets(unreadable):
            try:
                stream.push(packet)
            except ValueError as error:
                unreadable.append(self._at_packet(error))
            for window in ready:
                number = nearest(self._truth.stamps, window.stamp_ns, half_period_ns)
                yield number, window.stamp_ns, window.spikes, window.events, 1000 * window.t_end_us
            ready.clear()
        self._counts = {
            "windows_due": stream.windows.due,
            "windows_empty": stream.windows.empty,
            "packets_lost": stream.packets.lost,
            "packets_unreadable": len(unreadable),
            "stream_restarts": stream.packets.restarts + stream.windows.time_jumps,
            "events": stream.windows.events,
        }
        if unreadable:
            _log.warning("%d packets are left out, as the node does; the first: %s", len(unreadable), unreadable[0])

    def _packets(self, unreadable: list[str] | None = None) -> Iterator[EventPacket]:
        """The packets; what is wrong with those that are none is added to a list where there is one."""
        for number, message in enumerate(self._bag.messages([self._topic])):
            self._packet = number
            try:
                packet = parse_event_packet(message.data)
            except BagError as error:
                if unreadable is None:
                    raise EvaluationError(self._at_packet(error)) from error
                unreadable.append(self._at_packet(error))
                continue
            self._span = [self._span[0] if self._span else packet.stamp_ns, packet.stamp_ns]
            yield packet

    def _at_packet(self, error: Exception) -> str:
        return f"{self._bag.path}: {self._topic}, packet {self._packet}: {error}"

    def _push(self, stream: Any, packet: EventPacket) -> None:
        try:
            stream.push(packet)
        except ValueError as error:
            raise EvaluationError(self._at_packet(error)) from error

    def why_nothing(self) -> str:
        """Why no window has a truth."""

        def span(first: int, last: int) -> str:
            return f"{first / 1e9:.3f} s to {last / 1e9:.3f} s"

        where, stamps = self._bag.path, self._truth.stamps
        if self._unreadable and len(self._unreadable) == self._packet + 1:
            return f"no packet can be read: {self._unreadable[0]}"
        if not self._span:
            return f"{where}: {self._topic} has no packets; choose another by --events-topic"
        events, truth = span(*self._span), span(int(stamps[0]), int(stamps[-1]))
        if self._span[0] <= stamps[-1] and stamps[0] <= self._span[1] and self._counts["windows_empty"]:
            return (
                f"{where}: {self._counts['windows_empty']} windows of {self._topic} have fewer events than "
                f"--min-events {self._windows.min_events}, and none has more; lower it"
            )
        return (
            f"{where}: no window of {self._topic} ({events}) meets an image of {self._truth.topic} ({truth}, images 0 "
            f"to {len(stamps) - 1}); a window needs {self._windows.window_ms:g} ms of events before its stamp. Record "
            "both on one clock"
        )
