"""One packet of events as a driver sends it, without ROS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class EventPacket:
    """The fields of `event_camera_msgs/msg/EventPacket` that this project uses.

    Attributes:
        stamp_ns: host clock at the arrival of the packet's first driver buffer [ns since the epoch].
        frame_id: optical frame of the camera.
        height: rows of the sensor [px].
        width: columns of the sensor [px].
        seq: number of the packet; a gap means lost packets.
        time_base: base time whose meaning depends on the encoding (ns for libcaer, libcaer_cmp and mono; else unused).
        encoding: name of the byte format, with optional `;key=value` suffixes.
        is_bigendian: whether the multi-byte words of the payload are big-endian.
        payload: the encoded events, uint8 [N]; a view, never written to.
    """

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    seq: int
    time_base: int
    encoding: str
    is_bigendian: bool
    payload: np.ndarray
