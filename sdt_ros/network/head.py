"""Depth heads: from the stages of the encoder to one log depth a pixel.

The fusion head is spiking where the weights are and real-valued where the precision is. All its heavy convolutions, at
1/16, and all its skips take spikes. Only the narrow decoder behind them sees real numbers, and it runs once a window on
the mean over time, not once a step: `reduce` and `refine` of each `Upsample`, and `depth`. Those few are what the
energy table lists as MAC.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdt_ros.network.config import PATCH, NetworkConfig
from sdt_ros.network.layers import ConvBN
from sdt_ros.network.neurons import MLIF
from sdt_ros.network.rectifier import rectify


class Upsample(nn.Module):
    """One step to twice the resolution: coarse features show what is there, spikes of the stem where its edges are."""

    def __init__(self, coarse: int, skip: int, fine: int, *, skip_kernel: int = 1, refine: bool = True) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse, fine, 1, bias=False)  # before the interpolation, where pixels are few
        self.lateral = ConvBN(skip, fine, skip_kernel)
        self.refine: nn.Module | None = None
        if refine:
            conv = nn.Conv2d(fine, fine, 3, padding=1, bias=False)
            self.refine = nn.Sequential(conv, nn.BatchNorm2d(fine))

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Features [B, C, H, W] and spikes [T, B, S, 2H, 2W] to features [B, C', 2H, 2W]."""
        features = rectify(self.joined(coarse, skip))
        if self.refine is not None:
            features = features + rectify(self.refine(features))
        return features

    def joined(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """What the first rectifier gets, [B, C', 2H, 2W]."""
        return self.sum_of(self.reduce(coarse), self.mean_lateral(skip))

    @staticmethod
    def sum_of(reduced: Tensor, lateral: Tensor) -> Tensor:
        """Coarse channels [B, C', H, W], enlarged, and fine ones [B, C', 2H, 2W]."""
        return functional.interpolate(reduced, scale_factor=2, mode="bilinear", align_corners=False) + lateral

    def mean_lateral(self, skip: Tensor) -> Tensor:
        """What spikes [T, B, S, H, W] add to it, [B, C', H, W]."""
        mean: Tensor = self.lateral(skip).mean(0)
        return mean


class FusionHead(nn.Module):
    """Fuses all blocks at 1/16, then decodes to full resolution with the stem's spikes and the events as skips."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        widths = config.head_widths
        self.stage_neurons = nn.ModuleList(MLIF.of(config) for _ in range(config.depth))
        self.fuse = ConvBN(config.depth * dim, dim)
        self.context_neurons = MLIF.of(config)
        self.context = ConvBN(dim, dim, kernel=3)
        self.output_neurons = MLIF.of(config)
        self.output = ConvBN(dim, widths[0], kernel=3)
        self.up8 = Upsample(widths[0], dim // 2, widths[1])
        self.up4 = Upsample(widths[1], dim // 4, widths[2])
        self.up2 = Upsample(widths[2], dim // 8, widths[3])
        # Two polarities say little in one pixel, so events are read 3x3; at full size nothing else is affordable.
        self.up1 = Upsample(widths[3], config.polarities, widths[4], skip_kernel=3, refine=False)
        self.depth = nn.Conv2d(widths[4], 1, 3, padding=1)

    def forward(
        self, stages: Sequence[Tensor], skips: Sequence[Tensor], uncertainty: nn.Module | None = None
    ) -> Tensor:
        """Decodes depth.

        Args:
            stages: membranes behind each block, [T, B, D, H/16, W/16].
            skips: spikes at full, 1/2, 1/4 and 1/8 resolution, as `PatchEmbedding` gives them.
            uncertainty: an `UncertaintyHead`, or whatever else is called as it is, to tell how far depth may be off.

        Returns:
            Normalised log depth [B, 1, H, W], not limited to [0, 1]; behind it, where asked for, what `uncertainty`
            gives: [B, 3, H, W] in all.
        """
        coarse = self.context_of(stages)
        features = fine = self.up8(coarse, skips[3])
        for up, skip in ((self.up4, skips[2]), (self.up2, skips[1])):
            features = up(features, skip)
        depth = self.finish(features, skips[0])
        return depth if uncertainty is None else torch.cat((depth, uncertainty(coarse, fine, depth)), 1)

    def context_of(self, stages: Sequence[Tensor]) -> Tensor:
        """All stages fused, and the mean over time: real features [B, C, H/16, W/16]."""
        spikes = [neurons(stage) for neurons, stage in zip(self.stage_neurons, stages, strict=True)]
        membrane = self.fuse(self.join(spikes))
        membrane = membrane + self.context(self.context_neurons(membrane))
        return rectify(self.output(self.output_neurons(membrane)).mean(0))  # from here on real, and without time

    def join(self, stages: Sequence[Tensor]) -> Tensor:
        """Spikes of all stages, [T, B, D, H, W] each, to [T, B, depth * D, H, W]."""
        return torch.cat(list(stages), dim=2)

    def finish(self, features: Tensor, events: Tensor) -> Tensor:
        """Features [B, C, H/2, W/2] and events [T, B, P, H, W] to normalised log depth [B, 1, H, W]."""
        depth: Tensor = self.depth(self.up1(features, events))
        return depth


class LinearHead(nn.Module):
    """The plain head to compare with: one projection of the last stage's spikes, interpolated to full resolution."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.neurons = MLIF.of(config)
        self.depth = nn.Conv2d(config.embed_dim, 1, 1)

    def forward(
        self, stages: Sequence[Tensor], skips: Sequence[Tensor], uncertainty: nn.Module | None = None
    ) -> Tensor:
        """The same as `FusionHead.forward`; only the last stage is read, and nothing is told of uncertainty."""
        spikes = self.neurons(stages[-1])
        depth = self.depth(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2]).mean(0)
        return functional.interpolate(depth, scale_factor=PATCH, mode="bilinear", align_corners=False)
