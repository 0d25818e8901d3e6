"""Sees a depth node's output as any subscriber would, and keeps what is needed to judge it."""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image

from sdt_ros.evaluation.published import Received
from sdt_ros.images import image_to_array
from sdt_ros.msg import Stats


def stamp_ns(header: Any) -> int:
    """A header's stamp [ns since the epoch]."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


class Watcher(Node):
    """Subscribes to a depth node's topics.

    Args:
        name: of this node.
        depth_node: full name of the depth node; None to choose it later by `watch`.
        keep_samples: keep some pixels of each depth image in memory.

    Attributes:
        received: what has arrived.
    """

    def __init__(self, name: str, depth_node: str | None = "/depth", keep_samples: bool = False) -> None:
        super().__init__(name)
        self._keep_samples = keep_samples
        self.received = Received()
        self._lock = threading.Lock()
        if depth_node is not None:
            self.watch(depth_node)

    def watch(self, depth_node: str) -> None:
        """Subscribe to the topics of a node."""
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
            if self._keep_samples:
                self.received.samples.append(depth[::8, ::8].flatten())
            self.received.depth.put(stamp, depth)

    def _on_info(self, message: CameraInfo) -> None:
        with self._lock:
            self.received.info_headers.append((stamp_ns(message.header), message.header.frame_id))
            self.received.info_sizes.add((message.height, message.width))

    def _on_stats(self, message: Stats) -> None:
        with self._lock:
            for before in self.received.stats[-1:]:  # the last message has the newest rates, which are most of it
                before.firing_layers, before.firing_rates = [], []
            self.received.stats.append(message)
