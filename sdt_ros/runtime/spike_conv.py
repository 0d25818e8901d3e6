"""Convolutions of spikes on a CPU: int8 weights and bytes of 0 and 1, or float32.

Sums of int8 weights are exact, so only the rounding of the weights, one scale for each output channel, is lost. oneDNN
computes them with the dot products of AVX-512 VNNI where the CPU has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdt_ros.runtime.kernels import events

_LARGEST = 127


class Int8Conv2d(nn.Conv2d):
    """A convolution of stride 1 whose input is whole numbers from 0 to 255, and whose weights are rounded to int8.

    The float weights are given up: `weight` and `bias` say their shapes only, for those who count parameters.

    Args:
        conv: the convolution to compute, with a bias or without.
        output: dtype of the currents, float32 or bfloat16.

    Attributes:
        output: as given.
    """

    def __init__(self, conv: nn.Conv2d, output: torch.dtype = torch.float32) -> None:
        assert not isinstance(conv.padding, str)
        kernel, padding = conv.kernel_size, conv.padding
        super().__init__(
            conv.in_channels, conv.out_channels, (kernel[0], kernel[1]), padding=(padding[0], padding[1]),
            bias=conv.bias is not None, device="meta",
        )  # fmt: skip
        weight = conv.weight.detach()
        self.weight = nn.Parameter(torch.empty(weight.shape, dtype=torch.int8, device="meta"), requires_grad=False)
        self.requires_grad_(False)
        self.output = output
        scale = (weight.abs().amax((1, 2, 3)) / _LARGEST).float()
        scale[scale == 0] = 1.0
        rounded = (weight / scale[:, None, None, None]).round().nan_to_num().to(torch.int8)
        self._padding = list(padding)
        bias = None if conv.bias is None else conv.bias.detach().float().clone()
        zeros = torch.zeros(conv.out_channels, dtype=torch.int64)
        self._weights, self._scales = rounded, (scale, zeros, bias)  # no buffers: they belong to no checkpoint
        self._packed: tuple[torch.Size, Any] | None = None
        self._pack(torch.Size((1, conv.in_channels, 32, 32)))  # where there is no such convolution, it shows now

    def _pack(self, shape: torch.Size) -> Any:
        """The weights as oneDNN wants them for an input of this shape: others cost up to eight times as much."""
        if self._packed is None or self._packed[0] != shape:
            packed = torch.ops.onednn.qconv_prepack(
                self._weights, self._scales[0], 1.0, 0, [1, 1], self._padding, [1, 1], 1, list(shape)
            )
            self._packed = shape, packed
        return self._packed[1]

    def forward(self, input: Tensor) -> Tensor:
        """Spikes [N, C, H, W] uint8 or int8 to currents [N, C', H, W], channels last."""
        return self._convolve(input, 1.0)

    def mean_over_time(self, spikes: Tensor) -> Tensor:
        """Mean over T of the currents of spikes [T, B, C, H, W], at most 255 steps: [B, C', H, W]."""
        observe(self, (spikes.flatten(0, 1),), (1, self.out_channels, *spikes.shape[-2:]))
        return self._convolve(sum_over_time(spikes), 1 / len(spikes))

    def _convolve(self, counts: Tensor, step: float) -> Tensor:
        """Convolves whole numbers that are worth `step` each."""
        counts = counts.view(torch.uint8) if counts.dtype == torch.int8 else counts
        counts = counts.contiguous(memory_format=torch.channels_last)
        if self.kernel_size == (1, 1):
            # One long row: oneDNN's choice for many short ones takes up to three and a half times as long in bfloat16.
            batch, channels, height, width = counts.shape
            row = counts.permute(0, 2, 3, 1).reshape(1, 1, -1, channels).permute(0, 3, 1, 2)
            currents = self._product(row, step).permute(0, 2, 3, 1).view(batch, height, width, self.out_channels)
            return currents.permute(0, 3, 1, 2)
        return self._product(counts, step)

    def _product(self, counts: Tensor, step: float) -> Tensor:
        """One call of oneDNN."""
        currents: Tensor = torch.ops.onednn.qconv2d_pointwise(
            counts, step, 0, self._pack(counts.shape), *self._scales, [1, 1], self._padding, [1, 1], 1,
            1.0, 0, self.output, "none", [], "",
        )  # fmt: skip
        return currents


class FloatConv2d(nn.Conv2d):
    """A convolution that takes spikes of any dtype; it is given to a `Conv2d` as its class."""

    _table: np.ndarray | None = None

    def table(self) -> np.ndarray:
        """Its weights as `kernels.events.tables` has them, flat, made once."""
        if self._table is None:
            assert self.bias is not None
            self._table = events.tables(self.weight.detach().numpy(), self.bias.detach().numpy()).ravel()
        return self._table

    def forward(self, input: Tensor) -> Tensor:
        """Spikes [N, C, H, W] to currents [N, C', H, W] float32, channels last."""
        spikes = input.to(torch.float32).contiguous(memory_format=torch.channels_last)
        return super().forward(spikes).contiguous(memory_format=torch.channels_last)

    def mean_over_time(self, spikes: Tensor) -> Tensor:
        """Mean over T of the currents of spikes [T, B, C, H, W]: [B, C', H, W]."""
        observe(self, (spikes.flatten(0, 1),), (1, self.out_channels, *spikes.shape[-2:]))
        mean = sum_over_time(spikes).to(torch.float32, memory_format=torch.channels_last).div_(len(spikes))
        return self._conv_forward(mean, self.weight, self.bias)


def sum_over_time(spikes: Tensor) -> Tensor:
    """Sum over T of spikes [T, B, C, H, W], at most 255 steps, in their dtype: many times as fast as `sum(0)`."""
    counts = spikes[0]
    for step in spikes[1:]:
        counts = counts + step
    return counts


def observe(module: nn.Module, inputs: tuple[Tensor, ...], output_shape: tuple[int, ...]) -> None:
    """Let the forward hooks of a module see a pass that is computed elsewhere; of the output they see the shape."""
    if module._forward_hooks:
        output = torch.empty(output_shape, device="meta")
        for hook in list(module._forward_hooks.values()):
            hook(module, inputs, output)
