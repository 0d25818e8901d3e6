"""Pixels that never rest are found where they are, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from sdt_ros.hot_pixels import WINDOWS, HotPixels

T, HEIGHT, WIDTH = 4, 20, 30
HOT = [(3, 5), (19, 29)]


def windows(count: int, density: float, hot: list[tuple[int, int]], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        spikes = (rng.random((T, 2, HEIGHT, WIDTH)) < density).astype(np.uint8)
        for row, column in hot:
            spikes[:, :, row, column] = 0
            spikes[np.arange(T), rng.integers(0, 2, T), row, column] = 1  # of either polarity
        made.append(spikes)
    return made


def watch(spikes: list[np.ndarray]) -> HotPixels:
    made = HotPixels()
    for one in spikes:
        made.look(one)
    return made


@pytest.mark.parametrize("density", [0.0, 0.1, 0.25])
def test_hot_pixels_are_found_by_row_and_column(density: float) -> None:
    assert watch(windows(WINDOWS, density, HOT)).found.tolist() == [list(one) for one in HOT]


def test_they_are_not_found_too_soon_and_forgotten_when_they_rest() -> None:
    made = watch(windows(WINDOWS - 2, 0.1, HOT))
    assert not len(made.found)
    for one in windows(2, 0.1, HOT):
        made.look(one)
    assert len(made.found) == 2
    for one in windows(WINDOWS, 0.1, [], seed=1):
        made.look(one)
    assert not len(made.found)


def test_one_rest_is_enough_to_be_none() -> None:
    spikes = windows(WINDOWS, 0.0, HOT)
    for one in spikes[10:12]:
        one[2, :, 3, 5] = 0
    assert watch(spikes).found.tolist() == [[19, 29]]


def test_neither_storms_nor_flickering_lamps_are_hot_pixels() -> None:
    assert not len(watch(windows(WINDOWS, 1.0, [])).found)
    lamp = [(row, column) for row in range(4) for column in range(4)]
    assert not len(watch(windows(WINDOWS, 0.05, lamp)).found)


def test_masked_they_are_gone_and_the_rest_is_not() -> None:
    made = watch(windows(WINDOWS, 0.1, HOT))
    (spikes,) = windows(1, 0.3, HOT, seed=5)
    before = spikes.copy()
    made.mask(spikes)
    for row, column in HOT:
        assert not spikes[:, :, row, column].any()
        before[:, :, row, column] = 0
    np.testing.assert_array_equal(spikes, before)


def test_another_sensor_begins_anew() -> None:
    made = watch(windows(WINDOWS, 0.1, HOT))
    small = np.zeros((T, 2, 4, 4), np.uint8)
    made.mask(small)  # of the other size: nothing to mask
    made.look(small)
    made.look(small)
    assert not len(made.found)
