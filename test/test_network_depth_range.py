"""Metres and normalised log depth."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdt_ros.network import DepthRange, depth_ranges


def test_the_ends_of_the_range_are_zero_and_one() -> None:
    depth_range = DepthRange(0.5, 50.0)
    torch.testing.assert_close(depth_range.to_metres(torch.tensor([0.0, 1.0])), torch.tensor([0.5, 50.0]))
    torch.testing.assert_close(depth_range.from_metres(torch.tensor([0.5, 5.0, 50.0])), torch.tensor([0.0, 0.5, 1.0]))


@given(st.floats(0.0, 1.0))
def test_there_and_back(n: float) -> None:
    depth_range = depth_ranges["dense"]
    log_depth = torch.tensor(n, dtype=torch.float64)
    assert depth_range.from_metres(depth_range.to_metres(log_depth)).item() == pytest.approx(n, abs=1e-9)


@pytest.mark.parametrize(
    "name, alpha, nearest, farthest", [("mvsec", 3.70378, 1.97, 80), ("dense", 5.70378, 3.33, 1000)]
)
def test_data_sets_have_their_published_constants(name: str, alpha: float, nearest: float, farthest: float) -> None:
    assert depth_ranges[name].alpha == pytest.approx(alpha, abs=1e-9)
    assert depth_ranges[name].min_m == pytest.approx(nearest, abs=0.01)
    assert depth_ranges[name].max_m == farthest


def test_metres_stay_in_the_range_and_nan_stays_nan() -> None:
    metres = DepthRange(1.0, 10.0).to_metres(torch.tensor([-5.0, 9.0, math.nan]))
    assert metres[:2].tolist() == [1.0, 10.0]
    assert metres[2].isnan()


@pytest.mark.parametrize(
    "low, high", [(0, 1), (2, 1), (1, 1), (-1, 5), (1, math.inf), (math.nan, 1), ("1", 2), (True, 2)]
)
def test_no_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="depth range"):
        DepthRange(low, high)
