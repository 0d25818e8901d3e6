"""E2Depth's recurrent UNet (Hidalgo-Carrio et al., 3DV 2020, arXiv 2010.08350), from the paper's description.

    spikes [B,T,2,H,W] -> head -> 3 x RecurrentEncoder -> 2 x ResidualBlock -> 3 x Decoder -> log depth [B,1,H,W]
                           |  full      1/2, 1/4, 1/8                              ^
                           +-------------- sums as skips --------------------------+

**What it is fed, and why.** The paper's recurrence runs over windows, each a voxel grid of several bins as channels.
Samples here are single windows, and no network of this project keeps a state between windows. So the recurrence runs
over the T bins of a window, two polarities each: the peer sees what the spiking network sees, in the same order, and
its ConvLSTMs do what membranes do there. With all bins as channels of one step the ConvLSTMs would start at rest and
stop after that step: their recurrent halves, 29 % of all parameters, would have no part in anything.

The encoders run T times, the rest once behind the last bin, which changes nothing: earlier depths would be thrown away.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 8  # three encoders of stride 2


@dataclass(frozen=True)
class E2DepthConfig:
    """Shape of the recurrent UNet.

    Attributes:
        widths: channels of the head and of the three encoders; the paper's are 32, 64, 128, 256.
        residual_blocks: between encoders and decoders.
        polarities: input channels a bin.
    """

    widths: tuple[int, int, int, int] = (32, 64, 128, 256)
    residual_blocks: int = 2
    polarities: int = 2

    def __post_init__(self) -> None:
        """Refuses values that make no network, naming the key."""
        if isinstance(self.widths, list):
            object.__setattr__(self, "widths", tuple(self.widths))
        if not (isinstance(self.widths, tuple) and len(self.widths) == 4 and all(map(_is_count, self.widths))):
            raise ValueError(f"network key 'widths' is {self.widths!r}, expected four channel counts")
        for key in ("residual_blocks", "polarities"):
            if not _is_count(getattr(self, key)):
                raise ValueError(
                    f"network key {key!r} is {getattr(self, key)!r}, expected a whole number of at least 1"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> E2DepthConfig:
        """Builds a config from plain values.

        Raises:
            ValueError: a key is unknown, or a value makes no network; the message names it.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown network key {', '.join(map(repr, unknown))}; known keys: {', '.join(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values that JSON can hold; `from_dict` reads them back."""
        return {**dataclasses.asdict(self), "widths": list(self.widths)}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


class ConvNormReLU(nn.Sequential):
    """A convolution, a batch norm and a ReLU, on [B, C, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        padding = kernel // 2
        self.add_module("conv", nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out_channels))
        self.add_module("relu", nn.ReLU())


class ConvLSTM(nn.Module):
    """A convolutional LSTM (Shi et al., arXiv 1506.04214, without peepholes), from a state at rest.

        i, f, o, g = split(W_x * x[t] + b + W_h * h[t-1])
        c[t] = sigmoid(f) c[t-1] + sigmoid(i) tanh(g)
        h[t] = sigmoid(o) tanh(c[t])

    W_x and W_h together are the one convolution of x and h; apart, W_x takes all steps at once.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.input = nn.Conv2d(channels, 4 * channels, kernel, padding=kernel // 2)
        self.hidden = nn.Conv2d(channels, 4 * channels, kernel, padding=kernel // 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features [T, B, C, H, W] to hidden states [T, B, C, H, W]."""
        driven = self.input(features.flatten(0, 1)).unflatten(0, features.shape[:2])  # [T, B, 4C, H, W]
        cell = torch.zeros_like(features[0], dtype=torch.float32)
        states: list[Tensor] = []
        for gates in driven:
            if states:  # at rest the hidden state is 0, and so is what it adds
                gates = gates + self.hidden(states[-1])
            enter, keep, leave, new = gates.chunk(4, dim=1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(new)
            states.append(torch.sigmoid(leave) * torch.tanh(cell).to(gates.dtype))
        return torch.stack(states)


class RecurrentEncoder(nn.Module):
    """A 5x5 convolution of stride 2, then a ConvLSTM."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.down = ConvNormReLU(in_channels, out_channels, kernel=5, stride=2)
        self.recurrent = ConvLSTM(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features [T, B, C, H, W] to [T, B, C', H/2, W/2]."""
        down = self.down(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        states: Tensor = self.recurrent(down)
        return states


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around which the input goes straight."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNormReLU(channels, channels, kernel=3)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, C, H, W] to the same."""
        return functional.relu(features + self.bn(self.second(self.first(features))))


class Decoder(nn.Module):
    """Twice the resolution by interpolation, then a 5x5 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(in_channels, out_channels, kernel=5)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, C, H, W] to [B, C', 2H, 2W]."""
        wide = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
        result: Tensor = self.conv(wide)
        return result


class E2Depth(nn.Module):
    """The whole network, its weights drawn as for ReLU; forget gates start open, by a bias of 1."""

    def __init__(self, config: E2DepthConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.head = ConvNormReLU(config.polarities, widths[0], kernel=5)
        self.encoders = nn.ModuleList(RecurrentEncoder(a, b) for a, b in itertools.pairwise(widths))
        self.residuals = nn.ModuleList(ResidualBlock(widths[-1]) for _ in range(config.residual_blocks))
        self.decoders = nn.ModuleList(Decoder(b, a) for a, b in reversed(list(itertools.pairwise(widths))))
        self.depth = nn.Conv2d(widths[0], 1, 1)
        self._draw_weights()

    def forward(self, spikes: Tensor) -> Tensor:
        """Estimates depth.

        Args:
            spikes: event bins [B, T, P, H, W] in {0, 1}, any dtype; oldest bin first; polarity 0 is OFF, 1 is ON.

        Returns:
            Normalised log depth [B, 1, H, W] in (0, 1): the paper's last layer is a sigmoid.

        Raises:
            ValueError: the shape is another.
        """
        if spikes.ndim != 5 or spikes.shape[2] != self.config.polarities or 0 in spikes.shape:
            expected = f"[B, T, {self.config.polarities}, H, W]"
            raise ValueError(f"spikes have shape {list(spikes.shape)}, expected {expected} and nothing empty")
        height, width = spikes.shape[-2:]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)  # no events outside the sensor
        bins = functional.pad(spikes, padding).transpose(0, 1).to(self.depth.weight.dtype)  # [T, B, P, H', W']
        features = self.head(bins.flatten(0, 1)).unflatten(0, bins.shape[:2])
        skips = [features[-1]]
        for encoder in self.encoders:
            features = encoder(features)
            skips.append(features[-1])
        decoded = skips[-1]
        for block in self.residuals:
            decoded = block(decoded)
        for decoder in self.decoders:
            decoded = decoder(decoded + skips.pop())
        depth: Tensor = torch.sigmoid(self.depth(decoded + skips.pop()))
        return depth[..., :height, :width]

    def _draw_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, ConvLSTM):
                nn.init.xavier_uniform_(module.input.weight)
                nn.init.xavier_uniform_(module.hidden.weight)
                bias = module.input.bias
                assert bias is not None
                nn.init.zeros_(bias)
                nn.init.ones_(bias.view(4, -1)[1])
        nn.init.zeros_(self.depth.bias)  # type: ignore[arg-type]
