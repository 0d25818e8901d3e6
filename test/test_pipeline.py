"""Packets to depth images, with a real node in this process and no graph beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

import rclpy
from depth_graph import HEIGHT, WIDTH
from rclpy.lifecycle import LifecycleNode

from sdt_ros.calibration import Calibration, CalibrationSource
from sdt_ros.egomotion import CameraMotion
from sdt_ros.events import EventPacket
from sdt_ros.parameters import NodeConfig
from sdt_ros.pipeline import Pipeline

pytestmark = pytest.mark.ros

K = np.array([[100.0, 0, 64], [0, 100, 48], [0, 0, 1]])
LENS = Calibration(
    WIDTH, HEIGHT, K, np.array([-0.3, 0.1, 0, 0, 0]), "plumb_bob", np.eye(3), np.hstack([K, np.zeros((3, 1))])
)


@pytest.fixture
def node() -> Iterator[LifecycleNode]:
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    made = LifecycleNode("maker", context=context)
    yield made
    made.destroy_node()
    rclpy.shutdown(context=context)


def test_maps_of_calibrations_that_change_all_the_time_do_not_queue_before_windows(
    node: LifecycleNode, packets: list[EventPacket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map takes tenths of a second for a large sensor; here as long, for a small one."""
    original, made = Calibration.rectification, []

    def slow(self: Calibration) -> tuple[np.ndarray, np.ndarray]:
        if self not in made:
            made.append(self)
            time.sleep(0.1)
        return original(self)

    monkeypatch.setattr(Calibration, "rectification", slow)
    source = CalibrationSource()
    config = NodeConfig(allow_untrained=True, preset="sdt_tiny", device="cpu", threads=1, rates_every=0)
    pipeline = Pipeline(node, config, source, CameraMotion(), (HEIGHT, WIDTH))
    try:
        began_s = time.monotonic()
        for number, packet in enumerate(packets[:400]):
            source.current = replace(LENS, k=K + np.diag([number / 100, 0, 0]))
            pipeline.push(packet, time.monotonic_ns())
            time.sleep(0.002)
        pipeline.flush()
        took_s = time.monotonic() - began_s
        counts = pipeline.last_stats
        assert counts is not None and counts.windows_published >= 2
        assert len(made) <= 2 * counts.windows_published + 3, "one at a time, and one for each window"
        assert took_s < 10, "400 maps take 40 s"
    finally:
        pipeline.stop()
