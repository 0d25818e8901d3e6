"""Sees the node's output as any subscriber would, and keeps what it needs to judge it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image

from sdt_ros.images import image_to_array
from sdt_ros.msg import Stats


def stamp_ns(header: Any) -> int:
    """A header's stamp [ns since the epoch]."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


@dataclass
class Received:
    """What has arrived, by stamp [ns].

    Attributes:
        depth: float32 [H, W] metres of the depth images that are to be drawn.
        samples: float32 [N] metres, every eighth pixel of every eighth row of each depth image.
        sizes: (height, width) of each depth image.
        image_headers: (stamp, frame) of each depth image, in the order of arrival.
        info_headers: the same of each camera_info.
        info_sizes: (height, width) of each camera_info.
        encodings: encodings of depth images met.
        stats: statistics, in the order of arrival.
        times: arrival of each depth image on the monotonic clock [s].
    """

    depth: dict[int, np.ndarray] = field(default_factory=dict)
    samples: list[np.ndarray] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    image_headers: list[tuple[int, str]] = field(default_factory=list)
    info_headers: list[tuple[int, str]] = field(default_factory=list)
    info_sizes: set[tuple[int, int]] = field(default_factory=set)
    encodings: set[str] = field(default_factory=set)
    stats: list[Stats] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class Watcher(Node):
    """Subscribes to a depth node's topics.

    Args:
        drawn: stamps [ns] of the depth images to keep whole.
        depth_node: name of the depth node.
    """

    def __init__(self, drawn: set[int], depth_node: str = "/depth") -> None:
        super().__init__("demo_watcher")
        self._drawn = drawn
        self.received = Received()
        self._lock = threading.Lock()
        qos = QoSProfile(depth=100)
        self.create_subscription(Image, f"{depth_node}/depth/image_rect", self._on_image, qos)
        self.create_subscription(CameraInfo, f"{depth_node}/depth/camera_info", self._on_info, qos)
        self.create_subscription(Stats, f"{depth_node}/stats", self._on_stats, qos)

    @property
    def count(self) -> int:
        """Depth images received."""
        with self._lock:
            return len(self.received.times)

    def _on_image(self, message: Image) -> None:
        now = time.monotonic()
        depth, stamp = image_to_array(message), stamp_ns(message.header)
        with self._lock:
            self.received.times.append(now)
            self.received.encodings.add(message.encoding)
            self.received.image_headers.append((stamp, message.header.frame_id))
            self.received.sizes.add((message.height, message.width))
            self.received.samples.append(depth[::8, ::8].flatten())
            if stamp in self._drawn:
                self.received.depth[stamp] = depth.copy()

    def _on_info(self, message: CameraInfo) -> None:
        with self._lock:
            self.received.info_headers.append((stamp_ns(message.header), message.header.frame_id))
            self.received.info_sizes.add((message.height, message.width))

    def _on_stats(self, message: Stats) -> None:
        with self._lock:
            self.received.stats.append(message)
