"""Which losses train a network, and how strongly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WEIGHTS = ("depth", "relative", "gradient", "sky", "feature", "similarity", "proxy", "rate")
FAR_MODES = ("none", "log", "bands")


@dataclass(frozen=True)
class LossConfig:
    """Weights and constants of the losses; a loss of weight 0 is never computed.

    Residuals of depth are ln(estimate / truth), so a weight means the same for every depth range.

    Attributes:
        depth: weight of the scale-invariant log depth loss.
        relative: weight of the relative error, which favours the nearer guess where scale cannot be told.
        gradient: weight of the multi-scale gradient matching.
        sky: weight of sky that is put nearer than `sky_m`. Only the simulator knows what is sky.
        feature: weight of the feature perceptual loss on `pairs`.
        similarity: weight of the similarity-map distillation on `pairs`.
        proxy: weight of the proxy labels, the depth that a teacher gives.
        rate: weight of the firing-rate regulariser.
        si_lambda: share of the squared mean residual that is taken off, in [0, 1]. At 1 a common factor on the depth
            costs nothing, so nothing would teach the network metres.
        root: take the square root of each frame's `depth`, as BTS does (arXiv 1907.10326).
        gradient_scales: scales of the gradient matching, each of half the resolution of the one before.
        sky_m: depth from which on sky is far enough [m], before the lens of `data.focal_px` like all depth.
        pairs: student stage and teacher layer, by name, that `feature` and `similarity` compare.
        feature_mask: leave cells without events out of the feature loss too, as the similarity maps always do.
        min_events: events that a cell must hold, at least, to count as seen.
        similarity_patches: cells a frame, at most, whose similarities are compared; bounds the memory.
        rate_band: lowest and highest firing rate that costs nothing; two equal numbers make it a target.
        far: weight of pixels in `depth`: "none", all alike; "log", growing with log depth; "bands", every distance band
            of a frame alike. Far pixels are few, and otherwise end at the mean.
        far_gain: with "log", how many times more the farthest pixel weighs than the nearest.
        band_edges_m: with "bands", the edges between distance bands in metres.
        band_cap: with "bands", the largest ratio of a pixel's weight to the mean weight; a lone far pixel is not all.
    """

    depth: float = 10.0
    relative: float = 0.0
    gradient: float = 0.5
    sky: float = 0.0
    feature: float = 0.0
    similarity: float = 0.0
    proxy: float = 0.0
    rate: float = 0.0
    si_lambda: float = 0.5
    root: bool = False
    gradient_scales: int = 4
    sky_m: float = 80.0
    pairs: tuple[tuple[str, str], ...] = ()
    feature_mask: bool = False
    min_events: float = 1.0
    similarity_patches: int = 256
    rate_band: tuple[float, float] = (0.02, 0.30)
    far: str = "none"
    far_gain: float = 4.0
    band_edges_m: tuple[float, ...] = (2.0, 5.0, 10.0, 20.0, 40.0)
    band_cap: float = 8.0

    def __post_init__(self) -> None:
        """Refuses values that make no loss, naming the key."""
        for key in WEIGHTS:
            _require(_is_number(getattr(self, key), 0), key, getattr(self, key), "a finite number of at least 0")
        if not any(getattr(self, key) for key in WEIGHTS):
            raise ValueError(f"every loss has weight 0: give one of {', '.join(WEIGHTS)} a weight above 0")
        _require(_is_number(self.si_lambda, 0, 1), "si_lambda", self.si_lambda, "a number from 0 to 1")
        _require(_is_count(self.gradient_scales), "gradient_scales", self.gradient_scales, "a whole number above 0")
        _require(_is_number(self.sky_m, 0) and self.sky_m > 0, "sky_m", self.sky_m, "a depth above 0 in metres")
        _require(isinstance(self.root, bool), "root", self.root, "true or false")
        _require(isinstance(self.feature_mask, bool), "feature_mask", self.feature_mask, "true or false")
        _require(_is_number(self.min_events, 0), "min_events", self.min_events, "a number of at least 0")
        patches = self.similarity_patches
        _require(_is_count(patches) and patches >= 2, "similarity_patches", patches, "a whole number of at least 2")
        object.__setattr__(self, "pairs", self._pairs())
        band = self.rate_band
        fits = _are_numbers(band) and len(band) == 2 and 0 <= band[0] <= band[1] <= 1
        _require(fits, "rate_band", band, "[low, high] with 0 <= low <= high <= 1")
        object.__setattr__(self, "rate_band", tuple(map(float, band)))
        _require(self.far in FAR_MODES, "far", self.far, f"one of {', '.join(FAR_MODES)}")
        _require(_is_number(self.far_gain, 1), "far_gain", self.far_gain, "a number of at least 1")
        _require(_is_number(self.band_cap, 1), "band_cap", self.band_cap, "a number of at least 1")
        edges = self.band_edges_m
        rising = _are_numbers(edges) and len(edges) > 0 and list(edges) == sorted(set(edges)) and edges[0] > 0
        _require(rising, "band_edges_m", edges, "distances in metres, above 0 and rising")
        object.__setattr__(self, "band_edges_m", tuple(map(float, edges)))

    def _pairs(self) -> tuple[tuple[str, str], ...]:
        expected = "a list of [student stage, teacher layer]"
        _require(isinstance(self.pairs, Sequence) and not isinstance(self.pairs, str), "pairs", self.pairs, expected)
        for pair in self.pairs:
            fits = isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
            _require(fits and not isinstance(pair, str), "pairs", self.pairs, expected)
        if (self.feature or self.similarity) and not self.pairs:
            raise ValueError(f"loss key 'pairs' is empty, but feature or similarity has a weight: give {expected}")
        return tuple((stage, layer) for stage, layer in self.pairs)

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss with a weight compares with a teacher."""
        return bool(self.feature or self.similarity or self.proxy)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LossConfig:
        """Builds a config from plain values, as YAML holds them.

        Raises:
            ValueError: a key is unknown, or a value makes no loss; the message names it.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown loss key {', '.join(map(repr, unknown))}; known keys: {', '.join(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values that JSON and YAML can hold; `from_dict` reads them back."""
        values = dataclasses.asdict(self)
        return {
            **values,
            "pairs": [list(pair) for pair in self.pairs],
            "rate_band": list(self.rate_band),
            "band_edges_m": list(self.band_edges_m),
        }


def _is_number(value: object, low: float, high: float = math.inf) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and low <= value <= high


def _are_numbers(values: object) -> bool:
    if isinstance(values, str) or not isinstance(values, Sequence):
        return False
    return all(_is_number(value, -math.inf) for value in values)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"loss key {key!r} is {value!r}, expected {expected}")
