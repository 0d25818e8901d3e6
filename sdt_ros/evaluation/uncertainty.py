"""Is what a network says of its own uncertainty worth anything?

Two questions. Does the truth lie within what is told: within one deviation for 68 % of the pixels if errors are normal,
76 % if they are Laplace's, within two for 95 and 94 %. And are the pixels that it is sure of the right ones: how many
of the surest quarter are within a factor of 1.25 of the truth, of the surest half, and so on (sparsification, Ilg et
al., ECCV 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sdt_ros.evaluation.protocol import Protocol
from sdt_ros.evaluation.truth import onto

SHARES = (0.25, 0.5, 0.75, 1.0)
_DELTA = math.log(1.25)
_EDGES = np.linspace(-5.0, 3.0, 801)  # of ln(deviation): steps of a hundredth


class Reliability:
    """Counts over all pixels of all windows, in no more memory than one takes.

    Attributes:
        pixels: that were counted.
    """

    def __init__(self) -> None:
        self.pixels = 0
        self._within = np.zeros(2, np.int64)
        self._counts = np.zeros(len(_EDGES) - 1, np.int64)
        self._hits = np.zeros(len(_EDGES) - 1, np.int64)

    def add(self, off: np.ndarray, deviation: np.ndarray) -> None:
        """Take pixels.

        Args:
            off: |ln(estimate / truth)| [N].
            deviation: standard deviation of ln(depth) that was told [N], above 0.
        """
        place = np.clip(np.searchsorted(_EDGES, np.log(deviation)) - 1, 0, len(self._counts) - 1)
        self.pixels += off.size
        self._within += [np.count_nonzero(off <= deviation), np.count_nonzero(off <= 2 * deviation)]
        self._counts += np.bincount(place, minlength=len(self._counts))
        self._hits += np.bincount(place[off < _DELTA], minlength=len(self._counts))

    def figures(self) -> dict[str, Any] | None:
        """As plain values: shares, and deviations of ln(depth); None where nothing was counted."""
        if not self.pixels:
            return None
        wanted = np.array(SHARES) * self.pixels
        counts = np.cumsum(self._counts)
        last = np.searchsorted(counts, wanted)  # the bin that a share ends in
        part = 1 - (counts[last] - wanted) / self._counts[last]  # of it
        delta1 = (np.cumsum(self._hits)[last] - (1 - part) * self._hits[last]) / wanted
        deviation = np.exp(_EDGES[last] + part * (_EDGES[1] - _EDGES[0]))
        return {
            "pixels": self.pixels,
            "within_1_deviation": float(self._within[0]) / self.pixels,
            "within_2_deviations": float(self._within[1]) / self.pixels,
            "surest": [
                {"share": share, "deviation_up_to": float(most), "delta1": float(hit)}
                for share, most, hit in zip(SHARES, deviation, delta1, strict=True)
            ],
        }


class ReliabilityOfWindows:
    """The same of depth images and their truth.

    Args:
        protocol: which pixels count.
        where: what is scored, for messages.
        deviation: of the window that depth was last made of, float32 [h, w]; asked once for each.
    """

    def __init__(self, protocol: Protocol, where: str, deviation: Callable[[], np.ndarray]) -> None:
        self._protocol, self._where, self._deviation = protocol, where, deviation
        self.reliability = Reliability()

    def __call__(self, depth: np.ndarray, truth: np.ndarray, finish: Callable[[np.ndarray], np.ndarray]) -> None:
        """Take a window.

        Args:
            depth: float32 [h, w] metres, on the grid of the sensor.
            truth: [H, W] metres.
            finish: brings depth to the grid of the truth.
        """
        deviation = self._deviation()
        told = finish(deviation) / finish(np.ones_like(deviation))  # which may turn metres along another axis, too
        chosen = self._protocol.select(onto(finish(depth), truth.shape, self._where), truth)
        told = onto(told, truth.shape, self._where)[chosen.mask].astype(np.float64)
        off = np.abs(np.log(chosen.prediction / chosen.truth))
        known = np.isfinite(told)
        self.reliability.add(off[known], told[known])


def describe(figures: dict[str, Any]) -> str:
    """Figures in a line."""
    surest = ", ".join(f"{each['share']:.0%} {each['delta1']:.2f}" for each in figures["surest"])
    return (
        f"the truth is within one deviation for {figures['within_1_deviation']:.0%} of the pixels, within two for "
        f"{figures['within_2_deviations']:.0%}; delta < 1.25 of the surest {surest}"
    )
