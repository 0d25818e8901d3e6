"""The camera of `sdt bench node`: a process of its own that publishes event packets at a steady rate.

Run as `python -m sdt_ros.bench.node_traffic '{...}'` with the fields of `Traffic` as JSON. The packets are encoded
before the first is sent, so that their making takes nothing from the node; each is sent at its own deadline.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdt_ros.bags import serialize_event_packet
from sdt_ros.events import EventPacket
from sdt_ros.events.encoder import ENCODINGS, PacketEncoder
from sdt_ros.events.sinks import EVENT_DTYPE
from sdt_ros.simulation.patterns import EventModel, MovingPatterns

MOST_EVENTS = 2_000_000_000  # in one run: they are all in memory, at 2 to 4 bytes each
INFO_PERIOD_S = 0.1
WAIT_S = 120.0  # for the node to subscribe, at most
SETTLE_S = 0.5  # a subscriber that we see may not see us yet
_BASE_S, _STEP_US = 0.25, 1000  # of the scene that is played again and again
_LEAST_BASE = 500_000  # events: shorter scenes are not worth the name


@dataclass(frozen=True)
class Traffic:
    """What to send.

    Attributes:
        events_topic: topic of the packets.
        info_topic: topic of the calibration.
        report: file that takes what was sent, as JSON.
        width: columns of the sensor [px].
        height: rows of the sensor [px].
        encoding: byte format of the packets.
        rate_mev: million events a second.
        packets_per_s: packets a second, of equal duration.
        seconds: how long to send [s].
    """

    events_topic: str
    info_topic: str
    report: str
    width: int = 346
    height: int = 260
    encoding: str = "evt3"
    rate_mev: float = 20.0
    packets_per_s: float = 100.0
    seconds: float = 10.0

    def __post_init__(self) -> None:
        for name, low, high in (("rate_mev", 0.01, 500), ("packets_per_s", 1, 2000), ("seconds", 0.5, 600)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name):g}, outside of {low} to {high}")
        if not (16 <= self.width <= 2048 and 16 <= self.height <= 2048):
            raise ValueError(f"the size is {self.width}x{self.height}; sides of 16 to 2048 px are possible")
        if self.encoding.partition(";")[0] not in ENCODINGS:
            raise ValueError(f"encoding {self.encoding!r} is unknown; choose one of {', '.join(ENCODINGS)}")
        if self.rate_mev * 1e6 * self.seconds > MOST_EVENTS:
            raise ValueError(
                f"{self.rate_mev:g} Mev/s for {self.seconds:g} s are more than {MOST_EVENTS} events: send for less long"
            )


@dataclass(frozen=True)
class Sent:
    """What was sent.

    Attributes:
        packets: how many.
        events: how many.
        bytes: of the packets' payloads.
        seconds: from the first packet to the end of the last one's period [s].
        late_ms: the most that a packet was sent after it was due [ms].
    """

    packets: int
    events: int
    bytes: int
    seconds: float
    late_ms: float


def packets(traffic: Traffic) -> Iterator[tuple[EventPacket, int]]:
    """The packets, stamped with the time since the first one's begin [ns], and the number of events of each.

    Moving patterns, played faster or slower until their rate is the one wanted, then again and again. Windows end in
    the middle of packets, as they do with a camera that knows nothing of windows.
    """
    base = _scene(traffic.width, traffic.height)
    length_us = max(1, round(len(base) / traffic.rate_mev))  # events per million events a second are microseconds
    times = base["t"].astype(np.int64) * length_us // round(_BASE_S * 1e6)
    encoder = PacketEncoder(traffic.encoding, traffic.width, traffic.height)
    period_us = 1e6 / traffic.packets_per_s
    began_us = time.time_ns() // 1000 // 1_000_000 * 1_000_000 if encoder.since_epoch else 1_000_000
    began_us += round(period_us / 2)
    count = round(traffic.seconds * traffic.packets_per_s)
    for number in range(count):
        start, end = round(number * period_us), round((number + 1) * period_us)
        parts = []
        for turn in range(start // length_us, (end - 1) // length_us + 1):
            passed = turn * length_us
            first, last = np.searchsorted(times, (start - passed, end - passed))
            part = base[first:last].copy()
            part["t"] = times[first:last] + passed + began_us
            parts.append(part)
        events = np.concatenate(parts)
        time_base, payload = encoder.encode(events)
        packet = EventPacket(
            start * 1000, "bench_optical", traffic.height, traffic.width, number + 1, time_base, traffic.encoding,
            False, np.frombuffer(payload, np.uint8),
        )  # fmt: skip
        yield packet, len(events)


def _scene(width: int, height: int) -> np.ndarray:
    """Events of moving patterns with times of 0 to `_BASE_S`, EVENT_DTYPE [N]."""
    patterns = MovingPatterns(width, height, seed=0)
    model = EventModel(patterns.log_intensity(0.0), 0, seed=0)
    span_us = round(_BASE_S * 1e6)
    parts, count, seconds = [], 0, 1
    while count < _LEAST_BASE and seconds < 32:  # small sensors have few events: more of the scene makes up for it
        for t_us in range((seconds - 1) * span_us + _STEP_US, seconds * span_us + 1, _STEP_US):
            parts.append(model.advance(patterns.log_intensity(t_us / 1e6), t_us))
            count += len(parts[-1])
        seconds += 1
    events = np.concatenate(parts) if parts else np.empty(0, EVENT_DTYPE)
    events["t"] = (events["t"] - 1) // (seconds - 1)
    return events


def send(traffic: Traffic) -> Sent:
    """Wait for the node, send everything, and tell what was sent."""
    import rclpy
    from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
    from sensor_msgs.msg import CameraInfo

    from event_camera_msgs.msg import EventPacket as EventPacketMessage

    ready, total_events = [], 0
    for packet, events in packets(traffic):
        ready.append((packet.stamp_ns, serialize_event_packet(packet)))
        total_events += events
    rclpy.init(args=[])
    node = rclpy.create_node("bench_camera")
    qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = node.create_publisher(EventPacketMessage, traffic.events_topic, qos)
    info_publisher = node.create_publisher(CameraInfo, traffic.info_topic, qos_profile_sensor_data)
    give_up = time.monotonic() + WAIT_S
    while not (publisher.get_subscription_count() and info_publisher.get_subscription_count()):
        if time.monotonic() > give_up:
            raise RuntimeError(f"nobody has subscribed to {traffic.events_topic} within {WAIT_S:.0f} s")
        time.sleep(0.01)
    time.sleep(SETTLE_S)
    info = _camera_info(traffic)
    stop = threading.Event()
    thread = threading.Thread(target=_send_infos, args=(info_publisher, info, stop))
    thread.start()
    period_ns = round(1e9 / traffic.packets_per_s)
    began_ns, stamp_zero_ns = time.monotonic_ns(), time.time_ns()
    late_ns = 0
    for stamp_ns, message in ready:
        due_ns = began_ns + stamp_ns + period_ns  # a packet is sent when it is full
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)
        late_ns = max(late_ns, -left_ns)
        stamp = np.array(divmod(stamp_zero_ns + stamp_ns, 1_000_000_000), "<u4").tobytes()
        publisher.publish(b"".join((message[:4], stamp, memoryview(message)[12:])))
    seconds = (time.monotonic_ns() - began_ns) / 1e9
    stop.set()
    thread.join()
    time.sleep(SETTLE_S)  # the last ones are on their way
    node.destroy_node()
    rclpy.try_shutdown()
    return Sent(len(ready), total_events, sum(len(message) for _, message in ready), seconds, late_ns / 1e6)


def _send_infos(publisher: Any, message: Any, stop: threading.Event) -> None:
    while True:
        now = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 1_000_000_000)
        publisher.publish(message)
        if stop.wait(INFO_PERIOD_S):
            return


def _camera_info(traffic: Traffic) -> Any:
    """Calibration of a lens with some distortion: the node has to rectify, as it does for real cameras."""
    from sensor_msgs.msg import CameraInfo

    focal = 0.9 * traffic.width
    info = CameraInfo(height=traffic.height, width=traffic.width, distortion_model="plumb_bob")
    info.header.frame_id = "bench_optical"
    k = [focal, 0.0, traffic.width / 2, 0.0, focal, traffic.height / 2, 0.0, 0.0, 1.0]
    info.d, info.k, info.r = [-0.2, 0.05, 0.0, 0.0, 0.0], k, np.eye(3).reshape(-1)
    info.p = np.hstack([np.reshape(k, (3, 3)), np.zeros((3, 1))]).reshape(-1)
    return info


def main(argv: list[str]) -> int:
    """Send what the JSON in the only argument asks for; returns the exit code."""
    try:
        traffic = Traffic(**json.loads(argv[0]))
        sent = send(traffic)
    except (RuntimeError, ValueError) as error:
        print(f"bench camera: {error}", file=sys.stderr)
        return 1
    report = Path(traffic.report)
    report.with_suffix(".part").write_text(json.dumps(asdict(sent)), encoding="utf-8")
    report.with_suffix(".part").rename(report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
