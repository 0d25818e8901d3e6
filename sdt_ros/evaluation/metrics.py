"""The metrics of depth estimation, in float64, frame by frame and then averaged.

Sources: Eigen et al. 2014 (arXiv 1406.2283) for the set; E2Depth (arXiv 2010.08350) for SILog without a root and the
errors within 10, 20 and 30 m.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

NEAR_M = (10, 20, 30)
BANDS_M = ((0, 5), (5, 10), (10, 20), (20, 30), (30, 80))

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
    p, gt = prediction.astype(np.float64), truth.astype(np.float64)
    if not gt.size:
        return dict.fromkeys(METRICS, np.nan)
    error = p - gt
    absolute, squared = np.abs(error), error**2
    log_error = np.log(p) - np.log(gt)
    ratio = np.maximum(p / gt, gt / p)
    values = {
        "abs_rel": np.mean(absolute / gt),
        "sq_rel": np.mean(squared / gt),
        "sq_rel_squared": np.mean(squared / gt**2),
        "rmse": np.sqrt(np.mean(squared)),
        "rmse_log": np.sqrt(np.mean(log_error**2)),
        "silog": np.mean(log_error**2) - np.mean(log_error) ** 2,
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
        "mean_abs_error": np.mean(absolute),
        "mean_error": np.mean(error),
    }
    for limit in NEAR_M:
        near = absolute[gt < limit]
        values[f"mae_{limit}m"] = near.mean() if near.size else np.nan
    return {name: float(values[name]) for name in METRICS}


def band_metrics(prediction: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """The metrics of one frame for each of `BANDS_M`, from its near end to before its far end; with `pixels`."""
    rows = []
    for near, far in BANDS_M:
        inside = (truth >= near) & (truth < far)
        rows.append({**frame_metrics(prediction[inside], truth[inside]), "pixels": float(np.count_nonzero(inside))})
    return rows


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
