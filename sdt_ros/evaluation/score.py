"""Predictions against truth: every metric of every frame, the floors on the same pixels, and their averages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from sdt_ros.evaluation.errors import EvaluationError
from sdt_ros.evaluation.floors import constant_median, mean_log_map
from sdt_ros.evaluation.metrics import BANDS_M, METRICS, Average, Averager, band_metrics, frame_metrics, median_scaled
from sdt_ros.evaluation.predict import Predictions
from sdt_ros.evaluation.protocol import Protocol
from sdt_ros.evaluation.truth import Truth, onto

PREDICTION, CONSTANT, MAP = "network", "constant median", "mean map"
GUESSES = (PREDICTION, CONSTANT, MAP)
"""What is scored: the network and the two floors."""


@dataclass(frozen=True, slots=True)
class FrameScore:
    """One depth image and its scores.

    Attributes:
        index: of the depth image.
        truth: index of the truth image.
        pixels: that were compared.
        missing: with a truth and no prediction.
        metric: name to value.
    """

    index: int
    truth: int
    pixels: int
    missing: int
    metric: Mapping[str, float]


@dataclass
class Scores:
    """All scores of a recording.

    Attributes:
        frames: one entry a frame that has pixels to compare.
        without_pixels: frames that have none.
        metric: who guesses: metric name to average, of depth as it is.
        scaled: the same of depth that was scaled by the truth's median, which forgives the scale.
        bands: who guesses: for each of `BANDS_M` metric name to average.
        band_pixels: share of all pixels compared that lie in each of the bands.
        constant_m: depth of the floor "constant median" [m].
    """

    frames: list[FrameScore] = field(default_factory=list)
    without_pixels: int = 0
    metric: dict[str, dict[str, Average]] = field(default_factory=dict)
    scaled: dict[str, dict[str, Average]] = field(default_factory=dict)
    bands: dict[str, list[dict[str, Average]]] = field(default_factory=dict)
    band_pixels: list[float] = field(default_factory=list)
    constant_m: float = math.nan

    @property
    def pixels(self) -> int:
        """Pixels compared."""
        return sum(frame.pixels for frame in self.frames)

    @property
    def missing_share(self) -> float:
        """Share of pixels with a valid truth that have no prediction."""
        missing = sum(frame.missing for frame in self.frames)
        return missing / max(1, missing + self.pixels)


def score(predictions: Predictions, truth: Truth, protocol: Protocol, where: str) -> Scores:
    """Score all depth images that have a truth.

    Args:
        predictions: depth and what truth belongs to it.
        truth: the depth that is true.
        protocol: which pixels count.
        where: file and topic of the truth, for messages.

    Raises:
        EvaluationError: no frame has a pixel to compare.
    """
    matched = [(index, window.truth) for index, window in enumerate(predictions.windows) if window.truth is not None]

    def frames() -> Iterator[np.ndarray]:
        return (truth.frames[number] for _, number in matched)

    result = Scores()
    try:
        result.constant_m = constant_median(frames, protocol)
    except ValueError as error:
        numbers = [number for _, number in matched]
        raise EvaluationError(
            f"{where}: {error} in the {len(numbers)} images that depth was made for, {min(numbers)} to {max(numbers)}; "
            "record the truth of what the camera sees" + (", or try --protocol none" if protocol.below_max else "")
        ) from error
    mean_map = mean_log_map(frames, protocol, result.constant_m)
    metric = {guess: Averager() for guess in GUESSES}
    scaled = {guess: Averager() for guess in GUESSES}
    bands = {guess: [Averager() for _ in BANDS_M] for guess in GUESSES}
    in_bands = np.zeros(len(BANDS_M))
    for index, number in tqdm(matched, "scores", leave=False, disable=None):
        chosen = protocol.select(onto(predictions.depth[index], truth.size, where), truth.frames[number])
        if not chosen.truth.size:
            result.without_pixels += 1
            continue
        guesses = {
            PREDICTION: chosen.prediction,
            CONSTANT: np.full(chosen.truth.shape, result.constant_m),
            MAP: mean_map[chosen.mask],
        }
        for guess, depth in guesses.items():
            row = frame_metrics(depth, chosen.truth)
            metric[guess].add(row)
            scaled[guess].add(frame_metrics(median_scaled(depth, chosen.truth), chosen.truth))
            in_frame = band_metrics(depth, chosen.truth)
            for band, averager in enumerate(bands[guess]):
                averager.add(in_frame[band])
            if guess == PREDICTION:
                result.frames.append(FrameScore(index, number, chosen.truth.size, chosen.missing, row))
                in_bands += [band["pixels"] for band in in_frame]
    if not result.frames:
        raise EvaluationError(f"{where}: no frame has both a valid truth and a prediction; look at what --save writes")
    result.metric = {guess: averager.averages() for guess, averager in metric.items()}
    result.scaled = {guess: averager.averages() for guess, averager in scaled.items()}
    result.bands = {guess: [averager.averages() for averager in row] for guess, row in bands.items()}
    result.band_pixels = (in_bands / result.pixels).tolist()
    return result


def worst(scores: Scores, count: int, by: str = "abs_rel") -> list[FrameScore]:
    """The frames with the highest value of a metric, the highest first."""
    assert by in METRICS
    return sorted(scores.frames, key=lambda frame: -frame.metric[by])[:count]
