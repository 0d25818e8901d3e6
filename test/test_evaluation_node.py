"""`sdt eval --schedule node` against the node itself, on a real graph: the same depth, window by window.

The camera has a lens, so that the images are rectified too.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

import rclpy
from evaluation_bag import HEIGHT, WIDTH, write_bag
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from sdt_ros.cli import main
from sdt_ros.demo.graph import Process
from sdt_ros.demo.watcher import Received, Watcher
from sdt_ros.simulation.patterns import EVENTS_TOPIC, INFO_TOPIC

pytestmark = pytest.mark.ros

START_S, QUIET_S = 90.0, 2.0


def published(bag: Path, logs: Path) -> Received:
    """What the node publishes for a bag that is replayed at a quarter of its pace."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    processes: list[Process] = []
    try:
        watcher = Watcher()
        executor = SingleThreadedExecutor()
        executor.add_node(watcher)
        parameters = ("allow_untrained:=true", "preset:=sdt_tiny", "device:=cpu")
        settings = [part for parameter in parameters for part in ("-p", parameter)]
        names = ("-r", f"~/events:={EVENTS_TOPIC}", "-r", f"~/camera_info:={INFO_TOPIC}")
        node = Process("node", ["node", *names, *settings], logs / "node.log")
        processes.append(node)
        deadline = time.monotonic() + START_S
        while not watcher.count_subscribers(EVENTS_TOPIC):
            executor.spin_once(timeout_sec=0.1)
            assert node.is_alive and time.monotonic() < deadline, node.failure("could not start")
        options = [
            "--rate",
            "0.25",
            "--wait-for-subscribers",
            "20",
            "--topics",
            EVENTS_TOPIC,
            INFO_TOPIC,
            "--no-progress",
        ]
        replay = Process("replay", ["replay", str(bag), *options], logs / "replay.log")
        processes.append(replay)
        count, since, deadline = 0, time.monotonic(), time.monotonic() + 60
        while replay.is_alive or time.monotonic() - since < QUIET_S:
            executor.spin_once(timeout_sec=0.1)
            if replay.is_alive or watcher.count > count:
                count, since = watcher.count, time.monotonic()
            assert node.is_alive and time.monotonic() < deadline, node.failure("took too long")
        replay.check()
        return watcher.received
    finally:
        for process in processes:
            process.stop()
        rclpy.try_shutdown()


def test_schedule_node_gives_the_depth_that_the_node_gives(tmp_path: Path):
    bag = write_bag(tmp_path / "ramp", distortion=(0.3, -0.05, 0.001, -0.002, 0.0))
    received = published(bag, tmp_path)
    options = ("--untrained", "sdt_tiny", "--device", "cpu", "--schedule", "node", "--save", str(tmp_path))
    assert main(["eval", str(bag), *options]) == 0
    with np.load(tmp_path / "ramp.npz") as saved:
        offline = dict(zip(saved["stamp"].tolist(), saved["depth"], strict=True))
    assert len(offline) >= 15
    last = received.stats[-1]
    assert last.packets_lost == 0, "an overloaded machine lost packets: nothing can be compared"
    # The node owes every window but those that it says it has skipped.
    assert set(received.depth) <= set(offline)
    assert len(received.depth) == len(offline) - last.windows_skipped >= 0.8 * len(offline)
    for stamp, depth in received.depth.items():
        assert depth.shape == (HEIGHT, WIDTH)
        assert 0 < np.isnan(depth).mean() < 0.5, "rectified: the sensor does not see the corners"
        np.testing.assert_array_equal(depth, offline[stamp], err_msg=f"window that ends at {stamp}")
