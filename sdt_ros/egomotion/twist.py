"""How a camera moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Twist:
    """Velocity of a body in its own axes, against the world that stands still.

    Attributes:
        linear: float64 [3] [m/s].
        angular: float64 [3] [rad/s].
    """

    linear: NDArray[np.float64]
    angular: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("linear", "angular"):
            value = np.array(getattr(self, name), np.float64)
            if value.shape != (3,) or not np.isfinite(value).all():
                raise ValueError(f"the {name} velocity is {value.tolist()}, expected three finite numbers")
            object.__setattr__(self, name, value)

    @classmethod
    def between(cls, rotations: ArrayLike, positions: ArrayLike, seconds: float) -> Twist:
        """The mean velocity between two poses that lie close together.

        Args:
            rotations: [2, 3, 3], from the body to the world.
            positions: [2, 3], of the body in the world [m].
            seconds: from the first pose to the second [s].

        Returns:
            The velocity in the axes of the middle between both.

        Raises:
            ValueError: the time is not positive.
        """
        if not seconds > 0:
            raise ValueError(f"the poses are {seconds} s apart, expected more than 0")
        first, second = np.asarray(rotations, float)
        turn = first.T @ second
        axis = 0.5 * np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        sine = float(np.linalg.norm(axis))
        angle = np.arctan2(sine, 0.5 * (np.trace(turn) - 1))
        rotation = axis * (angle / sine) if sine > 1e-12 else axis
        start, end = np.asarray(positions, float)
        moved = first.T @ (end - start)
        moved = moved - 0.5 * np.cross(rotation, moved)  # into the axes of the middle, for small turns
        return cls(moved / seconds, rotation / seconds)

    def of_point(self, rotation: ArrayLike, offset: ArrayLike) -> Twist:
        """The velocity of something that is mounted on this body.

        Args:
            rotation: [3, 3], from the mounted thing's axes to the body's.
            offset: [3], where it is mounted, in the body's axes [m].
        """
        turn = np.asarray(rotation, float)
        return Twist(turn.T @ (self.linear + np.cross(self.angular, np.asarray(offset, float))), turn.T @ self.angular)


_STEP_NS = 2.5e6  # along which the mean velocity stands for all


@dataclass(frozen=True, eq=False)
class Travel:
    """Where a moving camera sees at one moment what stood still since the middle of each bin of a window.

    A point P in the camera's axes then is at `turn @ P + shift` at that moment.

    Attributes:
        turn: float64 [T, 3, 3], rotations from the camera's axes in each bin to those of the moment.
        shift: float64 [T, 3] [m].
    """

    turn: NDArray[np.float64]
    shift: NDArray[np.float64]

    @classmethod
    def along(cls, at_ns: ArrayLike, moment_ns: float, stamps_ns: ArrayLike, velocity: ArrayLike) -> Travel:
        """Where it sees them after it has moved as measured, linearly between measurements and steadily beyond them.

        Args:
            at_ns: [T], middles of the bins [ns].
            moment_ns: the moment [ns].
            stamps_ns: [N], of the measurements, rising [ns].
            velocity: [N, 6], linear [m/s] and angular [rad/s], in the camera's axes.
        """
        at, stamps = np.asarray(at_ns, float), np.asarray(stamps_ns, float)
        begin, end = min(at.min(), moment_ns), max(at.max(), moment_ns)
        edges = np.unique(np.concatenate([at, [moment_ns], np.arange(begin, end, _STEP_NS)]))
        seconds = np.diff(edges) / 1e9
        gone = np.stack([_integral(edges, stamps, part) for part in np.asarray(velocity, float).T], -1) / 1e9
        steps = np.diff(gone, axis=0) / seconds[:, None]  # mean velocities
        rotations, positions = np.empty((len(edges), 3, 3)), np.zeros((len(edges), 3))
        rotations[0] = np.eye(3)
        for k, (step, time) in enumerate(zip(steps, seconds, strict=True)):
            turn = _rotation(0.5 * time * step[3:])
            halfway = rotations[k] @ turn
            positions[k + 1] = positions[k] + halfway @ step[:3] * time
            rotations[k + 1] = halfway @ turn
        bins, moment = np.searchsorted(edges, at), int(np.searchsorted(edges, moment_ns))
        back = rotations[moment].T
        return cls(back @ rotations[bins], (positions[bins] - positions[moment]) @ back.T)

    @classmethod
    def steady(cls, twist: Twist, window_s: float, bins: int) -> Travel:
        """To the middle of a window, at the same velocity all the time.

        Args:
            twist: the velocity.
            window_s: duration of the window [s].
            bins: T.
        """
        at_ns = 1e9 * window_s * (np.arange(bins) + 0.5) / bins
        return cls.along(at_ns, 0.5e9 * window_s, [0.0], [[*twist.linear, *twist.angular]])


def _integral(at: NDArray[np.float64], stamps: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of values that are linear between their stamps and constant beyond them, from the first stamp on."""
    within = np.clip(at, stamps[0], stamps[-1])
    before = np.clip(np.searchsorted(stamps, within, "right") - 1, 0, len(stamps) - 1)
    sums = np.concatenate([[0.0], np.cumsum(0.5 * (values[1:] + values[:-1]) * np.diff(stamps))])
    inside = sums[before] + 0.5 * (values[before] + np.interp(within, stamps, values)) * (within - stamps[before])
    beyond: NDArray[np.float64] = inside + np.where(at < stamps[0], values[0], values[-1]) * (at - within)
    return beyond


def _rotation(turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation [3, 3] about a vector by its length [rad]."""
    angle = float(np.linalg.norm(turn))
    x, y, z = turn
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    first, second = (np.sin(angle) / angle, (1 - np.cos(angle)) / angle**2) if angle > 1e-6 else (1.0, 0.5)
    return np.eye(3) + first * cross + second * cross @ cross
