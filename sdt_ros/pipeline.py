"""The way from packets to published depth: a stream, a network, and the one thread that runs it."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from std_msgs.msg import Header

from sdt_ros.calibration import Calibration, CalibrationSource
from sdt_ros.diagnostics import Counts
from sdt_ros.egomotion import CameraMotion, Rescaler
from sdt_ros.egomotion.agreement import compile_loops
from sdt_ros.events import EventPacket, EventStream, SpikeWindow, WindowConfig
from sdt_ros.events.encodings import CODECS
from sdt_ros.events.reduce import reduced_size
from sdt_ros.hot_pixels import HotPixels
from sdt_ros.inference import InferenceThread
from sdt_ros.load import DecodeCost, Shedding
from sdt_ros.loading import load_estimator, require_uncertainty
from sdt_ros.msg import Stats
from sdt_ros.network import EnergyReport
from sdt_ros.outputs import NotOffered, Outputs, Totals, WindowTimes, add_rates, add_scale, add_times, statistics
from sdt_ros.parameters import NodeConfig
from sdt_ros.runtime import DepthEstimator
from sdt_ros.runtime.device import DeviceError, DeviceLost
from sdt_ros.runtime.thread_count import MoreThreads
from sdt_ros.settle import settle
from sdt_ros.smoothing import DepthSmoother

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode

WARM_UP_SIZE = (260, 346)  # of the sensor, until the first packet tells it
_dead: list[DepthEstimator] = []  # on devices that no longer answer: never freed, see `DeviceLost.answers`
_SHARE_OF_PERIOD = 0.7  # that the network may take; the rest is for what the machine does besides


class Pipeline:
    """Decodes and bins packets in the caller's thread, makes and publishes depth in its own.

    Attributes:
        estimator: the network.
        stream: from packets to windows; a new one after each `start_over`.
        last_stats: the statistics published last, since then.
        failure: how the network last failed on a window; empty where it never did.
        device_lost: why the network had to leave its device; empty where it did not.
        fatal: why no more windows are taken; empty while they are.
        network_ms: what the network takes for a window, smoothed; 0 while that is not known.
        runtime: weights and runtime in one line.
        decode_cost: what decoding takes.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: NodeConfig,
        calibrations: CalibrationSource,
        motion: CameraMotion,
        sensor_size: tuple[int, int] = WARM_UP_SIZE,
    ) -> None:
        """Load and warm network and decoders, make the publishers.

        Args:
            node: that publishes.
            config: its parameters.
            calibrations: where the camera's is found.
            motion: of the camera.
            sensor_size: height and width that the camera is likely to have [px].

        Raises:
            CheckpointError, DeviceError, ImportError, ValueError: what the parameters ask for is not possible.
        """
        self._config = config
        self._calibrations = calibrations
        self._motion = motion
        self._likely_size = sensor_size
        self._logger = node.get_logger()
        self._outputs: Outputs | None = None
        self._inference = InferenceThread(self._process)
        self.device_lost = self.fatal = ""
        self.network_ms = 0.0
        self.runtime = ""
        self._warmed_size: tuple[int, int] | None = None
        self._is_warming = self._is_meeting = False
        self.decode_cost = DecodeCost()
        try:
            self.estimator: DepthEstimator = self._inference.call(self._load)
            self._outputs = Outputs(node)
            self._compile()
            self.start_over()
            settle()
        except BaseException:
            self.stop()
            raise

    def _load(self) -> DepthEstimator:
        try:
            self.estimator = load_estimator(self._config, self._notice)
            self._get_ready()
        except DeviceLost as error:
            if self._config.on_device_error == "stop":
                raise
            self._leave_device(error)
            if self.fatal:
                raise RuntimeError(self.fatal) from error
        return self.estimator

    def _get_ready(self) -> None:
        """Run the network at the camera's size, or the likely one, and choose the number of its threads."""
        if self._warmed_size is None:
            self._warmed_size = reduced_size(*self._likely_size, self.estimator.card.input_scale)
        self.network_ms, self._more_threads = 0.0, MoreThreads()
        self.estimator.warm_up(*self._warmed_size, budget_ms=self._budget_ms())
        self.runtime = self.estimator.describe()

    def _compile(self) -> None:
        """Have all loops compiled, or loaded, before packets wait for them: the camera's decoder is not known yet."""
        height, width = WARM_UP_SIZE
        for encoding in CODECS:
            stream = EventStream(WindowConfig(), SpikeWindow.release, decoder=self._config.decoder)
            with suppress(ValueError):  # the other decoder does not know them all
                stream.push(EventPacket(0, "", height, width, 0, 0, encoding, False, np.empty(0, np.uint8)))
        compile_loops()

    def start_over(self) -> None:
        """Take a stream with the parameters' windows that has seen nothing, and count from zero.

        Raises:
            ValueError: these windows are not possible.
            ImportError: the decoder asked for is not installed.
        """
        config, estimator = self._config, self.estimator
        windows = WindowConfig(
            window_ms=config.window_ms or estimator.window_ms,
            bins=estimator.bins,
            rate_hz=config.rate_hz,
            min_events=config.min_events,
        )
        self.stream = EventStream(
            windows, self._on_window, estimator.card.input_scale, config.decoder, on_notice=self._notice
        )
        self._inference.reset()
        self._totals = Totals()
        self._others = NotOffered()
        self._shedding = Shedding()
        self._hot = HotPixels()
        self._start_holding()
        self._report: EnergyReport | None = None
        self.last_stats: Stats | None = None
        self._densest = 0.0
        self.failure = ""
        self.network_ms = 0.0

    def reconfigure(self, config: NodeConfig) -> None:
        """Take other parameters from now on.

        Raises:
            ValueError: windows at that rate are not possible, or the weights do not tell uncertainty; nothing has
                changed.
        """
        require_uncertainty(config, self.estimator)
        windows = dataclasses.replace(self.stream.config, rate_hz=config.rate_hz, min_events=config.min_events)
        if windows != self.stream.config:
            self.stream.reconfigure(windows)
        before, self._config = self._config, config
        if (before.smoothing_s, before.hold_scale) != (config.smoothing_s, config.hold_scale):
            self._start_holding()

    def _start_holding(self) -> None:
        """Hold depth over time from here on; odometry's factor too, because it is one of depth that is held so."""
        window_s = self.stream.config.window_ms / 1e3
        self._smooth = DepthSmoother(self._config.smoothing_s, window_s if self._config.hold_scale else None)
        self._rescale = Rescaler(self._motion)
        self._met: Calibration | None = None

    def push(self, packet: EventPacket, received_ns: int) -> None:
        """Take the next packet, received at that time on the monotonic clock [ns]; undecoded while decoding is behind.

        Raises:
            ValueError: the packet cannot be read.
            MemoryError: there is not enough for windows of the packet's size.
        """
        stream = self.stream
        closed, events = stream.windows.finished + stream.windows.empty, stream.windows.decoded
        if self._shedding.sheds((time.monotonic_ns() - received_ns) / 1e6, self._longest_wait_ms(), closed):
            stream.shed(packet)
            return
        began_ns = time.thread_time_ns()
        stream.push(packet, received_ns)
        self.decode_cost.add(stream.windows.decoded - events, time.thread_time_ns() - began_ns)
        # The first packet tells the size; the network gets used to it before the first window is complete.
        if self.stream.spike_size != self._warmed_size and not self._is_warming:
            self._warmed_size, self._is_warming = self.stream.spike_size, True
            self._inference.submit(self._warm_up)
        # Nor does that window wait for the maps that a lens needs.
        # One at a time: whoever waits for the thread with many of them leaves no time for windows.
        calibration = self._calibrations.current
        if calibration is not None and calibration is not self._met and not self._is_meeting:
            self._met = calibration
            if not calibration.misfit(*stream.sensor_size):
                self._is_meeting = True
                self._inference.submit(functools.partial(self._meet, stream.sensor_size, stream.spike_size))

    def _longest_wait_ms(self) -> float:
        """How long a packet may wait, so that its window's depth is at most two windows late."""
        windows = self.stream.config
        window_ms = max(windows.window_ms, 1000.0 / windows.rate_hz)
        return max(window_ms, 2 * window_ms - self.network_ms)

    def close_after(self, silence_ms: float) -> None:
        """Close the open windows if there has been no packet for longer than `idle_flush_ms` and two windows."""
        windows = self.stream.config
        patience_ms = max(self._config.idle_flush_ms, 2 * windows.window_ms, 2000.0 / windows.rate_hz)
        if self._config.idle_flush_ms and silence_ms > patience_ms:
            self.stream.close_open_windows()

    def flush(self) -> None:
        """Wait until the window in the network is done; one that waits is given up."""
        self._inference.flush()

    def stop(self) -> None:
        """End the thread and remove the publishers."""
        self._inference.stop()
        if self._outputs is not None:
            self._outputs.destroy()

    @property
    def motion_problem(self) -> str:
        """Why odometry does not tell the scale of depth; empty where it does, or there is none."""
        return self._rescale.problem if self._motion.messages else ""

    def counts(self) -> Counts:
        """What was counted since the last `start_over`."""
        return Counts.of(self.stream, self._inference.ledger, self._totals)

    def rivals(self) -> tuple[str, int]:
        """The depth topic's name, and how many others publish on it."""
        assert self._outputs is not None
        return self._outputs.rivals()

    def hot_pixels(self) -> list[tuple[int, int]]:
        """Columns and rows of the sensor's pixels that never rest; of the first ones where a cell covers several."""
        (height, width), (rows, columns) = self.stream.sensor_size, self.stream.spike_size
        return [(int(x) * width // columns, int(y) * height // rows) for y, x in self._hot.found] if rows else []

    def take_densest(self) -> float:
        """Share of ones in the densest window since the last call; a storm may be over when somebody asks."""
        densest, self._densest = self._densest, 0.0
        return densest

    def _notice(self, text: str) -> None:
        self._logger.warning(text, throttle_duration_sec=1.0)

    def _on_window(self, window: SpikeWindow) -> None:
        self._others = NotOffered(self.stream.windows.empty, self.stream.windows.shed)
        self._inference.offer(window)

    # --- in the inference thread --------------------------------------------------------------------------------------

    def _budget_ms(self) -> float | None:
        """What the network may take for a window, where the number of its threads is ours to choose."""
        return None if self._config.threads else _SHARE_OF_PERIOD * 1000.0 / self._config.rate_hz

    def _warm_up(self) -> None:
        try:
            self._get_ready()
        except DeviceError as error:
            self._leave_device(error)
        except Exception as error:
            height, width = self._warmed_size or (0, 0)
            self._logger.error(f"the network cannot take windows of {width}x{height} px: {error}")
        finally:
            self._is_warming = False

    def _meet(self, sensor_size: tuple[int, int], spike_size: tuple[int, int]) -> None:
        """Make what a lens needs; what fails here fails with the first window again, and is reported there."""
        try:
            calibration = self._calibrations.current  # the latest: others may have come since
            if calibration is None or calibration.misfit(*sensor_size):
                return
            if not calibration.is_rectified:
                calibration.rectification()
            self._rescale.prepare(calibration, spike_size)
        finally:
            self._is_meeting = False

    def _process(self, window: SpikeWindow) -> None:
        try:
            if self.fatal:
                self._totals.failed += 1
            else:
                self._publish(window)
        except DeviceError as error:
            self._totals.failed += 1
            self._leave_device(error)
        except Exception as error:  # whatever the network meets, the next window may do better, and people must know
            self._totals.failed += 1
            if str(error) != self.failure:
                self.failure = str(error)
                self._logger.error(f"no depth for the window at {window.stamp_ns} ns: {error}")
        finally:
            window.release()

    def _leave_device(self, error: DeviceError) -> None:
        """Go on with the CPU, or give up, as `on_device_error` says."""
        self.failure = str(error)
        if hasattr(self, "estimator") and not (isinstance(error, DeviceLost) and error.answers):
            _dead.append(self.estimator)
        if self._config.on_device_error == "stop" or self.device_lost:
            self.fatal = f"the device is lost: {error}"
            self._logger.fatal(f"{self.fatal}; the node stops")
            return
        self._logger.error(f"the device is lost: {error}; going on with the CPU")
        try:
            on_cpu = dataclasses.replace(self._config, device="cpu", runtime="auto")
            self.estimator = load_estimator(on_cpu, self._notice)
            self._get_ready()
        except Exception as another:
            self.fatal = f"the device is lost: {error}; the CPU cannot go on: {another}"
            self._logger.fatal(self.fatal)
            return
        self.device_lost = str(error)

    def _note_time(self, took_ms: float) -> None:
        """Take what a window took; may change the number of threads, where that is ours to choose."""
        self.network_ms += (took_ms - self.network_ms) * (0.2 if self.network_ms else 1.0)
        if not self._config.threads:
            self._more_threads.took(took_ms, 1000.0 / self._config.rate_hz)
        self.runtime = self.estimator.describe()

    def _publish(self, window: SpikeWindow) -> None:
        estimator, stream, outputs, config = self.estimator, self.stream, self._outputs, self._config
        smooth, rescale = self._smooth, self._rescale  # others may come with other parameters
        assert outputs is not None
        times = WindowTimes(taken_ns=time.monotonic_ns())
        self._hot.look(window.spikes)
        if config.mask_hot_pixels:
            self._hot.mask(window.spikes)
        calibration = self._calibrations.current
        size = window.sensor_size  # the stream may be on to another camera's
        usable = calibration is not None and not calibration.misfit(*size)
        focal_px = calibration.focal_px if calibration is not None and usable else None
        every = config.rates_every
        # Not the first window, which is slow already.
        is_measured = bool(every) and self._totals.published % every == 1 % every
        estimate = estimator.estimate(window.spikes, size, focal_px, measure=is_measured)
        self._report = estimate.report or self._report
        doubt = estimate.deviation() if config.smoothing_s else None
        depth = smooth(estimate.depth, 1000 * window.t_end_us, focal_px, doubt)
        end_ns, frame_id = 1000 * window.t_end_us, config.frame_id or window.frame_id
        if follows := bool(self._motion.messages) and calibration is not None and usable:
            assert calibration is not None
            began_ns = time.monotonic_ns()
            depth = rescale(
                window.spikes, depth, calibration, frame_id, window.stamp_ns, stream.config.window_ms / 1e3, end_ns
            )
            times.scale_ns = time.monotonic_ns() - began_ns
        scale_deviation = estimate.scale_deviation
        if follows and scale_deviation is not None:
            scale_deviation = rescale.deviation_beside(scale_deviation)
        deviation, withheld, is_asked = None, 0.0, outputs.asks_deviation
        if is_asked or config.max_deviation:
            unchanged = doubt is not None and scale_deviation == estimate.scale_deviation
            deviation = doubt if unchanged else estimate.deviation(scale_deviation)
        if config.max_deviation and deviation is not None:
            depth, withheld = _without_doubtful(depth, deviation, config.max_deviation)
        times.estimated_ns = time.monotonic_ns()
        if not is_measured:
            self._note_time((times.estimated_ns - times.taken_ns) / 1e6)
        header = Header(frame_id=frame_id)
        header.stamp.sec, header.stamp.nanosec = divmod(window.stamp_ns, 1_000_000_000)
        published = outputs.depth(header, depth, calibration)
        if deviation is not None and is_asked:
            outputs.deviation(header, deviation, calibration)
        times.published_ns, ros_published_ns = time.monotonic_ns(), outputs.now_ns()
        outputs.color(header, published, config.colormap_min_m, config.colormap_max_m)
        self._totals.published += 1
        stats = statistics(header, window, stream, self._inference.ledger, self._totals, self._others)
        stats.runtime = self.runtime
        stats.trained = not estimator.is_untrained
        stats.window_ms = stream.config.window_ms
        add_scale(stats, rescale if follows else None)
        stats.scale_deviation = math.nan if scale_deviation is None else scale_deviation
        stats.withheld = withheld
        add_rates(stats, self._report)
        add_times(stats, window, times, ros_published_ns)
        outputs.stats(stats)
        self.last_stats = stats
        self._densest = max(self._densest, stats.spike_density)


def _without_doubtful(depth: np.ndarray, deviation: np.ndarray, most: float) -> tuple[np.ndarray, float]:
    """Depth with NaN where its deviation is above a limit, and the share of known pixels that this takes."""
    doubtful = deviation > most  # not where it is NaN, as depth is then
    known = depth.size - int(np.count_nonzero(np.isnan(depth)))
    kept = np.where(doubtful, np.float32(np.nan), depth)
    return kept, int(np.count_nonzero(doubtful)) / known if known else 0.0
