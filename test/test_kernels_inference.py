"""The runtime's compiled loops alone, against the plain operations that they stand for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from sdt_ros.network import MLIF
from sdt_ros.runtime.kernels.attend import attend
from sdt_ros.runtime.kernels.decode import decode
from sdt_ros.runtime.kernels.lif import BLOCK, add_fire, pool_fire

RATE, THRESHOLD = np.float32(0.5), np.float32(1)


def bits(shape: tuple[int, ...], rate: float, seed: int = 0) -> np.ndarray:
    drawn: np.ndarray = (np.random.default_rng(seed).random(shape) < rate).astype(np.uint8)
    return drawn


@pytest.mark.parametrize("channels", [1, 5, 8, 24, 63, 64, 65, 72, 130])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_attention(channels: int, dtype: type) -> None:
    steps, tokens, heads = 3, 17, 2
    qkv = bits((steps, tokens, 3, heads, channels), 0.4)
    scale = np.random.default_rng(1).normal(0, 0.4, heads * channels).astype(np.float32)
    offset = np.random.default_rng(2).normal(1, 0.5, heads * channels).astype(np.float32)
    spikes = np.full((steps, tokens, heads, channels), 9, dtype)
    attend(
        0, heads, qkv.astype(dtype).ravel(), spikes.reshape(-1), steps, tokens, heads, channels, scale, offset,
        RATE, THRESHOLD,
    )  # fmt: skip
    q, k, v = (torch.from_numpy(qkv[:, :, part]).double().permute(0, 2, 1, 3) for part in range(3))
    counts = (q @ (k.transpose(-1, -2) @ v)).permute(0, 2, 1, 3).float()
    norm = torch.from_numpy(scale).view(heads, channels), torch.from_numpy(offset).view(heads, channels)
    currents = torch.addcmul(norm[1].expand_as(counts), counts, norm[0].expand_as(counts))
    expected = MLIF()(currents)
    assert 0 < expected.mean() < 1
    differ = np.flatnonzero(spikes.ravel() != expected.numpy().ravel())
    assert len(differ) <= 1e-3 * spikes.size  # where a charge is at the threshold to the last bit
    assert set(np.unique(spikes)) <= {0, 1}


@pytest.mark.parametrize("size", [1, BLOCK - 1, 3 * BLOCK + 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_sums_and_what_fires_at_them_to_the_bit(size: int, dtype: type) -> None:
    steps = 4
    generator = torch.Generator().manual_seed(size)
    a, b = (torch.randn((steps, size), generator=generator) for _ in range(2))
    total, spikes = np.empty(steps * size, np.float32), np.full(steps * size, 7, dtype)
    half = size // (2 * BLOCK) * BLOCK
    for begin, end in ((0, half), (half, size)):
        add_fire(
            begin, end, a.numpy().ravel(), b.numpy().ravel(), total, spikes, steps, size, RATE, THRESHOLD
        )  # fmt: skip
    np.testing.assert_array_equal(total, (a + b).numpy().ravel())
    np.testing.assert_array_equal(spikes, MLIF()(a + b).numpy().ravel())


def test_pools_keep_what_they_are_asked_to() -> None:
    steps, rows, width, channels = 3, 4, 10, 6
    x = torch.randn(steps, channels, 2 * rows, width, generator=torch.Generator().manual_seed(1)) + 0.5
    lies = x.permute(0, 2, 3, 1).contiguous().numpy().ravel()
    expected = functional.max_pool2d(x, 2)
    fired = MLIF()(expected).permute(0, 2, 3, 1).numpy().ravel()
    for kept in (np.empty(0, np.float32), np.empty(steps * rows * width // 2 * channels, np.float32)):
        spikes = np.full(fired.size, 7, np.uint8)
        pool_fire(0, rows, lies, spikes, kept, steps, rows, width, channels, RATE, THRESHOLD)
        np.testing.assert_array_equal(spikes, fired)
        if kept.size:
            np.testing.assert_array_equal(kept, expected.permute(0, 2, 3, 1).numpy().ravel())


@pytest.mark.parametrize(("polarities", "height", "width"), [(2, 16, 32), (1, 2, 2), (3, 6, 10)])
def test_the_last_step_of_the_decoder(polarities: int, height: int, width: int) -> None:
    steps, channels = 4, 5
    generator = torch.Generator().manual_seed(height)
    coarse = torch.randn(channels, height // 2, width // 2, generator=generator)
    lateral, bias = torch.randn(channels, polarities, 3, 3, generator=generator), torch.randn(channels)
    depth = torch.randn(1, channels, 3, 3, generator=generator)
    spikes = bits((steps, polarities, height, width), 0.3)
    upsampled = functional.interpolate(coarse[None], scale_factor=2, mode="bilinear", align_corners=False)
    mean = torch.from_numpy(spikes).float().mean(0)[None]
    features = functional.relu(upsampled + functional.conv2d(mean, lateral, bias, padding=1))
    expected = functional.conv2d(features, depth, torch.tensor([0.7]), padding=1)
    for cuts in ([0, height], [0, 1, height // 2, height]):
        out = np.full((height, width), np.nan, np.float32)
        kept = np.full((channels, height, width), np.nan, np.float32)
        for begin, end in itertools.pairwise(cuts):
            decode(
                begin, end, spikes.ravel(), coarse.flatten(1).numpy(), lateral.numpy(), bias.numpy(), depth[0].numpy(),
                np.float32(0.7), out.reshape(-1), kept.reshape(-1), steps, polarities, height, width,
            )  # fmt: skip
        np.testing.assert_allclose(out, expected[0, 0].numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(kept, features[0].numpy(), rtol=1e-4, atol=1e-5)
