"""Depth in colours: near is red, far is blue, unknown is black, and the scale is logarithmic."""

from __future__ import annotations

import numpy as np
import pytest

from sdt_ros.colormap import colorize


def test_near_is_red_and_far_is_blue() -> None:
    near, far = colorize(np.array([[1.0, 50.0]], np.float32), 1.0, 50.0)[0].astype(int)
    assert near[0] > 2 * max(near[1], near[2]) and near[0] > 80  # red
    assert far[2] > far[0] and far[2] > 2 * far[1]  # blue
    assert near.any() and far.any()  # never black: that is for unknown depth


def test_unknown_is_black_and_only_unknown_is() -> None:
    depth = np.array([[np.nan, np.inf, -np.inf, 0.0, -3.0], [1e-3, 1.0, 7.0, 50.0, 1e9]], np.float32)
    colours = colorize(depth, 1.0, 50.0)
    assert colours.dtype == np.uint8 and colours.shape == (2, 5, 3)
    assert not colours[0].any()
    assert colours[1].any(-1).all()


def test_the_colours_are_turbo_from_blue_to_red() -> None:
    from matplotlib import colormaps

    turbo = np.rint(colormaps["turbo"](np.linspace(0, 1, 256))[:, :3] * 255)
    depth = 100.0 ** np.linspace(1, 0, 256)  # as many equal steps of the logarithm, from far to near
    assert np.abs(colorize(depth[None], 1.0, 100.0)[0] - turbo).max() <= 8  # a step at most, where rounding went down


def test_beyond_the_ends_the_colour_stays() -> None:
    colours = colorize(np.array([[0.1, 1.0, 50.0, 500.0]], np.float32), 1.0, 50.0)[0]
    assert (colours[0] == colours[1]).all() and (colours[2] == colours[3]).all()
    assert (colours[1] != colours[2]).any()


def test_equal_ratios_are_equal_steps_of_colour() -> None:
    """1 to 10 m takes as much of the scale as 10 to 100 m."""
    from matplotlib import colormaps

    half = np.rint(np.array(colormaps["turbo"](127)[:3]) * 255).astype(int)
    shown = colorize(np.full((1, 1), 10.0), 1.0, 100.0)[0, 0].astype(int)
    assert np.abs(shown - half).max() <= 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_input_is_left_alone_and_the_result_is_writable(dtype: type) -> None:
    depth = np.array([[np.nan, 2.0]], dtype)
    before = depth.copy()
    colorize(depth, 1.0, 50.0)[:] = 255
    np.testing.assert_array_equal(depth, before)
    assert not colorize(depth, 1.0, 50.0)[0, 0].any()  # the table was not what we wrote to
