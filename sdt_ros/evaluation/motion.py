"""Depth at the scale of a recording's odometry, as the node gives it with `~/odometry`."""

from __future__ import annotations

import numpy as np

from sdt_ros.bags import BagReader, deserialize, parse_event_packet
from sdt_ros.calibration import Calibration
from sdt_ros.egomotion import CameraMotion, Rescaler
from sdt_ros.evaluation.errors import EvaluationError
from sdt_ros.evaluation.source import Window
from sdt_ros.events.reduce import reduce_spikes, reduced_size

ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
_STATIC = "/tf_static"


class RecordedMotion:
    """Brings the depth of a bag's windows to the scale that its odometry asks for.

    Args:
        bag: the recording.
        topic: of the odometry.
        events_topic: whose frame the camera's is.
        calibration: of the camera.
        input_scale: of the network, which the node compares spikes at too.
        window_s: duration of a window [s].

    Raises:
        BagError: there is no such topic.
        EvaluationError: it is of another type, or empty, or the camera is not calibrated.
    """

    def __init__(
        self,
        bag: BagReader,
        topic: str,
        events_topic: str,
        calibration: Calibration | None,
        input_scale: float,
        window_s: float,
    ) -> None:
        if calibration is None:
            raise EvaluationError(
                f"{bag.path}: --odometry needs the camera's calibration; name its topic by --camera-info"
            )
        self._motion = CameraMotion(kept=None)
        for message in bag.messages([topic]):
            if message.type != ODOMETRY_TYPE:
                raise EvaluationError(f"{bag.path}: {topic} is of {message.type}, --odometry takes {ODOMETRY_TYPE}")
            self._motion.take(deserialize(message.type, message.data))
        if not self._motion.messages:
            raise EvaluationError(f"{bag.path}: {topic} has no messages; choose another topic by --odometry")
        for message in bag.messages([_STATIC]) if _STATIC in bag.topics else ():
            self._motion.take_static(deserialize(message.type, message.data))
        self._frame = ""
        for message in bag.messages([events_topic]):
            self._frame = parse_event_packet(message.data).frame_id
            break
        self._rescaler = Rescaler(self._motion)
        self._calibration, self._input_scale, self._window_s = calibration, input_scale, window_s
        self.windows = 0

    @property
    def counts(self) -> dict[str, int]:
        """Windows whose motion was known, and was not."""
        return {
            "windows_with_motion": self._rescaler.used,
            "windows_without_motion": self.windows - self._rescaler.used,
        }

    @property
    def problem(self) -> str:
        """Why the motion of the last window was not known; empty where it was."""
        return self._rescaler.problem

    def deviation_beside(self, told: float) -> float:
        """Standard deviation of ln(scale) of the last window's depth, of which the network tells its own."""
        return self._rescaler.deviation_beside(told)

    def __call__(self, window: Window, depth: np.ndarray) -> np.ndarray:
        """Depth float32 [H, W] metres of a window at the scale that is known by then.

        Raises:
            EvaluationError: the calibration is for another size; the node would not use odometry either.
        """
        self.windows += 1
        height, width = window.spikes.shape[2:]
        if misfit := self._calibration.misfit(height, width):
            raise EvaluationError(f"--odometry needs the camera's calibration: {misfit}")
        spikes = reduce_spikes(window.spikes, *reduced_size(height, width, self._input_scale))
        return self._rescaler(spikes, depth, self._calibration, self._frame, window.stamp_ns, self._window_s)
