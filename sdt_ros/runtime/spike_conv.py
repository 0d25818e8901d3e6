"""Convolutions of spikes on a CPU: int8 weights and bytes of 0 and 1, or float32.

Sums of int8 weights are exact, so only the rounding of the weights, one scale for each output channel, is lost. Where
few inputs fire, the weights of those that do are added up; else oneDNN multiplies all of them, with the dot products of
AVX-512 VNNI where the CPU has them. Both give the same currents to the bit: which is taken is a question of time alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdt_ros.runtime.cpu_flags import cpu_flags
from sdt_ros.runtime.kernels import events, gather
from sdt_ros.runtime.kernels.parallel import array, spread

_LARGEST = 127
_BREAK_EVEN = {32: 0.2, 64: 0.3}  # from so many channels on: share of inputs that fire at which both take as long
_BLOCK, _SAMPLED = 4096, 17  # of a layer's inputs one block in so many is counted; an odd number goes over all columns
_NO_STREAM = (np.empty(0, np.float32),)
_NO_NEURONS = np.empty(0, np.uint8), np.float32(1), np.float32(1)  # no spikes, any rate and threshold
_PARTS = 2  # of a thread, as little may fire in one; each costs a turn at the interpreter's lock


class Int8Conv2d(nn.Conv2d):
    """A convolution of stride 1 whose input is spikes, 0 or 1, and whose weights are rounded to int8.

    The float weights are given up: `weight` and `bias` say their shapes only, for those who count parameters.

    Args:
        conv: the convolution to compute, with a bias or without; its weights are finite.

    Attributes:
        gathers: whether to add weights wherever that can be done, or never; None chooses by how many inputs fire.
    """

    gathers: bool | None = None

    def __init__(self, conv: nn.Conv2d) -> None:
        assert not isinstance(conv.padding, str)
        kernel, padding = conv.kernel_size, conv.padding
        super().__init__(
            conv.in_channels, conv.out_channels, (kernel[0], kernel[1]), padding=(padding[0], padding[1]),
            bias=conv.bias is not None, device="meta",
        )  # fmt: skip
        weight = conv.weight.detach()
        self.weight = nn.Parameter(torch.empty(weight.shape, dtype=torch.int8, device="meta"), requires_grad=False)
        self.requires_grad_(False)
        scale = (weight.abs().amax((1, 2, 3)) / _LARGEST).float()
        scale[scale == 0] = 1.0
        rounded = (weight / scale[:, None, None, None]).round().nan_to_num().to(torch.int8)
        self._padding = list(padding)
        bias = None if conv.bias is None else conv.bias.detach().float().clone()
        zeros = torch.zeros(conv.out_channels, dtype=torch.int64)
        self._weights, self._scales = rounded, (scale, zeros, bias)  # no buffers: they belong to no checkpoint
        self._rows = self._rows_to_add()
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

    def _rows_to_add(self) -> np.ndarray | None:
        """The weights as `gather` adds them, or None where it never pays."""
        kernel, padding = (self.kernel_size[0], self.kernel_size[1]), self._padding
        suited = gather.is_suited(self.in_channels, kernel, (padding[0], padding[1]))
        # Where tiles of matrices are multiplied at once (AMX), oneDNN is several times as fast; not measured.
        pays = self.in_channels >= min(_BREAK_EVEN) and "amx_int8" not in cpu_flags()
        return gather.tables(self._weights.numpy()) if suited and pays else None

    def forward(self, input: Tensor) -> Tensor:
        """Spikes [N, C, H, W] uint8 or int8 to currents [N, C', H, W], channels last."""
        if not self.is_worth_gathering(input):
            return self._convolve(input, 1.0)
        batch, _, height, width = input.shape
        currents = torch.empty((batch, height, width, self.out_channels))
        self._gather(gather.convolve, height, input, *_NO_STREAM, array(currents), *_NO_NEURONS)
        return currents.permute(0, 3, 1, 2)

    def is_worth_gathering(self, spikes: Tensor) -> bool:
        """Whether so few of these spikes [N, C, H, W] are there that `gather` is faster than a dense product."""
        if self._rows is None or not spikes.is_contiguous(memory_format=torch.channels_last):
            return False
        if self.gathers is not None:
            return self.gathers
        flat = array(spikes.view(torch.uint8).permute(0, 2, 3, 1))
        sample = flat[: flat.size // _BLOCK * _BLOCK].reshape(-1, _BLOCK)[::_SAMPLED] if flat.size >= _BLOCK else flat
        share = np.count_nonzero(sample.view(np.bool_)) / max(1, sample.size)
        limit = max(value for channels, value in _BREAK_EVEN.items() if channels <= self.in_channels)
        return bool(share * gather.padded(self.out_channels) < limit * self.out_channels)

    def gather(self, kernel: Callable[..., None], rows: int, spikes: Tensor, *args: Any) -> None:
        """Run a kernel of `gather` that adds the weights where these spikes are, and more; hooks see it as a pass.

        Args:
            kernel: which.
            rows: number of rows that it computes.
            spikes: [N, C, H, W] uint8 or int8, channels last, for which `is_worth_gathering` is true.
            args: of the kernel, behind the input's shape.
        """
        with observed(self, (spikes,), (len(spikes), self.out_channels, *spikes.shape[-2:])):
            self._gather(kernel, rows, spikes, *args)

    def _gather(self, kernel: Callable[..., None], rows: int, spikes: Tensor, *args: Any) -> None:
        assert self._rows is not None
        _, channels, height, width = spikes.shape
        scale, _, bias = self._scales
        offset = np.zeros(self.out_channels, np.float32) if bias is None else bias.numpy()
        flat, work = array(spikes.view(torch.uint8).permute(0, 2, 3, 1)), spikes.numel() * self.out_channels
        shape = height, width, channels, self.kernel_size[0]
        spread(kernel, rows, work, flat, self._rows, scale.numpy(), offset, *shape, *args, parts=_PARTS)

    def mean_over_time(self, spikes: Tensor) -> Tensor:
        """Mean over T of the currents of spikes [T, B, C, H, W], at most 255 steps: [B, C', H, W]."""
        with observed(self, (spikes.flatten(0, 1),), (1, self.out_channels, *spikes.shape[-2:])):
            return self._convolve(sum_over_time(spikes), 1 / len(spikes))

    def _convolve(self, counts: Tensor, step: float) -> Tensor:
        """Convolves whole numbers that are worth `step` each."""
        counts = counts.view(torch.uint8) if counts.dtype == torch.int8 else counts
        counts = counts.contiguous(memory_format=torch.channels_last)
        if self.kernel_size == (1, 1):
            # One long row, or oneDNN's choice for many short ones may take a multiple of the time.
            batch, channels, height, width = counts.shape
            row = counts.permute(0, 2, 3, 1).reshape(1, 1, -1, channels).permute(0, 3, 1, 2)
            currents = self._product(row, step).permute(0, 2, 3, 1).view(batch, height, width, self.out_channels)
            return currents.permute(0, 3, 1, 2)
        return self._product(counts, step)

    def _product(self, counts: Tensor, step: float) -> Tensor:
        """One call of oneDNN."""
        currents: Tensor = torch.ops.onednn.qconv2d_pointwise(
            counts, step, 0, self._pack(counts.shape), *self._scales, [1, 1], self._padding, [1, 1], 1,
            1.0, 0, torch.float32, "none", [], "",
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
        with observed(self, (spikes.flatten(0, 1),), (1, self.out_channels, *spikes.shape[-2:])):
            mean = sum_over_time(spikes).to(torch.float32, memory_format=torch.channels_last).div_(len(spikes))
            return self._conv_forward(mean, self.weight, self.bias)


def sum_over_time(spikes: Tensor) -> Tensor:
    """Sum over T of spikes [T, B, C, H, W], at most 255 steps, in their dtype: many times as fast as `sum(0)`."""
    counts = spikes[0]
    for step in spikes[1:]:
        counts = counts + step
    return counts


@contextlib.contextmanager
def observed(module: nn.Module, inputs: tuple[Tensor, ...], output_shape: tuple[int, ...]) -> Iterator[None]:
    """Let the hooks of a module see a pass that is computed elsewhere; of the output they see the shape."""
    for before in list(module._forward_pre_hooks.values()):
        before(module, inputs)
    yield
    if module._forward_hooks:
        output = torch.empty(output_shape, device="meta")
        for hook in list(module._forward_hooks.values()):
            hook(module, inputs, output)


def observe(module: nn.Module, inputs: tuple[Tensor, ...], output_shape: tuple[int, ...]) -> None:
    """Let the hooks of a module see a pass of which no single part is its own."""
    with observed(module, inputs, output_shape):
        pass
