"""A world that is no place."""

from __future__ import annotations

import math

import numpy as np

from sdt_ros.simulation.scenes import BOX, CYLINDER, PLANE, SPHERE, SceneBuilder
from sdt_ros.simulation.world_parts import FACING, aslant, daylight, lamplight, vibrate


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
    vibrate(build, pitch=(0.001, 9.0), yaw=(0.001, 11.0), roll=(0.002, 7.0))
    fineness = math.exp(rng.uniform(math.log(0.3), math.log(2.0))) / size
    if alone or walled or not floored:
        away = size * rng.uniform(1.5, 2.5 if alone else 6)
        build.add(PLANE, [away, 0, 0], [1, 1, 1], tilt=aslant(rng, 0.9) @ FACING["-x"], tiling=fineness)
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
            int(kind), [ahead, *(ahead * rng.uniform(-0.8, 0.8, 2))], half, tilt=aslant(rng, np.pi),
            tiling=fineness * math.exp(rng.uniform(0, 1.5)), velocity=size * rng.normal(0, 0.3, 3) * moves,
            yaw_rate=rng.normal(0, 1.0) * moves,
        )  # fmt: skip
    (lamplight if walled else daylight)(build)
    return 0.25 * size
