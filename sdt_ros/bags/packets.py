"""`event_camera_msgs/msg/EventPacket` to and from CDR bytes, by hand.

The generic deserialisers copy the payload, which for this message is nearly everything. Here it stays a view of the
bytes that came from the bag. CDR (OMG DDSI-RTPS 10.2): four bytes of header, then each field aligned to its own size,
counted from behind the header; a string is its length with the closing NUL, then the bytes.
"""

from __future__ import annotations

import struct

import numpy as np

from sdt_ros.events.packet import EventPacket

from .errors import BagError

EVENT_PACKET_TYPE = "event_camera_msgs/msg/EventPacket"

_HEADER_BYTES = 4
_BYTE_ORDER = {b"\x00\x00": ">", b"\x00\x01": "<"}  # the encapsulations CDR_BE and CDR_LE
_NS = 1_000_000_000


class _Cursor:
    """Walks over CDR bytes, aligning as it goes."""

    def __init__(self, data: bytes | bytearray | memoryview, order: str) -> None:
        self.data = data
        self.order = order
        self.offset = _HEADER_BYTES

    def scalar(self, code: str) -> int:
        size = struct.calcsize(code)
        self.offset += -(self.offset - _HEADER_BYTES) % size
        (value,) = struct.unpack_from(self.order + code, self.data, self.offset)
        self.offset += size
        return int(value)

    def take(self, count: int, what: str) -> int:
        """Return the start of the next `count` bytes, and step over them."""
        start, end = self.offset, self.offset + count
        if end > len(self.data):
            raise BagError(
                f"{EVENT_PACKET_TYPE}: {what} of {count} bytes runs past the message's {len(self.data)} bytes"
            )
        self.offset = end
        return start

    def string(self, what: str) -> str:
        count = self.scalar("I")
        start = self.take(count, what)
        return bytes(self.data[start : start + max(count - 1, 0)]).decode("utf-8", "replace")


def parse_event_packet(data: bytes | bytearray | memoryview) -> EventPacket:
    """Take one serialised EventPacket apart.

    Args:
        data: the message as it lies in a bag or as a subscription with `raw=True` gives it.

    Returns:
        The packet; its payload (uint8 [N]) is a view of `data`, read-only where `data` is.

    Raises:
        BagError: the bytes are no plain CDR, or end too early.
    """
    encapsulation = bytes(data[:2])
    order = _BYTE_ORDER.get(encapsulation)
    if order is None:
        raise BagError(
            f"{EVENT_PACKET_TYPE}: the CDR encapsulation is {encapsulation.hex() or 'missing'}; only plain CDR is read"
        )
    cursor = _Cursor(data, order)
    try:
        sec, nanosec = cursor.scalar("i"), cursor.scalar("I")
        frame_id = cursor.string("frame_id")
        height, width = cursor.scalar("I"), cursor.scalar("I")
        seq, time_base = cursor.scalar("Q"), cursor.scalar("Q")
        encoding = cursor.string("encoding")
        is_bigendian = bool(cursor.scalar("B"))
        count = cursor.scalar("I")
    except struct.error as error:
        raise BagError(f"{EVENT_PACKET_TYPE}: truncated after {len(data)} bytes ({error})") from None
    start = cursor.take(count, "events")
    return EventPacket(
        stamp_ns=sec * _NS + nanosec,
        frame_id=frame_id,
        height=height,
        width=width,
        seq=seq,
        time_base=time_base,
        encoding=encoding,
        is_bigendian=is_bigendian,
        payload=np.frombuffer(data, np.uint8, count, start),
    )


def serialize_event_packet(packet: EventPacket) -> bytes:
    """Write a packet as little-endian CDR, byte for byte what ROS 2 on a little-endian machine sends."""
    out = bytearray(b"\x00\x01\x00\x00")

    def scalar(code: str, value: int) -> None:
        out.extend(bytes(-(len(out) - _HEADER_BYTES) % struct.calcsize(code)))
        out.extend(struct.pack("<" + code, value))

    def string(value: str) -> None:
        encoded = value.encode() + b"\x00"
        scalar("I", len(encoded))
        out.extend(encoded)

    sec, nanosec = divmod(packet.stamp_ns, _NS)
    scalar("i", sec)
    scalar("I", nanosec)
    string(packet.frame_id)
    scalar("I", packet.height)
    scalar("I", packet.width)
    scalar("Q", packet.seq)
    scalar("Q", packet.time_base)
    string(packet.encoding)
    scalar("B", packet.is_bigendian)
    payload = np.ascontiguousarray(packet.payload, dtype=np.uint8)
    scalar("I", payload.size)
    out.extend(payload.data)
    return bytes(out)
