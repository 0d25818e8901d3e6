"""Depth held over time: by hand, and what starts it anew."""

import math

import numpy as np
import pytest

from sdt_ros.smoothing import DepthSmoother

SECOND = 1_000_000_000


def flat(metres: float, shape: tuple[int, int] = (2, 3)) -> np.ndarray:
    return np.full(shape, metres, np.float32)


def test_inverse_depth_is_averaged_over_the_time_that_has_passed() -> None:
    smooth = DepthSmoother(0.1)
    np.testing.assert_array_equal(smooth(flat(4.0), 5 * SECOND), flat(4.0))
    kept = math.exp(-0.5)
    expected = 1 / (kept / 4 + (1 - kept) / 1)
    np.testing.assert_allclose(smooth(flat(1.0), 5 * SECOND + SECOND // 20), flat(expected), rtol=1e-6)
    # After ten time constants nothing of it is left.
    np.testing.assert_allclose(smooth(flat(2.0), 7 * SECOND), flat(2.0), rtol=1e-4)


def test_one_long_step_is_as_good_as_two_short_ones() -> None:
    one, two = DepthSmoother(0.2), DepthSmoother(0.2)
    one(flat(8.0), 0), two(flat(8.0), 0)
    two(flat(2.0), SECOND // 20)
    np.testing.assert_allclose(one(flat(2.0), SECOND // 10), two(flat(2.0), SECOND // 10), rtol=1e-6)


def test_nothing_known_is_nothing_told_and_leaves_no_trace() -> None:
    smooth = DepthSmoother(0.1)
    gap = flat(4.0)
    gap[0, 0] = np.nan
    smooth(gap, SECOND)
    after = smooth(flat(2.0), SECOND + SECOND // 20)
    assert after[0, 0] == 2.0 and 2.0 < after[0, 1] < 4.0
    assert np.isnan(smooth(gap, SECOND + SECOND // 10)[0, 0])


@pytest.mark.parametrize("shape, end_ns", [((3, 3), 2 * SECOND), ((2, 3), SECOND), ((2, 3), 0)])
def test_another_size_and_time_that_stands_or_goes_back_start_anew(shape: tuple[int, int], end_ns: int) -> None:
    smooth = DepthSmoother(10.0)
    smooth(flat(4.0), SECOND)
    np.testing.assert_array_equal(smooth(flat(2.0, shape), end_ns), flat(2.0, shape))


def test_another_lens_starts_anew() -> None:
    """Metres before another lens are of another scale: a mean of both would be of neither."""
    smooth = DepthSmoother(10.0)
    smooth(flat(4.0), SECOND, 300.0)
    np.testing.assert_array_equal(smooth(flat(2.0), 2 * SECOND, 150.0), flat(2.0))
    assert smooth(flat(4.0), 3 * SECOND, 150.0)[0, 0] < 2.5
    np.testing.assert_array_equal(smooth(flat(1.0), 4 * SECOND), flat(1.0))  # none is another one too


def test_without_a_time_constant_depth_is_the_windows_own() -> None:
    smooth = DepthSmoother(0.0)
    depth = flat(4.0)
    assert smooth(depth, 0) is depth
    assert smooth(flat(2.0), SECOND)[0, 0] == 2.0


def test_the_windows_own_depth_is_left_as_it_was() -> None:
    smooth = DepthSmoother(1.0)
    smooth(flat(4.0), 0)
    depth = flat(2.0)
    smooth(depth, SECOND // 20)
    np.testing.assert_array_equal(depth, flat(2.0))


def after(depth: float, deviation: float | None, passed_s: float = 0.05) -> float:
    """What 4 m become where a window says otherwise, with a time constant of 0.1 s."""
    smooth = DepthSmoother(0.1)
    smooth(flat(4.0), 0)
    told = None if deviation is None else flat(deviation)
    return float(smooth(flat(depth), round(passed_s * SECOND), None, told)[0, 0])


@pytest.mark.parametrize(("deviation", "slower"), [(0.1, 1.0), (0.35, 1.0), (0.7, 2.0), (1.0, 1 / 0.35), (2.0, 3.0)])
def test_what_is_uncertain_goes_away_slower(deviation: float, slower: float) -> None:
    kept = math.exp(-0.5 / slower)
    assert after(8.0, deviation) == pytest.approx(1 / (kept / 4 + (1 - kept) / 8), rel=1e-5)


@pytest.mark.parametrize("deviation", [0.1, 0.7, 2.0])
def test_what_comes_nearer_is_told_no_later_for_being_uncertain(deviation: float) -> None:
    assert after(1.0, deviation) == after(1.0, None)


def test_each_pixel_has_its_own_time() -> None:
    smooth = DepthSmoother(0.1)
    smooth(flat(4.0), 0)
    depth, deviation = flat(8.0), flat(0.1)
    deviation[0, 1], depth[0, 2], deviation[0, 2] = 1.0, np.nan, np.nan  # where depth is not known, neither is that
    told = smooth(depth, SECOND // 20, None, deviation)
    assert told[0, 0] == pytest.approx(after(8.0, 0.1))
    assert told[0, 1] == pytest.approx(after(8.0, 1.0))
    assert np.isnan(told[0, 2]) and np.isfinite(told).sum() == 5


def test_without_a_time_constant_uncertainty_holds_nothing() -> None:
    smooth = DepthSmoother(0.0)
    smooth(flat(4.0), 0)
    assert smooth(flat(8.0), SECOND // 20, None, flat(2.0))[0, 0] == 8.0


@pytest.mark.parametrize("time_constant_s", [-0.1, math.nan, math.inf])
def test_what_is_no_time_is_refused(time_constant_s: float) -> None:
    with pytest.raises(ValueError, match="time_constant_s"):
        DepthSmoother(time_constant_s)
