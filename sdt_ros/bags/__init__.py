"""ROS 2 bags without ROS: read and write them, and take `EventPacket` messages apart."""

from .errors import BagError
from .packets import EVENT_PACKET_TYPE, parse_event_packet, serialize_event_packet
from .reader import BagMessage, BagReader, TopicInfo, is_storage, open_bag
from .types import deserialize, serialize
from .windows import CAMERA_INFO_TYPE, camera_info_topic, event_topics, events_topic, push_all, spike_windows
from .writer import QOS_BEST_EFFORT, QOS_RELIABLE, BagWriter

__all__ = [
    "CAMERA_INFO_TYPE",
    "EVENT_PACKET_TYPE",
    "QOS_BEST_EFFORT",
    "QOS_RELIABLE",
    "BagError",
    "BagMessage",
    "BagReader",
    "BagWriter",
    "TopicInfo",
    "camera_info_topic",
    "deserialize",
    "event_topics",
    "events_topic",
    "is_storage",
    "open_bag",
    "parse_event_packet",
    "push_all",
    "serialize",
    "serialize_event_packet",
    "spike_windows",
]
