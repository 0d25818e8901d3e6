"""What a recording should give, computed from the bag without ROS."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sdt_ros.bags import camera_info_topic, events_topic, open_bag, push_all
from sdt_ros.events import EventStream, SpikeWindow, WindowConfig

_NO_SPIKES = np.empty((0, 2, 0, 0), np.uint8)


@dataclass
class Expected:
    """A recording's windows and counts.

    Attributes:
        topic: of the event packets.
        info_topic: of the calibration; empty where there is none.
        windows: the windows that depth is due for; the first `shown` with their spikes.
        shown: how many of them have their spikes, to be drawn.
        due: windows that end within the recording.
        empty: those of them with too few events.
        events: events in any window.
        sensor_size: height and width [px].
        seconds: duration of the recording [s].
    """

    topic: str
    info_topic: str
    windows: list[SpikeWindow] = field(default_factory=list)
    shown: int = 0
    due: int = 0
    empty: int = 0
    events: int = 0
    sensor_size: tuple[int, int] = (0, 0)
    seconds: float = 0.0


def expect(bag: Path, config: WindowConfig, scale: float, topic: str | None = None, shown: int = 200) -> Expected:
    """Decode and bin a whole bag.

    Args:
        bag: folder or file.
        config: the node's windows.
        scale: size of the spike tensors as a fraction of the sensor's.
        topic: of the event packets; the first there is by default.
        shown: how many windows to keep the spikes of; a recording may be longer than memory.

    Raises:
        BagError: the bag cannot be read or has no such topic.
    """
    with open_bag(bag) as reader:
        packets = events_topic(reader, topic)
        expected = Expected(packets, camera_info_topic(reader, packets) or "")

        def keep(window: SpikeWindow) -> None:
            if len(expected.windows) < shown:
                window.detach()
                expected.shown += 1
            else:
                window.release()
                window.spikes = _NO_SPIKES
            expected.windows.append(window)

        stream = EventStream(config, keep, scale)
        for _ in push_all(stream, reader, expected.topic):
            pass
        expected.seconds = (reader.end_ns - reader.start_ns) / 1e9
    expected.due, expected.empty = stream.windows.due, stream.windows.empty
    expected.events, expected.sensor_size = stream.windows.events, stream.sensor_size
    return expected
