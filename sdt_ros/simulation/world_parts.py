"""What worlds of several families share: walls' directions, vibration, light."""

from __future__ import annotations

import math

import numpy as np

from sdt_ros.simulation.scenes import SceneBuilder

# Rotations of a plane's z to a wall's normal, with the texture's second axis upright.
FACING = {
    "+x": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "-x": np.array([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]]),
    "+y": np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]]),
    "-y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "-z": np.diag([1.0, -1, -1]),
}


def vibrate(build: SceneBuilder, **channels: tuple[float, float]) -> None:
    """Shake channels with about the given amplitude and frequency [Hz]."""
    for name, (amplitude, hz) in channels.items():
        build.sine(name, amplitude * build.rng.uniform(0.3, 1.3), hz * build.rng.uniform(0.7, 1.3))


def aslant(rng: np.random.Generator, most: float) -> np.ndarray:
    """A rotation by up to `most` [rad] about any axis: float64 [3, 3]."""
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = rng.uniform(0, most)
    return np.asarray(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)


def daylight(build: SceneBuilder) -> None:
    """Set a sun at any height, and a bright sky."""
    rng = build.rng
    angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.3)
    direction = [math.cos(angle) * math.cos(height), math.sin(angle) * math.cos(height), math.sin(height)]
    build.set_light(
        direction, rng.uniform(0.3, 0.6), rng.uniform(0.4, 1.0), rng.uniform(0.7, 1.5), rng.uniform(0, 0.08)
    )


def lamplight(build: SceneBuilder) -> None:
    """Set a lamp above, which may flicker."""
    rng = build.rng
    direction = [rng.normal(0, 0.6), rng.normal(0, 0.6), 1.0]
    build.set_light(direction, rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.7), 0.5, rng.uniform(0, 0.15))
