"""Whether what a network tells of its own uncertainty is held against the truth as it should be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sdt_ros.evaluation.protocol import protocols
from sdt_ros.evaluation.uncertainty import SHARES, Reliability, ReliabilityOfWindows, describe


def test_counts_are_those_of_all_pixels_sorted() -> None:
    random = np.random.default_rng(0)
    deviation = np.exp(random.uniform(-3, 0.5, 20_000))
    off = np.abs(random.normal(0, deviation))
    reliability = Reliability()
    for part in np.array_split(np.arange(20_000), 7):
        reliability.add(off[part], deviation[part])
    figures = reliability.figures()
    assert figures is not None and figures["pixels"] == 20_000
    assert figures["within_1_deviation"] == np.mean(off <= deviation) == pytest.approx(0.683, abs=0.01)
    assert figures["within_2_deviations"] == np.mean(off <= 2 * deviation) == pytest.approx(0.954, abs=0.01)
    hits = (off < math.log(1.25))[np.argsort(deviation)]
    for share, row in zip(SHARES, figures["surest"], strict=True):
        assert row["share"] == share
        assert row["delta1"] == pytest.approx(hits[: int(share * 20_000)].mean(), abs=0.005)
        assert row["deviation_up_to"] == pytest.approx(np.quantile(deviation, share), rel=0.02)
    assert figures["surest"][0]["delta1"] > figures["surest"][-1]["delta1"] + 0.2
    assert f"within two for {figures['within_2_deviations']:.0%}; delta < 1.25 of the surest 25%" in describe(figures)


def test_what_was_told_at_random_shows_in_no_gain() -> None:
    random = np.random.default_rng(1)
    off = np.abs(random.normal(0, 0.3, 50_000))
    reliability = Reliability()
    reliability.add(off, np.exp(random.uniform(-3, 0.5, 50_000)))
    figures = reliability.figures()
    assert figures is not None
    assert figures["surest"][0]["delta1"] == pytest.approx(figures["surest"][-1]["delta1"], abs=0.02)


def test_deviations_beyond_the_usual_are_counted_at_the_ends() -> None:
    reliability = Reliability()
    reliability.add(np.array([0.0, 5.0]), np.array([1e-9, 1e9]))
    figures = reliability.figures()
    assert figures is not None and figures["pixels"] == 2
    assert figures["within_1_deviation"] == 1.0 and figures["surest"][-1]["delta1"] == 0.5


def test_nothing_counted_is_nothing_said() -> None:
    assert Reliability().figures() is None


def test_windows_are_compared_on_the_grid_of_the_truth_where_both_are_known() -> None:
    truth = np.array([[1.0, 2.0, np.nan, 4.0]], np.float32)
    depth = np.array([[4.0, 3.0, np.nan, 1.1]], np.float32)  # mirrored, as `finish` puts right
    deviation = np.array([[0.3, 0.1, 0.1, 0.2]], np.float32)
    windows = ReliabilityOfWindows(protocols["none"], "here", lambda: deviation)
    windows(depth, truth, lambda image: 2.0 * image[:, ::-1])  # finish makes metres longer; a deviation has no length
    figures = windows.reliability.figures()
    assert figures is not None and figures["pixels"] == 2, "one has no truth, one no prediction"
    off = np.abs(np.log([2.2, 2.0]))
    assert figures["within_1_deviation"] == np.mean(off <= np.array([0.2, 0.3]))
    assert figures["surest"][-1]["deviation_up_to"] == pytest.approx(0.3, rel=0.02)
    assert figures["surest"][-1]["delta1"] == 0.0
