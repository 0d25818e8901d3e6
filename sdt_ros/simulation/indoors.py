"""Worlds between walls: corridors, rooms, table-tops."""

from __future__ import annotations

import math

import numpy as np

from sdt_ros.simulation.scenes import BOX, CYLINDER, PLANE, SPHERE, SceneBuilder
from sdt_ros.simulation.world_parts import FACING, lamplight, vibrate


def hallway(build: SceneBuilder, seconds: float) -> float:
    """A corridor with doors, cabinets, pillars and people, walked or driven through at 0.5 to 1.8 m/s; or a room."""
    rng = build.rng
    if rng.random() < 0.5:
        return _room(build)
    speed, end = rng.uniform(0.5, 1.8), rng.uniform(5, 45)
    end += speed * seconds
    left, right, high = rng.uniform(1.0, 2.2), rng.uniform(1.0, 2.2), rng.uniform(2.4, 3.4)
    build.start(z=rng.uniform(0.5, 1.7), yaw=rng.uniform(-0.2, 0.2), pitch=rng.uniform(-0.12, 0.08))
    build.rate[0] = speed
    build.sine("y", rng.uniform(0.05, 0.3), rng.uniform(0.1, 0.25))
    build.sine("yaw", rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.3))
    vibrate(build, z=(0.025, 1.8), y=(0.015, 0.9), roll=(0.015, 0.9), pitch=(0.01, 1.8))
    vibrate(build, pitch=(0.0008, 13.0), yaw=(0.0006, 11.0))
    build.add(PLANE, [0, 0, 0], [1, 1, 1], tiling=rng.uniform(0.3, 0.8))
    build.add(PLANE, [0, 0, high], [1, 1, 1], tilt=FACING["-z"], tiling=rng.uniform(0.3, 0.8))
    build.add(PLANE, [0, left, 0], [1, 1, 1], tilt=FACING["-y"], tiling=rng.uniform(0.25, 0.7))
    build.add(PLANE, [0, -right, 0], [1, 1, 1], tilt=FACING["+y"], tiling=rng.uniform(0.25, 0.7))
    build.add(PLANE, [end, 0, 0], [1, 1, 1], tilt=FACING["-x"], tiling=rng.uniform(0.3, 0.7))
    build.add(PLANE, [-4, 0, 0], [1, 1, 1], tilt=FACING["+x"], tiling=0.5)
    for wall, side in ((left, 1), (right, -1)):
        n = max(1, int(end / rng.uniform(2.5, 6)))
        x = rng.uniform(-1, end, n)
        door = np.stack([np.full(n, 0.45), rng.uniform(0.04, 0.08, n), np.full(n, 1.05)], -1)  # none in another's plane
        build.add(BOX, np.stack([x, np.full(n, side * wall), np.full(n, 1.05)], -1), door, tiling=0.5)
        n = int(end / rng.uniform(3, 12))
        half = np.stack([rng.uniform(0.2, 0.8, n), rng.uniform(0.1, 0.25, n), rng.uniform(0.2, 1.0, n)], -1)
        x = rng.uniform(1, end, n)
        build.add(BOX, np.stack([x, side * (wall - half[:, 1]), half[:, 2]], -1), half, tiling=rng.uniform(0.5, 1.2))
        n = int(end / rng.uniform(5, 20))
        x = rng.uniform(1, end, n)
        radius = rng.uniform(0.04, 0.2, n)
        centre = np.stack([x, side * (wall - radius), np.full(n, high / 2)], -1)
        build.add(CYLINDER, centre, np.stack([radius, radius, np.full(n, high / 2)], -1), tiling=1.0)
    n = int(end / 4)
    lamps = np.stack([np.linspace(1, end, n), np.zeros(n), np.full(n, high)], -1)
    build.add(BOX, lamps, [0.5, 0.15, 0.04], albedo=1.6, contrast=0.2)
    n = max(1, int(end / 12))
    x, y = rng.uniform(2, end, n), rng.uniform(-0.8 * right, 0.8 * left, n)
    walk = np.stack([rng.normal(0, 1.2, n), rng.normal(0, 0.05, n), np.zeros(n)], -1)
    build.add(CYLINDER, np.stack([x, y, np.full(n, 0.85)], -1), [0.23, 0.23, 0.85], tiling=0.9, velocity=walk)
    lamplight(build)
    return 0.35


def _room(build: SceneBuilder) -> float:
    """A room with furniture, seen from any place in it in any direction, by hand or from something that turns."""
    rng = build.rng
    front, back, left, right = rng.uniform(1.5, 7, 4)
    high = rng.uniform(2.3, 4.5)
    build.start(
        z=rng.uniform(0.5, 1.8), yaw=rng.uniform(0, 2 * np.pi), pitch=rng.normal(-0.1, 0.2), roll=rng.normal(0, 0.06)
    )
    for axis, most in (("x", 0.5), ("y", 0.5), ("z", 0.2)):
        build.sine(axis, rng.uniform(0.02, most), rng.uniform(0.1, 0.5))
    for axis, most in (("yaw", 0.35), ("pitch", 0.15), ("roll", 0.1)):
        build.sine(axis, rng.uniform(0.01, most), rng.uniform(0.1, 0.6))
    vibrate(build, pitch=(0.002, 7.0), yaw=(0.002, 8.0), roll=(0.002, 6.0), z=(0.002, 2.0))
    coarse = rng.uniform(0.2, 0.8, 6)
    build.add(PLANE, [0, 0, 0], [1, 1, 1], tiling=coarse[0])
    build.add(PLANE, [0, 0, high], [1, 1, 1], tilt=FACING["-z"], tiling=coarse[1])
    walls = (("-x", [front, 0, 0]), ("+x", [-back, 0, 0]), ("-y", [0, left, 0]), ("+y", [0, -right, 0]))
    for tiling, (facing, at) in zip(coarse[2:], walls, strict=True):
        build.add(PLANE, at, [1, 1, 1], tilt=FACING[facing], tiling=tiling)

    def places(n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.uniform(-back, front, n), rng.uniform(-right, left, n)

    n = int(rng.integers(0, 10))  # boxes: cupboards, crates, beds
    half = np.stack([rng.uniform(0.1, 0.8, n), rng.uniform(0.1, 0.5, n), rng.uniform(0.1, 1.1, n)], -1)
    build.add(
        BOX, np.stack([*places(n), half[:, 2]], -1), half, yaw=rng.uniform(0, np.pi, n), tiling=rng.uniform(0.5, 2)
    )
    n = int(rng.integers(0, 4))  # tables, with things on them
    for x, y in zip(*places(n), strict=True):
        wide, deep, top = rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.6), rng.uniform(0.4, 1.0)
        build.add(BOX, [x, y, top], [wide, deep, 0.02], tiling=rng.uniform(0.5, 2))
        feet = [[x + sx * (wide - 0.05), y + sy * (deep - 0.05), top / 2] for sx in (-1, 1) for sy in (-1, 1)]
        legs = np.array(feet)
        build.add(BOX, legs, [0.03, 0.03, top / 2 - 0.02], tiling=2.0)
        size = rng.uniform(0.04, 0.2, 3)
        build.add(BOX, [x, y, top + 0.02 + size[2]], size, yaw=rng.uniform(0, np.pi), tiling=rng.uniform(1, 4))
    n = int(rng.integers(0, 8))  # pictures and shelves
    for x, y in zip(*places(n), strict=True):
        deep, z = rng.uniform(0.02, 0.25), rng.uniform(0.6, high - 0.5)
        wide, tall = rng.uniform(0.15, 0.8), rng.uniform(0.1, 0.6)
        if rng.random() < 0.5:
            build.add(BOX, [x, rng.choice([left, -right]), z], [wide, deep, tall], tiling=rng.uniform(0.5, 2))
        else:
            build.add(BOX, [rng.choice([front, -back]), y, z], [deep, wide, tall], tiling=rng.uniform(0.5, 2))
    n = int(rng.integers(0, 4))
    radius, upright = rng.uniform(0.05, 0.3, n), rng.uniform(0.2, high / 2, n)
    build.add(CYLINDER, np.stack([*places(n), upright], -1), np.stack([radius, radius, upright], -1), tiling=1.0)
    radius = rng.uniform(0.08, 0.35, n)
    build.add(SPHERE, np.stack([*places(n), radius], -1), radius[:, None] * np.ones(3), tiling=rng.uniform(1, 3))
    n = int(rng.integers(0, 3))  # people
    walk = np.stack([rng.normal(0, 0.7, n), rng.normal(0, 0.7, n), np.zeros(n)], -1)
    build.add(CYLINDER, np.stack([*places(n), np.full(n, 0.85)], -1), [0.23, 0.23, 0.85], tiling=0.9, velocity=walk)
    lamplight(build)
    return 0.4


def tabletop(build: SceneBuilder, seconds: float) -> float:
    """A table in a room, with things on it, some of which roll and turn; the camera circles at 0.3 to 1.3 m.

    One table in three is larger than what the camera sees of it.
    """
    rng = build.rng
    top, large = 0.75, rng.random() < 1 / 3
    pitch, far = rng.uniform(-1.35, -0.25), math.exp(rng.uniform(math.log(0.35), math.log(1.3)))
    build.start(z=top + 0.04, yaw=rng.uniform(0, 2 * np.pi), pitch=pitch, roll=rng.normal(0, 0.1), distance=far)
    build.rate[3] = rng.uniform(-0.5, 0.5)
    build.sine("distance", far * rng.uniform(0.03, 0.15), rng.uniform(0.1, 0.4))
    build.sine("yaw", rng.uniform(0.05, 0.3), rng.uniform(0.1, 0.4))
    build.sine("pitch", rng.uniform(0.02, 0.1), rng.uniform(0.1, 0.5))
    for axis in "xy":
        build.sine(axis, rng.uniform(0.01, 0.08), rng.uniform(0.1, 0.4))
    build.sine("roll", rng.uniform(0.02, 0.15), rng.uniform(0.1, 0.4))
    vibrate(build, pitch=(0.002, 7.0), yaw=(0.002, 8.0), roll=(0.003, 6.0), z=(0.001, 9.0))  # a hand
    build.add(PLANE, [0, 0, 0], [1, 1, 1], tiling=rng.uniform(0.4, 1))
    build.add(PLANE, [0, 0, 2.6], [1, 1, 1], tilt=FACING["-z"], tiling=0.5)
    for facing, sign in (("+x", -1), ("-x", 1), ("+y", -1), ("-y", 1)):
        apart = sign * rng.uniform(1.6, 4.5)
        at = [apart, 0, 0] if "x" in facing else [0, apart, 0]
        build.add(PLANE, at, [1, 1, 1], tilt=FACING[facing], tiling=rng.uniform(0.3, 0.8))
    table = [rng.uniform(0.5, 0.9), rng.uniform(0.35, 0.6), 0.02]
    things = np.array(table[:2]) * 0.85
    if large:
        table = [rng.uniform(1.2, 1.8), rng.uniform(1.2, 1.8), 0.02]
    build.add(BOX, [0, 0, top - 0.02], table, tiling=rng.uniform(1.0, 2.5))
    legs = np.array([[sx * (table[0] - 0.05), sy * (table[1] - 0.05), top / 2] for sx in (-1, 1) for sy in (-1, 1)])
    build.add(BOX, legs, [0.025, 0.025, top / 2 - 0.02], tiling=2.0)
    for kind in (BOX, SPHERE, CYLINDER):
        n = int(rng.integers(2, 7))
        place = rng.uniform(-1, 1, (n, 2)) * things
        if kind == SPHERE:
            size = np.repeat(rng.uniform(0.015, 0.09, (n, 1)), 3, 1)
        elif kind == BOX:
            size = rng.uniform(0.015, 0.14, (n, 3))
        else:
            radius = rng.uniform(0.01, 0.07, n)
            size = np.stack([radius, radius, rng.uniform(0.02, 0.11, n)], -1)
        moves = rng.random(n) < 0.35
        swing = np.where(moves[:, None], np.append(rng.normal(0, 0.06, 2), 0.0), 0.0)
        turn = np.where(moves, rng.normal(0, 1.0, n), 0.0)
        centre = np.column_stack([place, top + size[:, 2]])
        build.add(
            kind, centre, size, yaw=rng.uniform(0, np.pi, n), tiling=rng.uniform(2, 7), swing=swing,
            swing_hz=rng.uniform(0.3, 1.0, n), swing_phase=rng.uniform(0, 6, n), yaw_rate=turn,
        )  # fmt: skip
    n = int(rng.integers(2, 6))  # furniture behind the table
    angle, away = rng.uniform(0, 2 * np.pi, n), rng.uniform(1.5, 3.5, n)
    size = np.stack([rng.uniform(0.2, 0.5, n), rng.uniform(0.2, 0.5, n), rng.uniform(0.3, 1.0, n)], -1)
    centre = np.stack([away * np.cos(angle), away * np.sin(angle), size[:, 2]], -1)
    build.add(BOX, centre, size, yaw=angle, tiling=rng.uniform(0.6, 1.5))
    lamplight(build)
    return 0.15
