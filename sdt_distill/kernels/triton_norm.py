"""Batch norms of the training pass in Triton: alone, with a mean over time, or with a 2x2 max pool.

They take the batch's statistics, or hold those that they have.

What stands behind a norm is done where its output is still in registers, so that each pass over a large activation
counts: forward reads it twice and writes what is left of it, backward reads it twice and writes its gradient. torch
takes several times as many, and channels last its reductions are slow on top.

Importing this needs Triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sdt_distill.kernels.triton_norm_kernels import (
    grad_input_kernel,
    grad_moments_kernel,
    gradient_facts_kernel,
    moments_kernel,
    normalise_kernel,
    pool_grad_input_kernel,
    pool_grad_moments_kernel,
    pool_kernel,
    statistics_kernel,
)
from sdt_ros.runtime.gpu.triton_ops import on

FORMATS = (torch.float32, torch.bfloat16, torch.float16)
_BLOCK = 1024  # values of a program that writes an activation
_TILE = 2048  # values that a program of a sum takes at a time
_WIDE = 64  # channels of a tile at most
_PROGRAMS = 528  # of a sum over all pixels, at most: four for each multiprocessor of an H100


class _Sum:
    """How the sums over [pixels, channels] are shared out among programs."""

    def __init__(self, pixels: int, channels: int) -> None:
        self.block_c = min(_WIDE, triton.next_power_of_2(channels))
        self.block_r = _TILE // self.block_c
        across = triton.cdiv(channels, self.block_c)
        tiles = triton.cdiv(pixels, self.block_r)
        tiles_each = triton.cdiv(tiles, max(1, min(tiles, _PROGRAMS // across)))
        self.share_of = tiles_each * self.block_r
        self.programs = triton.cdiv(tiles, tiles_each)
        self.grid = (self.programs, across)
        self.across = (across,)
        self.blocks = {"block_r": self.block_r, "block_c": self.block_c}
        self.total_blocks = {"block_r": 32, "block_c": self.block_c}


def takes(bn: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether these kernels do what a norm would do with its input [N, C, H, W].

    It is in training, or it is in evaluation mode and has statistics to hold.
    """
    held = not bn.training and bn.running_mean is not None and bn.running_var is not None
    return (
        (held or (bn.training and bn.momentum is not None and x.numel() > x.shape[1]))
        and bn.affine
        and x.dtype in FORMATS
        and bn.weight.dtype == torch.float32
        and x.numel() // x.shape[1] < 2**31
    )


def norm_mean(bn: nn.BatchNorm2d, x: Tensor, steps: int) -> Tensor:
    """The norm of [T * B, C, H, W] and its mean over `steps` T: [B, C, H, W]."""
    y: Tensor = _NormMean.apply(x, bn.weight, bn.bias, bn, steps)
    return y


def norm_pool(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """The norm of [N, C, H, W] H and W even, and its 2x2 max: [N, C, H / 2, W / 2]."""
    y: Tensor = _NormPool.apply(x, bn.weight, bn.bias, bn)
    return y


def _facts(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Mean, inverse deviation, scale and offset [4, C] of a channels-last batch; the running statistics move.

    Of a norm in evaluation mode the first two are the running ones.
    """
    if not bn.training:
        assert bn.running_mean is not None and bn.running_var is not None
        inverse = torch.rsqrt(bn.running_var + bn.eps)
        scale = bn.weight.detach() * inverse
        return torch.stack([bn.running_mean, inverse, scale, bn.bias.detach() - bn.running_mean * scale])
    channels = x.shape[1]
    pixels = x.numel() // channels
    plan = _Sum(pixels, channels)
    partial = torch.empty(2, plan.programs, channels, device=x.device)
    facts = torch.empty(4, channels, device=x.device)
    tracked = bn.track_running_stats
    moments_kernel[plan.grid](x, partial, pixels, plan.share_of, channels, **plan.blocks)
    statistics_kernel[plan.across](
        x, partial, bn.weight, bn.bias, bn.running_mean if tracked else None, bn.running_var if tracked else None,
        bn.num_batches_tracked if tracked else None, facts, plan.programs, channels, float(pixels), bn.momentum,
        bn.eps, **plan.total_blocks,
    )  # fmt: skip
    return facts


def _slopes(
    plan: _Sum, partial: Tensor, weight: Tensor, facts: Tensor, pixels: int, steps: int, *, held: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gain, slope and constant [3, C] of the input's gradient, and those of weight and bias [C].

    Statistics that are held do not move with the input: slope and constant are 0.
    """
    channels = weight.numel()
    slopes, grad_weight, grad_bias = (torch.empty(n, channels, device=weight.device) for n in (3, 1, 1))
    gradient_facts_kernel[plan.across](
        partial, weight, facts, slopes, grad_weight, grad_bias, plan.programs, channels, float(pixels), float(steps),
        **plan.total_blocks,
    )  # fmt: skip
    if held:
        slopes[1:].zero_()
    return slopes, grad_weight[0], grad_bias[0]


def _blocks(values: int) -> tuple[int]:
    return (triton.cdiv(values, _BLOCK),)


class _NormMean(torch.autograd.Function):
    """See `norm_mean`; keeps the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bn: nn.BatchNorm2d, steps: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x[: len(x) // steps], memory_format=torch.channels_last)
        with on(x):
            facts = _facts(bn, x)
            normalise_kernel[_blocks(y.numel())](x, facts, y, y.numel(), channels=x.shape[1], steps=steps, block=_BLOCK)
        ctx.save_for_backward(x, weight, facts)
        ctx.held, ctx.steps = not bn.training, steps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, facts = ctx.saved_tensors
        grad = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        channels = x.shape[1]
        pixels, values = x.numel() // channels, grad.numel()
        plan = _Sum(pixels, channels)
        partial = torch.empty(2, plan.programs, channels, device=x.device)
        grad_x = torch.empty_like(x)
        with on(x):
            grad_moments_kernel[plan.grid](
                x, grad, facts, partial, pixels, pixels // ctx.steps, plan.share_of, channels, **plan.blocks
            )
            slopes, grad_weight, grad_bias = _slopes(plan, partial, weight, facts, pixels, ctx.steps, held=ctx.held)
            grad_input_kernel[_blocks(values)](
                x, grad, slopes, grad_x, values, channels=channels, steps=ctx.steps, block=_BLOCK
            )
        return grad_x, grad_weight, grad_bias, None, None


class _NormPool(torch.autograd.Function):
    """See `norm_pool`; keeps the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bn: nn.BatchNorm2d) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        shape = images, channels, height // 2, width // 2
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        with on(x):
            facts = _facts(bn, x)
            pool_kernel[_blocks(y.numel())](x, facts, y, y.numel(), channels=channels, columns=width // 2, block=_BLOCK)
        ctx.save_for_backward(x, weight, facts)
        ctx.held = not bn.training
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, facts = ctx.saved_tensors
        grad = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        channels, columns, values = x.shape[1], x.shape[3] // 2, grad.numel()
        plan = _Sum(values // channels, channels)
        partial = torch.empty(2, plan.programs, channels, device=x.device)
        grad_x = torch.empty_like(x)
        with on(x):
            pool_grad_moments_kernel[plan.grid](
                x, grad, facts, partial, values // channels, columns, plan.share_of, channels, **plan.blocks
            )
            pixels = x.numel() // channels
            slopes, grad_weight, grad_bias = _slopes(plan, partial, weight, facts, pixels, 1, held=ctx.held)
            pool_grad_input_kernel[_blocks(values)](
                x, grad, facts, slopes, grad_x, values, channels=channels, columns=columns, block=_BLOCK
            )
        return grad_x, grad_weight, grad_bias, None
