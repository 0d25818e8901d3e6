"""All figures of an evaluation as plain data, for `--json`, the table and the report."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from sdt_ros.evaluation.metrics import BANDS_M, METRICS, Average
from sdt_ros.evaluation.predict import Predictions
from sdt_ros.evaluation.score import PREDICTION, Scores
from sdt_ros.evaluation.truth import Truth
from sdt_ros.network.energy import AC_PJ, MAC_PJ
from sdt_ros.runtime import DepthEstimator

PACKAGES = ("sdt_ros", "torch", "numpy", "numba", "rosbags")


def figures(
    settings: dict[str, Any], estimator: DepthEstimator, predictions: Predictions, scores: Scores, truth: Truth
) -> dict[str, Any]:
    """What there is to say about an evaluation. All but `timing` is the same each time, bit for bit.

    Returns:
        JSON-able; None where there is no value.
    """
    recording_s = settings["recording_s"]
    height, width = truth.size
    return {
        "trained": not estimator.is_untrained,
        "network": estimator.describe(),
        "settings": settings,
        "counts": {
            **predictions.counts,
            "frames_scored": len(scores.frames),
            "frames_without_pixels": scores.without_pixels,
            "pixels": scores.pixels,
            "missing_share": scores.missing_share,
        },
        "truth_size": [height, width],
        "definitions": {name: definition for name, (_, definition) in METRICS.items()},
        "metric": {guess: _means(row) for guess, row in scores.metric.items()},
        "median_scaled": {guess: _means(row) for guess, row in scores.scaled.items()},
        "floor_constant_m": scores.constant_m,
        "bands": [
            {
                "from_m": near,
                "to_m": far,
                "pixel_share": scores.band_pixels[band],
                "frames": scores.bands[PREDICTION][band]["abs_rel"].frames,
                **{guess: _means(rows[band]) for guess, rows in scores.bands.items()},
            }
            for band, (near, far) in enumerate(BANDS_M)
        ],
        "frames": [
            {
                "stamp_ns": predictions.windows[frame.index].stamp_ns,
                "truth_stamp_ns": int(truth.stamps[frame.truth]),
                "events": predictions.windows[frame.index].events,
                "spike_density": predictions.windows[frame.index].spike_density,
                "pixels": frame.pixels,
                "missing": frame.missing,
                **{name: _plain(value) for name, value in frame.metric.items()},
            }
            for frame in scores.frames
        ],
        "firing_rates": predictions.firing_rates,
        "energy_mj": predictions.energy_mj,
        "energy_counting": {"pj_per_mac": MAC_PJ, "pj_per_ac": AC_PJ, "memory_traffic_counted": False},
        "windows_measured": predictions.measured,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "timing": {
            "seconds": predictions.seconds,
            "real_time_factor": recording_s / predictions.seconds if predictions.seconds else None,
        },
    }


def _means(row: Mapping[str, Average]) -> dict[str, float | None]:
    return {name: _plain(one.mean) for name, one in row.items()}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # run from the source tree
        return None
