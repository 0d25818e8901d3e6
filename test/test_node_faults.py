"""The depth node on a real graph: bad packets, lost packets, other times, and what diagnostics say of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

from depth_graph import HEIGHT, UNTRAINED, WIDTH, Graph
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo

from event_camera_msgs.msg import EventPacket as EventPacketMessage
from sdt_ros.events import EventPacket

pytestmark = pytest.mark.ros


@pytest.fixture
def active(graph: Graph) -> Graph:
    """The node, freshly activated, without a calibration, at 20 Hz."""
    graph.bring_to("active", **UNTRAINED)
    return graph


def test_packets_that_cannot_be_read_are_named_and_survived(active: Graph, packets: list[EventPacket]) -> None:
    active.publish(packets[:40], speed=1)
    before = active.quiet(0.3)
    assert before.images
    bad = [
        ({"encoding": "evt9"}, "evt9"),
        ({"height": 0, "width": 0}, "0x0"),
        ({"encoding": ""}, "encoding"),
        ({"width": 100_000}, "100000x96"),
    ]
    active.diagnostics.clear()
    for number, (changes, text) in enumerate(bad):
        first = 40 + 3 * number
        active.publish([replace(packet, **changes) for packet in packets[first : first + 3]], speed=0.1)
        active.wait_for(lambda text=text: text in active.process.text(), f"mention of {text}", 5)
        assert active.process.text().count(f"packet {first} rejected") == 1
        assert f"packet {first + 1} rejected" not in active.process.text(), "once is enough"
    active.wait_for(
        lambda: any("rejected" in one.message and one.level == DiagnosticStatus.ERROR for one in active.diagnostics),
        "diagnostic of the rejections",
        5,
    )
    active.publish(packets[52:120], speed=1)
    after = active.quiet(0.3)
    assert after.images and after.stamps[0] > before.stamps[-1]
    assert after.stats[-1].packets_rejected == 12 and after.stats[-1].packets_lost == 0
    assert after.ledger_closes
    active.diagnostic(lambda status: "rejected" not in status.message)  # what is over is not said for ever


def test_truncated_and_empty_payloads_are_counted_and_survived(active: Graph, packets: list[EventPacket]) -> None:
    def cut(packet: EventPacket) -> EventPacket:
        size = {10: 0, 20: packet.payload.size - 1, 30: 1}.get(packet.seq, packet.payload.size)
        return replace(packet, payload=packet.payload[:size])

    active.diagnostics.clear()
    active.publish(map(cut, packets[:100]), speed=0.7)
    seen = active.quiet(0.3)
    last = seen.stats[-1]
    assert len(seen.images) >= 4 and seen.ledger_closes
    assert 90 <= last.packets_received <= 100 and last.packets_rejected == 0
    assert last.words_truncated >= 1
    active.wait_for(
        lambda: any("damaged packets" in one.message for one in active.diagnostics), "diagnostic of the damage", 5
    )


def test_the_same_fault_at_other_times_is_logged_once(active: Graph, packets: list[EventPacket]) -> None:
    active.publish(packets[:60], speed=0.8)
    for packet in packets[60:80]:  # one by one: several are sent at the pace of their stamps
        late_ns = ((1 << 31) - 60) * 10**9 + packet.seq * 7_000_000
        active.publish([replace(packet, stamp_ns=late_ns)], speed=1)
    seen = active.quiet(0.3)
    assert seen.ledger_closes
    active.wait_for(lambda: "makes no sense" in active.process.text(), "word of the stamps", 5)
    said = active.process.text()
    assert said.count("the packet's stamp of 2147483") == 1, said


def test_lost_packets_are_counted_and_said(active: Graph, packets: list[EventPacket]) -> None:
    active.diagnostics.clear()
    active.publish([packet for packet in packets[:100] if packet.seq not in range(30, 35)], speed=0.8)
    seen = active.quiet(0.3)
    assert seen.stats[-1].packets_lost == 5 and seen.ledger_closes
    active.wait_for(
        lambda: any("5 packets lost" in one.message for one in active.diagnostics), "diagnostic of the loss", 5
    )


def test_time_that_goes_back_starts_the_stream_over(active: Graph, packets: list[EventPacket]) -> None:
    active.publish(packets[:110], speed=0.8)
    first = active.quiet(0.3)
    active.publish(packets[:110], speed=0.8)
    second = active.quiet(0.3)
    assert first.stats[-1].stream_resets == 0 and second.stats[-1].stream_resets == 1
    assert set(second.stamps) & set(first.stamps), "the same packets give the same windows"
    assert second.stamps == sorted(set(second.stamps))
    assert first.ledger_closes and second.ledger_closes
    assert second.stats[-1].windows_due == 2 * first.stats[-1].windows_due
    assert second.stats[-1].packets_lost == 0
    assert active.process.text().count("event stream started over") == 1, "logged once"


def test_a_changed_geometry_is_followed(active: Graph, packets: list[EventPacket]) -> None:
    active.publish(packets[:50], speed=0.8)
    active.quiet(0.3)
    active.publish([replace(packet, height=100, width=160) for packet in packets[50:130]], speed=0.8)
    seen = active.quiet(0.3)
    assert {(image.height, image.width) for image in seen.images} == {(100, 160)}
    assert {(info.height, info.width) for info in seen.infos} == {(100, 160)}
    assert seen.stats[-1].stream_resets == 1


def test_two_cameras_on_one_topic_are_told(active: Graph, packets: list[EventPacket]) -> None:
    """Each packet begins another stream; the log must not be flooded, and depth comes once there is one camera."""
    other = active.node.create_publisher(EventPacketMessage, "/depth/events", 10)
    try:
        active.wait_for(lambda: other.get_subscription_count(), "subscription")
        lines = active.process.text().count("started over")
        mixed = [replace(packet, width=WIDTH + 32 * (packet.seq % 2)) for packet in packets[:100]]
        active.diagnostics.clear()
        active.publish(mixed, speed=0.7)
        active.wait_for(
            lambda: any("2 publishers mix their packets" in one.message for one in active.diagnostics), "diagnostic", 5
        )
        assert active.process.text().count("started over") - lines <= 3
        assert not active.quiet(0.2).images
    finally:
        active.node.destroy_publisher(other)
    active.publish(packets[100:], speed=0.7)
    assert active.quiet(0.3).images


def test_diagnostics_of_silence_calibration_and_weights(active: Graph, packets: list[EventPacket]) -> None:
    assert active.set("max_silence_s", 0.3)[0]
    status = active.diagnostic(lambda status: status.level == DiagnosticStatus.ERROR)
    assert "no event packets" in status.message and "/depth/events" in status.message
    assert "publishers: 1" in status.message
    assert "UNTRAINED" in status.message and "no calibration" in status.message
    assert status.name == "depth: depth from events"
    assert active.set("max_silence_s", 3600.0)[0]
    status = active.diagnostic(lambda status: status.level != DiagnosticStatus.ERROR)
    assert status.level == DiagnosticStatus.WARN and "no event packets" not in status.message
    assert "UNTRAINED" in status.message
    active.infos.publish(CameraInfo(height=10, width=10, k=[5.0, 0, 5, 0, 5, 5, 0, 0, 1]))
    active.publish(packets[:30], speed=1)
    status = active.diagnostic(lambda status: "10x10" in status.message)
    assert status.level == DiagnosticStatus.WARN and f"{WIDTH}x{HEIGHT}" in status.message
    assert not any(np.any(info.k) for info in active.quiet(0.2).infos)
