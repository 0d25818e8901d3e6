"""The depth node on a real graph: what it publishes for a camera that does as it should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

import torch
from depth_graph import (
    HEIGHT,
    MIN_EVENTS,
    UNTRAINED,
    WIDTH,
    Graph,
    Seen,
    depth_of,
    figures,
    offline,
    stamp_ns,
)  # fmt: skip
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo

from sdt_ros.calibration import Calibration
from sdt_ros.events import EventPacket
from sdt_ros.lens import USUAL_FOCAL_LENGTH
from sdt_ros.runtime import DepthEstimator
from sdt_ros.simulation.patterns import FRAME_ID

pytestmark = pytest.mark.ros


@pytest.fixture
def active(graph: Graph) -> Graph:
    """The node, freshly activated, without a calibration, at 20 Hz."""
    graph.bring_to("active", **UNTRAINED)
    return graph


@pytest.fixture(scope="module")
def estimator() -> Iterator[DepthEstimator]:
    """The network that the node runs, with one thread as there: sums in another order differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield DepthEstimator.untrained("sdt_tiny", "cpu")
    torch.set_num_threads(threads)


def test_depth_is_that_of_the_estimator_offline_bit_for_bit(
    active: Graph, packets: list[EventPacket], estimator: DepthEstimator
) -> None:
    stream, windows = offline(packets)
    assert stream.windows.finished >= 15
    active.publish(packets, speed=0.7)
    seen = active.quiet()
    # All of them if the machine is not overloaded, and never one that is no window's.
    assert len(seen.together()) >= 0.6 * len(windows)
    assert seen.stamps == sorted(set(seen.stamps)) and set(seen.stamps) <= set(windows)
    for image, info, _ in seen.together():
        assert (image.encoding, image.height, image.width) == ("32FC1", HEIGHT, WIDTH)
        assert image.header.frame_id == FRAME_ID
        expected = estimator(windows[stamp_ns(image.header)].spikes, (HEIGHT, WIDTH))
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(depth_of(image), expected)
        assert info.header == image.header and (info.height, info.width) == (HEIGHT, WIDTH)
        assert not (np.any(info.k) or np.any(info.p)), "there is no calibration"
    assert seen.ledger_closes and seen.stats[-1].windows_due == stream.windows.due
    assert figures(active.diagnostic())["packets lost in all"] == "0"


def test_statistics_are_those_of_the_windows(
    active: Graph, packets: list[EventPacket], estimator: DepthEstimator
) -> None:
    stream, windows = offline(packets)
    active.publish(packets, speed=0.7)
    seen = active.quiet()
    assert len(seen.stats) >= 0.6 * len(windows)
    for one in seen.stats:
        window = windows[stamp_ns(one.header)]
        assert (one.window, one.events, one.spikes) == (window.index, window.events, np.count_nonzero(window.spikes))
        assert one.spike_density == pytest.approx(one.spikes / window.spikes.size)
        assert one.window_ms == 50.0 and not one.trained and "sdt_tiny" in one.runtime
        assert (
            one.latency_ms - (one.wait_ms + one.network_ms + one.publish_ms) + 0.01 >= 0
        )  # the rest is arrival and decoding
        assert one.network_ms > 1 and 0 < one.decode_ms < 1000
        assert (one.stream_resets, one.time_jumps, one.words_unknown, one.words_truncated) == (0, 0, 0, 0)
    last = seen.stats[-1]
    assert last.windows_published >= len(seen.images)
    assert 0.9 * len(packets) <= last.packets_received <= len(packets)
    assert last.packets_lost == last.packets_rejected == 0
    assert 0.9 * stream.windows.events <= last.events_received <= stream.windows.decoded
    # Firing rates and energy: from the second published window on, measured anew every five.
    first = next(one for one in seen.stats if one.windows_published == 1)
    assert not first.firing_layers and np.isnan(first.energy_mj)
    later = [one for one in seen.stats if one.windows_published > 1]
    for one in later:
        assert len(one.firing_layers) == len(one.firing_rates) > 5
        assert all(0 <= rate <= 1 for rate in one.firing_rates) and any(rate > 0 for rate in one.firing_rates)
    assert len({one.energy_mj for one in later}) == len({(one.windows_published - 2) // 5 for one in later}) >= 2
    for one in later:
        if (one.windows_published - 2) % 5 == 0:
            report = estimator.measured(windows[stamp_ns(one.header)].spikes)[1]
            np.testing.assert_allclose(one.firing_rates, list(report.firing_rates.values()), rtol=1e-6)
            assert one.energy_mj == pytest.approx(report.energy_mj, rel=1e-5) and 0 < one.energy_mj < 100


def calibration_message() -> CameraInfo:
    info = CameraInfo(height=HEIGHT, width=WIDTH, distortion_model="plumb_bob", d=[-0.35, 0.12, 0.001, -0.002, 0.0])
    info.k = [100.0, 0, 63.0, 0, 101.0, 47.0, 0, 0, 1]
    info.r = np.eye(3).ravel()
    info.p = [90.0, 0, 64.0, 0, 0, 91.0, 48.0, 0, 0, 0, 1, 0]
    return info


def write_calibration(path: Path, info: CameraInfo) -> str:
    """Write it as camera_calibration does; returns its URL."""
    matrices = {
        "camera_matrix": info.k, "distortion_coefficients": info.d,
        "rectification_matrix": info.r, "projection_matrix": info.p,
    }  # fmt: skip
    lines = [f"{name}: {{data: {[float(value) for value in data]}}}" for name, data in matrices.items()]
    size = [f"image_width: {info.width}", f"image_height: {info.height}", f"distortion_model: {info.distortion_model}"]
    path.write_text("\n".join(size + lines))
    return path.as_uri()


@pytest.mark.parametrize("source", ["topic", "file"])
def test_a_calibration_rectifies_and_is_published(
    graph: Graph, packets: list[EventPacket], estimator: DepthEstimator, tmp_path: Path, source: str
) -> None:
    message = calibration_message()
    if source == "file":
        graph.bring_to("active", **{**UNTRAINED, "camera_info_url": write_calibration(tmp_path / "c.yaml", message)})
        assert not graph.infos.get_subscription_count(), "the file is enough"
    else:
        graph.bring_to("active", **UNTRAINED)
        graph.wait_for(graph.infos.get_subscription_count, "subscription to camera_info")
        graph.infos.publish(message)
        graph.diagnostic(lambda status: figures(status)["calibrated"] == "True")
    graph.publish(packets[:100], speed=0.7)
    seen, windows = graph.quiet(), offline(packets)[1]
    calibration = Calibration.from_message(message)
    assert calibration is not None
    where = calibration.rectification()[0].reshape(HEIGHT, WIDTH)
    nowhere = where == HEIGHT * WIDTH
    assert 0 < nowhere.mean() < 0.5 and len(seen.together()) >= 4
    for image, info, _ in seen.together():
        depth = depth_of(image)
        assert info.header == image.header and (info.height, info.width) == depth.shape == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(np.isnan(depth), nowhere)
        raw = estimator(windows[stamp_ns(image.header)].spikes, (HEIGHT, WIDTH))
        np.testing.assert_array_equal(depth[~nowhere], raw.ravel()[where[~nowhere]])
        np.testing.assert_array_equal(info.p, message.p)
        np.testing.assert_array_equal(np.reshape(info.k, (3, 3)), np.reshape(message.p, (3, 4))[:, :3])
        np.testing.assert_array_equal(info.r, np.eye(3).ravel())
        assert not np.any(info.d), "the image is rectified"


def test_calibrations_that_change_all_the_time_leave_time_for_depth_and_are_told(
    graph: Graph, packets: list[EventPacket]
) -> None:
    graph.bring_to("active", **UNTRAINED)
    graph.wait_for(graph.infos.get_subscription_count, "subscription to camera_info")

    def with_calibrations() -> Iterator[EventPacket]:
        """A new one with each packet, 500 a second."""
        for number, packet in enumerate(packets[:300]):
            info = calibration_message()
            info.k[0] += number / 100
            graph.infos.publish(info)
            yield packet

    graph.publish(with_calibrations(), speed=0.5)
    said = graph.diagnostic(lambda status: "times in the last second, 1 publish it: remap" in status.message)
    seen, windows = graph.quiet(), offline(packets[:300])[1]
    assert len(seen.together()) >= 0.3 * len(windows), said.message
    assert seen.ledger_closes


def test_metres_follow_the_lens_where_the_weights_know_one(graph: Graph, packets: list[EventPacket]) -> None:
    graph.bring_to("active", **{**UNTRAINED, "allow_untrained": False, "weights": "sdt_tiny"})
    graph.wait_for(graph.infos.get_subscription_count, "subscription to camera_info")
    graph.diagnostic(lambda status: "the focal length is not known" in status.message)
    graph.publish(packets[:100], speed=0.7)
    # The same windows a second time have other stamps by a millisecond: the clocks' offset is known better then.
    assumed = {stamp_ns(image.header) // 10_000_000: depth_of(image) for image in graph.quiet().images}
    pinhole = CameraInfo(height=HEIGHT, width=WIDTH, distortion_model="plumb_bob", d=[0.0] * 5)
    pinhole.k = [150.0, 0, 64.0, 0, 150.0, 48.0, 0, 0, 1]
    pinhole.r = np.eye(3).ravel()
    pinhole.p = [150.0, 0, 64.0, 0, 0, 150.0, 48.0, 0, 0, 0, 1, 0]
    graph.infos.publish(pinhole)
    graph.diagnostic(lambda status: figures(status)["calibrated"] == "True" and "focal" not in status.message)
    graph.publish(packets[:100], speed=0.7)  # a recording that starts over
    known = {stamp_ns(image.header) // 10_000_000: depth_of(image) for image in graph.quiet().images}
    both = assumed.keys() & known.keys()
    assert len(both) >= 3
    for window in both:
        np.testing.assert_allclose(known[window], assumed[window] * (150 / (USUAL_FOCAL_LENGTH * WIDTH)), rtol=1e-5)
    pinhole.header.frame_id = "elsewhere"
    graph.infos.publish(pinhole)
    graph.diagnostic(
        lambda status: f"of frame 'elsewhere', the events are of {packets[0].frame_id!r}" in status.message
    )


def test_odometry_gives_the_scale_and_says_what_it_lacks(
    graph: Graph, packets: list[EventPacket], estimator: DepthEstimator
) -> None:
    graph.bring_to("unconfigured")  # without the calibration of another test
    graph.bring_to("active", **UNTRAINED)
    robot = graph.node.create_publisher(Odometry, "/depth/odometry", 1000)
    graph.wait_for(robot.get_subscription_count, "subscription to odometry")
    graph.wait_for(graph.infos.get_subscription_count, "subscription to camera_info")

    def drive(frame: str) -> None:
        for stamp in range(packets[0].stamp_ns, packets[99].stamp_ns + 50_000_000, 10_000_000):
            message = Odometry(child_frame_id=frame)
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            message.twist.twist.linear.x = 1.0
            robot.publish(message)
            graph.spin(0.001)

    drive("base_link")
    graph.diagnostic(lambda status: "odometry is not used: it needs the camera's calibration" in status.message)
    graph.infos.publish(calibration_message())
    graph.diagnostic(lambda status: figures(status)["calibrated"] == "True")
    graph.publish(packets[:100], speed=0.7)
    seen = graph.quiet()
    assert all(one.depth_factor == 1 and np.isnan(one.depth_factor_deviation) for one in seen.stats) and seen.stats
    graph.diagnostic(lambda status: "'base_link'" in status.message and "the network's guess" in status.message)
    frames = pytest.importorskip("tf2_msgs.msg", reason="this ROS 2 has no tf2_msgs")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    mounting = graph.node.create_publisher(frames.TFMessage, "/tf_static", latched)
    mounted = TransformStamped(child_frame_id=FRAME_ID)
    mounted.header.frame_id, mounted.transform.rotation.w = "base_link", 1.0
    mounting.publish(frames.TFMessage(transforms=[mounted]))
    graph.wait_for(mounting.get_subscription_count, "subscription to /tf_static")
    drive("base_link")
    graph.spin(0.5)
    graph.publish(packets[:100], speed=0.7)
    seen = graph.quiet()
    windows = {stamp // 10_000_000: window for stamp, window in offline(packets)[1].items()}  # a ms apart, see above
    factors = [one.depth_factor for one in seen.stats]
    assert len(seen.together()) >= 4 and any(abs(np.log(factor)) > 0.02 for factor in factors), factors
    known = [one for one in seen.stats if not np.isnan(one.depth_factor_deviation)]  # best effort: one may be lost
    deviations = [one.depth_factor_deviation for one in known]
    assert len(known) >= 4 and all(0.1 <= deviation < 1.5 for deviation in deviations), deviations
    assert deviations[-1] < 0.3, "several windows make it sure"
    assert all(0 < one.scale_ms < one.network_ms for one in known)
    calibration = Calibration.from_message(calibration_message())
    assert calibration is not None
    where = calibration.rectification()[0]
    for image, _, stats in seen.together():
        if np.isnan(stats.depth_factor_deviation):
            continue
        raw = np.append(estimator(windows[stamp_ns(image.header) // 10_000_000].spikes, (HEIGHT, WIDTH)), np.nan)
        raw = raw[where]
        ratio = np.nanmedian(depth_of(image).ravel() / raw)
        assert abs(np.log(ratio / stats.depth_factor)) < 0.5, "places differ from the picture by as much as they may"
    graph.diagnostic(lambda status: figures(status)["odometry"] == "True")
    for publisher in (robot, mounting):
        graph.node.destroy_publisher(publisher)


def test_colours_go_with_the_depth(active: Graph, packets: list[EventPacket]) -> None:
    with active.colors():
        active.publish(packets[:60], speed=0.7)
        seen = active.quiet()
    assert len(seen.colors) >= 2 and {stamp_ns(image.header) for image in seen.colors} <= set(seen.stamps)
    for image in seen.colors:
        assert (image.encoding, image.height, image.width) == ("rgb8", HEIGHT, WIDTH)
        assert np.ptp(np.frombuffer(image.data, np.uint8)) > 0


def test_uncertainty_goes_with_the_depth_and_what_is_too_uncertain_is_left_out(
    graph: Graph, packets: list[EventPacket]
) -> None:
    graph.bring_to("active", weights="sdt_tiny", allow_untrained=False, smoothing_s=0.0)
    with graph.deviations():
        graph.publish(packets[:60], speed=0.7)
        seen = graph.quiet()
    told = {stamp_ns(image.header): depth_of(image) for image in seen.deviations}
    both = [(depth_of(image), told[stamp_ns(image.header)], one) for image, _, one in seen.together()
            if stamp_ns(image.header) in told]  # fmt: skip
    assert len(both) >= 2
    for depth, deviation, stats in both:
        assert deviation.shape == depth.shape and np.array_equal(np.isnan(deviation), np.isnan(depth))
        assert deviation.min() >= stats.scale_deviation * 0.999 > 0.01, "the scale's is a part of each pixel's"
        assert np.ptp(deviation) > 0 and stats.withheld == 0
    limit = float(np.median([np.median(deviation) for _, deviation, _ in both]))
    assert graph.set("max_deviation", limit)[0]
    with graph.deviations():
        graph.publish(packets[60:120], speed=0.7)
        seen = graph.quiet()
    told = {stamp_ns(image.header): depth_of(image) for image in seen.deviations}
    shares = []
    for image, _, stats in seen.together():
        if stamp_ns(image.header) in told:
            left_out = told[stamp_ns(image.header)] > limit
            np.testing.assert_array_equal(np.isnan(depth_of(image)), left_out)
            assert stats.withheld == pytest.approx(left_out.mean(), abs=1e-6)
            shares.append(stats.withheld)
    assert len(shares) >= 2 and max(shares) > 0 and min(shares) < 1


def test_a_limit_on_uncertainty_is_refused_where_the_weights_tell_none(active: Graph) -> None:
    accepted, reason = active.set("max_deviation", 0.3)
    assert not accepted and "do not tell uncertainty" in reason and "sdt-distill uncertainty" in reason
    assert active.parameters()["max_deviation"] == 0.0


def test_overload_skips_the_older_windows_and_accounts_for_them(active: Graph, packets: list[EventPacket]) -> None:
    assert active.set("rate_hz", 200.0)[0]
    stream, windows = offline(packets, 200.0)
    active.diagnostics.clear()
    active.publish(packets, speed=2.0)  # a window every 2.5 ms, which no network here can do
    seen = active.quiet(1.5)
    last = seen.stats[-1]
    assert seen.ledger_closes
    assert stream.windows.due >= last.windows_due > 100 and last.windows_skipped > last.windows_due / 2
    assert last.windows_published >= len(seen.images) >= 5
    assert seen.stamps == sorted(set(seen.stamps)) and set(seen.stamps) <= set(windows)
    if not last.packets_shed:  # on a machine with other work, decoding may be behind too
        assert seen.stamps[-1] == max(windows), "the newest window is never given up for an older one"
        assert last.windows_due == stream.windows.due
    active.wait_for(lambda: any("falling behind" in one.message for one in active.diagnostics), "such diagnostic", 5)
    assert active.set("rate_hz", 20.0)[0]  # what it can do
    active.publish(packets[:100], speed=0.7)  # time goes back, which is no reason to stop either
    assert len(active.quiet().images) >= 4


def test_the_rate_changes_while_running(active: Graph, packets: list[EventPacket]) -> None:
    def rate(seen: Seen) -> float:
        """From the numbers of the windows, which count those that were skipped too [Hz]."""
        first, last = seen.stats[0], seen.stats[-1]
        return (last.window - first.window) / (stamp_ns(last.header) - stamp_ns(first.header)) * 1e9

    active.publish(packets[:70], speed=0.7)
    assert rate(active.quiet(0.3)) == pytest.approx(20, rel=0.01)
    assert active.set("rate_hz", 40.0)[0]
    active.publish(packets[70:140], speed=0.5)
    seen = active.quiet(0.3)
    assert rate(seen) == pytest.approx(40, rel=0.01)
    assert seen.ledger_closes and seen.stats[-1].stream_resets == 0


def test_windows_with_few_events_are_empty(active: Graph, packets: list[EventPacket]) -> None:
    stream, _ = offline(packets)
    assert stream.windows.empty == 0 and MIN_EVENTS < 10_000_000
    assert active.set("min_events", 10_000_000)[0]
    active.publish(packets[:50], speed=1)
    assert active.set("min_events", MIN_EVENTS)[0]
    active.publish(packets[50:100], speed=0.7)
    seen = active.quiet(0.3)
    assert seen.images and seen.ledger_closes and seen.stats[-1].windows_empty >= 2


def test_events_between_windows_are_counted_too(graph: Graph, packets: list[EventPacket]) -> None:
    """At 5 Hz, windows of 50 ms see a quarter of what comes."""
    graph.bring_to("active", **{**UNTRAINED, "rate_hz": 5.0})
    stream, windows = offline(packets, 5.0)
    assert stream.windows.events < 0.5 * stream.windows.decoded
    graph.publish(packets, speed=0.7)
    last = graph.quiet().stats[-1]
    assert last.packets_lost == 0 and stamp_ns(last.header) in windows
    assert last.events_received > 1.5 * stream.windows.events


def test_the_number_of_threads_is_told_as_it_is(graph: Graph, packets: list[EventPacket]) -> None:
    """torch's own count is that of the thread that asks, which is not the one that runs the network."""
    graph.bring_to("active", **{**UNTRAINED, "threads": 1})
    graph.publish(packets[:60], speed=1)
    assert "on cpu, 1 threads" in graph.quiet().stats[-1].runtime
    graph.diagnostic(lambda status: "on cpu, 1 threads" in figures(status)["runtime"])
    assert "configured: sdt_tiny, UNTRAINED; compiled" in graph.process.text()
    assert "on cpu, 1 threads" in graph.process.text()


def test_the_frame_can_be_named_while_running(active: Graph, packets: list[EventPacket]) -> None:
    assert active.set("frame_id", "my_eye")[0]
    active.publish(packets[:40], speed=1)
    seen = active.quiet(0.3)
    assert {image.header.frame_id for image in seen.images} == {"my_eye"}
    assert {info.header.frame_id for info in seen.infos} == {"my_eye"}
    calibration = calibration_message()
    calibration.header.frame_id = "my_eye"
    active.infos.publish(calibration)
    said = active.diagnostic(lambda status: figures(status)["calibrated"] == "True")
    assert "if these are two cameras" not in said.message, "the calibration is of the frame that was named"


def test_a_stopped_clock_stops_neither_depth_nor_diagnostics(active: Graph, packets: list[EventPacket]) -> None:
    """use_sim_time without anybody publishing /clock: ROS time stands at 0."""
    assert active.set("use_sim_time", True)[0]
    try:
        active.diagnostics.clear()
        active.publish(packets[:80], speed=0.8)
        seen = active.quiet(0.3)
        assert len(seen.images) >= 3
        assert all(np.isnan(one.pipeline_latency_ms) for one in seen.stats), "ROS time says nothing about the stamps"
        active.wait_for(lambda: len(active.diagnostics) >= 2, "diagnostics", 5)
    finally:
        assert active.set("use_sim_time", False)[0]
