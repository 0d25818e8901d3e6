"""Camera calibration: read from a file, and depth brought from the sensor's distorted grid to the rectified one.

Source: REP 104 (CameraInfo) and the camera_calibration_parsers YAML.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import yaml

COEFFICIENTS = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
"""Distortion models, and the coefficients each has."""


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
        """From a `sensor_msgs/msg/CameraInfo`; None where it says that the camera is not calibrated (K[0] is 0)."""
        k = np.array(info.k, float).reshape(3, 3)
        if k[0, 0] == 0:
            return None
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
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            matrices = {
                name: np.array(content[key]["data"], float).reshape(shape)
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
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CalibrationError(f"calibration {path} is no YAML: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
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
        if not all(np.all(np.isfinite(matrix)) for matrix in (k, d, r, p)) or k[0, 0] <= 0 or k[1, 1] <= 0:
            raise CalibrationError(f"{name}: focal lengths must be positive and all numbers finite; calibrate again")
        if not np.any(r):
            r = np.eye(3)
        if not np.any(p):
            p = np.hstack([k, np.zeros((3, 1))])
        return cls(width, height, k, d, model, r, p)

    @property
    def is_rectified(self) -> bool:
        """Whether the sensor's grid is already that of the rectified image."""
        return not np.any(self.d) and np.array_equal(self.r, np.eye(3)) and np.allclose(self.p[:, :3], self.k)

    def rectification(self) -> np.ndarray:
        """Where each pixel of the rectified image lies on the sensor.

        Returns:
            intp [height * width]: index of the nearest sensor pixel, height * width where it lies off the sensor.
        """
        rows, columns = np.mgrid[0 : self.height, 0 : self.width]
        rays = np.stack([columns, rows, np.ones_like(rows)], -1).reshape(-1, 3) @ np.linalg.inv(self.p[:, :3]).T
        rays = rays @ self.r  # back from the rectified frame: R is orthonormal
        in_front = rays[:, 2] > 0
        x, y = (rays[:, :2] / np.where(in_front, rays[:, 2], 1)[:, None]).T
        x, y = self._distorted(x, y)
        u = np.rint(self.k[0, 0] * x + self.k[0, 1] * y + self.k[0, 2])
        v = np.rint(self.k[1, 1] * y + self.k[1, 2])
        seen = in_front & (u >= 0) & (u < self.width) & (v >= 0) & (v < self.height)
        return np.where(seen, v * self.width + u, self.height * self.width).astype(np.intp)

    def _distorted(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not np.any(self.d):
            return x, y
        d = np.zeros(8)
        d[: len(self.d)] = self.d[:8]
        r2 = x * x + y * y
        if self.model == "equidistant":
            radius = np.sqrt(r2)
            angle = np.arctan(radius)
            a2 = angle * angle
            bent = angle * (1 + a2 * (d[0] + a2 * (d[1] + a2 * (d[2] + a2 * d[3]))))
            scale = np.where(radius > 1e-9, bent / np.maximum(radius, 1e-9), 1.0)
            return x * scale, y * scale
        k1, k2, p1, p2, k3, k4, k5, k6 = d
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        return (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )


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
