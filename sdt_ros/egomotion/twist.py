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
        moved = adjoint(rotation, offset) @ np.concatenate([self.linear, self.angular])
        return Twist(moved[:3], moved[3:])


def adjoint(rotation: ArrayLike, offset: ArrayLike) -> NDArray[np.float64]:
    """The matrix [6, 6] from a body's velocity, linear and angular, to that of something that is mounted on it.

    Args:
        rotation: [3, 3], from the mounted thing's axes to the body's.
        offset: [3], where it is mounted, in the body's axes [m].
    """
    back, offset = np.asarray(rotation, float).T, np.asarray(offset, float)
    return np.block([[back, -back @ _cross(offset)], [np.zeros((3, 3)), back]])


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
        gone = _integral(edges, stamps, np.asarray(velocity, float)) / 1e9
        steps = np.diff(gone, axis=0) / seconds[:, None]  # mean velocities
        half = _rotations(0.5 * seconds[:, None] * steps[:, 3:])
        rotations = np.empty((len(edges), 3, 3))
        rotations[0] = np.eye(3)
        for k, turn in enumerate(half @ half):
            rotations[k + 1] = rotations[k] @ turn
        moved = (rotations[:-1] @ half @ steps[:, :3, None])[..., 0] * seconds[:, None]  # along the axes of half-way
        positions = np.concatenate([np.zeros((1, 3)), np.cumsum(moved, axis=0)])
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
    """Of values [N, ...] that are linear between their stamps [N] and constant beyond them, from the first stamp on."""
    lasting = np.diff(stamps, append=stamps[-1])[:, None]  # each, until the next
    change = np.diff(values, append=values[-1:], axis=0)
    pieces = (values + 0.5 * change) * lasting
    before = np.cumsum(pieces, axis=0) - pieces  # of each stamp
    within = np.clip(at, stamps[0], stamps[-1])
    last = np.searchsorted(stamps, within, "right") - 1  # stamp before each
    into = (within - stamps[last])[:, None]
    share = np.divide(into, lasting[last], out=np.zeros_like(into), where=lasting[last] > 0)
    beyond = np.where((at < stamps[0])[:, None], values[0], values[-1]) * (at - within)[:, None]
    inside: NDArray[np.float64] = before[last] + (values[last] + 0.5 * share * change[last]) * into
    return inside + beyond


def _rotations(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotations [N, 3, 3] about vectors [N, 3], each by its length [rad]."""
    angle = np.maximum(np.linalg.norm(turns, axis=1), 1e-6)[:, None, None]  # of less, both quotients are the same
    cross = _cross(turns)
    rotations: NDArray[np.float64] = (
        np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * (cross @ cross)
    )
    return rotations


def _cross(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrices [..., 3, 3] that take the cross product of vectors [..., 3] with what they are multiplied by."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vectors.shape, 3)
