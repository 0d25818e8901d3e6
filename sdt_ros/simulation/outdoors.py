"""Worlds under the sky: streets, and what a drone flies through."""

from __future__ import annotations

import numpy as np

from sdt_ros.simulation.scenes import BOX, CYLINDER, PLANE, SPHERE, SceneBuilder
from sdt_ros.simulation.world_parts import daylight, vibrate


def driving(build: SceneBuilder, seconds: float) -> float:
    """A street: buildings, trees, poles, parked and moving cars, pedestrians; 3 to 16 m/s. One in three is a canyon.

    One camera in six looks to a side.
    """
    rng = build.rng
    speed, canyon, aside = rng.uniform(3, 16), rng.random() < 1 / 3, rng.random() < 1 / 6
    length = speed * seconds + 110
    yaw = rng.choice([-1, 1]) * rng.uniform(0.5, 1.7) if aside else rng.normal(0, 0.08)
    build.start(z=rng.uniform(0.9, 2.4), yaw=yaw, pitch=rng.uniform(-0.14, 0.05))
    build.rate[0] = speed
    weave, hz = rng.uniform(0.1, 0.5), rng.uniform(0.08, 0.2)
    phase = build.sine("y", weave, hz)
    build.sine("yaw", weave * 2 * np.pi * hz / speed, hz, phase + np.pi / 2)  # the car points where it goes
    build.sine("x", speed * 0.1 / (2 * np.pi * 0.15), 0.15)  # brakes and accelerates by some 1 m/s^2
    vibrate(build, z=(0.02, 1.5), pitch=(0.006, 1.4), roll=(0.006, 1.1))
    vibrate(build, pitch=(0.0006, 22.0), yaw=(0.0003, 18.0), z=(0.001, 25.0))
    build.add(PLANE, [0, 0, 0], [1, 1, 1], tiling=rng.uniform(0.12, 0.3), albedo=rng.uniform(0.2, 0.5), contrast=0.6)
    for side in (-1, 1):
        edge = rng.uniform(6, 14)
        corner = -15.0 - 60.0 * aside
        while corner < length:
            wide, deep = rng.uniform(5, 16), rng.uniform(3, 8)
            tall = rng.uniform(6, 20) if canyon else rng.uniform(3, 16)
            if canyon or rng.random() < 0.8:
                centre = [corner + wide / 2, side * (edge + deep + rng.uniform(0, 2)), tall / 2]
                build.add(BOX, centre, [wide / 2, deep, tall / 2], tiling=rng.uniform(0.12, 0.35))
            corner += wide + (0.0 if canyon else rng.exponential(2.0))
        n = int(length / rng.uniform(6, 14))
        x = rng.uniform(0, length, n)
        y = side * rng.uniform(5.2, edge - 0.6, n)
        radius, high = rng.uniform(0.06, 0.3, n), rng.uniform(2.5, 8, n)
        build.add(CYLINDER, np.stack([x, y, high / 2], -1), np.stack([radius, radius, high / 2], -1), tiling=0.6)
        crown = rng.uniform(0.8, 2.0, n)
        tree = (rng.random(n) < 0.6) & (np.abs(y) > 4.5 + crown)
        build.add(
            SPHERE,
            np.stack([x, y, high], -1)[tree],
            crown[tree, None] * np.ones(3),
            tiling=0.35,
            albedo=rng.uniform(0.15, 0.4),
        )
        n = int(length / rng.uniform(8, 25))
        half = np.stack([rng.uniform(1.7, 2.4, n), rng.uniform(0.8, 1.0, n), rng.uniform(0.65, 1.1, n)], -1)
        y = np.full(n, -3.4 if side < 0 else 6.6)
        x = rng.uniform(0, length, n)
        build.add(BOX, np.stack([x, y, half[:, 2]], -1), half, yaw=rng.normal(0, 0.03, n), tiling=0.4)
        n = int(length / 20)
        x, y = rng.uniform(0, length, n), side * rng.uniform(4.6, edge, n)
        walk = np.stack([rng.normal(0, 1.2, n), rng.normal(0, 0.3, n), np.zeros(n)], -1)
        build.add(CYLINDER, np.stack([x, y, np.full(n, 0.87)], -1), [0.24, 0.24, 0.87], tiling=0.9, velocity=walk)
    n = max(1, int(length / 40))
    oncoming = np.stack([rng.uniform(10, 2 * length, n), np.full(n, 3.4), np.full(n, 0.8)], -1)
    build.add(BOX, oncoming, [2.1, 0.9, 0.8], tiling=0.45, velocity=[-rng.uniform(4, 14), 0, 0])
    if rng.random() < 0.6:
        build.add(
            BOX,
            [rng.uniform(9, 30), 0, 0.85],
            [2.2, 0.95, 0.85],
            tiling=0.45,
            velocity=[speed, 0, 0],
            swing=[1, 0, 0],
            swing_hz=0.2,
        )
    daylight(build)
    return 0.7


def flying(build: SceneBuilder, seconds: float) -> float:
    """A drone between buildings, masts, trees and hills: 2 to 10 m/s, banking, vibrating."""
    rng = build.rng
    speed = rng.uniform(2, 10)
    length = speed * seconds + 100
    build.start(z=rng.uniform(2.5, 9), pitch=rng.uniform(-0.35, -0.02))
    build.rate[0] = speed
    swing, hz = rng.uniform(0.5, 2.5), rng.uniform(0.08, 0.25)
    phase = build.sine("y", swing, hz)
    build.sine("roll", min(0.4, swing * (2 * np.pi * hz) ** 2 / 9.81 + 0.05), hz, phase + np.pi)  # banks into its turns
    build.sine("yaw", rng.uniform(0.1, 0.4), rng.uniform(0.05, 0.2))
    build.sine("z", rng.uniform(0.2, 1.0), rng.uniform(0.05, 0.25))
    build.sine("pitch", rng.uniform(0.02, 0.08), rng.uniform(0.2, 0.6))
    vibrate(build, pitch=(0.0006, 31.0), roll=(0.0008, 27.0), yaw=(0.0004, 24.0), z=(0.0005, 35.0))
    build.add(PLANE, [0, 0, 0], [1, 1, 1], tiling=rng.uniform(0.06, 0.2), albedo=rng.uniform(0.2, 0.55))

    def around(n: int, wide: float) -> tuple[np.ndarray, np.ndarray]:
        return rng.uniform(-5, length, n), rng.normal(0, wide, n)

    n = int(length / rng.uniform(5, 10))
    x, y = around(n, 22)
    half = np.stack([rng.uniform(1, 5, n), rng.uniform(1, 5, n), rng.uniform(0.5, 8, n)], -1)
    centre = np.stack([x, y, half[:, 2]], -1)
    build.add(BOX, centre, half, yaw=rng.uniform(0, np.pi, n), tiling=rng.uniform(0.12, 0.35, n))
    n = int(length / rng.uniform(3, 8))
    x, y = around(n, 12)
    radius, high = rng.uniform(0.06, 0.35, n), rng.uniform(4, 14, n)
    build.add(CYLINDER, np.stack([x, y, high / 2], -1), np.stack([radius, radius, high / 2], -1), tiling=0.6)
    tree = rng.random(n) < 0.5
    crown = rng.uniform(0.8, 2.5, n)[tree]
    build.add(SPHERE, np.stack([x, y, high], -1)[tree], crown[:, None] * np.ones(3), tiling=0.35)
    n = int(length / 20)
    x, y = around(n, 8)
    half = rng.uniform(0.3, 1.0, (n, 3))
    drift = np.stack([rng.normal(0, 2, n), rng.normal(0, 1, n), np.zeros(n)], -1)
    centre = np.stack([x, y, rng.uniform(1, 10, n)], -1)
    build.add(BOX, centre, half, tiling=0.7, velocity=drift, yaw_rate=rng.normal(0, 1, n))
    n = int(rng.integers(2, 6))
    angle, radius = rng.uniform(-0.9, 0.9, n), rng.uniform(60, 160, n)
    away = rng.uniform(140, 260, n) + radius
    centre = np.stack([length + away * np.cos(angle), away * np.sin(angle), -0.8 * radius], -1)
    build.add(SPHERE, centre, radius[:, None] * np.ones(3), tiling=0.02)
    daylight(build)
    return 1.0
