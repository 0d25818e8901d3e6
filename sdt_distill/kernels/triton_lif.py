"""The leaky integrate-and-fire neuron in Triton, forward and backward, as one node in the graph of autograd.

Forward is the kernel of the runtime. Backward keeps no charges: it runs the few operations of the forward pass again on
the currents, in registers, which costs less than writing and reading them.

Importing this needs Triton.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from sdt_ros.runtime.gpu.triton_ops import BLOCK, WARPS, blocks, charged, check_neurons, fire_kernel, load, on

STEPS = 16  # at most: charges of all steps are held in registers
FORMATS = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def fire_backward_kernel(
    current: tl.tensor,
    grad_spikes: tl.tensor,
    grad_current: tl.tensor,
    neurons: tl.tensor,
    rate: tl.tensor,
    threshold: tl.tensor,
    height: tl.tensor,
    slope: tl.tensor,
    steps: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Gradient of the currents from that of the spikes, all [T, neurons].

    The surrogate is height / (1 + (slope * (h - threshold))^2); the reset passes no gradient.

    Args:
        current: input of each step.
        grad_spikes: of the output.
        grad_current: written.
        neurons: of a step.
        rate: 1 / tau.
        threshold: charge at which a neuron fires.
        height: of the surrogate.
        slope: of the surrogate.
        steps: T.
        block: neurons of a program.
    """
    neuron = tl.program_id(0) * block + tl.arange(0, block)
    inside = neuron < neurons
    values = tl.full((), 1, tl.int64) * neurons  # all steps together may be more than 2^31
    membrane = tl.zeros((block,), tl.float32)
    charges = ()
    for step in tl.static_range(steps):
        charge = charged(load(current + step * values + neuron, inside), membrane, rate)
        charges = charges + (charge,)  # type: ignore[assignment]  # noqa: RUF005  Triton knows no other way
        membrane = charge - charge * tl.where(charge >= threshold, 1.0, 0.0)
    grad_membrane = tl.zeros((block,), tl.float32)  # of v[t], from the steps after t
    for later in tl.static_range(steps):
        at = (steps - 1 - later) * values + neuron
        overshoot = charges[steps - 1 - later] - threshold
        bend = slope * overshoot
        surrogate = height / (1.0 + bend * bend)
        kept = tl.where(overshoot < 0, 1.0, 0.0)
        grad_charge = load(grad_spikes + at, inside) * surrogate + grad_membrane * kept
        tl.store(grad_current + at, grad_charge * rate, mask=inside)
        grad_membrane = grad_charge * (1.0 - rate)


class TritonLIF(torch.autograd.Function):
    """All T steps of [T, ...] currents as one node; it keeps the currents and nothing else."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, tau: float, threshold: float, alpha: float) -> Tensor:
        """Spikes in the dtype and layout of the currents."""
        given, current = current, steps_apart(current)
        spikes = torch.empty_like(current)
        neurons = check_neurons(current[0].numel())
        with on(current):
            fire_kernel[blocks(neurons)](
                current, spikes, None, None, neurons, 1, 1, 1 / tau, threshold,
                steps=len(current), pool=False, block=BLOCK, num_warps=WARPS,
            )  # fmt: skip
        ctx.save_for_backward(current)
        ctx.constants = (tau, threshold, alpha)
        return spikes if current is given else torch.empty_like(given).copy_(spikes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient of the currents, in their dtype."""
        (current,) = ctx.saved_tensors
        tau, threshold, alpha = ctx.constants
        grad_current = torch.empty_like(current)
        grad = grad_outputs[0]
        if grad.stride() != current.stride():
            grad = torch.empty_like(current, dtype=grad.dtype).copy_(grad)
        neurons = current[0].numel()
        with on(current):
            fire_backward_kernel[blocks(neurons)](
                current, grad, grad_current, neurons, 1 / tau, threshold, alpha / 2, math.pi / 2 * alpha,
                steps=len(current), block=BLOCK, num_warps=WARPS,
            )  # fmt: skip
        return grad_current, None, None, None


def steps_apart(current: Tensor) -> Tensor:
    """The currents with one whole step after another in memory, each step dense: themselves, where they are so."""
    same = torch.empty_like(current)
    dense = same.stride() == current.stride()
    return current if dense and (len(current) == 1 or current.stride(0) == current[0].numel()) else current.contiguous()
