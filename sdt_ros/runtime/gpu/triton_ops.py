"""The operations of `Ops` as one Triton kernel each: memory is read once and written once.

Membranes live in registers through all steps of time. A multiply-add rounds once (`tl.fma`), as torch's own `add` with
a factor does it, so that neurons fire as eager ones do to the bit.

Importing this needs Triton. Its interpreter runs the kernels on a CPU where TRITON_INTERPRET=1 was set before that.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512  # neurons of a program
WARPS = 4
LARGEST = 2**31 - 1  # neurons a step: they are counted in 32 bits


@triton.jit
def charged(current: tl.tensor, membrane: tl.tensor, rate: tl.tensor) -> tl.tensor:
    """Charge h = v + (x - v) / tau, rounded where torch rounds."""
    return tl.fma(current - membrane, rate, membrane)


@triton.jit
def load(pointer: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Values of any format as float32."""
    return tl.load(pointer, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def larger(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """The larger one, or the NaN."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def fire_kernel(
    x: tl.tensor,
    spikes: tl.tensor,
    scale: tl.tensor,
    bias: tl.tensor,
    neurons: tl.tensor,
    channels: tl.tensor,
    columns: tl.tensor,
    rate: tl.tensor,
    threshold: tl.tensor,
    steps: tl.constexpr,
    pool: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Spikes [T, neurons] of currents [T, neurons], or of [T, 4 * neurons] under a 2x2 max pool; channels run fastest.

    Args:
        x: currents of any floating point format.
        spikes: written, in their own format.
        scale: [channels] float32, or None.
        bias: [channels] float32, or None.
        neurons: of a step.
        channels: their number.
        columns: of the pooled rows.
        rate: 1 / tau.
        threshold: charge at which a neuron fires.
        steps: T.
        pool: whether to pool.
        block: neurons of a program.
    """
    neuron = tl.program_id(0) * block + tl.arange(0, block)
    inside = neuron < neurons
    channel = neuron % channels
    values = tl.full((), 1, tl.int64) * neurons  # of a step, in 64 bits: all steps together may be more than 2^31
    source = x + neuron
    if pool:
        pixel = neuron // channels
        row, column = pixel // columns, pixel % columns
        below = 2 * columns * channels
        source = x + (row.to(tl.int64) * 2 * below + 2 * column * channels + channel)
        values = values * 4
    membrane = tl.zeros((block,), tl.float32)
    for step in tl.static_range(steps):
        at = source + step * values
        current = load(at, inside)
        if pool:
            right = load(at + channels, inside)
            current = larger(current, load(at + below, inside))
            current = larger(current, larger(right, load(at + below + channels, inside)))
        if scale is not None:
            current = current * load(scale + channel, inside)
        if bias is not None:
            current = current + load(bias + channel, inside)
        charge = charged(current, membrane, rate)
        fired = tl.where(charge >= threshold, 1.0, 0.0)
        tl.store(spikes + step * (tl.full((), 1, tl.int64) * neurons) + neuron, fired, mask=inside)
        # As eager code does it: an infinite charge leaves a NaN behind, not a fresh membrane.
        membrane = charge - charge * fired


@triton.jit
def shortcut_kernel(
    membrane: tl.tensor,
    currents: tl.tensor,
    bias: tl.tensor,
    total: tl.tensor,
    values: tl.tensor,
    channels: tl.tensor,
    block: tl.constexpr,
) -> None:
    """Write total = membrane + (currents + bias), all [values], channels running fastest."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < values
    added = load(currents + at, inside) + load(bias + at % channels, inside)
    tl.store(total + at, load(membrane + at, inside) + added, mask=inside)


class TritonOps:
    """See `Ops`."""

    name = "Triton"

    def fire(
        self,
        x: Tensor,
        steps: int,
        tau: float,
        threshold: float,
        dtype: torch.dtype,
        *,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        pool: bool = False,
    ) -> Tensor:
        """See `Ops.fire`.

        Raises:
            ValueError: a step has more neurons than 32 bits count.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        if pool:
            height, width = height // 2, width // 2
        shape = images, channels, height, width
        spikes = torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
        neurons = check_neurons(spikes.numel() // steps)
        with on(x):
            fire_kernel[blocks(neurons)](
                x, spikes, scale, bias, neurons, channels, width, 1 / tau, threshold,
                steps=steps, pool=pool, block=BLOCK, num_warps=WARPS,
            )  # fmt: skip
        return spikes

    def shortcut(self, membrane: Tensor, currents: Tensor, bias: Tensor) -> Tensor:
        """See `Ops.shortcut`."""
        membrane, currents = (x.contiguous(memory_format=torch.channels_last) for x in (membrane, currents))
        total = torch.empty_like(membrane, dtype=torch.float32, memory_format=torch.channels_last)
        values = check_neurons(total.numel())
        with on(total):
            shortcut_kernel[blocks(values)](
                membrane, currents, bias, total, values, total.shape[1], block=BLOCK, num_warps=WARPS
            )
        return total


def blocks(neurons: int) -> tuple[int]:
    """Programs that take so many neurons."""
    return (triton.cdiv(neurons, BLOCK),)


def check_neurons(neurons: int) -> int:
    """The number itself, unless a kernel cannot count so far.

    Raises:
        ValueError: it cannot.
    """
    if neurons > LARGEST - BLOCK:
        raise ValueError(f"{neurons} neurons a step are more than a kernel counts; run fewer windows or pixels at once")
    return neurons


def on(tensor: Tensor) -> AbstractContextManager[Any]:
    """Makes the tensor's GPU the current one, which is where Triton starts kernels; nothing on a CPU."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
