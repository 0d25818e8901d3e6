"""`sdt eval --schedule node` against the node itself, on a real graph: the same depth, window by window.

The camera has a lens, so that the images are rectified too.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

import rclpy
from evaluation_bag import HEIGHT, WIDTH, write_bag
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sdt_ros.msg import Stats
from sensor_msgs.msg import Image

from sdt_ros.cli import main
from sdt_ros.images import image_to_array
from sdt_ros.simulation.patterns import EVENTS_TOPIC, INFO_TOPIC

pytestmark = pytest.mark.ros

START_S, QUIET_S, REPLAY_S, STOP_S = 90.0, 2.0, 60.0, 15.0


class Listener(Node):
    """What the depth node publishes: depth by stamp [ns], and its last statistics."""

    def __init__(self) -> None:
        super().__init__("listener")
        self.depth: dict[int, np.ndarray] = {}
        self.stats: Stats | None = None
        self.create_subscription(Image, "/depth/depth/image_rect", self._on_image, QoSProfile(depth=100))
        self.create_subscription(Stats, "/depth/stats", self._on_stats, QoSProfile(depth=100))

    def _on_image(self, message: Image) -> None:
        stamp = message.header.stamp
        self.depth[stamp.sec * 1_000_000_000 + stamp.nanosec] = image_to_array(message).copy()

    def _on_stats(self, message: Stats) -> None:
        self.stats = message


@contextmanager
def command(log: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """A `sdt` command beside the test, that ends with the block whatever happens."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "sdt_ros.cli", *arguments],
            stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def published(bag: Path, logs: Path) -> Listener:
    """What the node publishes for a bag that is replayed at a quarter of its pace."""
    parameters = ("weights:=sdt_tiny", "device:=cpu")  # which tell uncertainty, by which depth is held
    settings = [part for parameter in parameters for part in ("-p", parameter)]
    names = ("-r", f"~/events:={EVENTS_TOPIC}", "-r", f"~/camera_info:={INFO_TOPIC}")
    options = ("--rate", "0.25", "--wait-for-subscribers", "20", "--no-progress")
    topics = ("--topics", EVENTS_TOPIC, INFO_TOPIC)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        listener = Listener()
        executor = SingleThreadedExecutor()
        executor.add_node(listener)
        with command(logs / "node.log", "node", *names, *settings) as node:
            deadline = time.monotonic() + START_S
            while not listener.count_subscribers(EVENTS_TOPIC):
                executor.spin_once(timeout_sec=0.1)
                assert node.poll() is None and time.monotonic() < deadline, (logs / "node.log").read_text()
            with command(logs / "replay.log", "replay", str(bag), *options, *topics) as replay:
                count, since, deadline = 0, time.monotonic(), time.monotonic() + REPLAY_S
                while replay.poll() is None or time.monotonic() - since < QUIET_S:
                    executor.spin_once(timeout_sec=0.1)
                    if replay.poll() is None or len(listener.depth) > count:
                        count, since = len(listener.depth), time.monotonic()
                    assert node.poll() is None and time.monotonic() < deadline, (logs / "node.log").read_text()
                assert replay.returncode == 0, (logs / "replay.log").read_text()
        return listener
    finally:
        rclpy.try_shutdown()


def test_schedule_node_gives_the_depth_that_the_node_gives(tmp_path: Path):
    bag = write_bag(tmp_path / "ramp", distortion=(0.3, -0.05, 0.001, -0.002, 0.0))
    received = published(bag, tmp_path)
    options = ("--weights", "sdt_tiny", "--device", "cpu", "--schedule", "node", "--save", str(tmp_path))
    assert main(["eval", str(bag), *options]) == 0
    with np.load(tmp_path / "ramp.npz") as saved:
        offline = dict(zip(saved["stamp"].tolist(), saved["depth"], strict=True))
    assert len(offline) >= 15
    last = received.stats
    assert last is not None and last.packets_lost == 0, "an overloaded machine lost packets: nothing can be compared"
    # The node owes every window but those that it says it has skipped.
    assert set(received.depth) <= set(offline)
    assert len(received.depth) == len(offline) - last.windows_skipped >= 0.8 * len(offline)
    # Depth is held over time, so that a window that was skipped is missing in all that follow.
    whole = list(itertools.takewhile(received.depth.__contains__, sorted(offline)))
    assert len(whole) >= 5
    for stamp in whole:
        depth = received.depth[stamp]
        assert depth.shape == (HEIGHT, WIDTH)
        assert 0 < np.isnan(depth).mean() < 0.5, "rectified: the sensor does not see the corners"
        np.testing.assert_array_equal(depth, offline[stamp], err_msg=f"window that ends at {stamp}")
