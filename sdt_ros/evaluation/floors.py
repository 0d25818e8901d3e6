"""What a guess without any events would score: the floors that a score has to be judged by.

Both are made from the very truth that they are scored on, which is the best that guesses of their kind can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from sdt_ros.evaluation.protocol import Protocol

Frames = Callable[[], Iterator[np.ndarray]]


def constant_median(frames: Frames, protocol: Protocol) -> float:
    """The median of all valid truth [m]; the lower one of the two in the middle where their number is even.

    Exact, and in little memory: floats above 0 are ordered as their bits are, so that two passes, over the upper and
    the lower half of the bits, find the one in the middle by counting.

    Args:
        frames: makes an iterator over the truth, float32 [H, W] metres each; called twice.
        protocol: which pixels count.

    Raises:
        ValueError: no pixel counts.
    """
    upper = np.zeros(1 << 16, np.int64)
    for frame in frames():
        upper += np.bincount(_bits(frame, protocol) >> 16, minlength=upper.size)
    total = int(upper.sum())
    if not total:
        raise ValueError("the truth has no valid pixel")
    rank = (total - 1) // 2
    half = int(np.searchsorted(np.cumsum(upper), rank, "right"))
    rank -= int(upper[:half].sum())
    lower = np.zeros(1 << 16, np.int64)
    for frame in frames():
        bits = _bits(frame, protocol)
        lower += np.bincount(bits[bits >> 16 == half] & 0xFFFF, minlength=lower.size)
    rest = int(np.searchsorted(np.cumsum(lower), rank, "right"))
    return float(np.array(half << 16 | rest, np.uint32).view(np.float32))


def _bits(frame: np.ndarray, protocol: Protocol) -> np.ndarray:
    valid = np.ascontiguousarray(frame[protocol.valid(frame)], np.float32)
    if protocol.far_m is not None:
        valid = np.minimum(valid, np.float32(protocol.far_m))
    return valid.view(np.uint32)


def mean_log_map(frames: Frames, protocol: Protocol, elsewhere_m: float) -> np.ndarray:
    """For each pixel the geometric mean of its valid truth over all frames: float64 [H, W] metres.

    Args:
        frames: as for `constant_median`.
        protocol: which pixels count.
        elsewhere_m: for pixels that never have a valid truth [m].
    """
    total: np.ndarray | None = None
    for frame in frames():
        if total is None:
            total, count = np.zeros(frame.shape), np.zeros(frame.shape, np.int64)
        valid = protocol.valid(frame)
        depth = frame[valid].astype(np.float64)
        if protocol.far_m is not None:
            depth = np.minimum(depth, protocol.far_m)
        total[valid] += np.log(depth)
        count[valid] += 1
    if total is None:
        raise ValueError("there is no truth")
    means: np.ndarray = np.where(count > 0, np.exp(total / np.maximum(count, 1)), elsewhere_m)
    return means
