"""The truth of a recording: its depth images, on disk, and their stamps, checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdt_ros.bags import BagError, BagReader, deserialize
from sdt_ros.evaluation.errors import EvaluationError
from sdt_ros.evaluation.protocol import Protocol
from sdt_ros.evaluation.spool import Spool
from sdt_ros.images import depth_to_metres

IMAGE_TYPE = "sensor_msgs/msg/Image"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Truth:
    """Depth images of one topic, in the order of their stamps.

    Attributes:
        topic: where they come from.
        stamps: int64 [N] ns since the epoch, growing.
        frames: float32 [H, W] metres each.
        dropped: images left out because their stamps repeat or go back.
    """

    topic: str
    stamps: np.ndarray
    frames: Spool
    dropped: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width [px]."""
        height, width = self.frames[0].shape
        return height, width


def read_truth(bag: BagReader, topic: str, frames: Spool, protocol: Protocol, drop_bad_stamps: bool = False) -> Truth:
    """Read and check all depth images of a topic.

    Args:
        bag: the recording.
        topic: of `sensor_msgs/msg/Image` in 32FC1 [m] or 16UC1 [mm].
        frames: takes the images.
        protocol: which pixels count; an image without any is kept, a topic without any refused.
        drop_bad_stamps: leave out images whose stamps repeat or go back instead of refusing them.

    Raises:
        BagError: there is no such topic (the message lists those there are), or the bag is damaged.
        EvaluationError: an image is no depth image or of another size than the first, stamps repeat or go back, or no
            pixel counts.
    """
    known = bag.topics.get(topic)
    if known is not None and known.type != IMAGE_TYPE:
        raise EvaluationError(f"{bag.path}: {topic} is {known.type}; the truth must be {IMAGE_TYPE}: --truth-topic")
    stamps: list[int] = []
    bad: list[tuple[int, int]] = []  # (index, difference to the stamp before [ns])
    valid = False
    index = -1
    for index, message in enumerate(bag.messages([topic])):
        where = f"{bag.path}: {topic}, image {index}"
        try:
            image = deserialize(message.type, message.data)
            depth = depth_to_metres(image, use_cv_bridge=False)
        except (BagError, ValueError) as error:
            raise EvaluationError(f"{where}: {error}") from error
        stamp = image.header.stamp.sec * 1_000_000_000 + image.header.stamp.nanosec
        if stamps and stamp <= stamps[-1]:
            bad.append((index, stamp - stamps[-1]))
            continue
        if len(frames) and depth.shape != frames[0].shape:
            (height, width), first = depth.shape, frames[0].shape
            raise EvaluationError(
                f"{where} is {width}x{height} px, the first one {first[1]}x{first[0]}; record one camera on one topic"
            )
        stamps.append(stamp)
        frames.append(depth)
        valid = valid or bool(protocol.valid(depth).any())
    _check(bag, topic, index + 1, bad, valid, protocol, drop_bad_stamps)
    return Truth(topic, np.array(stamps, np.int64), frames, len(bad))


def _check(
    bag: BagReader,
    topic: str,
    images: int,
    bad: Sequence[tuple[int, int]],
    valid: bool,
    protocol: Protocol,
    drop_bad_stamps: bool,
) -> None:
    where = f"{bag.path}: {topic}"
    if not images:
        raise EvaluationError(f"{where} has no images; record again, or choose another by --truth-topic")
    if bad:
        repeated = sum(difference == 0 for _, difference in bad)
        index, difference = bad[0]
        kind = "repeats the stamp before" if difference == 0 else f"goes back by {-difference / 1e9:.6f} s"
        text = (
            f"{where}: of {images} stamps {repeated} repeat and {len(bad) - repeated} go back; "
            f"the first of them, that of image {index}, {kind}"
        )
        if not drop_bad_stamps:
            raise EvaluationError(f"{text}; correct the recording, or leave these images out: --drop-bad-stamps")
        _log.warning("%s; these images are left out", text)
    if not valid:
        hint = "; try --protocol none, which also takes the farthest pixels" if protocol.below_max else ""
        raise EvaluationError(f"{where}: none of {images} images, 0 to {images - 1}, has a valid pixel{hint}")


def onto(depth: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """A prediction [H, W] on the truth's grid, nearest neighbour: the truth itself is never resized.

    Args:
        depth: metres.
        size: height and width of the truth [px].
        where: file and topic of the truth, for the message.

    Raises:
        EvaluationError: the truth has another aspect.
    """
    (height, width), (rows, columns) = depth.shape, size
    if (height, width) == size:
        return depth
    if height * columns != width * rows:
        raise EvaluationError(
            f"{where}, image 0: the truth is {columns}x{rows} px, the sensor {width}x{height}: these are not the same "
            "view; bring the truth to the event camera's image first"
        )
    row = (2 * np.arange(rows) + 1) * height // (2 * rows)
    column = (2 * np.arange(columns) + 1) * width // (2 * columns)
    return depth[row[:, None], column]


def nearest(stamps: np.ndarray, stamp_ns: int, within_ns: int) -> int | None:
    """Index of the truth nearest in time, the earlier one of two; None where none is within that distance [ns]."""
    right = int(np.searchsorted(stamps, stamp_ns))
    candidates = [index for index in (right - 1, right) if 0 <= index < len(stamps)]
    index = min(candidates, key=lambda one: abs(int(stamps[one]) - stamp_ns))
    return index if abs(int(stamps[index]) - stamp_ns) <= within_ns else None
