"""What the node publishes for a window: depth, calibration, colours and statistics, all with one header."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from sdt_ros.calibration import Calibration
from sdt_ros.colormap import colorize
from sdt_ros.egomotion import Rescaler
from sdt_ros.events import EventStream, SpikeWindow
from sdt_ros.images import array_to_image
from sdt_ros.inference import Ledger
from sdt_ros.msg import Stats
from sdt_ros.network import EnergyReport

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode

_LATENCY_LIMIT_MS = 3_600_000.0  # further apart, stamp and clock are not of one time, as in a replay without /clock


@dataclass(slots=True)
class WindowTimes:
    """When what happened to a window, on the monotonic clock, and what its scale by odometry took [ns]."""

    taken_ns: int = 0
    scale_ns: int = 0
    estimated_ns: int = 0
    published_ns: int = 0


class Outputs:
    """The node's publishers."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._publishers: list[Any] = []
        try:
            self._image = self._publisher(Image, "~/depth/image_rect")
            self._info = self._publisher(CameraInfo, "~/depth/camera_info")
            self._color = self._publisher(Image, "~/depth/color")
            self._deviation = self._publisher(Image, "~/depth/deviation")
            self._stats = self._publisher(Stats, "~/stats")
        except BaseException:
            self.destroy()
            raise

    def _publisher(self, kind: Any, name: str) -> Any:
        # A profile for each: rclpy writes a topic's overrides into it.
        # With a depth of 1, a message lost on the way is replaced before its loss is even noticed.
        reliable = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
        overridable = QoSOverridingOptions.with_default_policies()
        publisher = self._node.create_lifecycle_publisher(kind, name, reliable, qos_overriding_options=overridable)
        self._publishers.append(publisher)
        return publisher

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        while self._publishers:
            self._node.destroy_lifecycle_publisher(self._publishers.pop())

    def rivals(self) -> tuple[str, int]:
        """The depth topic's name, and how many others publish on it."""
        topic = str(self._image.topic_name)
        return topic, max(0, self._node.count_publishers(topic) - 1)

    def now_ns(self) -> int:
        """ROS time [ns since the epoch]."""
        return int(self._node.get_clock().now().nanoseconds)

    def depth(self, header: Header, depth: np.ndarray, calibration: Calibration | None) -> np.ndarray:
        """Publish calibration and depth; returns the depth as published, float32 [H, W] metres.

        With a calibration the image is rectified; pixels that the sensor does not see are NaN. Without one the image is
        the sensor's, and camera_info says that it is not calibrated (K is zero).
        """
        if calibration is not None and calibration.misfit(*depth.shape):
            calibration = None
        if calibration is not None and not calibration.is_rectified:
            depth = self._rectified(depth, calibration)
        # The large message first: Fast DDS's shared memory, when full, overwrites small ones that are not yet read.
        # With the image second, 13 % of the infos beside images of 1.2 MB were lost; this way none.
        self._image.publish(array_to_image(depth, "32FC1", header))
        self._info.publish(_camera_info(header, depth.shape, calibration))
        return depth

    def color(self, header: Header, depth: np.ndarray, near_m: float, far_m: float) -> None:
        """Publish depth in colours, if anybody looks."""
        if self._color.get_subscription_count() > 0:
            self._color.publish(array_to_image(colorize(depth, near_m, far_m), "rgb8", header))

    @property
    def asks_deviation(self) -> bool:
        """Whether anybody looks at uncertainty."""
        return bool(self._deviation.get_subscription_count() > 0)

    def deviation(self, header: Header, deviation: np.ndarray, calibration: Calibration | None) -> None:
        """Publish the standard deviation of ln(depth), float32 [H, W], for the same pixels as depth."""
        if calibration is not None and not calibration.misfit(*deviation.shape) and not calibration.is_rectified:
            deviation = self._moved(deviation, calibration)
        self._deviation.publish(array_to_image(deviation, "32FC1", header))

    def stats(self, message: Stats) -> None:
        """Publish statistics."""
        self._stats.publish(message)

    def _rectified(self, depth: np.ndarray, calibration: Calibration) -> np.ndarray:
        _, ratio = calibration.rectification()
        return self._moved(depth, calibration) * ratio.reshape(depth.shape)

    def _moved(self, image: np.ndarray, calibration: Calibration) -> np.ndarray:
        """Pixels where they are in the rectified image, NaN where the sensor does not see."""
        source, _ = calibration.rectification()
        padded = np.append(image.reshape(-1), np.float32(np.nan))
        moved: np.ndarray = padded[source].reshape(image.shape)
        return moved


def _camera_info(header: Header, shape: tuple[int, ...], calibration: Calibration | None) -> CameraInfo:
    info = CameraInfo(header=header, height=shape[0], width=shape[1])
    if calibration is not None:
        info.distortion_model = "plumb_bob"
        info.d = [0.0] * 5
        info.k = calibration.p[:, :3].reshape(-1)
        info.r = np.eye(3).reshape(-1)
        info.p = calibration.p.reshape(-1)
    return info


@dataclass(slots=True)
class Totals:
    """What the node itself counts since activation."""

    published: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class NotOffered:
    """Windows that never reached the inference thread, as counted when the last one did: of one instant.

    Attributes:
        empty: with too few events.
        shed: of which packets were left undecoded.
    """

    empty: int = 0
    shed: int = 0


def statistics(
    header: Header, window: SpikeWindow, stream: EventStream, ledger: Ledger, totals: Totals, others: NotOffered
) -> Stats:
    """Statistics of a window and of all since activation; runtime, rates and times are the caller's to add.

    Args:
        header: of the depth image.
        window: the window, not yet released.
        stream: where it came from.
        ledger: of the inference thread.
        totals: of the node.
        others: windows that were not offered to that thread.
    """
    message = Stats(header=header)
    message.events = window.events
    message.spikes = int(np.count_nonzero(window.spikes))
    message.spike_density = message.spikes / window.spikes.size
    message.decode_ms = window.decode_ns / 1e6
    message.window = window.index
    message.windows_published = totals.published
    message.window_packets_lost = window.packets_lost
    message.windows_skipped = ledger.skipped + totals.failed + others.shed
    message.windows_empty = others.empty
    message.windows_due = ledger.offered - ledger.waiting + others.empty + others.shed
    message.packets_received = stream.packets.received
    message.packets_lost = stream.packets.lost
    message.packets_rejected = stream.packets.rejected
    message.packets_duplicate = stream.packets.duplicates
    message.packets_reordered = stream.packets.reordered
    message.packets_shed = stream.packets.shed
    decoding, windows = stream.decoding, stream.windows
    message.events_received = windows.decoded
    message.events_outside = decoding.outside
    message.events_late = windows.late
    message.words_unknown = decoding.unknown
    message.words_truncated = decoding.truncated
    message.time_jumps = windows.time_jumps + stream.packets.clock_leaps
    message.stream_resets = stream.packets.restarts
    return message


def add_scale(message: Stats, rescaler: Rescaler | None) -> None:
    """Put what depth was multiplied by into a message, as far as odometry says it; None where it does not."""
    message.depth_factor, message.depth_factor_deviation = 1.0, math.nan
    if rescaler is not None and rescaler.used:
        message.depth_factor = math.exp(rescaler.scale.ln_factor)
        message.depth_factor_deviation = rescaler.scale.deviation


def add_rates(message: Stats, report: EnergyReport | None) -> None:
    """Put the last measured firing rates and energy into a message."""
    message.energy_mj = math.nan
    if report is not None:
        message.firing_layers = list(report.firing_rates)
        message.firing_rates = list(report.firing_rates.values())
        message.energy_mj = math.nan if report.energy_mj is None else report.energy_mj


def add_times(message: Stats, window: SpikeWindow, times: WindowTimes, ros_published_ns: int) -> None:
    """Put the times that a window took into its message.

    What latency_ms holds beside wait_ms, network_ms and publish_ms is the way from the packet's arrival in this process
    to the window handed over: the executor's turn, and decoding up to the window's end.
    """
    message.wait_ms = (times.taken_ns - window.finished_ns) / 1e6
    message.network_ms = (times.estimated_ns - times.taken_ns) / 1e6
    message.scale_ms = times.scale_ns / 1e6
    message.publish_ms = (times.published_ns - times.estimated_ns) / 1e6
    message.latency_ms = (times.published_ns - window.received_ns) / 1e6
    pipeline_ms = (ros_published_ns - window.stamp_ns) / 1e6
    message.pipeline_latency_ms = pipeline_ms if abs(pipeline_ms) < _LATENCY_LIMIT_MS else math.nan
