"""Camera calibration: read from a file, and depth brought from the sensor's distorted grid to the rectified one.

Source: REP 104 (CameraInfo) and the camera_calibration_parsers YAML.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np

from sdt_ros.lens import focal_length
from sdt_ros.text_files import TextFileError, read_yaml

COEFFICIENTS = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
"""Distortion models, and how many coefficients each has."""

LARGEST_SIDE = 1 << 16  # [px]
LARGEST_NUMBER = 1e12  # beyond it, sums and squares overflow or lose all digits
SHORTEST_FOCAL = 1e-3  # [px]
_SAMPLES = 4000  # of the distortion along a ray, to find where it turns back
_WIDEST_RAY = 20.0  # tangent of the widest angle off the axis at which a pixel can look
_TANGENTIAL_STEPS = 4


class CalibrationError(ValueError):
    """A calibration cannot be used; the message names it and the fix."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Intrinsics of one camera.

    Attributes:
        width: columns [px].
        height: rows [px].
        k: float64 [3, 3], intrinsics of the distorted image [px].
        d: float64 [N], distortion coefficients.
        model: name of the distortion model.
        r: float64 [3, 3], rotation to the rectified frame.
        p: float64 [3, 4], projection of the rectified image [px].
    """

    width: int
    height: int
    k: np.ndarray
    d: np.ndarray
    model: str
    r: np.ndarray
    p: np.ndarray

    @classmethod
    def from_message(cls, info: Any) -> Calibration | None:
        """From a `sensor_msgs/msg/CameraInfo`; None where it says that the camera is not calibrated (K[0] is 0).

        Raises:
            CalibrationError: the calibration cannot be used.
        """
        k = np.array(info.k, float).reshape(3, 3)
        if k[0, 0] == 0:
            return None
        roi = info.roi
        if max(info.binning_x, info.binning_y) > 1 or (roi.width, roi.height) not in (
            (0, 0),
            (info.width, info.height),
        ):
            raise CalibrationError("CameraInfo: binning and regions of interest are not supported; calibrate without")
        r, p = np.array(info.r, float).reshape(3, 3), np.array(info.p, float).reshape(3, 4)
        return cls._checked(
            info.width, info.height, k, np.array(info.d, float), info.distortion_model, r, p, "CameraInfo"
        )

    @classmethod
    def from_url(cls, url: str) -> Calibration:
        """From `file:///path/camera.yaml` or `package://package/path/camera.yaml`.

        Raises:
            CalibrationError: no such file, or not a calibration.
        """
        path = _resolve(url)
        try:
            content = read_yaml(path)
            matrices = {
                name: _numbers(content[key]["data"], shape)
                for name, key, shape in (
                    ("k", "camera_matrix", (3, 3)),
                    ("d", "distortion_coefficients", (-1,)),
                    ("r", "rectification_matrix", (3, 3)),
                    ("p", "projection_matrix", (3, 4)),
                )
            }
            size = int(content["image_width"]), int(content["image_height"])
            model = str(content.get("distortion_model") or content.get("camera_model") or "")
        except OSError as error:
            raise CalibrationError(f"calibration {path}: {error.strerror}") from error
        except TextFileError as error:
            raise CalibrationError(f"calibration {path}: {error}; give a file of camera_calibration") from error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CalibrationError(
                f"calibration {path} is not as camera_calibration writes it: {type(error).__name__} {error}"
            ) from error
        return cls._checked(*size, matrices["k"], matrices["d"], model, matrices["r"], matrices["p"], str(path))

    @classmethod
    def _checked(
        cls, width: int, height: int, k: np.ndarray, d: np.ndarray, model: str, r: np.ndarray, p: np.ndarray, name: str
    ) -> Calibration:
        if np.any(d) and model not in COEFFICIENTS:
            raise CalibrationError(f"{name}: unknown distortion model {model!r}; known are {', '.join(COEFFICIENTS)}")
        if np.any(d[COEFFICIENTS.get(model, 0) :]):
            raise CalibrationError(
                f"{name}: {model} has {COEFFICIENTS[model]} coefficients, not {len(d)}; calibrate without the others"
            )
        if max(width, height) > LARGEST_SIDE or min(width, height) < 0:
            raise CalibrationError(f"{name}: an image of {width}x{height} px makes no sense; calibrate again")
        if not all(np.all(np.abs(matrix) <= LARGEST_NUMBER) for matrix in (k, d, r, p)):  # nor NaN
            raise CalibrationError(
                f"{name}: all numbers must be finite and at most {LARGEST_NUMBER:g}; calibrate again"
            )
        if not np.any(r):
            r = np.eye(3)
        if not np.any(p):
            p = np.hstack([k, np.zeros((3, 1))])
        focal_lengths = (k[0, 0], k[1, 1], p[0, 0], p[1, 1])
        if min(focal_lengths) < SHORTEST_FOCAL:
            raise CalibrationError(f"{name}: focal lengths must be at least {SHORTEST_FOCAL:g} px; calibrate again")
        if not np.allclose(r @ r.T, np.eye(3), atol=1e-3):
            raise CalibrationError(f"{name}: the rectification matrix R is no rotation; calibrate again")
        if not np.allclose(p[2, :3], (0, 0, 1)):
            raise CalibrationError(
                f"{name}: the third row of the projection matrix P must begin 0 0 1; calibrate again"
            )
        if abs(np.linalg.det(p[:, :3])) < SHORTEST_FOCAL**2:
            raise CalibrationError(f"{name}: the projection matrix P maps a plane to a line; calibrate again")
        return cls(width, height, k, d, model, r, p)

    @property
    def focal_px(self) -> float:
        """Focal length of the distorted image, the geometric mean of both axes' [px]."""
        return focal_length(self.k)

    @property
    def is_rectified(self) -> bool:
        """Whether the sensor's grid is already that of the rectified image."""
        return not self.is_distorted and np.array_equal(self.r, np.eye(3)) and np.allclose(self.p[:, :3], self.k)

    @property
    def is_distorted(self) -> bool:
        """Whether the lens is no pinhole; an equidistant one is none even with all coefficients at zero."""
        return self.model == "equidistant" or bool(np.any(self.d))

    def equals(self, other: Calibration | None) -> bool:
        """Whether all numbers are the same."""
        return other is not None and all(
            np.array_equal(getattr(self, entry.name), getattr(other, entry.name)) for entry in fields(self)
        )

    def misfit(self, height: int, width: int) -> str:
        """Why this is no calibration of a sensor of that size; empty where it is one."""
        if (self.height, self.width) == (height, width):
            return ""
        return (
            f"the calibration is for {self.width}x{self.height} px, the sensor has {width}x{height}: it is not used, "
            "calibrate at the size that the camera sends"
        )

    def rectification(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel of the rectified image lies on the sensor, and how its depth follows from the sensor's.

        Depth is along the optical axis, and R turns that: the same point has another depth in the rectified frame. What
        is returned is made once, which takes tenths of a second for a large sensor, and cannot be written to.

        Returns:
            intp [height * width]: index of the nearest sensor pixel, height * width where the sensor does not see it.
            float32 [height * width]: rectified depth over sensor depth.
        """
        return self._maps

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.mgrid[0 : self.height, 0 : self.width]
        rays = np.stack([columns, rows, np.ones_like(rows)], -1).reshape(-1, 3) @ np.linalg.inv(self.p[:, :3]).T
        rays = rays @ self.r  # back from the rectified frame: R is orthonormal
        in_front = rays[:, 2] > 0
        z = np.where(in_front, rays[:, 2], 1.0)
        x, y = (rays[:, :2] / z[:, None]).T
        bent_x, bent_y = self._distorted(x, y)
        u = np.rint(self.k[0, 0] * bent_x + self.k[0, 1] * bent_y + self.k[0, 2])
        v = np.rint(self.k[1, 1] * bent_y + self.k[1, 2])
        seen = in_front & (u >= 0) & (u < self.width) & (v >= 0) & (v < self.height)
        seen &= np.hypot(x, y) <= self._widest(float(np.hypot(x, y)[in_front].max(initial=0.0)))
        source = np.full(seen.size, seen.size, np.intp)
        source[seen] = v[seen] * self.width + u[seen]
        ratio = (1 / z).astype(np.float32)
        source.flags.writeable = ratio.flags.writeable = False
        return source, ratio

    def _widest(self, limit: float) -> float:
        """The radius up to which distortion moves outward, at most `limit`.

        Behind it a polynomial turns back, and would show the sensor's pixels a second time.
        """
        if not self.is_distorted or limit == 0:
            return limit
        radius = np.tan(np.linspace(0, np.arctan(limit), _SAMPLES))
        turns = np.flatnonzero(np.diff(radius * self._radial(radius * radius)) <= 0)
        return float(radius[turns[0]]) if turns.size else limit

    def _radial(self, r2: np.ndarray) -> np.ndarray:
        """Distorted over undistorted radius, without tangential parts."""
        d = np.zeros(8)
        d[: len(self.d)] = self.d[:8]
        if self.model == "equidistant":
            radius = np.sqrt(r2)
            a2 = np.arctan(radius) ** 2
            bent = np.arctan(radius) * (1 + a2 * (d[0] + a2 * (d[1] + a2 * (d[2] + a2 * d[3]))))
            return np.where(radius > 1e-9, bent / np.maximum(radius, 1e-9), 1.0)
        k1, k2, _, _, k3, k4, k5, k6 = d
        with np.errstate(divide="ignore", invalid="ignore"):  # a pole far outside of the view
            ratio: np.ndarray = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        return ratio

    def _distorted(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the pinhole image plane to the lens's, both at distance 1."""
        if not self.is_distorted:
            return x, y
        r2 = x * x + y * y
        radial = self._radial(r2)
        if self.model == "equidistant":
            return x * radial, y * radial
        p1, p2 = (*self.d[2:4], 0.0, 0.0)[:2]
        return (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )

    def undistorted(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the lens's image plane to the pinhole's, both at distance 1; NaN where the lens shows nothing.

        Args:
            x: float64 [...].
            y: float64 [...].
        """
        if not self.is_distorted:
            return x, y
        widest = self._widest(_WIDEST_RAY)
        radius = np.tan(np.linspace(0, np.arctan(widest), _SAMPLES))
        bent = radius * self._radial(radius * radius)
        px, py = x, y
        for _ in range(_TANGENTIAL_STEPS):  # tangential parts are small: what they add is taken off first
            r2 = px * px + py * py
            whole, radial = self._distorted(px, py), self._radial(r2)
            from_x, from_y = x - (whole[0] - px * radial), y - (whole[1] - py * radial)
            distorted = np.hypot(from_x, from_y)
            grown = np.interp(distorted, bent, radius, right=np.nan)
            ratio = np.divide(grown, distorted, out=np.ones_like(grown), where=distorted > 1e-9)
            px, py = from_x * ratio, from_y * ratio
        return px, py


class CalibrationSource:
    """The camera's calibration as known now: from a file, or from the last message.

    Attributes:
        current: the calibration; None while there is none.
        frame_id: optical frame that its message names; empty for one from a file.
        changes: times that a message told another calibration than the one before it.
    """

    def __init__(self) -> None:
        self.current: Calibration | None = None
        self.frame_id = ""
        self.changes = 0
        self._problem = ""
        self._met: deque[Calibration] = deque(maxlen=2)  # two who publish in turn are told apart, not met anew

    def clear(self) -> None:
        """Forget it."""
        self.current, self.frame_id, self._problem, self.changes = None, "", "", 0

    def load(self, url: str) -> None:
        """Take it from a file; see `Calibration.from_url`."""
        self.current, self.frame_id, self._problem = Calibration.from_url(url), "", ""

    def take(self, info: Any) -> None:
        """Take it from a `sensor_msgs/msg/CameraInfo`; one that cannot be used is a problem, not an error."""
        try:
            calibration, self._problem = Calibration.from_message(info), ""
        except CalibrationError as error:
            calibration, self._problem = None, str(error)
        self.frame_id = "" if calibration is None else info.header.frame_id
        # Cameras repeat theirs many times a second: what has been worked out from it must stay good.
        if calibration is not None:
            known = next((one for one in self._met if calibration.equals(one)), None)
            if known is None:
                self._met.append(calibration)
            calibration = known or calibration
        self.changes += calibration is not self.current
        self.current = calibration

    def problem(self, height: int, width: int) -> str:
        """Why it cannot be used for a sensor of that size (0 where unknown); empty where it can, or there is none."""
        if self._problem or self.current is None or not height:
            return self._problem
        return self.current.misfit(height, width)

    def stranger(self, frame_id: str) -> str:
        """Why it may be another camera's than the events, which are of a frame; empty where nothing speaks for that."""
        names = [name.lstrip("/") for name in (self.frame_id, frame_id)]
        if not all(names) or names[0] == names[1]:
            return ""
        return (
            f"the calibration is of frame {names[0]!r}, the events are of {names[1]!r}: if these are two cameras, "
            "remap ~/camera_info to that of the event camera, or set camera_info_url"
        )


def _numbers(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise ValueError("`data` must be a list of numbers")
    return np.array(values, float).reshape(shape)


def _resolve(url: str) -> Path:
    parts = urlparse(url)
    path = unquote(parts.path)
    if parts.scheme == "file" and not parts.netloc:
        return Path(path)
    if parts.scheme == "package":
        try:
            from ament_index_python.packages import get_package_share_directory

            return Path(get_package_share_directory(parts.netloc), path.lstrip("/"))
        except (ImportError, LookupError, OSError) as error:
            raise CalibrationError(f"camera_info_url {url}: package {parts.netloc!r} is not found ({error})") from error
    raise CalibrationError(f"camera_info_url {url!r} is neither file:///path nor package://package/path")
