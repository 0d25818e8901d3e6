"""Message definitions for bags: those of ROS 2 as `rosbags` ships them, and EventPacket."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from .errors import BagError
from .packets import EVENT_PACKET_TYPE

# The field order and types that give the type hash of upstream's event_camera_msgs (checked in the tests).
_EVENT_PACKET_DEFINITION = """\
std_msgs/Header header
uint32 height
uint32 width
uint64 seq
uint64 time_base
string encoding
bool is_bigendian
uint8[] events
"""


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Return the types of ROS 2 Jazzy plus EventPacket; the common messages are the same on Humble to Lyrical."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(_EVENT_PACKET_DEFINITION, EVENT_PACKET_TYPE))
    return store


def _check_known(type_name: str) -> None:
    if type_name not in typestore().fielddefs:
        raise BagError(f"message type {type_name!r} is unknown; ROS 2's own and {EVENT_PACKET_TYPE} are known here")


def deserialize(type_name: str, data: bytes | memoryview) -> Any:
    """Return a CDR message as an object with the message's fields, arrays as numpy.

    Args:
        type_name: such as `sensor_msgs/msg/CameraInfo`.
        data: CDR, of either byte order.

    Raises:
        BagError: the type is unknown or the bytes do not fit it.
    """
    _check_known(type_name)
    try:
        return typestore().deserialize_cdr(data, type_name)
    except Exception as error:  # the generated deserialisers raise whatever the bytes lead them to
        raise BagError(f"these {len(data)} bytes are no {type_name}: {error or type(error).__name__}") from error


def message_class(type_name: str) -> Any:
    """Return the class for messages of a type, to build one that `serialize` takes."""
    _check_known(type_name)
    return typestore().types[type_name]


def serialize(message: Any) -> bytes:
    """Return the little-endian CDR bytes of a message built from `message_class`."""
    return bytes(typestore().serialize_cdr(message, message.__msgtype__))
