"""The windows of spikes in a bag, as the node would see them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from sdt_ros.bags.errors import BagError
from sdt_ros.bags.packets import EVENT_PACKET_TYPE, parse_event_packet
from sdt_ros.bags.reader import BagReader, open_bag
from sdt_ros.bags.types import deserialize
from sdt_ros.events import EventStream, SpikeWindow, WindowConfig

_log = logging.getLogger(__name__)

CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"


def events_topic(bag: BagReader, name: str | None = None) -> str:
    """The topic of event packets: the one named, or else the first there is.

    Raises:
        BagError: there is none, or the one named is another; the message lists what there is.
    """
    of_packets = event_topics(bag)
    if name in of_packets or (name is None and of_packets):
        return name or of_packets[0]
    there = ", ".join(f"{info.name} ({info.type})" for info in bag.topics.values()) or "none"
    wanted = f"topic {name}" if name else "topic"
    raise BagError(f"{bag.path} has no {wanted} of {EVENT_PACKET_TYPE}; there are: {there}")


def event_topics(bag: BagReader) -> list[str]:
    """All topics of event packets."""
    return [info.name for info in bag.topics.values() if info.type == EVENT_PACKET_TYPE]


def camera_info_topic(bag: BagReader, events: str) -> str | None:
    """The topic of the event camera's calibration: `camera_info` beside the events, or else the one of their frame.

    Another camera's would scale depth by another lens, and nothing would show it.

    Args:
        bag: the recording.
        events: topic of the event packets.

    Returns:
        Its name; None where none lies beside the events, and not exactly one has their `frame_id`.
    """
    there = [info.name for info in bag.topics.values() if info.type == CAMERA_INFO_TYPE]
    beside = events.rpartition("/")[0] + "/camera_info"
    if beside in there:
        return beside
    frame = _frame_id(bag, events)
    of_camera = [name for name in there if frame and _frame_id(bag, name) == frame]
    return of_camera[0] if len(of_camera) == 1 else None


def _frame_id(bag: BagReader, topic: str) -> str:
    """The frame of a topic's first message; empty where there is none or it cannot be read."""
    for message in bag.messages([topic]) if topic in bag.topics else ():
        try:
            if message.type == EVENT_PACKET_TYPE:
                return parse_event_packet(message.data).frame_id
            return str(deserialize(message.type, message.data).header.frame_id)
        except BagError:
            break
    return ""


def spike_windows(
    path: str | Path,
    bins: int = 4,
    window_ms: float = 50.0,
    rate_hz: float = 20.0,
    scale: float = 1.0,
    min_events: int = 1,
    topic: str | None = None,
) -> Iterator[SpikeWindow]:
    """Decode and bin a bag's events.

    Args:
        path: bag folder or file.
        bins: time bins T of a window.
        window_ms: duration of a window [ms].
        rate_hz: windows per second of sensor time [Hz].
        scale: size of the spike tensors as a fraction of the sensor's.
        min_events: windows with fewer are left out.
        topic: of the event packets; the first there is by default.

    Yields:
        Each finished window, with spikes uint8 [T, 2, H, W] of its own memory.

    Raises:
        BagError: the bag cannot be read, or has no such topic.
        ValueError: a parameter is out of range. Packets that cannot be decoded are left out and told, as the node does.
    """
    finished: list[SpikeWindow] = []
    config = WindowConfig(window_ms=window_ms, bins=bins, rate_hz=rate_hz, min_events=min_events)
    stream = EventStream(config, lambda window: finished.append(window.detach()), scale)
    with open_bag(path) as bag:
        for _ in push_all(stream, bag, events_topic(bag, topic)):
            yield from finished
            finished.clear()


def push_all(stream: EventStream, bag: BagReader, topic: str) -> Iterator[None]:
    """Push a topic's packets into a stream, one for each step; those that it rejects are told once all are through.

    Raises:
        BagError: the bag cannot be read.
    """
    first = ""
    for number, message in enumerate(bag.messages([topic])):
        try:
            stream.push(parse_event_packet(message.data))
        except ValueError as error:
            first = first or f"packet {number}: {error}"
        yield
    if first:
        _log.warning(
            "%s: %s: %d packets could not be decoded, first %s", bag.path, topic, stream.packets.rejected, first
        )
