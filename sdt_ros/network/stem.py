"""Spiking patch embedding: event bins at full resolution to tokens at 1/16."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from sdt_ros.network.config import NetworkConfig
from sdt_ros.network.layers import ConvBN
from sdt_ros.network.neurons import MLIF


class Downsample(nn.Module):
    """3x3 ConvBN and a 2x2 max pool.

    The pool stands before the neurons that follow, not behind them: they are then a quarter as many, and a max of
    currents is worth as much as a max of spikes.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_bn = ConvBN(in_channels, out_channels, kernel=3)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes [T, B, C, H, W] to currents [T, B, C', H/2, W/2]."""
        currents = self.conv_bn(spikes)
        # Twice as fast on a CPU as max_pool2d, which also writes 64-bit indices.
        rows = torch.maximum(currents[..., 0::2, :], currents[..., 1::2, :])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])


class PatchEmbedding(nn.Module):
    """Four downsamplings P -> D/8 -> D/4 -> D/2 -> D with neurons between them, then a 3x3 position embedding.

    Where an edge stands is told to the tokens by the convolution of their neighbourhood (padding marks the border), so
    the network takes any resolution.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        widths = [config.polarities, dim // 8, dim // 4, dim // 2, dim]
        self.downs = nn.ModuleList(Downsample(a, b) for a, b in itertools.pairwise(widths))
        self.neurons = nn.ModuleList(MLIF.of(config) for _ in widths[1:])
        self.position = ConvBN(dim, dim, kernel=3)

    def forward(self, spikes: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embeds event bins.

        Args:
            spikes: [T, B, P, H, W] in {0, 1}, H and W multiples of 16.

        Returns:
            The membrane stream [T, B, D, H/16, W/16] float32, and the spikes that the head takes as skips:
            [T, B, P, H, W], then D/8 at 1/2, D/4 at 1/4 and D/2 channels at 1/8.
        """
        skips = [spikes]
        for down, neurons in zip(self.downs, self.neurons, strict=True):
            membrane = down(skips[-1])
            skips.append(neurons(membrane))
        tokens = skips.pop()
        # The stream that the blocks add to stays float32 under autocast.
        return membrane.float() + self.position(tokens), skips
