"""How frames of one robot are mounted on each other: what `/tf_static` says."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pose = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Rotation [3, 3] from a frame's axes to its parent's, and its place there [3] [m]."""


class Mounting:
    """The fixed transforms of a robot, as they come in.

    tf2 would also follow joints; a camera on one moves against the base, and the base's velocity is not all of its own.
    """

    def __init__(self) -> None:
        self._near: dict[str, dict[str, Pose]] = {}  # pose of the second frame in the first
        self._parents: dict[str, str] = {}

    def take(self, message: Any) -> None:
        """Take a `tf2_msgs/msg/TFMessage` of `/tf_static`; a transform that is none is left out.

        A frame has one parent, as in tf2: another one that is told later takes the place of the first.
        """
        for stamped in message.transforms:
            turn, shift = stamped.transform.rotation, stamped.transform.translation
            rotation = rotation_of(turn.x, turn.y, turn.z, turn.w)
            offset = np.array([shift.x, shift.y, shift.z], float)
            parent, child = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
            if rotation is None or not np.isfinite(offset).all() or parent == child:
                continue
            if (before := self._parents.get(child, parent)) != parent:
                self._near[before].pop(child, None)  # neither is there where two name each other as parents
                self._near[child].pop(before, None)
            self._parents[child] = parent
            self._near.setdefault(parent, {})[child] = rotation, offset
            self._near.setdefault(child, {})[parent] = rotation.T, -rotation.T @ offset

    def pose(self, base: str, frame: str) -> Pose | None:
        """Where a frame is on another; None where nothing fixed leads from one to the other."""
        base, frame = base.lstrip("/"), frame.lstrip("/")
        reached: dict[str, Pose] = {base: (np.eye(3), np.zeros(3))}
        ways = deque([base])
        while ways and frame not in reached:
            here = ways.popleft()
            rotation, offset = reached[here]
            for name, (turn, shift) in self._near.get(here, {}).items():
                if name not in reached:
                    reached[name] = rotation @ turn, offset + rotation @ shift
                    ways.append(name)
        return reached.get(frame)


def rotation_of(x: float, y: float, z: float, w: float) -> NDArray[np.float64] | None:
    """The rotation [3, 3] of a quaternion; None where it has no length."""
    q = np.array([x, y, z, w], float)
    length = float(np.linalg.norm(q))
    if not 1e-6 < length < np.inf:
        return None
    x, y, z, w = q / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
