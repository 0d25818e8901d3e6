"""Convolutions of spikes by additions, against the products that they stand for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numba import njit, uintp
from numba.core.errors import TypingError
from torch.nn import functional

from sdt_ros.network import MLIF
from sdt_ros.runtime.kernels import gather
from sdt_ros.runtime.kernels.vectors import LANES, SAFE_ROWS, UNROLLED, add_rows, copy_places, mask_of

RATE, THRESHOLD = np.float32(0.5), np.float32(1)
NONE, SILENT = np.empty(0, np.float32), np.empty(0, np.uint8)


class Layer:
    """A convolution of spikes: what the kernels are given, and the currents that it should make."""

    def __init__(
        self, inputs: int, outputs: int, size: int, shape: tuple[int, int, int], rate: float, largest: int = 9
    ) -> None:
        generator = np.random.default_rng(inputs + outputs)
        self.steps, self.height, self.width = shape
        self.outputs = outputs
        self.spikes = (generator.random((*shape, inputs)) < rate).astype(np.uint8)
        low = -largest if largest < 100 else largest  # the largest of one sign
        weight = generator.integers(low, largest + 1, (outputs, inputs, size, size)).astype(np.int8)
        scale = generator.uniform(0.01, 0.05, outputs).astype(np.float32)
        bias = generator.normal(0.5, 0.5, outputs).astype(np.float32)
        self.arguments = (
            self.spikes.ravel(), gather.tables(weight), scale, bias, self.height, self.width, inputs, size,
        )  # fmt: skip
        counts = functional.conv2d(
            torch.from_numpy(self.spikes).permute(0, 3, 1, 2).double(), torch.from_numpy(weight).double(),
            padding=size // 2,
        )  # fmt: skip
        self.largest_count = int(counts.abs().max())
        worth, offset = (torch.from_numpy(x)[:, None, None] for x in (scale, bias))
        self.currents = counts.float() * worth + offset  # [T, C', H, W]

    def to_neurons(self, currents: torch.Tensor) -> np.ndarray:
        """What neurons fire at currents [T, C', ..], as the kernels lay it."""
        return flat(MLIF()(currents))


def flat(x: torch.Tensor) -> np.ndarray:
    """Flat [T, H, W, C]."""
    values: np.ndarray = x.permute(0, 2, 3, 1).contiguous().numpy().ravel()
    return values


LAYERS = [
    (8, 5, 1, (3, 4, 2), 0.3),
    (64, 64, 3, (4, 6, 10), 0.15),
    (72, 96, 3, (2, 4, 6), 0.2),
    (136, 130, 1, (2, 2, 8), 0.1),
    (40, 8, 3, (1, 2, 2), 0.5),
    (24, 70, 3, (2, 2, 4), 0.0),
    (16, 64, 3, (2, 4, 4), 1.0),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_currents_to_the_bit(layer: tuple) -> None:
    made = Layer(*layer)
    for cuts in ([0, made.height], [0, 1, made.height // 2, made.height]):
        currents = np.full(made.currents.numel(), np.nan, np.float32)
        for begin, end in itertools.pairwise(cuts):
            gather.convolve(begin, end, *made.arguments, NONE, currents, SILENT, RATE, THRESHOLD)
        np.testing.assert_array_equal(currents, flat(made.currents))


def test_more_than_an_int16_can_sum() -> None:
    made = Layer(64, 3, 3, (2, 4, 4), 1.0, largest=127)
    assert made.largest_count == 9 * 64 * 127 > np.iinfo(np.int16).max
    assert np.iinfo(np.int16).max >= SAFE_ROWS * 128 - 1
    currents = np.empty(made.currents.numel(), np.float32)
    gather.convolve(0, 4, *made.arguments, NONE, currents, SILENT, RATE, THRESHOLD)
    np.testing.assert_array_equal(currents, flat(made.currents))


@pytest.mark.parametrize("layer", LAYERS)
def test_pools_and_neurons_to_the_bit(layer: tuple) -> None:
    made = Layer(*layer)
    pooled = functional.max_pool2d(made.currents, 2)
    fired = made.to_neurons(pooled)
    rows = made.height // 2
    for kept, cuts in ((NONE, [0, rows]), (np.empty(fired.size, np.float32), [0, rows // 2, rows])):
        spikes = np.full(fired.size, 7, np.uint8)
        for begin, end in itertools.pairwise(cuts):
            gather.convolve_pool_fire(begin, end, *made.arguments, spikes, kept, RATE, THRESHOLD)
        np.testing.assert_array_equal(spikes, fired)
        if kept.size:
            np.testing.assert_array_equal(kept, flat(pooled))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_sums_and_neurons_to_the_bit(layer: tuple, dtype: type) -> None:
    made = Layer(*layer)
    stream = torch.randn(made.currents.shape, generator=torch.Generator().manual_seed(2))
    for summed in (False, True):
        expected = stream + made.currents if summed else made.currents
        before = flat(stream) if summed else NONE
        total, spikes = np.full(before.size, np.nan, np.float32), np.full(expected.numel(), 7, dtype)
        for begin, end in itertools.pairwise([0, made.height // 2, made.height]):
            gather.convolve(begin, end, *made.arguments, before, total, spikes, RATE, THRESHOLD)
        np.testing.assert_array_equal(spikes, made.to_neurons(expected))
        if summed:
            np.testing.assert_array_equal(total, flat(expected))


def test_what_can_be_added() -> None:
    assert gather.is_suited(64, (3, 3), (1, 1)) and gather.is_suited(2048, (1, 1), (0, 0))
    assert not gather.is_suited(60, (3, 3), (1, 1))  # spikes are read eight at a time
    assert not gather.is_suited(64, (3, 3), (0, 0)) and not gather.is_suited(64, (5, 5), (2, 2))
    assert not gather.is_suited(64, (3, 1), (1, 0))
    assert not gather.is_suited(8 * 1024, (3, 3), (1, 1))  # a row's number is a uint16
    assert [gather.padded(outputs) for outputs in (1, LANES, LANES + 1)] == [LANES, LANES, 2 * LANES]
    assert gather.tables(np.ones((70, 8, 1, 1), np.int8)).ctypes.data % LANES == 0


def test_vectors_of_numbers() -> None:
    @njit
    def masks(spikes: np.ndarray, first: int) -> int:
        return mask_of(spikes, uintp(first))

    @njit
    def copied(places: np.ndarray, first: int, count: int, shift: int, to: np.ndarray) -> None:
        copy_places(places, uintp(first), uintp(count), uintp(shift), to, uintp(1))

    spikes = np.zeros(70, np.uint8)
    spikes[[3, 4, 66]] = 1, 200, 1
    assert masks(spikes, 3) == 0b11 + (1 << 63)
    places = np.arange(1000, 1100, dtype=np.uint32)
    for count in (0, 1, 16, 17, 50):
        to = np.zeros(100, np.uint16)
        copied(places, 5, count, 990, to)
        np.testing.assert_array_equal(to[1 : 1 + count], np.arange(15, 15 + count))
        assert to[0] == 0 and not to[1 + -(-count // 16) * 16 :].any()


@pytest.mark.parametrize("count", [0, UNROLLED, SAFE_ROWS, SAFE_ROWS + UNROLLED, 3 * SAFE_ROWS])
def test_sums_of_rows(count: int) -> None:
    @njit
    def summed(table: np.ndarray, base: int, rows: np.ndarray, first: int, end: int, total: np.ndarray) -> None:
        add_rows(table, uintp(base), rows, uintp(first), uintp(end), total)

    generator = np.random.default_rng(count)
    table = np.full((9, LANES), -128, np.int8)
    table[4:] = generator.integers(-128, 128, (5, LANES))
    rows = generator.integers(0, 7, count + 3).astype(np.uint16)
    rows[: count // 2] = 0  # a sum as low as can be
    total = np.full(LANES, 5, np.int32)
    summed(table.ravel(), 2 * LANES, rows, 3, 3 + count, total)
    np.testing.assert_array_equal(total, table[2:][rows[3:]].sum(0, dtype=np.int32))


def test_other_types_are_refused_by_name() -> None:
    @njit
    def wrong(table: np.ndarray, rows: np.ndarray, total: np.ndarray) -> None:
        add_rows(table, uintp(0), rows, uintp(0), uintp(4), total)

    good = np.zeros(LANES, np.int8), np.zeros(4, np.uint16), np.zeros(LANES, np.int32)
    wrong(*good)
    for place, name in enumerate(("table", "rows", "total")):
        bad = [array.astype(np.float64) if at == place else array for at, array in enumerate(good)]
        with pytest.raises(TypingError, match=f"{name} must be a contiguous array of"):
            wrong(*bad)
