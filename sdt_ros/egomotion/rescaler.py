"""Depth at the scale that the camera's motion asks for: what the node and the evaluation use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdt_ros.calibration import Calibration
from sdt_ros.egomotion.agreement import Look, in_cells
from sdt_ros.egomotion.odometry import CameraMotion
from sdt_ros.egomotion.scale import ScaleConfig, ScaleFilter
from sdt_ros.egomotion.view import View
from sdt_ros.events.reduce import reduce_spikes

MOST_CELLS = 60_000
"""Of the grid that spikes are warped on. Larger sensors see more of each motion, and can do with coarser cells."""

_SLACK_NS = 1_000_000  # two windows may overlap by so much and count as one behind the other


@dataclass(frozen=True, eq=False)
class _Window:
    """A window that later ones are compared with: spikes, depth in their cells [m], end [ns] and duration [s]."""

    spikes: NDArray[np.uint8]
    depth: NDArray[np.float32]
    stamp_ns: int
    window_s: float


class Rescaler:
    """Joins windows, the camera's calibration and its motion.

    Args:
        motion: of the camera.
        config: how far events are believed.

    Attributes:
        scale: the filter, with the factor as it stands.
        used: windows whose motion was known, since the lens was another.
    """

    def __init__(self, motion: CameraMotion, config: ScaleConfig | None = None) -> None:
        self._motion, self._config = motion, config
        self._view: View | None = None
        self._seen: Calibration | None = None
        self._start_over()
        self._known_ns = self._end_ns = 0

    def _start_over(self) -> None:
        self.scale = ScaleFilter(self._config)
        self.used = 0
        self._recent: list[_Window] = []

    @property
    def _remembers(self) -> bool:
        """Whether the camera's motion was known within the filter's memory."""
        return bool(self.used) and self._end_ns - self._known_ns <= 1e9 * self.scale.config.memory_s

    def deviation_beside(self, told: float) -> float:
        """Standard deviation of ln(scale) of the last window's depth; the network's word where nothing else is known.

        Args:
            told: by the network.
        """
        return self.scale.deviation_beside(told) if self._remembers else told

    @property
    def problem(self) -> str:
        """Why the scale is not known any more; empty while something is known, or nothing was asked."""
        return "" if self._remembers else self._motion.problem

    def __call__(
        self,
        spikes: NDArray[np.uint8],
        depth: NDArray[np.float32],
        calibration: Calibration,
        frame_id: str,
        stamp_ns: int,
        window_s: float,
        end_ns: int | None = None,
    ) -> NDArray[np.float32]:
        """A window's depth at the scale that is known now.

        Args:
            spikes: uint8 [T, 2, H, W] in {0, 1} of the sensor's picture, at any resolution.
            depth: float32 [h, w] of the same picture [m].
            calibration: of the sensor.
            frame_id: optical frame of the events.
            stamp_ns: end of the window [ns], on the clock of the odometry.
            window_s: its duration [s].
            end_ns: its end on the sensor's clock [ns], which is not set like the host's; `stamp_ns` if None.

        Returns:
            float32 [h, w] metres; `depth` as it is where no motion was known yet.
        """
        view = self.prepare(calibration, (spikes.shape[2], spikes.shape[3]))
        size = view.size
        self._end_ns = stamp_ns if end_ns is None else end_ns
        if spikes.shape[0] < 2:
            self._motion.problem = "windows of one bin show no motion: the scale is for networks of two bins or more"
            return depth
        now = _Window(reduce_spikes(spikes, *size).copy(), in_cells(depth, size), stamp_ns, window_s)
        looks = self._looks(now, frame_id)
        if looks:
            self.used += 1
            self._known_ns = self._end_ns
        return self.scale(depth, self._end_ns, view, looks) if self.used else depth

    def prepare(self, calibration: Calibration, size: tuple[int, int]) -> View:
        """Look through this lens from now on; before the first window is complete there is time for it.

        Args:
            calibration: of the sensor.
            size: rows and columns of its spikes.

        Returns:
            Where the cells that spikes are compared in look.
        """
        while size[0] * size[1] > MOST_CELLS:
            size = size[0] // 2, size[1] // 2
        if self._view is None or self._view.size != size or self._seen is not calibration:
            self._view, self._seen = View.of(calibration, size), calibration
            self._start_over()
        return self._view

    def _looks(self, now: _Window, frame_id: str) -> list[Look]:
        """The window, behind the last one that ended before it began if that is not long ago; empty without motion."""
        duration_ns = 1e9 * now.window_s
        begin_ns, middle_ns = now.stamp_ns - duration_ns, now.stamp_ns - 0.5 * duration_ns
        if self._recent and now.stamp_ns <= self._recent[-1].stamp_ns:  # a recording that starts over
            self._recent.clear()
        earlier = [each for each in self._recent if each.stamp_ns > begin_ns - duration_ns]
        self._recent = [*earlier, now]
        behind = [each for each in earlier if each.stamp_ns <= begin_ns + _SLACK_NS and _are_alike(each, now)][-1:]
        looks = []
        for each in (*behind, now):  # the last one leaves its problem, if it has any
            travel = self._motion.travel(frame_id, each.stamp_ns, each.window_s, len(each.spikes), middle_ns)
            if travel is not None:
                looks.append(Look(each.spikes, each.depth, travel))
            elif each is now:
                return []
        return looks


def _are_alike(one: _Window, other: _Window) -> bool:
    return one.spikes.shape == other.spikes.shape and one.window_s == other.window_s
