"""The scale held where guesses of it jump: what is followed at once, what is not, and what is never held back."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from sdt_ros.held_scale import ScaleHolder
from sdt_ros.smoothing import DepthSmoother

SHAPE = (40, 60)
WINDOW_S = 0.05


def picture(metres: float) -> np.ndarray:
    """Inverse depth of a tilted plane around `metres`."""
    return np.outer(np.linspace(0.9, 1.1, SHAPE[0]), np.linspace(0.5, 2, SHAPE[1]) / metres).astype(np.float32)


def held(metres: Sequence[float] | np.ndarray, hz: float = 20.0) -> np.ndarray:
    """ln of the depth that is held, window by window after the first."""
    holder = ScaleHolder(picture(metres[0]), WINDOW_S)
    middle = SHAPE[1] // 2
    return np.array([math.log(picture(1)[0, middle] / holder(picture(m), 1 / hz)[0, middle]) for m in metres[1:]])


def guesses(sd: float, count: int, metres: float = 3.0) -> np.ndarray:
    return metres * np.exp(np.random.default_rng(0).normal(0, sd, count))


@pytest.mark.parametrize("hz", [1.0, 5.0, 20.0, 50.0, 200.0])
def test_a_steady_approach_is_followed_at_once(hz: float) -> None:
    """At any speed, up to 0.3 s before contact: whoever brakes by depth must not be told late."""
    metres = np.append(np.full(10, 4.0), np.arange(4 - 1 / hz, 0.3, -1 / hz))
    np.testing.assert_allclose(held(metres, hz), np.log(metres[1:]), atol=0.02)


@pytest.mark.parametrize(("sd", "late"), [(0.05, 0.01), (0.1, 0.03), (0.3, 0.35)])
def test_an_approach_that_is_guessed_is_not_held_back_by_much(sd: float, late: float) -> None:
    metres = np.append(np.full(40, 4.0), np.arange(3.95, 0.3, -0.05))
    noisy = [metres * np.exp(np.random.default_rng(k).normal(0, sd, metres.size)) for k in range(20)]
    assert np.mean([held(guessed)[-1] - math.log(guessed[-1]) for guessed in noisy]) < late


def test_guesses_that_jump_to_and_fro_are_averaged() -> None:
    guessed = guesses(0.8, 200)
    told = held(guessed)
    assert np.abs(np.diff(np.log(guessed))).mean() > 0.8
    assert np.abs(np.diff(told))[20:].mean() < 0.2
    assert -0.5 < told[20:].mean() - math.log(3) < 0, "rather nearer"


def test_windows_that_overlap_are_not_believed_for_their_agreement() -> None:
    """At 200 Hz ten windows share events: guesses of a moving average of noise are one guess."""
    slow = guesses(0.8, 200)
    often = np.exp(np.convolve(np.log(np.repeat(slow, 10)), np.full(10, 0.1), "valid"))
    assert np.abs(np.diff(held(often, 200.0)[::10]))[20:].mean() < 0.1
    assert np.abs(np.diff(np.log(often[::10])))[20:].mean() > 0.6


@pytest.mark.parametrize(("first", "then"), [(10.0, 1.0), (1.0, 10.0)])
def test_another_scene_is_no_jump(first: float, then: float) -> None:
    """One change is none of many: guesses that agree before and after are told as they are."""
    np.testing.assert_allclose(held([first] * 40 + [then] * 40)[39:], math.log(then), atol=1e-6)


@pytest.mark.parametrize(("first", "then", "windows"), [(10.0, 1.0, 6), (1.0, 10.0, 15)])
def test_another_scene_is_followed_soon_where_guesses_jump(first: float, then: float, windows: int) -> None:
    metres = np.append(np.full(40, first), np.full(40, then)) * np.exp(np.random.default_rng(0).normal(0, 0.1, 80))
    assert np.abs(held(metres)[40 + windows :] - math.log(then)).max() < math.log(1.35)


@pytest.mark.parametrize("silence_s", [0.6, 1.0, 30.0])
def test_after_a_silence_nothing_is_held(silence_s: float) -> None:
    holder = ScaleHolder(picture(3), WINDOW_S)
    for metres in guesses(0.8, 40):
        holder(picture(metres), 0.05)
    np.testing.assert_array_equal(holder(picture(1), silence_s), picture(1))
    np.testing.assert_allclose(holder(picture(7), 0.05), picture(7), rtol=1e-5)


def test_the_scale_is_one_factor_for_the_whole_image() -> None:
    holder = ScaleHolder(picture(3), WINDOW_S)
    for metres in guesses(0.8, 40):
        view = picture(metres)
        factor = holder(view, 0.05) / view
    assert abs(factor[0, 30] - 1) > 0.05
    np.testing.assert_allclose(factor, factor[0, 30], rtol=1e-5)


def test_what_enters_the_view_does_not_move_the_rest() -> None:
    """Not quite half of the image comes to be ten times as far; the other part is as it was."""
    holder = ScaleHolder(picture(1.0), WINDOW_S)
    near = []
    rng = np.random.default_rng(0)
    for column in range(2 * SHAPE[1] // 5):
        view = picture(math.exp(rng.normal(0, 0.4)))
        view[:, :column] /= 10
        near.append(math.log(picture(1.0)[0, -2] / holder(view, 0.05)[0, -2]))
    assert np.abs(near[10:]).max() < 0.7


def test_what_comes_and_goes_is_no_jump_of_the_rest() -> None:
    holder = ScaleHolder(picture(1.0), WINDOW_S)
    for number in range(40):
        view = picture(1.0)
        view[:, : 20 * (number % 2)] *= 10
        np.testing.assert_allclose(holder(view, 0.05), view, rtol=1e-6)


def test_jumps_are_forgotten_when_guesses_agree_again() -> None:
    told = held(np.append(guesses(0.8, 40), np.full(20, 6.0)))
    assert abs(told[-5:] - math.log(6)).max() < 0.02


def test_sky_neither_stops_nor_is_moved() -> None:
    """Most of the image at the far end of the network's range: it never changes, and has no scale."""
    holder, told = None, []
    for metres in guesses(0.8, 100):
        view = picture(metres)
        view[:24] = 1 / 80
        if holder is None:
            holder = ScaleHolder(view, WINDOW_S)
            continue
        after = holder(view, 0.05)
        assert (after[:24] == view[:24]).all()
        told.append(math.log(after[30, 30]))
    assert np.abs(np.diff(told))[20:].mean() < 0.2


def test_nothing_known_in_both_starts_anew() -> None:
    left, right = picture(2.0), picture(2.0)
    left[:, SHAPE[1] // 2 :], right[:, : SHAPE[1] // 2] = np.nan, np.nan
    holder = ScaleHolder(left, WINDOW_S)
    np.testing.assert_array_equal(holder(right, 0.05), right)
    after = holder(right * 2, 0.05)
    assert np.isnan(after[:, 0]).all() and (after[:, -1] == 2 * right[:, -1]).all()


@pytest.mark.filterwarnings("error")
def test_what_is_no_depth_leaves_no_trace() -> None:
    holder = ScaleHolder(picture(2.0), WINDOW_S)
    for nothing in (np.inf, np.nan, 0.0):
        holder(np.full(SHAPE, nothing, np.float32), 0.05)
        np.testing.assert_array_equal(holder(picture(3.0), 0.05), picture(3.0))
    view = picture(3.0)
    view[:5] = np.inf
    assert np.isfinite(holder(view, 0.05)[5:]).all()


def test_the_smoother_holds_the_scale_where_it_is_told_how_long_windows_are() -> None:
    guessed = guesses(0.8, 60)
    moved = []
    for window_s in (None, WINDOW_S):
        smooth = DepthSmoother(0.001, window_s)
        told = [math.log(smooth(1 / picture(m), 50_000_000 * k)[0, 30]) for k, m in enumerate(guessed)]
        moved.append(np.abs(np.diff(told))[20:].mean())
    assert moved[0] > 0.6 and moved[1] < 0.2


@pytest.mark.parametrize(("focal_px", "shape"), [(240.0, (40, 60)), (120.0, (44, 60))])
def test_another_lens_or_size_starts_the_smoothers_scale_anew(focal_px: float, shape: tuple[int, int]) -> None:
    smooth = DepthSmoother(0.001, WINDOW_S)
    for k, metres in enumerate(guesses(0.8, 40)):
        smooth(1 / picture(metres), 50_000_000 * k, 120.0)
    view = np.resize(1 / picture(9.0), shape)
    np.testing.assert_array_equal(smooth(view, 50_000_000 * 40, focal_px), view)
    np.testing.assert_allclose(smooth(view * 2, 50_000_000 * 41, focal_px), view * 2, rtol=1e-5)
