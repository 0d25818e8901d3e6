"""Metrics, masks and averages against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sdt_ros.evaluation import METRICS, Protocol, average, frame_metrics, median_scaled, protocols
from sdt_ros.evaluation.metrics import BANDS_M, Comparison, band_metrics

LN2 = math.log(2)


def test_three_pixels_by_hand():
    # p      2     4    10          D = p - gt:     1     0   -10
    # gt     1     4    20          d = ln(p/gt): ln2     0  -ln2
    scores = frame_metrics(np.array([2.0, 4, 10]), np.array([1.0, 4, 20]))
    by_hand = {
        "abs_rel": 0.5,  # (1/1 + 0/4 + 10/20) / 3 = 1.5 / 3
        "sq_rel": 2.0,  # (1/1 + 0/4 + 100/20) / 3 = 6 / 3
        "sq_rel_squared": 1.25 / 3,  # (1/1 + 0/16 + 100/400) / 3
        "rmse": math.sqrt(101 / 3),  # (1 + 0 + 100) / 3
        "rmse_log": LN2 * math.sqrt(2 / 3),  # (ln2^2 + 0 + ln2^2) / 3
        "silog": LN2**2 * 2 / 3,  # the mean of d is (ln2 + 0 - ln2) / 3 = 0
        "delta1": 1 / 3,  # ratios 2, 1, 2
        "delta2": 1 / 3,  # 1.5625
        "delta3": 1 / 3,  # 1.953125
        "mean_abs_error": 11 / 3,
        "mae_10m": 0.5,  # (1 + 0) / 2
        "mae_20m": 0.5,  # 20 is not below 20
        "mae_30m": 11 / 3,
        "mean_error": -3.0,  # (1 + 0 - 10) / 3
    }
    assert set(by_hand) == set(METRICS)
    assert scores == pytest.approx(by_hand, rel=1e-14)


def test_silog_takes_off_the_mean_and_has_no_root():
    # d = ln2, 0: mean of squares ln2^2 / 2, square of the mean (ln2 / 2)^2 = ln2^2 / 4
    assert frame_metrics(np.array([2.0, 2]), np.array([1.0, 2]))["silog"] == pytest.approx(LN2**2 / 4, rel=1e-14)
    # A common factor of 3 changes nothing: d = ln3, ln3
    assert frame_metrics(np.array([3.0, 6]), np.array([1.0, 2]))["silog"] == pytest.approx(0, abs=1e-15)


def test_thresholds_count_ratios_both_ways():
    # ratios 1.2 | 1/0.7 = 1.43 | 1.8 | 1/0.4 = 2.5, against 1.25, 1.5625, 1.953125
    scores = frame_metrics(np.array([1.2, 0.7, 1.8, 0.4]), np.ones(4))
    assert (scores["delta1"], scores["delta2"], scores["delta3"]) == (0.25, 0.5, 0.75)


def test_single_precision_input_is_computed_in_double():
    truth = np.full(100_000, 3.0, np.float32)
    prediction = np.full(100_000, 3.3, np.float32)
    error = float(np.float32(3.3)) - 3.0
    assert frame_metrics(prediction, truth)["abs_rel"] == pytest.approx(error / 3.0, rel=1e-13)


def test_a_frame_without_pixels_has_no_score():
    scores = frame_metrics(np.empty(0), np.empty(0))
    assert set(scores) == set(METRICS) and all(math.isnan(value) for value in scores.values())


def test_frames_weigh_the_same_whatever_their_pixels():
    one = frame_metrics(np.array([2.0]), np.array([1.0]))  # Abs Rel 1, nothing beyond 10 m
    other = frame_metrics(np.array([33.0] * 9), np.array([30.0] * 9))  # Abs Rel 0.1, nothing within 10 m
    mean = average([one, other])
    assert mean["abs_rel"].mean == pytest.approx((1 + 0.1) / 2) and mean["abs_rel"].frames == 2
    assert mean["mae_10m"].mean == 1.0 and mean["mae_10m"].frames == 1
    assert math.isnan(average([])["rmse"].mean) and average([])["rmse"].frames == 0


def test_bands_split_the_pixels():
    truth = np.array([0.2, 0.3, 0.999, 1, 2.9, 3, 9.99, 10, 29, 30, 79, 80, 500])
    rows = band_metrics(truth * 1.1, truth)
    assert len(rows) == len(BANDS_M) and [row["pixels"] for row in rows] == [1, 2, 2, 2, 2, 2, 2]
    assert [row["abs_rel"] for row in rows] == pytest.approx([0.1] * 7)
    assert rows[2]["mean_error"] == pytest.approx((0.1 + 0.29) / 2)
    assert rows[6]["rmse"] == pytest.approx(math.sqrt((8**2 + 50**2) / 2))
    assert rows[4]["mae_20m"] == pytest.approx(1.0), "of 10 and 29 m only the first is within 20 m"
    assert math.isnan(rows[5]["mae_30m"]), "nothing from 30 m on is within 30 m"


def test_a_band_has_the_metrics_of_its_pixels_alone():
    # 10 to 30 m holds two cells of the sums, below and from 20 m; p 12, 30 against 16, 24: D = -4, 6
    rows = band_metrics(np.array([1.0, 12, 30, 90]), np.array([2.0, 16, 24, 60]))
    band = rows[BANDS_M.index((10.0, 30.0))]
    by_hand = {
        "abs_rel": 0.25,  # (4/16 + 6/24) / 2
        "sq_rel": 1.25,  # (16/16 + 36/24) / 2
        "sq_rel_squared": 1 / 16,
        "rmse": math.sqrt(26),  # (16 + 36) / 2
        "mean_abs_error": 5.0,
        "mean_error": 1.0,
        "delta1": 0.0,  # ratios 4/3 and 1.25, which is not below 1.25
        "delta2": 1.0,
        "rmse_log": math.sqrt((math.log(4 / 3) ** 2 + math.log(1.25) ** 2) / 2),
    }
    assert {name: band[name] for name in by_hand} == pytest.approx(by_hand, rel=1e-14)


def test_a_factor_scores_as_the_scaled_depth_does():
    rng = np.random.default_rng(0)
    truth, guess = rng.lognormal(2, 1, 5000), rng.lognormal(2, 1, 5000)
    comparison = Comparison(truth)
    factor = comparison.scale_of(guess)
    assert factor == pytest.approx(np.median(truth) / np.median(guess), rel=1e-15)
    scaled, _ = comparison.metrics(guess, scale=factor)
    assert scaled == pytest.approx(frame_metrics(median_scaled(guess, truth), truth), rel=1e-12)


def test_metrics_agree_with_plain_numpy():
    rng = np.random.default_rng(1)
    gt, p = rng.lognormal(2, 1, 40_000), rng.lognormal(2, 1, 40_000)
    log, ratio = np.log(p) - np.log(gt), np.maximum(p / gt, gt / p)
    plain = {
        "abs_rel": np.mean(np.abs(p - gt) / gt),
        "sq_rel": np.mean((p - gt) ** 2 / gt),
        "sq_rel_squared": np.mean((p - gt) ** 2 / gt**2),
        "rmse": np.sqrt(np.mean((p - gt) ** 2)),
        "rmse_log": np.sqrt(np.mean(log**2)),
        "silog": np.mean(log**2) - np.mean(log) ** 2,
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
        "mean_abs_error": np.mean(np.abs(p - gt)),
        "mean_error": np.mean(p - gt),
        **{f"mae_{limit}m": np.mean(np.abs(p - gt)[gt < limit]) for limit in (10, 20, 30)},
    }
    assert frame_metrics(p, gt) == pytest.approx(plain, rel=1e-12)


def test_median_scaling_forgives_the_scale_and_nothing_else():
    truth = np.array([1.0, 2, 4])
    np.testing.assert_allclose(median_scaled(truth * 7, truth), truth)
    # medians 6 and 2: the factor is 1/3
    np.testing.assert_allclose(median_scaled(np.array([3.0, 6, 30]), truth), [1, 2, 10])


def test_masks_of_the_protocol():
    nan, inf = np.nan, np.inf
    truth = np.array([[0, -1, nan, inf], [5, 79, 80, 200]], np.float32)
    prediction = np.full((2, 4), 100, np.float32)
    # cut at 80 the largest truth is 80; what lies there is left out
    chosen = protocols["mvsec"].select(prediction, truth)
    assert chosen.mask.tolist() == [[False] * 4, [True, True, False, False]]
    assert chosen.truth.tolist() == [5, 79] and chosen.prediction.tolist() == [80, 80], "cut off at 80 m"
    # cut at 1000 the largest is 200
    assert protocols["dense"].select(prediction, truth).truth.tolist() == [5, 79, 80]
    assert protocols["none"].select(prediction, truth).truth.tolist() == [5, 79, 80, 200]
    assert protocols["none"].select(prediction, truth).truth.dtype == np.float64


def test_rows_below_are_cropped_before_the_maximum_is_taken():
    truth = np.array([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])
    assert Protocol("own", 80.0, True, rows=2).select(truth, truth).truth.tolist() == [1, 2, 3]


def test_pixels_without_a_prediction_are_counted():
    truth = np.array([[1.0, 2, 3, 4, np.nan]])
    chosen = protocols["none"].select(np.array([[1.0, np.nan, np.inf, 0, np.nan]]), truth)
    assert chosen.truth.tolist() == [1] and chosen.missing == 3


def test_a_wall_has_no_pixel_below_its_maximum():
    wall = np.full((2, 2), 7.0)
    assert not protocols["mvsec"].select(wall, wall).mask.any()
    assert protocols["none"].select(wall, wall).mask.all()


def test_shapes_and_settings_are_checked():
    with pytest.raises(ValueError, match=r"\[2, 2\] and truth \[2, 3\]"):
        protocols["none"].select(np.ones((2, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="far_m is 0"):
        Protocol("own", 0.0, True)
    with pytest.raises(ValueError, match="rows is 0"):
        Protocol("own", None, True, rows=0)
