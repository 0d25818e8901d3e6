"""ConvBN, the layer that every spiking part of the network is made of."""

from __future__ import annotations

from torch import Tensor, nn


class ConvBN(nn.Module):
    """A convolution of spikes and a batch norm, at every time step alike.

    Its input is in {0, 1}, so the convolution only adds weights; at inference the batch norm folds into them.

    Args:
        in_channels: channels of the spikes.
        out_channels: channels of the currents that come out.
        kernel: side of the kernel; "same" padding.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes [T, B, C, H, W] to currents [T, B, C', H, W]."""
        currents: Tensor = self.bn(self.conv(spikes.flatten(0, 1)))
        return currents.unflatten(0, spikes.shape[:2])
