"""From the bytes of event packets to events and spike tensors."""

from sdt_ros.events.binning import bin_events
from sdt_ros.events.clock import SensorClock
from sdt_ros.events.decoder import DecoderCounters, PacketDecoder
from sdt_ros.events.packet import EventPacket
from sdt_ros.events.sinks import EVENT_DTYPE
from sdt_ros.events.spikes import SpikeWindow, WindowCounters
from sdt_ros.events.stream import EventStream, PacketCounters
from sdt_ros.events.windows import WindowConfig

__all__ = [
    "EVENT_DTYPE",
    "DecoderCounters",
    "EventPacket",
    "EventStream",
    "PacketCounters",
    "PacketDecoder",
    "SensorClock",
    "SpikeWindow",
    "WindowConfig",
    "WindowCounters",
    "bin_events",
]
