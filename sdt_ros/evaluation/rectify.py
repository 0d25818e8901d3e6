"""Depth on the rectified grid, as the node publishes it."""

from __future__ import annotations

import logging

import numpy as np

from sdt_ros.bags import BagReader, camera_info_topic, deserialize
from sdt_ros.calibration import Calibration, CalibrationError
from sdt_ros.evaluation.errors import EvaluationError

CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
_log = logging.getLogger(__name__)


class Rectifier:
    """Brings depth from the sensor's grid to the rectified one, where the recording has a calibration that says so.

    Attributes:
        text: what is done and why, for reports.
    """

    def __init__(self, calibration: Calibration | None, source: str) -> None:
        self._calibration = calibration
        self.text = f"no calibration on {source}: depth is on the sensor's grid"
        if calibration is not None:
            how = "already the rectified one" if calibration.is_rectified else "rectified by it, nearest neighbour"
            self.text = f"calibration of {source}: the sensor's grid is {how}"

    @classmethod
    def from_bag(cls, bag: BagReader, events_topic: str, info_topic: str | None = None) -> Rectifier:
        """Take the first calibration of a topic that is one; by default of `camera_info_topic`.

        Drivers send messages without one (K is zero) until theirs is loaded.

        Raises:
            BagError: there is no topic of the name given.
            EvaluationError: it is of another type.
        """
        topic = info_topic or camera_info_topic(bag, events_topic)
        if topic is None:
            return cls(None, str(bag.path))
        for message in bag.messages([topic]):
            if message.type != CAMERA_INFO_TYPE:
                wanted = f"--camera-info takes {CAMERA_INFO_TYPE}"
                raise EvaluationError(f"{bag.path}: {topic} is of {message.type}, {wanted}")
            try:
                calibration = Calibration.from_message(deserialize(message.type, message.data))
            except CalibrationError as error:  # the node goes on without it too
                _log.warning("%s: %s is not used: %s", bag.path, topic, error)
                break
            if calibration is not None:
                return cls(calibration, topic)
        return cls(None, topic)

    @property
    def calibration(self) -> Calibration | None:
        """The camera's; None where there is none."""
        return self._calibration

    def focal_px(self, height: int, width: int) -> float | None:
        """Focal length of a sensor of that size [px]; None where it is not known."""
        calibration = self._calibration
        return None if calibration is None or calibration.misfit(height, width) else calibration.focal_px

    def __call__(self, depth: np.ndarray) -> np.ndarray:
        """Depth [H, W] float32 metres on the rectified grid; NaN where the sensor does not see."""
        calibration = self._calibration
        if calibration is None or calibration.is_rectified:
            return depth
        if misfit := calibration.misfit(*depth.shape):
            _log.warning("%s", misfit)
            self._calibration, self.text = None, misfit
            return depth
        source, scale = calibration.rectification()
        padded = np.append(depth.reshape(-1), np.float32(np.nan))
        rectified: np.ndarray = (padded[source] * scale).reshape(depth.shape)
        return rectified
