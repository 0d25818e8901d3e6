"""The windows of spikes in a bag, as the node would see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdt_ros.bags.errors import BagError
from sdt_ros.bags.packets import EVENT_PACKET_TYPE, parse_event_packet
from sdt_ros.bags.reader import BagReader, open_bag
from sdt_ros.events import EventStream, SpikeWindow, WindowConfig

CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"


def events_topic(bag: BagReader, name: str | None = None) -> str:
    """The topic of event packets: the one named, or else the first there is.

    Raises:
        BagError: there is none, or the one named is another; the message lists what there is.
    """
    of_packets = [info.name for info in bag.topics.values() if info.type == EVENT_PACKET_TYPE]
    if name in of_packets or (name is None and of_packets):
        return name or of_packets[0]
    there = ", ".join(f"{info.name} ({info.type})" for info in bag.topics.values()) or "none"
    wanted = f"topic {name}" if name else "topic"
    raise BagError(f"{bag.path} has no {wanted} of {EVENT_PACKET_TYPE}; there are: {there}")


def camera_info_topic(bag: BagReader, events: str) -> str | None:
    """The topic of the event camera's calibration: `camera_info` beside the events, or else the only one there is.

    Args:
        bag: the recording.
        events: topic of the event packets.

    Returns:
        Its name; None where there is none, or several of which none lies beside the events.
    """
    there = [info.name for info in bag.topics.values() if info.type == CAMERA_INFO_TYPE]
    beside = events.rpartition("/")[0] + "/camera_info"
    if beside in there:
        return beside
    return there[0] if len(there) == 1 else None


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
        ValueError: a packet cannot be decoded, or a parameter is out of range.
    """
    finished: list[SpikeWindow] = []
    config = WindowConfig(window_ms=window_ms, bins=bins, rate_hz=rate_hz, min_events=min_events)
    stream = EventStream(config, lambda window: finished.append(window.detach()), scale)
    with open_bag(path) as bag:
        for message in bag.messages([events_topic(bag, topic)]):
            stream.push(parse_event_packet(message.data))
            yield from finished
            finished.clear()
