"""How a camera moves within a window, from the robot's odometry."""

from __future__ import annotations

import bisect
import threading
from typing import Any

import numpy as np

from sdt_ros.egomotion.mounting import Mounting
from sdt_ros.egomotion.twist import Travel, Twist, adjoint

NEAREST_NS = 100_000_000
"""An odometry message further away in time than this says nothing of a window [ns]."""

FASTEST = 1e3
"""Velocities above are no robot's [m/s, rad/s]."""

_KEPT = 2000  # messages: seconds, at any rate


class CameraMotion:
    """Collects `nav_msgs/msg/Odometry` and `/tf_static`; may be asked from another thread.

    The twist of an odometry message is that of its `child_frame_id`, in its axes (REP 105, `nav_msgs/Odometry`). Where
    the camera's optical frame is another, `/tf_static` must say how it is mounted there.

    Args:
        kept: messages that are kept; all if None.
        hears_static: whether `take_static` will be called at all.

    Attributes:
        problem: why the travel asked for last is not known; empty where it is.
        messages: taken so far.
    """

    def __init__(self, kept: int | None = _KEPT, hears_static: bool = True) -> None:
        self._hears_static = hears_static
        self.problem = ""
        self.messages = 0
        self._kept = kept
        self._mounting = Mounting()
        self._stamps: list[int] = []
        self._twists: list[Twist] = []
        self._frame = ""
        self._refused = ""
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget all odometry; how frames are mounted stays."""
        with self._lock:
            self.problem = self._refused = self._frame = ""
            self.messages = 0
            self._stamps, self._twists = [], []

    def take(self, message: Any) -> None:
        """Take a `nav_msgs/msg/Odometry`; one whose velocity is no number is a problem, not an error."""
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        linear, angular = message.twist.twist.linear, message.twist.twist.angular
        with self._lock:
            self.messages += 1
            try:
                twist = Twist([linear.x, linear.y, linear.z], [angular.x, angular.y, angular.z])  # type: ignore[arg-type]
            except ValueError as error:
                self._refused = f"odometry at {stamp_ns} ns: {error}"
                return
            if max(np.abs(twist.linear).max(), np.abs(twist.angular).max()) > FASTEST:
                self._refused = f"odometry at {stamp_ns} ns: a velocity above {FASTEST:g} m/s or rad/s"
                return
            self._refused = ""
            frame = message.child_frame_id
            if frame != self._frame or (self._stamps and stamp_ns < self._stamps[-1] - NEAREST_NS):
                self._stamps, self._twists, self._frame = [], [], frame  # another robot, or the clock was set back
            place = bisect.bisect(self._stamps, stamp_ns)
            self._stamps.insert(place, stamp_ns)
            self._twists.insert(place, twist)
            if self._kept is not None:
                del self._stamps[: -self._kept], self._twists[: -self._kept]

    def take_static(self, message: Any) -> None:
        """Take a `tf2_msgs/msg/TFMessage` of `/tf_static`."""
        with self._lock:
            self._mounting.take(message)

    def travel(
        self, camera_frame: str, end_ns: int, window_s: float, bins: int, moment_ns: float | None = None
    ) -> Travel | None:
        """How the camera moves from each bin of a window to a moment; None where not known, `problem` says why.

        Args:
            camera_frame: the optical frame that the events are of.
            end_ns: the window's end [ns].
            window_s: its duration [s].
            bins: of the window.
            moment_ns: the moment [ns]; the window's middle if None.
        """
        at = end_ns - window_s * 1e9 * (1 - (np.arange(bins) + 0.5) / bins)
        middle = end_ns - window_s * 0.5e9
        moment = middle if moment_ns is None else moment_ns
        with self._lock:
            first = bisect.bisect_left(self._stamps, min(at[0], moment))
            last = bisect.bisect_right(self._stamps, max(at[-1], moment))
            first, last = max(0, first - 1), min(len(self._stamps), last + 1)
            stamps, twists = np.array(self._stamps[first:last], float), self._twists[first:last]
            frame = self._frame
            pose = self._mounting.pose(frame, camera_frame)
            if not stamps.size or np.abs(stamps - middle).min() > NEAREST_NS:
                newest = (
                    f", the newest is {(middle - self._stamps[-1]) / 1e9:.3g} s before them" if self._stamps else ""
                )
                self.problem = self._refused or f"no odometry within {NEAREST_NS / 1e6:g} ms of the events{newest}"
                return None
        if not frame or not camera_frame:
            lacking = "the odometry has no child_frame_id" if not frame else "the events have no frame_id: set frame_id"
            self.problem = f"{lacking}, so that nobody knows whose velocity it is"
            return None
        if pose is None:
            self.problem = (
                f"odometry is of frame {frame!r}, and /tf_static does not say how {camera_frame!r} is mounted on it: "
                "publish that transform, or give odometry of the camera"
                if self._hears_static
                else f"odometry is of frame {frame!r}, the camera's is {camera_frame!r}, and without the package "
                "tf2_msgs /tf_static is not heard: install it, or give odometry of the camera"
            )
            return None
        self.problem = ""
        velocity = np.array([[*twist.linear, *twist.angular] for twist in twists]) @ adjoint(*pose).T
        return Travel.along(at, moment, stamps, velocity)
