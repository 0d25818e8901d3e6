"""Families of scenes: worlds and motions of one kind, drawn at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch

from sdt_ros.simulation.scenes import BOX, CYLINDER, PLANE, SPHERE, SceneBatch, SceneBuilder, clear_path, stack

# Rotations of a plane's z to a wall's normal, with the texture's second axis upright.
_FACING = {
    "+x": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "-x": np.array([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]]),
    "+y": np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]]),
    "-y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "-z": np.diag([1.0, -1, -1]),
}


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
    _vibrate(build, z=(0.02, 1.5), pitch=(0.006, 1.4), roll=(0.006, 1.1))
    _vibrate(build, pitch=(0.0006, 22.0), yaw=(0.0003, 18.0), z=(0.001, 25.0))
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
    _daylight(build)
    return 0.7


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
    _vibrate(build, z=(0.025, 1.8), y=(0.015, 0.9), roll=(0.015, 0.9), pitch=(0.01, 1.8))
    _vibrate(build, pitch=(0.0008, 13.0), yaw=(0.0006, 11.0))
    build.add(PLANE, [0, 0, 0], [1, 1, 1], tiling=rng.uniform(0.3, 0.8))
    build.add(PLANE, [0, 0, high], [1, 1, 1], tilt=_FACING["-z"], tiling=rng.uniform(0.3, 0.8))
    build.add(PLANE, [0, left, 0], [1, 1, 1], tilt=_FACING["-y"], tiling=rng.uniform(0.25, 0.7))
    build.add(PLANE, [0, -right, 0], [1, 1, 1], tilt=_FACING["+y"], tiling=rng.uniform(0.25, 0.7))
    build.add(PLANE, [end, 0, 0], [1, 1, 1], tilt=_FACING["-x"], tiling=rng.uniform(0.3, 0.7))
    build.add(PLANE, [-4, 0, 0], [1, 1, 1], tilt=_FACING["+x"], tiling=0.5)
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
    _lamplight(build)
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
    _vibrate(build, pitch=(0.002, 7.0), yaw=(0.002, 8.0), roll=(0.002, 6.0), z=(0.002, 2.0))
    coarse = rng.uniform(0.2, 0.8, 6)
    build.add(PLANE, [0, 0, 0], [1, 1, 1], tiling=coarse[0])
    build.add(PLANE, [0, 0, high], [1, 1, 1], tilt=_FACING["-z"], tiling=coarse[1])
    walls = (("-x", [front, 0, 0]), ("+x", [-back, 0, 0]), ("-y", [0, left, 0]), ("+y", [0, -right, 0]))
    for tiling, (facing, at) in zip(coarse[2:], walls, strict=True):
        build.add(PLANE, at, [1, 1, 1], tilt=_FACING[facing], tiling=tiling)

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
    _lamplight(build)
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
    _vibrate(build, pitch=(0.002, 7.0), yaw=(0.002, 8.0), roll=(0.003, 6.0), z=(0.001, 9.0))  # a hand
    build.add(PLANE, [0, 0, 0], [1, 1, 1], tiling=rng.uniform(0.4, 1))
    build.add(PLANE, [0, 0, 2.6], [1, 1, 1], tilt=_FACING["-z"], tiling=0.5)
    for facing, sign in (("+x", -1), ("-x", 1), ("+y", -1), ("-y", 1)):
        apart = sign * rng.uniform(1.6, 4.5)
        at = [apart, 0, 0] if "x" in facing else [0, apart, 0]
        build.add(PLANE, at, [1, 1, 1], tilt=_FACING[facing], tiling=rng.uniform(0.3, 0.8))
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
    _lamplight(build)
    return 0.15


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
    _vibrate(build, pitch=(0.0006, 31.0), roll=(0.0008, 27.0), yaw=(0.0004, 24.0), z=(0.0005, 35.0))
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
    _daylight(build)
    return 1.0


def clutter(build: SceneBuilder, seconds: float) -> float:
    """No place at all: things of any kind and size at any angle before a wall, over a floor, or both.

    One in six is a wall alone. The camera swings freely, and all lengths follow one that is 0.3 to 6 m. It is there to
    train on, for scenes of others that are none of the places above.
    """
    rng = build.rng
    size = math.exp(rng.uniform(math.log(0.3), math.log(6)))  # of all that follows
    alone, floored, walled = rng.random() < 1 / 6, rng.random() < 0.5, rng.random() < 0.75
    build.start(roll=rng.normal(0, 0.15))
    for axis in "xyz":  # at most 0.3 of the size aside, so that no plane is crossed
        build.sine(axis, size * rng.uniform(0.05, 0.3), rng.uniform(0.1, 0.6))
    for axis in ("yaw", "pitch", "roll"):
        build.sine(axis, rng.uniform(0.02, 0.25), rng.uniform(0.1, 0.6))
    _vibrate(build, pitch=(0.001, 9.0), yaw=(0.001, 11.0), roll=(0.002, 7.0))
    fineness = math.exp(rng.uniform(math.log(0.3), math.log(2.0))) / size
    if alone or walled or not floored:
        away = size * rng.uniform(1.5, 2.5 if alone else 6)
        build.add(PLANE, [away, 0, 0], [1, 1, 1], tilt=_aslant(rng, 0.9) @ _FACING["-x"], tiling=fineness)
    if floored and not alone:
        build.add(PLANE, [0, 0, -size * rng.uniform(0.5, 1.5)], [1, 1, 1], tiling=fineness)
    count = 0 if alone else int(rng.integers(1, 30))
    for kind in rng.choice([BOX, BOX, BOX, SPHERE, CYLINDER], count):
        ahead = size * math.exp(rng.uniform(math.log(0.45), math.log(4)))
        half = ahead * np.exp(rng.uniform(math.log(0.03), math.log(0.35), 3))
        if kind == SPHERE:
            half[:] = half[0]
        elif kind == CYLINDER:
            half[1] = half[0]
        elif rng.random() < 0.4:
            half[rng.integers(3)] = 0.01 * ahead  # a board
        moves = rng.random() < 0.2
        build.add(
            int(kind), [ahead, *(ahead * rng.uniform(-0.8, 0.8, 2))], half, tilt=_aslant(rng, np.pi),
            tiling=fineness * math.exp(rng.uniform(0, 1.5)), velocity=size * rng.normal(0, 0.3, 3) * moves,
            yaw_rate=rng.normal(0, 1.0) * moves,
        )  # fmt: skip
    (_lamplight if walled else _daylight)(build)
    return 0.25 * size


Family = Callable[[SceneBuilder, float], float]
"""Fills a builder for a recording of so many seconds; returns how far all things stay away from the camera [m]."""

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"driving": driving, "hallway": hallway, "tabletop": tabletop, "flying": flying, "clutter": clutter}
)

MIXED = ("driving", "hallway", "tabletop", "flying")
"""The families of `mixed`: those that are places."""


def sample_scenes(
    family: str, count: int, seconds: float, seed: int, textures: int, device: torch.device | str = "cpu"
) -> SceneBatch:
    """Draw scenes.

    Args:
        family: one of `FAMILIES`, or `mixed` for those of `MIXED` in turn.
        count: scenes B.
        seconds: how long the camera will move; the world is long enough for it.
        seed: equal seeds give equal scenes.
        textures: textures in the atlas.
        device: where the tensors go.

    Raises:
        ValueError: the family is unknown, or a number is not positive.
    """
    if family != "mixed" and family not in FAMILIES:
        raise ValueError(f"family {family!r} is unknown; choose one of {', '.join(FAMILIES)}, mixed")
    if count < 1 or not 0 < seconds <= 3600 or textures < 1:
        raise ValueError(f"cannot make {count} scenes of {seconds} s with {textures} textures")
    out, clearances = [], []
    for b in range(count):
        rng = np.random.default_rng([seed, 2, b])
        build = SceneBuilder(rng, textures)
        name = MIXED[b % len(MIXED)] if family == "mixed" else family
        clearances.append(FAMILIES[name](build, seconds))
        out.append(build)
    return clear_path(stack(out, device), seconds, torch.tensor(clearances, dtype=torch.float64, device=device))


def _vibrate(build: SceneBuilder, **channels: tuple[float, float]) -> None:
    """Shake channels with about the given amplitude and frequency [Hz]."""
    for name, (amplitude, hz) in channels.items():
        build.sine(name, amplitude * build.rng.uniform(0.3, 1.3), hz * build.rng.uniform(0.7, 1.3))


def _aslant(rng: np.random.Generator, most: float) -> np.ndarray:
    """A rotation by up to `most` [rad] about any axis: float64 [3, 3]."""
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = rng.uniform(0, most)
    return np.asarray(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)


def _daylight(build: SceneBuilder) -> None:
    rng = build.rng
    angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.3)
    direction = [math.cos(angle) * math.cos(height), math.sin(angle) * math.cos(height), math.sin(height)]
    build.set_light(
        direction, rng.uniform(0.3, 0.6), rng.uniform(0.4, 1.0), rng.uniform(0.7, 1.5), rng.uniform(0, 0.08)
    )


def _lamplight(build: SceneBuilder) -> None:
    rng = build.rng
    direction = [rng.normal(0, 0.6), rng.normal(0, 0.6), 1.0]
    build.set_light(direction, rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.7), 0.5, rng.uniform(0, 0.15))
