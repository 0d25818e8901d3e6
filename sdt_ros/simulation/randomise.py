"""What differs from sample to sample besides the scene: lens, sensor, light, textures, pace and exposure."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from sdt_ros.simulation.camera import Camera
from sdt_ros.simulation.scenes import SceneBatch
from sdt_ros.simulation.sensor import SensorConfig

Range = tuple[float, float]
_LIMITS: dict[str, Range] = {
    "field_of_view_deg": (10, 150),
    "off_centre": (0, 0.2),
    "distortion": (-0.3, 0.1),
    "threshold": (0.01, 5),
    "threshold_spread": (0, 1),
    "refractory_us": (0, 1e6),
    "leak_hz": (0, 1e4),
    "shot_noise_hz": (0, 1e4),
    "hot_pixels": (0, 1),
    "bandwidth_hz": (10, 1e6),
    "light": (1e-4, 100),
    "contrast": (0, 4),
    "tiling": (0.05, 20),
    "softness": (0.01, 20),
    "pace": (0.05, 5),
    "exposure": (0.05, 20),
}
_BY_RATIO = {
    *("threshold", "refractory_us", "bandwidth_hz", "light", "contrast", "tiling", "softness", "pace", "exposure"),
}


@dataclass(frozen=True, slots=True)
class Randomisation:
    """Ranges to draw from, for each sample anew. Weights that have seen them do not count on one sensor or renderer.

    Attributes:
        field_of_view_deg: across the image [deg].
        off_centre: of the principal point, as a share of the image's width, to either side.
        distortion: radial, k1.
        threshold: of each polarity, drawn by itself within a third of a common value [log brightness].
        threshold_spread: from pixel to pixel, as a share of the threshold.
        refractory_us: see `SensorConfig`, as those below [us].
        leak_hz: [Hz].
        shot_noise_hz: [Hz].
        hot_pixels: share.
        bandwidth_hz: [Hz].
        light: factor of all light; at a low one the sensor's dark current takes contrast away.
        contrast: factor of the textures' contrast.
        tiling: factor of the textures' fineness.
        softness: of textures, see `SceneBatch`.
        pace: factor of the speed of everything, camera and things.
        exposure: factor of the frame's brightness.
    """

    field_of_view_deg: Range = (45.0, 100.0)
    off_centre: Range = (0.0, 0.04)
    distortion: Range = (-0.1, 0.0)
    threshold: Range = (0.1, 0.5)
    threshold_spread: Range = (0.05, 0.2)
    refractory_us: Range = (5.0, 1000.0)
    leak_hz: Range = (0.0, 0.3)
    shot_noise_hz: Range = (0.0, 3.0)
    hot_pixels: Range = (0.0, 5e-4)
    bandwidth_hz: Range = (150.0, 30000.0)
    light: Range = (0.1, 1.5)
    contrast: Range = (0.5, 3.0)
    tiling: Range = (0.3, 2.0)
    softness: Range = (0.1, 1.5)
    pace: Range = (0.5, 2.0)
    exposure: Range = (0.6, 1.3)

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most or (name in _BY_RATIO and low <= 0 < high):
                raise ValueError(f"{name}={low, high} must be a rising range within {least:g} to {most:g}")

    def _draw(self, rng: np.random.Generator, name: str) -> float:
        low, high = getattr(self, name)
        if name in _BY_RATIO and low > 0:
            return float(math.exp(rng.uniform(math.log(low), math.log(high))))
        return float(rng.uniform(low, high))

    def camera(self, rng: np.random.Generator, model: Camera) -> Camera:
        """Another lens in front of a camera's sensor."""
        fx = 0.5 * model.width / math.tan(math.radians(0.5 * self._draw(rng, "field_of_view_deg")))
        shift = rng.uniform(-1, 1, 2) * self._draw(rng, "off_centre") * model.width
        cx, cy = 0.5 * (model.width - 1) + float(shift[0]), 0.5 * (model.height - 1) + float(shift[1])
        fy = fx * model.fy / model.fx
        # r (1 + k r^2) turns back at r^2 = 1 / (3 |k|): keep the farthest corner a tenth inside of that.
        corner = math.hypot(max(cx, model.width - cx) / fx, max(cy, model.height - cy) / fy)
        strongest = (2 / 3 / (1.1 * corner)) ** 2 / 3
        k1 = max(self._draw(rng, "distortion"), -strongest)
        return Camera(model.width, model.height, fx, fy, cx, cy, k1)

    def sensor(self, rng: np.random.Generator) -> SensorConfig:
        """Another sensor."""
        common = self._draw(rng, "threshold")
        low, high = self.threshold
        on, off = (float(np.clip(common * math.exp(rng.uniform(-0.3, 0.3)), low, high)) for _ in range(2))
        return SensorConfig(
            threshold_on=on,
            threshold_off=off,
            threshold_spread=common * self._draw(rng, "threshold_spread"),
            refractory_us=round(self._draw(rng, "refractory_us")),
            leak_hz=self._draw(rng, "leak_hz"),
            shot_noise_hz=self._draw(rng, "shot_noise_hz"),
            hot_pixels=self._draw(rng, "hot_pixels"),
            bandwidth_hz=self._draw(rng, "bandwidth_hz"),
        )

    def scene(self, rng: np.random.Generator, scene: SceneBatch) -> SceneBatch:
        """Another light, other textures and another pace for a batch of one."""
        light, contrast, tiling = (self._draw(rng, name) for name in ("light", "contrast", "tiling"))
        softness, pace = self._draw(rng, "softness"), self._draw(rng, "pace")
        path = scene.path
        return dataclasses.replace(
            scene,
            ambient=scene.ambient * light,
            diffuse=scene.diffuse * light,
            sky=scene.sky * light,
            contrast=scene.contrast * contrast,
            tiling=scene.tiling * tiling,
            softness=scene.softness * softness,
            velocity=scene.velocity * pace,
            swing_hz=scene.swing_hz * pace,
            yaw_rate=scene.yaw_rate * pace,
            path=dataclasses.replace(path, rate=path.rate * pace, hz=path.hz * pace),
        )

    def exposed(self, rng: np.random.Generator) -> float:
        """Factor of the frame's brightness."""
        return self._draw(rng, "exposure")
