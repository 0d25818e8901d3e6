"""The depth node on a real graph: cameras that restart, leap, fall silent, storm, or have hot pixels."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

from depth_graph import HEIGHT, UNTRAINED, WIDTH, Graph, depth_of, figures, offline, stamp_ns
from diagnostic_msgs.msg import DiagnosticStatus

from sdt_ros.events import EventPacket, PacketDecoder
from sdt_ros.events.encoder import PacketEncoder
from sdt_ros.events.sinks import EVENT_DTYPE
from sdt_ros.node import DepthNode

pytestmark = pytest.mark.ros

S_NS = 1_000_000_000


@pytest.fixture
def active(graph: Graph) -> Graph:
    """The node, freshly activated, without a calibration, at 20 Hz."""
    graph.bring_to("active", **UNTRAINED)
    graph.diagnostics.clear()
    return graph


def shifted(packets: list[EventPacket], stamp_s: float, first_seq: int | None = None) -> list[EventPacket]:
    moved = [replace(packet, stamp_ns=packet.stamp_ns + round(stamp_s * S_NS)) for packet in packets]
    if first_seq is None:
        return moved
    return [replace(packet, seq=first_seq + number) for number, packet in enumerate(moved)]


def re_encoded(
    packets: list[EventPacket], encoding: str, change: dict[int, np.ndarray] | None = None
) -> list[EventPacket]:
    """The same events in another encoding, with more of them in some packets."""
    decoder, encoder, made = PacketDecoder(), PacketEncoder(encoding, WIDTH, HEIGHT), []
    for number, packet in enumerate(packets):
        events = decoder.decode(packet.encoding, WIDTH, HEIGHT, packet.time_base, packet.payload)
        if change and number in change:
            more = change[number].copy()
            more["t"] += events["t"][0]
            events = np.concatenate([events, more])
            events = events[np.argsort(events["t"], kind="stable")]
        time_base, payload = encoder.encode(events)
        made.append(replace(packet, encoding=encoding, time_base=time_base, payload=np.frombuffer(payload, np.uint8)))
    return made


def test_a_camera_that_restarts_is_followed(active: Graph, packets: list[EventPacket]) -> None:
    """Killed and started again: numbers begin anew, the sensor's clock too, the host's goes on."""
    active.publish(packets[:90], speed=0.8)
    first = active.quiet()
    active.publish(shifted(packets[:90], 30.0), speed=0.8)
    second = active.quiet()
    last = second.stats[-1]
    assert first.images and second.images and second.ledger_closes
    assert last.stream_resets == 1
    # A busy machine may lose some on the way; what counts is that the restart is not taken for a loss.
    assert last.packets_received + last.packets_lost <= 2 * 90, "packets are missed that were never sent"
    assert second.stamps[0] > first.stamps[-1] + 25 * S_NS, "stamps are the new camera's"
    active.said("the stream started over")


@pytest.mark.parametrize("leap_s", [-3600.0, 3600.0])
def test_time_that_leaps_is_followed(active: Graph, packets: list[EventPacket], leap_s: float) -> None:
    """Numbers go on: only the host's clock was set."""
    leaping = packets[:90] + shifted(packets[90:], leap_s)
    active.publish(leaping[:90], speed=0.7)  # in two goes: the pace is that of the stamps
    active.publish(leaping[90:], speed=0.7)
    seen = active.quiet(0.6)
    assert seen.ledger_closes and set(seen.stamps) <= set(offline(leaping)[1])
    for begin_ns in (packets[0].stamp_ns, packets[90].stamp_ns + round(leap_s * S_NS)):
        assert sum(begin_ns < stamp < begin_ns + 2 * S_NS for stamp in seen.stamps) >= 2


def test_an_encoding_that_changes_in_mid_stream_is_followed(active: Graph, packets: list[EventPacket]) -> None:
    other = re_encoded(packets[90:], "evt2")
    active.publish(packets[:90], speed=0.8)
    assert active.quiet().images
    active.publish(other, speed=0.8)
    seen = active.quiet()
    assert seen.images and seen.ledger_closes
    assert seen.stats[-1].stream_resets == 1 and seen.stats[-1].packets_rejected == 0
    active.said("the stream started over")


def test_reordered_and_duplicate_packets_are_dropped_and_said(active: Graph, packets: list[EventPacket]) -> None:
    moved = packets[:120].copy()
    moved[30], moved[31] = moved[31], moved[30]
    moved.insert(60, moved[59])
    moved.insert(80, moved[70])
    active.publish(moved, speed=0.8)
    last = active.quiet().stats[-1]
    assert (last.packets_reordered, last.packets_duplicate, last.packets_lost, last.stream_resets) == (1, 2, 1, 0)
    active.said("out of order")


def test_the_window_behind_a_loss_is_flagged(active: Graph, packets: list[EventPacket]) -> None:
    gone = [packet for packet in packets if not 50 <= packet.seq < 53]
    expected = {stamp: window.packets_lost for stamp, window in offline(gone)[1].items()}
    assert sorted(expected.values())[-2:] == [0, 3]
    active.publish(gone, speed=0.6)
    seen = active.quiet()
    flagged = {one.header.stamp.sec * S_NS + one.header.stamp.nanosec: one.window_packets_lost for one in seen.stats}
    assert len(flagged) >= 8 and flagged == {stamp: expected[stamp] for stamp in flagged}
    status = active.said("3 packets lost")
    assert "LARGE_DATA" not in status.message, "these packets are small"


def test_a_scene_at_rest_is_told_from_a_dead_camera(active: Graph, packets: list[EventPacket]) -> None:
    assert active.set("max_silence_s", 0.5)[0]
    active.publish(packets[:40], speed=1)
    active.diagnostics.clear()
    resting = [replace(packets[40], payload=np.empty(0, np.uint8), seq=41 + number) for number in range(400)]
    resting = [replace(one, stamp_ns=packets[40].stamp_ns + number * 5_000_000) for number, one in enumerate(resting)]
    active.publish(resting, speed=1)
    status = next(one for one in active.diagnostics if "packets without events" in one.message)
    assert status.level == DiagnosticStatus.WARN and "the camera lives" in status.message
    assert not any("the camera is dead" in one.message for one in active.diagnostics)
    active.diagnostics.clear()
    status = active.said("the camera is dead")
    assert status.level == DiagnosticStatus.ERROR and "the camera lives" not in status.message


def test_an_event_storm_is_survived_and_said(active: Graph, packets: list[EventPacket]) -> None:
    storm = np.zeros(HEIGHT * WIDTH * 2, EVENT_DTYPE)
    storm["x"] = np.tile(np.arange(WIDTH), HEIGHT * 2)
    storm["y"] = np.tile(np.repeat(np.arange(HEIGHT), WIDTH), 2)
    storm["p"] = np.repeat([0, 1], HEIGHT * WIDTH)
    storm["t"] = np.arange(storm.size) * 3000 // storm.size
    stormy = re_encoded(packets, "evt3", {number: storm for number in range(40, 80)})
    active.diagnostics.clear()
    active.publish(stormy, speed=0.5)
    seen = active.quiet()
    assert seen.ledger_closes and seen.images
    assert max(one.spike_density for one in seen.stats) > 0.9
    active.said("event storm")
    assert seen.stats[-1].spike_density < 0.5, "and it is over"


def test_hot_pixels_are_named_and_masked(graph: Graph, packets: list[EventPacket]) -> None:
    graph.bring_to("active", **UNTRAINED)
    assert graph.set("rate_hz", 200.0)[0] and graph.set("min_events", 1)[0]
    hot = np.zeros(8, EVENT_DTYPE)
    hot["x"], hot["y"], hot["t"] = 77, 33, np.arange(8) * 400
    spoilt = re_encoded(packets, "evt3", dict.fromkeys(range(len(packets)), hot))
    graph.diagnostics.clear()

    def until_said() -> bool:
        return any("(77, 33)" in one.message for one in graph.diagnostics)

    for turn in range(30):  # a window is looked at only when the network has time for it
        graph.publish(shifted(spoilt, 2.0 * turn, 1 + turn * len(packets)), speed=0.7)
        if until_said():
            break
    status = graph.said("hot pixels", "(77, 33)")
    assert "mask_hot_pixels:=true" in status.message and figures(status)["hot pixels"] == "1"
    assert graph.set("mask_hot_pixels", True)[0]
    graph.diagnostics.clear()
    graph.said("(77, 33); masked")


def test_depth_follows_while_the_hosts_clock_is_set_back(graph: Graph, packets: list[EventPacket]) -> None:
    """Set back by less than a restart, stamps stand still for as long; the sensor's time, and depth, do not."""
    graph.bring_to("active", **{**UNTRAINED, "smoothing_s": 0.1})
    graph.publish(packets[:70], speed=0.7)
    graph.publish(shifted(packets[70:], -0.4), speed=0.7)
    seen = graph.quiet()
    assert seen.ledger_closes and seen.stats[-1].stream_resets == 0
    still = [
        np.abs(depth_of(after) / depth_of(before) - 1).mean()
        for before, after in pairwise(seen.images)
        if stamp_ns(after.header) - stamp_ns(before.header) < 1000
    ]
    assert len(still) >= 3 and min(still) > 1e-3


def test_what_waits_behind_a_timer_is_no_silence() -> None:
    """The executor takes timers first: held up by something else, it finds the silence before the packets."""
    closed_after_ms: list[float] = []
    node = SimpleNamespace(
        _is_idle=False, _idle_since_ns=time.monotonic_ns() - S_NS, _state="active",
        _pipeline=SimpleNamespace(close_after=closed_after_ms.append),
        get_parameter=lambda name: SimpleNamespace(value=False),
    )  # fmt: skip
    DepthNode._look_at_silence(node)
    assert not closed_after_ms
    DepthNode._look_at_silence(node)  # nothing was taken in between: it is silence
    assert closed_after_ms[0] == pytest.approx(1000, rel=0.5)


def test_silence_closes_the_last_window_where_asked_to(active: Graph, packets: list[EventPacket]) -> None:
    expected = offline(packets)[1]
    active.publish(packets, speed=0.7)
    held_back = active.quiet(1.0)
    assert set(held_back.stamps) <= set(expected), "by default a packet closes a window, and nothing else"
    assert active.set("idle_flush_ms", 400.0)[0]
    for turn in range(1, 6):  # a machine with other work may have to shed the very packets that end it
        active.publish(shifted(packets, 40.0 * turn), speed=0.7)
        seen = active.quiet(1.5)
        assert seen.ledger_closes
        if seen.stamps[-1] > max(expected) + 40 * turn * S_NS:
            break
    assert seen.stamps[-1] > max(expected) + 40 * turn * S_NS
    status = active.diagnostic()
    assert int(figures(status)["windows closed by silence in all"]) >= 1
