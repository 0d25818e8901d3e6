"""Pictures of what a network tells of its uncertainty, beside what it is off by in truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sdt_distill.datasets import Sample
from sdt_ros.evaluation import panels
from sdt_ros.lens import focal_length
from sdt_ros.runtime import DepthEstimator

LIMIT = 0.3
"""What the last column leaves of depth: pixels whose deviation is at most this."""

_LOW, _HIGH = 0.05, 1.5  # ends of the colours of deviations
_UNKNOWN = (236, 236, 232)
_GAP, _LINE, _INK, _PAPER = 6, 24, (20, 20, 20), 255
_TITLES = (
    "events", "the truth", "depth", f"deviation of ln(depth), {_LOW:g} to {_HIGH:g}",
    "|ln(depth / truth)|, the same colours", f"depth, max_deviation {LIMIT:g}",
)  # fmt: skip


def picture(estimator: DepthEstimator, samples: Sequence[Sample], width: int = 1400) -> Image.Image:
    """Draw windows, one a row.

    Args:
        estimator: of weights that tell uncertainty.
        samples: windows with their truth.
        width: of the picture [px].
    """
    rows = [_row(estimator, sample, (width - len(_TITLES) * _GAP) // len(_TITLES)) for sample in samples]
    head = Image.new("RGB", (rows[0].shape[1], _LINE), (_PAPER,) * 3)
    draw, font = ImageDraw.Draw(head), ImageFont.load_default(13)
    for place, title in enumerate(_TITLES):
        draw.text((place * rows[0].shape[1] // len(_TITLES) + 2, 4), title, _INK, font)
    return Image.fromarray(np.concatenate([np.asarray(head), *rows]))


def _row(estimator: DepthEstimator, sample: Sample, width: int) -> np.ndarray:
    """RGB uint8 of one window's panels beside each other, each so wide [px]."""
    focal_px = None if sample.intrinsics is None else focal_length(sample.intrinsics)
    estimate = estimator.estimate(sample.spikes, focal_px=focal_px)
    deviation = estimate.deviation()
    assert deviation is not None
    known = np.isfinite(sample.depth) & (sample.depth > 0)
    truth = np.where(known, sample.depth, 1)
    near, far = np.percentile(truth[known], (2, 98)) * (2 / 3, 3 / 2) if known.any() else (1.0, 50.0)
    off = np.where(known, np.abs(np.log(estimate.depth / truth)), np.nan)
    drawn = [
        panels.events(sample.spikes, sample.depth.shape),
        panels.depth(sample.depth, near, far),
        panels.depth(estimate.depth, near, far),
        _deviations(deviation),
        _deviations(off),
        panels.depth(np.where(deviation <= LIMIT, estimate.depth, np.nan), near, far),
    ]
    height = round(width * sample.depth.shape[0] / sample.depth.shape[1])
    small = [np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.LANCZOS)) for each in drawn]
    return np.concatenate([np.pad(x, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=_PAPER) for x in small], 1)


def _deviations(values: np.ndarray) -> np.ndarray:
    """Deviations [H, W] in colours by their logarithm, small ones dark; unknown is light grey."""
    from matplotlib import colormaps

    known = np.isfinite(values)
    share = np.log(np.where(known, np.maximum(values, _LOW), _LOW) / _LOW) / math.log(_HIGH / _LOW)
    colours = np.rint(colormaps["magma"](np.clip(share, 0, 1))[..., :3] * 255)
    return np.where(known[..., None], colours, _UNKNOWN).astype(np.uint8)
