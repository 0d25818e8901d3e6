"""Depth before a lens: what longer lenses, finer grids and no calibration make of it."""

import math

import pytest

from sdt_ros.lens import USUAL_FOCAL_LENGTH, depth_factor


def test_a_longer_lens_shows_the_same_from_farther_away() -> None:
    assert depth_factor(120.0, 120.0, (130, 172)) == 1
    assert depth_factor(120.0, 300.0, (130, 172)) == 2.5


def test_the_focal_length_is_brought_to_the_networks_resolution() -> None:
    assert depth_factor(120.0, 240.0, (130, 173), (260, 346)) == pytest.approx(1)
    assert depth_factor(120.0, 240.0, (65, 346), (260, 346)) == pytest.approx(1)  # the geometric mean of both axes


def test_metres_that_ask_for_no_lens_stay_as_they_are() -> None:
    assert depth_factor(None, 300.0, (130, 172)) == depth_factor(None, None, (130, 172)) == 1


def test_an_unknown_lens_is_a_usual_one_at_any_resolution() -> None:
    assert depth_factor(120.0, None, (130, 172)) == pytest.approx(USUAL_FOCAL_LENGTH * 172 / 120)
    assert depth_factor(120.0, None, (240, 320)) == pytest.approx(USUAL_FOCAL_LENGTH * 320 / 120)


@pytest.mark.parametrize("focal_px", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_focal_length_is_refused(focal_px: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        depth_factor(120.0, focal_px, (130, 172))


def test_a_focal_length_in_metres_is_told() -> None:
    with pytest.raises(ValueError, match=r"focal_px is 0\.004 of a picture 346 px wide, .* it goes in pixels"):
        depth_factor(120.0, 0.004, (130, 173), (260, 346))
