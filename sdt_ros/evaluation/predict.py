"""A recording through the network, offline: at the stamps of the truth, or in the node's own windows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from sdt_ros.bags import BagError, BagReader, parse_event_packet
from sdt_ros.evaluation.errors import EvaluationError
from sdt_ros.evaluation.rectify import Rectifier
from sdt_ros.evaluation.spool import Spool
from sdt_ros.evaluation.truth import Truth, nearest, onto
from sdt_ros.evaluation.windows import StampedWindow, StampedWindows
from sdt_ros.events import EventPacket, EventStream, SpikeWindow, WindowConfig
from sdt_ros.runtime import DepthEstimator

SCHEDULES = ("truth", "node")
MEASURE_EVERY = 25  # windows; counting spikes layer by layer takes its time


@dataclass(frozen=True, slots=True)
class PredictedWindow:
    """One depth image that was made.

    Attributes:
        stamp_ns: its stamp [ns since the epoch].
        truth: index of the truth that it is scored against; None where none is near enough in time.
        events: events in its window.
        spike_density: share of ones in its spikes.
    """

    stamp_ns: int
    truth: int | None
    events: int
    spike_density: float


@dataclass
class Predictions:
    """All depth images that were made, and what became of the other windows.

    Attributes:
        depth: float32 [H, W] metres each, in the order of `windows`.
        spikes: their spikes, eight to a byte.
        spike_shape: [T, 2, h, w] of them.
        windows: one entry a depth image.
        counts: by what became of windows, truth and packets.
        firing_rates: by layer, averaged over the windows measured.
        energy_mj: of a window, averaged likewise.
        measured: windows that these two were measured on.
        seconds: time that all of it took [s].
    """

    depth: Spool
    spikes: Spool
    spike_shape: tuple[int, ...] = ()
    windows: list[PredictedWindow] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    firing_rates: dict[str, float] = field(default_factory=dict)
    energy_mj: float = 0.0
    measured: int = 0
    seconds: float = 0.0

    def spikes_of(self, index: int) -> np.ndarray:
        """Spikes of a window: uint8 [T, 2, h, w]."""
        count = int(np.prod(self.spike_shape))
        return np.unpackbits(self.spikes[index], count=count).reshape(self.spike_shape)


class Predictor:
    """Makes depth of a recording's events and keeps it on disk.

    Args:
        bag: the recording.
        topic: of the event packets.
        truth: what the depth is compared with.
        estimator: the network.
        windows: duration and bins are the network's; the rate is that of the schedule "node".
        rectifier: brings depth to the grid of the truth.
        predictions: takes what is made.
    """

    def __init__(
        self,
        bag: BagReader,
        topic: str,
        truth: Truth,
        estimator: DepthEstimator,
        windows: WindowConfig,
        rectifier: Rectifier,
        predictions: Predictions,
    ) -> None:
        self._bag = bag
        self._topic = topic
        self._truth = truth
        self._estimator = estimator
        self._windows = windows
        self._rectifier = rectifier
        self._result = predictions
        self._span: list[int] = []  # stamps of the first and the last packet
        self._checked = False

    def run(self, schedule: str) -> None:
        """Work through the recording.

        Raises:
            BagError: the recording is damaged.
            EvaluationError: a packet cannot be read, truth and sensor show different views, or nothing can be scored.
        """
        began = time.perf_counter()
        if schedule == "node":
            self._as_the_node()
        else:
            self._at_the_truth()
        self._result.seconds = time.perf_counter() - began
        matched = [window.truth for window in self._result.windows if window.truth is not None]
        self._result.counts |= {
            "truth_images": len(self._truth.stamps),
            "truth_dropped": self._truth.dropped,
            "truth_unmatched": len(self._truth.stamps) - len(set(matched)),
            "depth_images": len(self._result.windows),
            "depth_unmatched": len(self._result.windows) - len(matched),
        }
        if not matched:
            raise EvaluationError(self._why_nothing_matches())
        for name, total in self._result.firing_rates.items():
            self._result.firing_rates[name] = total / self._result.measured
        self._result.energy_mj /= self._result.measured

    def _at_the_truth(self) -> None:
        truth, config = self._truth, self._windows
        stream = StampedWindows(
            truth.stamps, config.window_us, config.bins, self._estimator.card.input_scale, lambda window: take(window)
        )
        empty = 0

        def take(window: StampedWindow) -> None:
            nonlocal empty
            if window.events < max(1, config.min_events):
                empty += 1
                return
            stamp = int(truth.stamps[window.number])
            self._predict(window.spikes, stream.sensor_size, stamp, window.number, window.events)

        for packet in self._packets():
            self._push(stream, packet)
        stream.finish()
        self._result.counts = {
            "windows_empty": empty,
            "windows_before_events": stream.before,
            "windows_after_events": stream.after,
            "packets_lost": stream.lost,
            "stream_restarts": stream.restarts,
            "events": stream.events,
        }

    def _as_the_node(self) -> None:
        half_period_ns = round(float(self._windows.period_us) * 500)

        def take(window: SpikeWindow) -> None:
            near = nearest(self._truth.stamps, window.stamp_ns, half_period_ns)
            self._predict(window.spikes, stream.sensor_size, window.stamp_ns, near, window.events)
            window.release()

        stream = EventStream(self._windows, take, self._estimator.card.input_scale)
        for packet in self._packets():
            self._push(stream, packet)
        self._result.counts = {
            "windows_due": stream.windows.due,
            "windows_empty": stream.windows.empty,
            "packets_lost": stream.packets.lost,
            "stream_restarts": stream.packets.restarts + stream.windows.time_jumps,
            "events": stream.windows.events,
        }

    def _packets(self) -> Iterator[EventPacket]:
        count = self._bag.topics[self._topic].count
        messages = self._bag.messages([self._topic])
        for number, message in enumerate(tqdm(messages, "packets", count, leave=False, disable=None)):
            try:
                packet = parse_event_packet(message.data)
            except BagError as error:
                raise EvaluationError(f"{self._bag.path}: {self._topic}, packet {number}: {error}") from error
            self._span = [self._span[0] if self._span else packet.stamp_ns, packet.stamp_ns]
            self._number = number
            yield packet

    def _push(self, stream: Any, packet: EventPacket) -> None:
        try:
            stream.push(packet)
        except EvaluationError:
            raise
        except ValueError as error:
            raise EvaluationError(f"{self._bag.path}: {self._topic}, packet {self._number}: {error}") from error

    def _predict(
        self, spikes: np.ndarray, sensor_size: tuple[int, int], stamp_ns: int, truth: int | None, events: int
    ) -> None:
        result = self._result
        if not self._checked:  # before the network's time is spent
            onto(np.empty(sensor_size), self._truth.size, f"{self._bag.path}: {self._truth.topic}")
            self._checked = True
        if len(result.windows) % MEASURE_EVERY == 0:
            depth, report = self._estimator.measured(spikes, sensor_size)
            for name, rate in report.firing_rates.items():
                result.firing_rates[name] = result.firing_rates.get(name, 0.0) + rate
            result.energy_mj += report.energy_mj or 0.0
            result.measured += 1
        else:
            depth = self._estimator(spikes, sensor_size)
        result.depth.append(self._rectifier(depth))
        result.spike_shape = spikes.shape
        result.spikes.append(np.packbits(spikes))
        density = np.count_nonzero(spikes) / spikes.size
        result.windows.append(PredictedWindow(stamp_ns, truth, events, density))

    def _why_nothing_matches(self) -> str:
        def span(first: int, last: int) -> str:
            return f"{first / 1e9:.3f} s to {last / 1e9:.3f} s"

        where, stamps, counts = self._bag.path, self._truth.stamps, self._result.counts
        if not self._span:
            return f"{where}: {self._topic} has no packets; choose another by --events-topic"
        events, truth = span(*self._span), span(int(stamps[0]), int(stamps[-1]))
        if self._span[0] <= stamps[-1] and stamps[0] <= self._span[1] and counts["windows_empty"]:
            return (
                f"{where}: {counts['windows_empty']} windows of {self._topic} have fewer events than "
                f"--min-events {self._windows.min_events}, and none has more; lower it"
            )
        return (
            f"{where}: no window of {self._topic} ({events}) meets an image of {self._truth.topic} ({truth}, images 0 "
            f"to {len(stamps) - 1}); a window needs {self._windows.window_ms:g} ms of events before its stamp. Record "
            "both on one clock"
        )
