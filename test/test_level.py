"""The scale held where guesses of it jump: what is followed at once, and what is not."""

import math

import numpy as np
import pytest

from sdt_ros.level import LevelHolder

SHAPE = (40, 60)


def picture(metres: float) -> np.ndarray:
    """Inverse depth of a ramp around `metres`."""
    return (np.linspace(0.5, 2, SHAPE[1], dtype=np.float32) / np.float32(metres)).repeat(SHAPE[0]).reshape(SHAPE)


def factors(metres: list[float], hz: float = 20.0) -> np.ndarray:
    """ln of what is held over what is guessed, window by window."""
    holder = LevelHolder(picture(metres[0]))
    return np.log([float((picture(m) / holder(picture(m), 1 / hz)).mean()) for m in metres[1:]])


def test_guesses_that_agree_are_followed_at_once() -> None:
    """A wall that comes nearer by half a second's way in a second is no guess that jumps."""
    approach = [4 * math.exp(-0.5 * k / 20) for k in range(40)]
    np.testing.assert_allclose(factors(approach), 0, atol=1e-3)


def test_the_scale_is_one_factor_for_the_whole_image() -> None:
    holder = LevelHolder(picture(2.0))
    held = holder(picture(6.0), 0.05)
    np.testing.assert_allclose(held / picture(6.0), held[0, 0] / picture(6.0)[0, 0], rtol=1e-6)
    assert 1 < held[0, 0] / picture(6.0)[0, 0] < 3


@pytest.mark.parametrize("hz", [20.0, 10.0])
def test_a_guess_that_jumps_to_and_fro_is_averaged(hz: float) -> None:
    rng = np.random.default_rng(0)
    guessed = 3 * np.exp(rng.normal(0, 0.8, 200))
    held = np.log(guessed[1:]) + factors(list(guessed), hz)
    assert np.abs(np.diff(np.log(guessed))).mean() > 0.8
    assert np.abs(np.diff(held))[20:].mean() < 0.12
    assert np.abs(held[20:] - math.log(3)).mean() < 0.25


def test_windows_that_overlap_are_not_believed_for_their_agreement() -> None:
    """At 200 Hz ten windows see the same events: their guess is one guess."""
    rng = np.random.default_rng(0)
    guessed = 3 * np.exp(rng.normal(0, 0.8, 100))
    slow = np.log(guessed[1:]) + factors(list(guessed), 20.0)
    often = np.repeat(guessed, 10)
    fast = np.log(often[1:]) + factors(list(often), 200.0)
    assert np.abs(fast[9::10][: len(slow)] - slow[: len(fast[9::10])]).mean() < 0.08
    assert np.abs(np.diff(fast[9::10]))[20:].mean() < 0.08


def test_another_scene_is_followed_within_a_second() -> None:
    cut = factors([1.0] * 40 + [10.0] * 40)
    assert cut[39] < -0.5  # first it may be a guess
    assert cut[59] > -0.1


@pytest.mark.parametrize("jumps", [0.0, 0.8])
def test_what_enters_the_view_does_not_move_the_rest(jumps: float) -> None:
    """Not quite half of the image comes to be ten times as far; the other part is as it was."""
    rng = np.random.default_rng(0)
    holder = LevelHolder(picture(1.0))
    near = []
    for column in range(0, 2 * SHAPE[1] // 5, 1):
        guess = math.exp(rng.normal(0, jumps))
        view = picture(guess)
        view[:, :column] /= 10
        held = holder(view, 0.05)
        near.append(math.log(picture(1.0)[0, -1] / held[0, -1]))
        np.testing.assert_allclose(held[:, 0] / held[:, -1], view[:, 0] / view[:, -1], rtol=1e-5)
    assert np.abs(near[10:]).max() < (0.5 if jumps else 1e-6)


def test_after_a_long_silence_guesses_are_new() -> None:
    assert abs(factors([1.0, 2.0], hz=0.1)[0]) < 0.25


def test_nothing_known_in_both_leaves_the_guess() -> None:
    left, right = picture(2.0), picture(2.0)
    left[:, SHAPE[1] // 2 :], right[:, : SHAPE[1] // 2] = np.nan, np.nan
    holder = LevelHolder(left)
    np.testing.assert_array_equal(holder(right, 0.05), right)
    after = holder(right * 2, 0.05)
    assert np.isnan(after[:, 0]).all() and not np.isnan(after[:, -1]).any()
