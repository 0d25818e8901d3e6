"""`sensor_msgs/msg/Image` to arrays and back, without importing ROS.

Foreign images are converted by cv_bridge where it is installed, which knows every encoding there is; otherwise by a
small equivalent for those that matter here. Messages are only ever touched by their fields, so that those of rclpy and
those read from a bag do equally.
"""

from __future__ import annotations

import array
import logging
from functools import lru_cache
from typing import Any

import numpy as np

_log = logging.getLogger(__name__)

# encoding: dtype without byte order, channels (sensor_msgs/image_encodings.hpp)
_ENCODINGS: dict[str, tuple[str, int]] = {
    "32FC1": ("f4", 1),
    "16UC1": ("u2", 1),
    "mono16": ("u2", 1),
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
}

ENCODINGS = tuple(_ENCODINGS)
"""Encodings that are converted without cv_bridge."""


@lru_cache(maxsize=1)
def _cv_bridge() -> Any | None:
    """Return a `CvBridge`, or None where it is missing or broken (older builds fail on NumPy 2)."""
    try:
        from cv_bridge import CvBridge

        return CvBridge()
    except ModuleNotFoundError as error:
        if error.name != "cv_bridge":
            _log.warning("cv_bridge is installed but lacks %s; only %s are converted", error.name, ", ".join(ENCODINGS))
        return None
    except (ImportError, AttributeError) as error:
        _log.warning(
            "cv_bridge is installed but does not load (%s); only %s are converted", error, ", ".join(ENCODINGS)
        )
        return None


def image_to_array(message: Any, use_cv_bridge: bool = True) -> np.ndarray:
    """Return an image message as an array in this machine's byte order.

    Args:
        message: anything with the fields of `sensor_msgs/msg/Image`.
        use_cv_bridge: whether to prefer cv_bridge where it is installed.

    Returns:
        [H, W] or [H, W, 3] of uint8, uint16 or float32, channels in the message's order. A view of the message's data
        where byte order and row padding allow; not to be written to.

    Raises:
        ValueError: the encoding is unknown, or the data is shorter than height and step say.
    """
    bridge = _cv_bridge() if use_cv_bridge else None
    known = _ENCODINGS.get(message.encoding)
    if known is None and bridge is None:
        raise ValueError(
            f"image encoding {message.encoding!r} needs cv_bridge, which is not installed; "
            f"without it these are converted: {', '.join(ENCODINGS)}"
        )
    if message.height < 1 or message.width < 1:
        raise ValueError(f"image of {message.width}x{message.height} pixels has no content; check who publishes it")
    data = np.frombuffer(message.data, np.uint8)
    if data.size < message.height * message.step:
        raise ValueError(
            f"image of {message.height} rows of {message.step} bytes has only {data.size} bytes; check who publishes it"
        )
    if known is None:
        return np.asarray(bridge.imgmsg_to_cv2(message, desired_encoding="passthrough"))  # type: ignore[union-attr]
    dtype = np.dtype(known[0]).newbyteorder(">" if message.is_bigendian else "<")
    channels = known[1]
    row_bytes = message.width * channels * dtype.itemsize
    if message.step < row_bytes:
        raise ValueError(
            f"{message.encoding} image of {message.width} columns needs {row_bytes} bytes a row, but its step is "
            f"{message.step}; check who publishes it"
        )
    # cv_bridge takes a row for whole pixels, so it shears padded ones, and fails on big-endian ones with NumPy 2.
    if bridge is not None and dtype.isnative and message.step % (channels * dtype.itemsize) == 0:
        return np.asarray(bridge.imgmsg_to_cv2(message, desired_encoding="passthrough"))
    rows = data[: message.height * message.step].reshape(message.height, message.step)[:, :row_bytes]  # less padding
    shape = (message.height, message.width) if channels == 1 else (message.height, message.width, channels)
    pixels = np.ascontiguousarray(rows).view(dtype).reshape(shape)
    return pixels.astype(dtype.newbyteorder("="), copy=False)


def array_to_image(pixels: np.ndarray, encoding: str, header: Any = None, message: Any = None) -> Any:
    """Fill an image message from an array.

    Args:
        pixels: [H, W] or, for rgb8 and bgr8, [H, W, 3], of the encoding's dtype.
        encoding: one of `ENCODINGS`.
        header: `std_msgs/msg/Header` to set, with stamp and optical frame; left alone if None.
        message: the message to fill; a new `sensor_msgs/msg/Image` of rclpy if None.

    Returns:
        The message: little-endian on little-endian machines, rows without padding.

    Raises:
        ValueError: the encoding is unknown, or the array does not fit it.
    """
    if encoding not in _ENCODINGS:
        raise ValueError(f"image encoding {encoding!r} is unknown; choose one of {', '.join(ENCODINGS)}")
    kind, channels = _ENCODINGS[encoding]
    if pixels.dtype.newbyteorder("=") != np.dtype(kind) or pixels.shape[2:] != ((channels,) if channels > 1 else ()):
        raise ValueError(f"an array {pixels.dtype} {list(pixels.shape)} is no {encoding} image")
    if pixels.ndim < 2:
        raise ValueError(f"an array of shape {list(pixels.shape)} is no image")
    if message is None:
        from sensor_msgs.msg import Image

        message = Image()
    if header is not None:
        message.header = header
    native: Any = np.ascontiguousarray(pixels, dtype=np.dtype(kind))
    message.height, message.width = native.shape[:2]
    message.encoding = encoding
    message.is_bigendian = int(not np.little_endian)
    message.step = native.shape[1] * channels * native.itemsize
    # rclpy takes an array.array as it is; from numpy it copies value by value, 48 ms for a megabyte.
    data = array.array("B")
    data.frombytes(memoryview(native).cast("B"))
    message.data = data
    return message


def depth_to_metres(message: Any, use_cv_bridge: bool = True) -> np.ndarray:
    """Return a depth image in metres (REP 118).

    Args:
        message: 32FC1 in metres, or 16UC1 (also called mono16) in millimetres where 0 means "unknown".
        use_cv_bridge: as in `image_to_array`.

    Returns:
        float32 [H, W] depth along z [m]; NaN where unknown. Its own memory.

    Raises:
        ValueError: the encoding is no depth encoding, or the image is damaged.
    """
    if message.encoding not in ("32FC1", "16UC1", "mono16"):
        raise ValueError(f"a depth image must be 32FC1 [m] or 16UC1 [mm], not {message.encoding!r}")
    pixels = image_to_array(message, use_cv_bridge)
    if message.encoding == "32FC1":
        return pixels.astype(np.float32)
    metres = pixels.astype(np.float32) * np.float32(0.001)
    metres[pixels == 0] = np.nan
    return metres
