"""What is published for a window, with a real node in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from sdt_ros import outputs
from sdt_ros.calibration import Calibration
from sdt_ros.outputs import Outputs

pytestmark = pytest.mark.ros

DEPTH = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
K = np.array([[2.0, 0, 1.5], [0, 2, 1], [0, 0, 1]])


@pytest.fixture
def context() -> Iterator[rclpy.Context]:
    made = rclpy.Context()
    rclpy.init(args=[], context=made)
    yield made
    rclpy.shutdown(context=made)


@pytest.fixture
def node(context: rclpy.Context) -> Iterator[LifecycleNode]:
    made = LifecycleNode("maker", context=context)
    yield made
    made.destroy_node()


def calibration(**changes: Any) -> Calibration:
    p = np.hstack([K, np.zeros((3, 1))])
    fields = {"width": 4, "height": 3, "k": K, "d": np.zeros(5), "model": "plumb_bob", "r": np.eye(3), "p": p}
    return Calibration(**{**fields, **changes})


def receive(node: LifecycleNode, kind: Any, topic: str, send: Callable[[], Any]) -> Any:
    """Subscribe, let it be sent, and return what comes."""
    got: list[Any] = []
    subscription = node.create_subscription(kind, topic, got.append, 10)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    end = time.monotonic() + 10
    while not subscription.get_publisher_count() and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.02)
    send()
    while not got and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.02)
    executor.shutdown()
    node.destroy_subscription(subscription)
    assert got, f"nothing came on {topic}"
    return got[0]


def test_colours_are_made_only_while_somebody_looks(node: LifecycleNode, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(outputs, "colorize", lambda *a: made.append(a) or np.zeros((3, 4, 3), np.uint8))
    out = Outputs(node)
    node.trigger_configure()
    node.trigger_activate()
    out.color(Header(), DEPTH, 1, 50)
    assert not made
    image = receive(node, Image, "~/depth/color", lambda: out.color(Header(frame_id="eye"), DEPTH, 1, 50))
    assert len(made) == 1 and (image.encoding, image.height, image.width) == ("rgb8", 3, 4)
    assert image.header.frame_id == "eye"


def test_depth_without_a_calibration_is_the_sensor_s(node: LifecycleNode) -> None:
    out = Outputs(node)
    node.trigger_configure()
    node.trigger_activate()
    info = receive(node, CameraInfo, "~/depth/camera_info", lambda: out.depth(Header(frame_id="eye"), DEPTH, None))
    assert (info.height, info.width, info.header.frame_id) == (3, 4, "eye")
    assert not np.any(info.k) and not np.any(info.p), "K of zero is what says `not calibrated`"


@pytest.mark.parametrize("size", [(3, 5), (4, 3)])
def test_a_calibration_of_another_size_is_not_used(node: LifecycleNode, size: tuple[int, int]) -> None:
    out = Outputs(node)
    other = calibration(height=size[0], width=size[1], d=np.array([0.1, 0, 0, 0, 0]))
    np.testing.assert_array_equal(out.depth(Header(), DEPTH, other), DEPTH)


def test_depth_is_rectified_along_the_turned_axis(node: LifecycleNode) -> None:
    turn = np.array([[1.0, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
    turned = calibration(r=turn)
    published = Outputs(node).depth(Header(), np.full((3, 4), 2.0, np.float32), turned)
    source, scale = turned.rectification()
    assert published.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(published).ravel(), source == source.size)
    known = ~np.isnan(published)
    np.testing.assert_allclose(published[known], 2 * scale.reshape(3, 4)[known], rtol=1e-6)
    assert known.any() and np.ptp(published[known]) > 0.1


def test_uncertainty_lies_on_the_pixels_of_the_depth_and_is_no_length(node: LifecycleNode) -> None:
    turn = np.array([[1.0, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
    turned, out = calibration(r=turn), Outputs(node)
    node.trigger_configure()
    node.trigger_activate()
    assert not out.asks_deviation
    told = np.linspace(0.1, 0.9, 12, dtype=np.float32).reshape(3, 4)
    image = receive(node, Image, "~/depth/deviation", lambda: out.deviation(Header(frame_id="eye"), told, turned))
    assert (image.encoding, image.height, image.width, image.header.frame_id) == ("32FC1", 3, 4, "eye")
    source, _ = turned.rectification()
    np.testing.assert_array_equal(
        np.frombuffer(image.data, "<f4"), np.append(told.ravel(), np.float32(np.nan))[source], "moved, not scaled"
    )
    plain = receive(node, Image, "~/depth/deviation", lambda: out.deviation(Header(), told, None))
    np.testing.assert_array_equal(np.frombuffer(plain.data, "<f4"), told.ravel())


def test_rectification_is_worked_out_once(node: LifecycleNode, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = Calibration._distorted
    monkeypatch.setattr(Calibration, "_distorted", lambda *args: calls.append(args) or original(*args))
    out, bent, other = Outputs(node), calibration(d=np.array([0.1, 0, 0, 0, 0])), calibration(d=np.full(5, 0.01))
    for _ in range(3):
        out.depth(Header(), DEPTH, bent)
        out.deviation(Header(), DEPTH, bent)
        out.depth(Header(), DEPTH, other)
        out.depth(Header(), DEPTH, calibration())  # of a lens without distortion there is none
    assert len(calls) == 2
    source, ratio = bent.rectification()
    for shared in (source, ratio):
        with pytest.raises(ValueError, match="read-only"):
            shared[0] = 1


def test_a_calibration_whose_map_cannot_be_made_leaves_no_other_s_map(
    node: LifecycleNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = calibration(r=np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]]))
    flat = calibration(d=np.array([-0.2, 0, 0, 0, 0]))
    out = Outputs(node)
    out.depth(Header(), DEPTH, turned)

    def fail(self: Calibration) -> None:
        raise MemoryError

    monkeypatch.setattr(Calibration, "rectification", fail)
    for _ in range(2):  # the second time the same: no map of an earlier calibration
        with pytest.raises(MemoryError):
            out.depth(Header(), DEPTH, flat)


def test_an_override_of_one_topic_s_qos_is_no_other_s(context: rclpy.Context) -> None:
    name = "qos_overrides./maker/depth/image_rect.publisher.reliability"
    node = LifecycleNode("maker", context=context, parameter_overrides=[Parameter(name, value="best_effort")])
    try:
        out = Outputs(node)
        got = {
            publisher.topic_name: publisher.qos_profile.reliability
            for publisher in (out._image, out._info, out._color, out._deviation, out._stats)
        }
        assert got.pop("/maker/depth/image_rect") == ReliabilityPolicy.BEST_EFFORT
        assert set(got.values()) == {ReliabilityPolicy.RELIABLE} and len(got) == 4
    finally:
        node.destroy_node()


def test_publishers_go_with_the_outputs_even_when_one_cannot_be_made(context: rclpy.Context) -> None:
    name = "qos_overrides./maker/stats.publisher.reliability"
    node = LifecycleNode("maker", context=context, parameter_overrides=[Parameter(name, value="perhaps")])
    try:
        before = len(list(node.publishers))
        with pytest.raises(Exception, match="perhaps"):
            Outputs(node)
        assert len(list(node.publishers)) == before
    finally:
        node.destroy_node()


def test_offered_qos_is_reliable_with_the_last_few(node: LifecycleNode) -> None:
    out = Outputs(node)
    profile: QoSProfile = out._image.qos_profile
    assert (profile.reliability, profile.depth) == (ReliabilityPolicy.RELIABLE, 5)
    out.destroy()
    assert not [one for one in node.publishers if "depth/" in one.topic_name]
