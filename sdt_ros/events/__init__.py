"""From the bytes of event packets to events and spike tensors."""

from sdt_ros.events.decoder import DecoderCounters, PacketDecoder
from sdt_ros.events.packet import EventPacket
from sdt_ros.events.sinks import EVENT_DTYPE

__all__ = ["EVENT_DTYPE", "DecoderCounters", "EventPacket", "PacketDecoder"]
