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


@dataclass(frozen=True, eq=False)
class Travel:
    """How far a camera goes from the middle of each bin of a window to the middle of the window.

    Turns are small, so that they add up like distances.

    Attributes:
        shift: float64 [T, 3], the integral of the linear velocity [m], negative where the bin lies behind.
        turn: float64 [T, 3], the integral of the angular velocity [rad].
    """

    shift: NDArray[np.float64]
    turn: NDArray[np.float64]

    @classmethod
    def steady(cls, twist: Twist, window_s: float, bins: int) -> Travel:
        """At the same velocity all the time.

        Args:
            twist: the velocity.
            window_s: duration of the window [s].
            bins: T.
        """
        seconds = window_s * (0.5 - (np.arange(bins) + 0.5) / bins)
        return cls(seconds[:, None] * twist.linear, seconds[:, None] * twist.angular)
