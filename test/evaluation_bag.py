"""A small recording with exact depth: moving patterns for events, and depth that follows a formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sdt_ros.bags import BagWriter, deserialize, open_bag, serialize
from sdt_ros.bags.types import message_class
from sdt_ros.images import array_to_image
from sdt_ros.simulation.patterns import INFO_TOPIC, START_NS, write_pattern_bag

HEIGHT, WIDTH = 96, 128
TRUTH_TOPIC = "/depth/image_rect"
PACKET_NS = 2_000_000  # a packet is stamped at its end: so much later than its first event is


def ramp(height: int = HEIGHT, width: int = WIDTH, t_s: float = 0.0) -> np.ndarray:
    """Ground that comes nearer: 90 m at the top to 2 m at the bottom; unknown in the left column, sky at the top."""
    rows = np.linspace(0, 1, height)[:, None] + np.zeros(width)
    depth = 90 * (2 / 90) ** rows * (1 - 0.1 * t_s)
    depth[0] = np.inf
    depth[:, 0] = np.nan
    return depth.astype(np.float32)


def image(depth: np.ndarray, stamp_ns: int) -> bytes:
    """A 32FC1 image as CDR."""
    header_type, time_type = message_class("std_msgs/msg/Header"), message_class("builtin_interfaces/msg/Time")
    header = header_type(time_type(*divmod(stamp_ns, 1_000_000_000)), "event_camera_optical")
    empty = message_class("sensor_msgs/msg/Image")(header, 0, 0, "", 0, 0, np.empty(0, np.uint8))
    filled = array_to_image(depth, "32FC1", header, empty)
    filled.data = np.frombuffer(filled.data, np.uint8)
    return serialize(filled)


def stamps_20hz(seconds: float) -> list[int]:
    """Stamps of the truth [ns]."""
    return [START_NS + 50_000_000 * k for k in range(1, round(seconds * 20))]


def write_bag(
    path: Path,
    seconds: float = 1.0,
    stamps: Sequence[int] | None = None,
    depth: Callable[[float], np.ndarray] = lambda t_s: ramp(t_s=t_s),
    distortion: Sequence[float] = (),
) -> Path:
    """Write events and truth to one bag; returns its folder.

    Args:
        path: the folder to make.
        seconds: length.
        stamps: of the truth [ns]; 20 Hz by default.
        depth: makes the truth of a time [s].
        distortion: plumb_bob coefficients of the event camera's calibration.
    """
    events = path.with_name(path.name + "_events")
    write_pattern_bag(events, seconds, WIDTH, HEIGHT, packet_ms=PACKET_NS / 1e6)
    with open_bag(events) as source, BagWriter(path) as target:
        for message in source.messages():
            data = message.data
            if message.topic == INFO_TOPIC and distortion:
                info = deserialize(message.type, data)
                info.distortion_model, info.d = "plumb_bob", np.array(distortion)
                data = serialize(info)
            target.write(message.topic, message.type, message.timestamp_ns, data)
        for number, stamp in enumerate(stamps_20hz(seconds) if stamps is None else stamps):
            data = image(depth((stamp - START_NS) / 1e9), stamp)
            target.write(TRUTH_TOPIC, "sensor_msgs/msg/Image", START_NS + 50_000_000 * number, data)
    return path
