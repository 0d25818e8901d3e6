"""The factor that a network's depth is off by, from the camera's own motion: for the whole picture, and place by place.

Each window says, with the one before it, how well every factor agrees with the events (`agreement`). That may be
little: where the camera hardly moves, nothing. So a Bayes filter over ln(factor), on a grid, joins what windows say of
the whole picture; while nothing is learnt its factor goes back to 1. Around it each part of the picture has a factor of
its own, by what windows say of its surroundings, remembered for as long as it is likely to be the same part of the
world. Things that move by themselves speak for another factor: places are heard one by one, so that none can outvote
the others however sure it is, and no place's factor may be far from the picture's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdt_ros.egomotion.agreement import Look, agreement
from sdt_ros.egomotion.tiles import AREA, at_cells, blurred, enlarged
from sdt_ros.egomotion.view import View

_GRID = np.linspace(-1.5, 1.5, 17)  # of ln(factor)
_FACTORS = np.exp(_GRID).astype(np.float32)
_LEAST = 1e-300  # of a belief, so that it has a logarithm
_TORN = 1.2  # of the prior's variance: a belief that is wider has two minds
_LEFT = 0.1  # of ln(factor), what windows that are sure of themselves are off by all the same


@dataclass(frozen=True, slots=True)
class ScaleConfig:
    """How far events are believed; the numbers are from simulated windows, docs/lab_notebook.md.

    Attributes:
        prior: standard deviation of ln(factor) of a picture while nothing is known.
        local: standard deviation of a place's ln(factor) from its picture's while nothing is known of it.
        memory_s: after so long what was learnt of the picture counts by 1/e [s]; 0 takes each window by itself.
        place_memory_s: the same of a place; pictures move, so that it is short.
        weight: log likelihood of a spike that agrees wholly [nats].
        independence: share of a picture's places that err each for itself; without it, what the texture or the odometry
            makes of all places together is believed more than many windows before.
        strays: share of the places that may follow something else than the world that stands still.
        most: largest difference of a place's ln(factor) from its picture's.
    """

    prior: float = 0.5
    local: float = 0.3
    memory_s: float = 1.0
    place_memory_s: float = 0.3
    weight: float = 0.1
    independence: float = 0.2
    strays: float = 0.2
    most: float = 0.4

    def __post_init__(self) -> None:
        for name in ("prior", "local", "memory_s", "place_memory_s", "weight", "independence", "strays", "most"):
            value = getattr(self, name)
            if not (0 < value < math.inf or (name.endswith("memory_s") and value == 0)):
                raise ValueError(f"{name} is {value}, expected a finite number above 0")
        if self.strays >= 1:
            raise ValueError(f"strays is {self.strays}, expected a share below 1")


class ScaleFilter:
    """Follows the factor over the windows of one camera.

    Args:
        config: how far events are believed.

    Attributes:
        ln_factor: of the picture, as it stands.
        deviation: standard deviation of `ln_factor`, 0.1 at least; about `config.prior` where nothing is known, more
            where two factors far apart are likely.
    """

    def __init__(self, config: ScaleConfig | None = None) -> None:
        self.config = config or ScaleConfig()
        self._end_ns: int | None = None
        self._tiles: NDArray[np.float64] | None = None  # what is believed of each [N, rows, columns]
        self._believe(_normal(_GRID, self.config.prior))

    def __call__(
        self, depth: NDArray[np.float32], end_ns: int, view: View, looks: Sequence[Look]
    ) -> NDArray[np.float32]:
        """A window's depth, brought to the scale that the events and the camera's motion ask for.

        Args:
            depth: float32 [h, w] of the window's picture [m], as the network gave it; NaN where unknown.
            end_ns: the window's end [ns]. Where it goes back, all begins anew.
            view: of the spikes' grid.
            looks: the window, and any before it, with the travel to its middle; empty where that is not known.

        Returns:
            float32 [h, w] metres, NaN where `depth` is.

        Raises:
            ValueError: the view is of another grid.
        """
        passed_s = self._pass_until(end_ns)
        if not looks:
            self._tiles = None
            return depth * np.float32(math.exp(self.ln_factor))
        found = agreement(looks, view, _FACTORS)
        # A blur is a mean, and the tiles around count whole. Each window is looked at as often as there are looks.
        evidence = self.config.weight / len(looks) * AREA * _evidence(blurred(found.across), blurred(found.within))
        heard = np.log((1 - self.config.strays) * _posterior(evidence) + self.config.strays / len(_GRID))
        picture = self.config.independence * heard.sum((1, 2)) / AREA  # so many places share what they know
        self._believe(_posterior(np.log(np.maximum(self._belief, _LEAST)) + picture))
        places = at_cells(self._places(evidence, passed_s), view, self.ln_factor)
        return depth * enlarged(np.exp(places), depth.shape)

    def deviation_beside(self, told: float) -> float:
        """Standard deviation of ln of the rescaled depth's scale, by what the network tells of it and what motion says.

        Where motion has said nothing beyond the prior, as of a camera that stands still or only turns, that is the
        network's word; where two factors far apart are likely, no better than this filter's.

        Args:
            told: by the network, of its own depth.
        """
        prior, variance = self.config.prior**2, self.deviation**2 - _LEFT**2
        if variance > _TORN * prior:
            return max(told, self.deviation)
        gained = max(0.0, 1 / max(variance, _LEAST) - 1 / prior)
        return min(told, math.hypot((told**-2 + gained) ** -0.5, _LEFT))

    def _pass_until(self, end_ns: int) -> float:
        """Let time go by; returns how much [s], infinite where all begins anew."""
        before, self._end_ns = self._end_ns, end_ns
        if before is None or end_ns <= before:
            self._believe(_normal(_GRID, self.config.prior))
            self._tiles = None
            return math.inf
        passed_s = (end_ns - before) / 1e9
        self._believe(_moves(passed_s, self.config.memory_s, 0.0, self.config.prior) @ self._belief)
        return passed_s

    def _believe(self, belief: NDArray[np.float64]) -> None:
        self._belief = belief / belief.sum()
        self.ln_factor = float(self._belief @ _GRID)
        self.deviation = math.sqrt(_LEFT**2 + float(self._belief @ (_GRID - self.ln_factor) ** 2))

    def _places(self, evidence: NDArray[np.float64], passed_s: float) -> NDArray[np.float64]:
        """ln(factor) of each tile [rows, columns], by what windows say of each [N, rows, columns]."""
        config = self.config
        if self._tiles is None:
            known = np.broadcast_to(_normal(_GRID - self.ln_factor, config.local)[:, None, None], evidence.shape)
        else:
            known = np.tensordot(_moves(passed_s, config.place_memory_s, self.ln_factor, config.local), self._tiles, 1)
        allowed = (np.abs(_GRID - self.ln_factor) <= config.most)[:, None, None]
        self._tiles = _posterior(np.where(allowed, evidence + np.log(np.maximum(known, _LEAST)), -np.inf))
        places: NDArray[np.float64] = np.einsum("n,nij->ij", _GRID, self._tiles)
        return places


def _evidence(across: NDArray[np.floating], within: NDArray[np.floating]) -> NDArray[np.float64]:
    """The bins' correlation for each factor [N, ...], times how much there is to compare at a factor of 1."""
    share = np.divide(across, within, out=np.zeros(across.shape), where=within > 1e-3)
    return share * within[len(_GRID) // 2]


def _posterior(log_belief: NDArray[np.float64]) -> NDArray[np.float64]:
    belief = np.exp(log_belief - log_belief.max(0))
    return belief / belief.sum(0)


def _moves(passed_s: float, memory_s: float, rest: float, deviation: float) -> NDArray[np.float64]:
    """What becomes of a belief over ln(factor) as time passes [to, from]: it goes back to a normal one about `rest`."""
    kept = math.exp(-passed_s / memory_s) if memory_s else 0.0
    return _normal((_GRID - rest)[:, None] - kept * (_GRID - rest), deviation * math.sqrt(1 - kept * kept))


def _normal(x: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """A normal density on a grid, each column of sum 1; no narrower than the grid can hold."""
    density: NDArray[np.float64] = np.exp(-0.5 * (x / max(deviation, 0.5 * (_GRID[1] - _GRID[0]))) ** 2)
    return density / density.sum(0)
