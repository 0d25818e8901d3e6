"""The camera of `sdt bench soak`: a process that sends packets without end, and misbehaves when it is told to.

Run as `python -m sdt_ros.bench.soak_camera TRAFFIC ORDER`, with the fields of `Traffic` and a first order as JSON.
More orders come on the topic /bench/order, such as `{"id": 3, "kind": "gap", "seconds": 0.2}`. What was taken, and the
first good packet behind it, are told on /bench/good: `{"begun": 3, "good": {"id": 3, "stamp_ns": ..., "at_s": ...}}`.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sdt_ros.bags import serialize_event_packet
from sdt_ros.bench.node_traffic import Traffic, packets
from sdt_ros.events import EventPacket, PacketDecoder
from sdt_ros.events.encoder import PacketEncoder
from sdt_ros.events.sinks import EVENT_DTYPE

ORDERS, GOOD = "/bench/order", "/bench/good"
WAIT_S, TELL_S = 60.0, 0.25
LOOP_S = 2.0  # of the scene
HOUR_NS = 3_600_000_000_000
_HOT = ((3, 5), (40, 7), (60, 50))  # columns and rows of the pixels that a fault makes hot
AT_ONCE = (
    "mark", "speed", "time_back", "time_forward", "stamps_back", "sensor_clock_leaps", "bag_loops", "camera_restarts",
)  # fmt: skip
"""What is done between two packets and lasts no time."""
OTHER_ENCODING = "mono"
_SENSOR_US = 1 << 43  # the sensor's clock stays below: its times are not negative after a leap back
_STORM_PARTS = 2  # packets that a storm of all pixels takes


@dataclass
class Clocks:
    """What a packet says about when it is.

    Attributes:
        passed_us: time of the scene since the camera's start [us].
        sensor_us: sensor time less `passed_us` [us].
        stamp_ns: stamp less `passed_us` [ns].
        seq: number of the last packet.
    """

    passed_us: int
    sensor_us: int
    stamp_ns: int
    seq: int = 0


class Scene:
    """Events by packet, again and again."""

    def __init__(self, traffic: Traffic) -> None:
        decoder = PacketDecoder()
        self._parts: list[np.ndarray] = []
        for packet, _ in packets(replace(traffic, encoding="evt3", seconds=LOOP_S)):
            events = decoder.decode("evt3", packet.width, packet.height, packet.time_base, packet.payload)
            self._parts.append(events)
        self.period_us = round(1e6 / traffic.packets_per_s)
        first = int(self._parts[0]["t"][0]) // self.period_us * self.period_us
        for number, events in enumerate(self._parts):  # times within a packet
            np.clip(events["t"] - first - number * self.period_us, 0, self.period_us - 1, out=events["t"])

    def events(self, number: int) -> np.ndarray:
        """Of packet `number`: EVENT_DTYPE [N], times since the packet's begin [us]; a copy."""
        return self._parts[number % len(self._parts)].copy()


class Camera:
    """Makes packets one after the other, good ones or those of the fault that is on."""

    def __init__(self, traffic: Traffic, scene: Scene | None = None) -> None:
        self.traffic = traffic
        self.scene = scene or Scene(traffic)
        self.speed = 1.0
        self.orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._clocks = self._fresh()
        self._start = replace(self._clocks)
        self.begun = -1  # the order taken last
        self._encoder = PacketEncoder(traffic.encoding, traffic.width, traffic.height)
        self._order: dict[str, Any] | None = None
        self._left = 0  # packets that the fault still lasts
        self._rng = np.random.default_rng(0)
        self._held: EventPacket | None = None  # a packet that will go out behind its successor
        self._report: dict[str, Any] | None = None

    @property
    def fault(self) -> str:
        """The kind of the fault that is on; empty while there is none."""
        return "" if self._order is None else str(self._order["kind"])

    @property
    def period_s(self) -> float:
        """From packet to packet [s]."""
        return self.scene.period_us / 1e6 / self.speed

    def _fresh(self) -> Clocks:
        now_ns = time.time_ns()
        return Clocks(0, 1_000_000, now_ns)

    def next(self) -> Iterator[EventPacket]:
        """The packets to send now, of one period; none while there is silence."""
        while self._order is None and self._report is None and not self.orders.empty():
            asked = self.orders.get()
            if asked["id"] > self.begun:  # whoever hears no answer asks again
                self._begin(asked)
        order = self._order
        kind = "" if order is None else str(order["kind"])
        self._clocks.seq += 1
        packet = self._packet(kind)
        if order is None:
            if self._report is not None:
                self._report["stamp_ns"] = packet.stamp_ns
            yield packet
        else:
            yield from self._spoilt(kind, packet)
        self._clocks.passed_us += self.scene.period_us
        if order is not None:
            self._left -= 1
            if self._left <= 0:
                self._end(order)

    def report(self) -> dict[str, Any] | None:
        """What to say once the good packet behind a fault is out; forgets it."""
        if self._report is None or "stamp_ns" not in self._report:
            return None
        said, self._report = self._report, None
        return said | {"at_s": time.monotonic()}

    # --- faults -------------------------------------------------------------------------------------------------------

    def _begin(self, order: dict[str, Any]) -> None:
        """Do what is done at once, and note how long the rest lasts."""
        kind, clocks = order["kind"], self._clocks
        self.begun = order["id"]
        if kind in ("speed", "burst"):
            self.speed = float(order["factor"])
        elif kind in ("time_back", "time_forward"):
            sign = -1 if kind == "time_back" else 1
            clocks.stamp_ns += sign * HOUR_NS
            clocks.sensor_us += sign * HOUR_NS // 1000
        elif kind == "stamps_back":
            clocks.stamp_ns -= 30_000_000_000
        elif kind == "sensor_clock_leaps":
            clocks.sensor_us += 5_000_000
        elif kind == "bag_loops":
            self._clocks = replace(self._start)
        elif kind == "camera_restarts":
            self._clocks, self._start = self._fresh(), self._fresh()
        encoding = OTHER_ENCODING if kind == "other_encoding" else self.traffic.encoding
        self._encoder = PacketEncoder(encoding, self.traffic.width, self.traffic.height)
        self._order, self._left = order, round(float(order.get("seconds", 0.0)) / self.period_s)
        if self._left <= 0 or kind in AT_ONCE:
            self._end(order)

    def _end(self, order: dict[str, Any]) -> None:
        if order["kind"] == "burst":
            self.speed = 1.0
        self._encoder = PacketEncoder(self.traffic.encoding, self.traffic.width, self.traffic.height)
        self._order, self._report = None, {"id": order["id"]}

    def _packet(self, kind: str) -> EventPacket:
        clocks, traffic = self._clocks, self.traffic
        events = self.scene.events(clocks.passed_us // self.scene.period_us)
        height, width = traffic.height, traffic.width
        if kind == "static":
            events = events[:0]
        elif kind == "storm":
            events = self._storm(events)
        elif kind == "hot_pixels":
            events = self._with_hot_pixels(events)
        elif kind == "other_geometry":
            height, width = height - 16, width - 16
            events = events[(events["x"] < width) & (events["y"] < height)]
        sensor_us = (clocks.sensor_us + clocks.passed_us) % _SENSOR_US
        if self._encoder.since_epoch:
            sensor_us = clocks.stamp_ns // 1000 + clocks.passed_us
        events["t"] += sensor_us
        encoding = OTHER_ENCODING if kind == "other_encoding" else traffic.encoding
        time_base, payload = self._encoder.encode(events)
        return EventPacket(
            clocks.stamp_ns + clocks.passed_us * 1000, "bench_optical", height, width, clocks.seq, time_base, encoding,
            False, np.frombuffer(payload, np.uint8),
        )  # fmt: skip

    def _storm(self, events: np.ndarray) -> np.ndarray:
        """All pixels fire, both ways, over a few packets."""
        width, height = self.traffic.width, self.traffic.height
        part = (self._clocks.passed_us // self.scene.period_us) % _STORM_PARTS
        rows = np.arange(part, height, _STORM_PARTS)
        storm = np.zeros(rows.size * width * 2, EVENT_DTYPE)
        storm["x"], storm["y"] = np.tile(np.arange(width), rows.size * 2), np.tile(np.repeat(rows, width), 2)
        storm["p"] = np.repeat([0, 1], rows.size * width)
        storm["t"] = np.sort(np.arange(storm.size) * self.scene.period_us // storm.size)
        return storm

    def _with_hot_pixels(self, events: np.ndarray) -> np.ndarray:
        hot = np.zeros(len(_HOT) * 4, EVENT_DTYPE)
        hot["x"], hot["y"] = np.tile(_HOT, (4, 1)).T
        hot["t"] = np.repeat(np.arange(4) * self.scene.period_us // 4, len(_HOT))
        both = np.concatenate([events, hot])
        return both[np.argsort(both["t"], kind="stable")]

    def _spoilt(self, kind: str, packet: EventPacket) -> Iterator[EventPacket]:
        if kind == "gap":
            return
        if kind == "silence":
            self._clocks.seq -= 1  # a camera that sends nothing counts nothing
            return
        if kind == "duplicates":
            yield packet
        elif kind == "reordered":
            if self._held is None and self._left > 1:
                self._held = packet
                return
            yield packet
            if self._held is not None:
                packet, self._held = self._held, None
            else:
                return
        elif kind == "random_bytes":
            packet = replace(packet, payload=self._rng.integers(0, 256, packet.payload.size, dtype=np.uint8))
        elif kind == "cut_packets":
            packet = replace(packet, payload=packet.payload[: self._rng.integers(0, packet.payload.size + 1)])
        elif kind == "unreadable":
            packet = replace(packet, encoding="evt9") if packet.seq % 2 else replace(packet, width=0, height=0)
        yield packet


def run(traffic: Traffic, first: dict[str, Any]) -> None:
    """Send packets until a signal comes, with a first order to answer."""
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
    from std_msgs.msg import String

    from event_camera_msgs.msg import EventPacket as EventPacketMessage

    camera = Camera(traffic)
    camera.orders.put(first)
    rclpy.init(args=[])
    node = rclpy.create_node("bench_camera")
    qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = node.create_publisher(EventPacketMessage, traffic.events_topic, qos)
    good = node.create_publisher(String, GOOD, 100)
    node.create_subscription(String, ORDERS, lambda message: camera.orders.put(json.loads(message.data)), 100)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            return

    threading.Thread(target=spin, daemon=True).start()
    give_up_s = time.monotonic() + WAIT_S
    while not publisher.get_subscription_count() and time.monotonic() < give_up_s:
        time.sleep(0.01)
    second: Any = None
    said: dict[str, Any] = {}
    due_s = told_s = time.monotonic()
    while rclpy.ok():
        due_s = max(due_s + camera.period_s, time.monotonic() - 0.5)  # what was missed by more is not made up for
        time.sleep(max(0.0, due_s - time.monotonic()))
        for packet in camera.next():
            publisher.publish(serialize_event_packet(packet))
        report = camera.report()
        if report is not None or time.monotonic() - told_s > TELL_S:  # again and again: it may have gone unheard
            said, told_s = report or said, time.monotonic()
            good.publish(String(data=json.dumps({"begun": camera.begun, "good": said})))
        if camera.fault == "second_camera":
            second = second or node.create_publisher(EventPacketMessage, traffic.events_topic, qos)
            second.publish(serialize_event_packet(_stranger(traffic)))
        elif second is not None:
            node.destroy_publisher(second)
            second = None


def _stranger(traffic: Traffic) -> EventPacket:
    """A packet of a camera of another size."""
    nothing = np.zeros(0, np.uint8)
    return EventPacket(time.time_ns(), "other", traffic.height, traffic.width + 16, 0, 0, "evt3", False, nothing)


def main(argv: list[str]) -> int:
    """Send the traffic of the first argument, answer the order of the second, both JSON; returns the exit code."""
    try:
        run(Traffic(**json.loads(argv[0])), json.loads(argv[1]))
    except ValueError as error:
        print(f"bench camera: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
