"""The metrics of depth estimation, in float64, frame by frame and then averaged.

Sources: Eigen et al. 2014 (arXiv 1406.2283) for the set; E2Depth (arXiv 2010.08350) for SILog without a root and the
errors within 10, 20 and 30 m.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from sdt_ros.compiled import njit

NEAR_M = (10, 20, 30)
BANDS_M = ((0.0, 0.3), (0.3, 1.0), (1.0, 3.0), (3.0, 10.0), (10.0, 30.0), (30.0, 80.0), (80.0, math.inf))
"""Bands of distance, each from its near end to before its far end [m]."""

METRICS: Mapping[str, tuple[str, str]] = {
    "abs_rel": ("Abs Rel", "mean of |D| / gt"),
    "sq_rel": ("Sq Rel", "mean of D^2 / gt [m]"),
    "sq_rel_squared": ("Sq Rel, gt^2", "mean of D^2 / gt^2"),
    "rmse": ("RMSE", "root of the mean of D^2 [m]"),
    "rmse_log": ("RMSE log", "root of the mean of d^2"),
    "silog": ("SILog", "mean of d^2 less the square of the mean of d, no root"),
    "delta1": ("delta < 1.25", "share of pixels with max(p / gt, gt / p) below 1.25"),
    "delta2": ("delta < 1.25^2", "the same below 1.25^2"),
    "delta3": ("delta < 1.25^3", "the same below 1.25^3"),
    "mean_abs_error": ("MAE", "mean of |D| [m]"),
    "mae_10m": ("MAE < 10 m", "mean of |D| where gt < 10 m [m]"),
    "mae_20m": ("MAE < 20 m", "mean of |D| where gt < 20 m [m]"),
    "mae_30m": ("MAE < 30 m", "mean of |D| where gt < 30 m [m]"),
    "mean_error": ("Mean error", "mean of D [m]; above 0 is too far"),
}
"""Name: (label, definition), with D = p - gt and d = ln p - ln gt."""

HIGHER_IS_BETTER = frozenset({"delta1", "delta2", "delta3"})


def frame_metrics(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """All metrics of one frame.

    Args:
        prediction: [N] metres, above 0.
        truth: [N] metres, above 0, of the same pixels.

    Returns:
        A value for each of `METRICS`; NaN where the frame has no pixel for it.
    """
    return Comparison(truth).metrics(prediction)[0]


def band_metrics(prediction: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """The metrics of one frame for each of `BANDS_M`, from its near end to before its far end; with `pixels`."""
    return Comparison(truth).metrics(prediction)[1]


class Comparison:
    """The truth of one frame, that several guesses are compared with.

    Args:
        truth: [N] metres, above 0.
    """

    def __init__(self, truth: np.ndarray) -> None:
        self.truth = np.ascontiguousarray(truth, np.float64)
        self._log = np.log(self.truth)
        self._median: float | None = None

    def metrics(
        self, prediction: np.ndarray, log_prediction: np.ndarray | None = None, scale: float = 1.0
    ) -> tuple[dict[str, float], list[dict[str, float]]]:
        """All metrics of a guess, and the same for each of `BANDS_M` with `pixels`.

        Args:
            prediction: [N] metres, above 0.
            log_prediction: its natural logarithm, where that is known already.
            scale: factor for the prediction.
        """
        p = np.ascontiguousarray(prediction, np.float64)
        log_p = np.log(p) if log_prediction is None else np.ascontiguousarray(log_prediction, np.float64)
        cells = np.zeros((len(_EDGES) + 1, _QUANTITIES))
        _add_up(p, self.truth, log_p, self._log, scale, math.log(scale), _EDGES, cells)
        bands = []
        for first, behind in _BAND_CELLS:
            band = _means(cells, first, behind)
            band["pixels"] = float(cells[first:behind, 0].sum())
            bands.append(band)
        return _means(cells, 0, len(cells)), bands

    def scale_of(self, prediction: np.ndarray) -> float:
        """The factor that makes the median of a guess that of the truth."""
        if not self.truth.size:
            return 1.0
        if self._median is None:
            self._median = float(np.median(self.truth))
        return self._median / float(np.median(prediction))


_EDGES = np.array(sorted({float(edge) for band in BANDS_M for edge in band if 0 < edge < math.inf} | set(NEAR_M)))
_QUANTITIES, _ABSOLUTE = 12, 10
_BLOCK = 256  # pixels added up before the sum goes to the total: rounding errors stay small


def _cell(edge_m: float) -> int:
    """The first of the cells between `_EDGES` that lies at or behind an edge."""
    return int(np.searchsorted(_EDGES, edge_m, "left")) + (edge_m > 0)


_BAND_CELLS = tuple((_cell(near), _cell(far)) for near, far in BANDS_M)
_NEAR_CELLS = tuple(_cell(limit) for limit in NEAR_M)


def _means(cells: np.ndarray, first: int, behind: int) -> dict[str, float]:
    """The metrics of the pixels in some of the cells."""
    sums = cells[first:behind].sum(0)
    if not sums[0]:
        return dict.fromkeys(METRICS, math.nan)
    _, rel, sq, sq_squared, squared, log_squared, log, one, two, three, absolute, error = (sums / sums[0]).tolist()
    values = {
        "abs_rel": rel,
        "sq_rel": sq,
        "sq_rel_squared": sq_squared,
        "rmse": math.sqrt(squared),
        "rmse_log": math.sqrt(log_squared),
        "silog": log_squared - log**2,
        "delta1": one,
        "delta2": two,
        "delta3": three,
        "mean_abs_error": absolute,
        "mean_error": error,
    }
    for limit, cell in zip(NEAR_M, _NEAR_CELLS, strict=True):
        pixels, near = cells[first : max(first, min(behind, cell)), (0, _ABSOLUTE)].sum(0).tolist()
        values[f"mae_{limit}m"] = near / pixels if pixels else math.nan
    return {name: values[name] for name in METRICS}


@njit(nogil=True, cache=True)
def _add_up(p, gt, log_p, log_gt, scale, log_scale, edges, cells):  # type: ignore[no-untyped-def]
    """Add up, by cells of distance, what all metrics are made of: pixels first, then one column a quantity."""
    part = np.zeros_like(cells)
    for start in range(0, p.size, _BLOCK):
        part[:] = 0
        for i in range(start, min(start + _BLOCK, p.size)):
            true = gt[i]
            cell = 0
            while cell < edges.size and true >= edges[cell]:
                cell += 1
            guess = p[i] * scale
            error = guess - true
            absolute = abs(error)
            relative = absolute / true
            difference = log_p[i] + log_scale - log_gt[i]
            ratio = max(guess / true, true / guess)
            row = part[cell]
            row[0] += 1.0
            row[1] += relative
            row[2] += absolute * relative
            row[3] += relative * relative
            row[4] += error * error
            row[5] += difference * difference
            row[6] += difference
            row[7] += ratio < 1.25
            row[8] += ratio < 1.25**2
            row[9] += ratio < 1.25**3
            row[10] += absolute
            row[11] += error
        cells += part


def median_scaled(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The prediction [N] times the factor that makes its median that of the truth: the scale is given away.

    Scores of it say how well the shape is seen. They are never to be mixed with metric ones.
    """
    if not truth.size:
        return prediction.astype(np.float64)
    scaled: np.ndarray = prediction.astype(np.float64) * (np.median(truth) / np.median(prediction))
    return scaled


@dataclass(frozen=True, slots=True)
class Average:
    """A metric over frames: its mean over those that have a value, and how many these are."""

    mean: float
    frames: int


class Averager:
    """Averages each metric over frames, one by one, leaving out frames without a value for it."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(METRICS, 0.0)
        self._frames = dict.fromkeys(METRICS, 0)

    def add(self, row: Mapping[str, float]) -> None:
        """Take one frame's metrics."""
        for name in METRICS:
            if math.isfinite(row[name]):
                self._sums[name] += row[name]
                self._frames[name] += 1

    def averages(self) -> dict[str, Average]:
        """The averages so far; NaN where no frame had a value."""
        return {
            name: Average(self._sums[name] / frames if frames else math.nan, frames)
            for name, frames in self._frames.items()
        }


def average(rows: Iterable[Mapping[str, float]]) -> dict[str, Average]:
    """The averages of the metrics of frames."""
    averager = Averager()
    for row in rows:
        averager.add(row)
    return averager.averages()
