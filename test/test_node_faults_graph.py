"""The depth node on a real graph: other nodes beside it, slow subscribers, parameters, and a hundred activations."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

import rclpy
from depth_graph import UNTRAINED, Graph, NodeProcess, figures
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sdt_ros.msg import Stats
from sensor_msgs.msg import Image

from sdt_ros.bench.node_watch import Usage
from sdt_ros.events import EventPacket

pytestmark = pytest.mark.ros

RUN_HZ = 20.0


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_a_hundred_activations_leave_nothing_behind(graph: Graph, packets: list[EventPacket]) -> None:
    graph.bring_to("active", **UNTRAINED)
    pid = graph.process.pid

    def around(count: int) -> tuple[int, float]:
        for number in range(count):
            if number % 5 == 0:
                graph.publish(packets[:20], speed=5)
            assert graph.transition("deactivate") and graph.transition("activate")
        graph.quiet(0.3)
        return threads(pid), Usage.of(pid).rss_mb

    before_threads, before_mb = around(20)  # what the first ones take is not of interest
    after_threads, after_mb = around(80)
    assert after_threads == before_threads
    assert after_mb < before_mb * 1.02, f"{before_mb:.0f} MB before, {after_mb:.0f} MB after"
    graph.wait_for(lambda: graph.node.count_subscribers("/depth/events") == 1, "single subscription")
    assert graph.node.count_publishers("/depth/depth/image_rect") == 1
    graph.publish(packets[:100], speed=0.7)
    seen = graph.quiet()
    assert seen.images and seen.ledger_closes and seen.stats[-1].packets_lost == 0


def test_a_subscriber_that_never_takes_anything_holds_nobody_up(graph: Graph, packets: list[EventPacket]) -> None:
    """Reliable, keep all, and asleep: the node's writers must not wait for it."""
    graph.bring_to("active", **UNTRAINED)
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    try:
        slow = rclpy.create_node("slow", context=context)
        qos = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
        slow.create_subscription(Image, "/depth/depth/image_rect", lambda message: None, qos)
        slow.create_subscription(Stats, "/depth/stats", lambda message: None, qos)
        graph.wait_for(lambda: graph.node.count_subscribers("/depth/depth/image_rect") == 2, "slow subscriber")
        graph.publish(packets, speed=0.5)
        seen = graph.quiet()
        assert len(seen.images) >= 10 and seen.ledger_closes
        assert max(one.publish_ms for one in seen.stats) < 100.0
        slow.destroy_node()
    finally:
        rclpy.shutdown(context=context)
        gc.collect()


def test_parameters_change_while_packets_come(graph: Graph, packets: list[EventPacket]) -> None:
    graph.bring_to("active", **UNTRAINED)
    changes = [
        ("rate_hz", 40.0), ("min_events", 10), ("frame_id", "eye"), ("max_silence_s", 2.0), ("idle_flush_ms", 500.0),
        ("mask_hot_pixels", True), ("smoothing_s", 0.3), ("hold_scale", False), ("colormap_max_m", 30.0),
        ("colormap_min_m", 0.5), ("rates_every", 3),
        ("rate_hz", 10.0), ("rate_hz", 20.0),
    ]  # fmt: skip
    refused = [("rate_hz", 5000.0), ("device", "cuda"), ("colormap_min_m", 99.0), ("on_device_error", "stop")]
    part = len(packets) // len(changes)
    for number, (name, value) in enumerate(changes):
        graph.publish(packets[number * part : (number + 1) * part], speed=0.6)
        assert graph.set(name, value)[0], name
        wrong, wrong_value = refused[number % len(refused)]
        taken, reason = graph.set(wrong, wrong_value)
        assert not taken and reason
    graph.publish(packets[len(changes) * part :], speed=0.6)
    seen = graph.quiet()
    assert seen.images and seen.ledger_closes
    assert seen.stats[-1].stream_resets == 0 and seen.stats[-1].packets_lost == 0
    assert graph.parameters()["rates_every"] == 3 and graph.parameters()["rate_hz"] == 20.0


def test_two_nodes_on_one_camera_do_not_disturb_each_other(
    graph: Graph, packets: list[EventPacket], tmp_path: Path
) -> None:
    graph.bring_to("active", **UNTRAINED)
    arguments = ["-p", "allow_untrained:=true", "-p", "device:=cpu", "-r", "~/events:=/depth/events"]
    own = NodeProcess(tmp_path / "own.log", *arguments, "-r", "__ns:=/other")
    try:
        theirs: list[Stats] = []
        reliable = QoSProfile(depth=1000)
        subscription = graph.node.create_subscription(Stats, "/other/depth/stats", theirs.append, reliable)
        graph.wait_for(lambda: graph.packets.get_subscription_count() == 2, "second node", 60.0)
        graph.wait_for(subscription.get_publisher_count, "its statistics")
        graph.publish(packets, speed=0.4)
        seen = graph.quiet(1.0)
        assert seen.images and seen.ledger_closes and theirs
        for last in (seen.stats[-1], theirs[-1]):
            assert last.windows_published + last.windows_skipped + last.windows_empty == last.windows_due >= 10
        assert not any("more publish on" in status.message for status in graph.diagnostics)
        graph.node.destroy_subscription(subscription)
        own.signal(2)
        assert own.wait(10) == 0
    finally:
        own.kill()


def test_a_node_of_the_same_name_is_named(graph: Graph, tmp_path: Path) -> None:
    graph.bring_to("active", **UNTRAINED)
    twin = NodeProcess(tmp_path / "twin.log", "-p", "allow_untrained:=true", "-p", "device:=cpu")
    try:
        graph.diagnostics.clear()
        status = graph.wait_for(
            lambda: next((one for one in graph.diagnostics if "1 more publish on" in one.message), None),
            "warning",
            60.0,
        )
        assert "/depth/depth/image_rect" in status.message and "namespace" in status.message
    finally:
        twin.kill()


def test_the_load_is_foretold_before_windows_are_skipped(graph: Graph, packets: list[EventPacket]) -> None:
    graph.bring_to("active", **UNTRAINED)
    assert graph.set("rate_hz", 2.0)[0]  # nothing is skipped at that rate on any machine
    graph.diagnostics.clear()
    for turn in range(3):
        graph.publish(packets if turn == 0 else [], speed=0.5)

    def foretold() -> bool:
        told = (figures(status)["load"] for status in graph.diagnostics)
        return any("network takes" in one and "decoding would fill its core at" in one for one in told)

    graph.wait_for(foretold, "forecast", 15.0)
    shown = [figures(status) for status in graph.diagnostics]
    assert not any("falling behind" in status.message for status in graph.diagnostics)
    most = [float(one["decoding would fill its core at [Mev/s]"]) for one in shown]
    assert max(most) > 1.0, "any machine decodes a million events a second"
    assert any(0 < float(one["decoding, share of its core"]) < 1.1 for one in shown)
