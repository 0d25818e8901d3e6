"""MLIF, the network's only non-linearity: multi-step leaky integrate-and-fire neurons.

A neuron leaks towards its input, fires a 1 when its membrane reaches the threshold, and starts again from 0:

    h[t] = v[t-1] + (x[t] - v[t-1]) / tau       charge
    s[t] = 1 if h[t] >= threshold else 0        fire
    v[t] = h[t] * (1 - s[t])                    hard reset

The step has no gradient, so training replaces its derivative by that of an arc tangent (the surrogate), and the reset
is detached: it is treated as a constant. Both choices, and the arithmetic to the bit for tau = 2, are those of
spikingjelly's multi-step `LIFNode`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sdt_ros.network.config import NetworkConfig


class MLIF(nn.Module):
    """A layer of multi-step leaky integrate-and-fire neurons; it has no parameters and keeps no state between calls.

    Args:
        tau: membrane time constant in steps.
        threshold: potential at which a neuron fires.
        alpha: slope of the ATan surrogate gradient.
    """

    def __init__(self, tau: float = 2.0, threshold: float = 1.0, alpha: float = 2.0) -> None:
        super().__init__()
        self.tau, self.threshold, self.alpha = tau, threshold, alpha

    @classmethod
    def of(cls, config: NetworkConfig) -> MLIF:
        """Neurons with the constants of a network."""
        return cls(config.tau, config.threshold, config.surrogate_alpha)

    def forward(self, current: Tensor) -> Tensor:
        """Runs all steps from a membrane at rest.

        Args:
            current: [T, ...] floating point, input of each step; the membrane is float32 whatever the dtype.

        Returns:
            Spikes [T, ...] in {0, 1}, in the dtype and memory layout of `current`.
        """
        if torch.is_grad_enabled() and current.requires_grad:
            spikes: Tensor = _SurrogateLIF.apply(current, self.tau, self.threshold, self.alpha)
            return spikes
        return _fire(current, self.tau, self.threshold)

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"tau={self.tau}, threshold={self.threshold}, alpha={self.alpha}"


def _fire(current: Tensor, tau: float, threshold: float, charges: Tensor | None = None) -> Tensor:
    """Spikes [T, ...] of currents [T, ...]; writes h[t] into `charges` where the backward pass will need it."""
    spikes = torch.empty_like(current)
    membrane = torch.zeros_like(current[0], dtype=torch.float32)
    for step in range(current.shape[0]):
        membrane.add_(current[step] - membrane, alpha=1 / tau)
        if charges is not None:
            charges[step].copy_(membrane)
        fired = torch.ge(membrane, threshold, out=spikes[step])
        membrane.addcmul_(membrane, fired, value=-1)  # v - v * s: exactly v or 0, and much faster than a mask
    return spikes


class _SurrogateLIF(torch.autograd.Function):
    """One node in the graph for all T steps: only the charges are kept, spikes follow from them."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, tau: float, threshold: float, alpha: float) -> Tensor:
        charges = torch.empty_like(current, dtype=torch.float32)
        spikes = _fire(current, tau, threshold, charges)
        ctx.save_for_backward(charges)
        ctx.constants = (tau, threshold, alpha, current.dtype)
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (charges,) = ctx.saved_tensors
        tau, threshold, alpha, dtype = ctx.constants
        grad_current = torch.empty_like(charges)
        grad_membrane = torch.zeros_like(charges[0])  # dL/dv[t], from the steps after t
        for step in range(charges.shape[0] - 1, -1, -1):
            overshoot = charges[step] - threshold
            kept = overshoot < 0  # the reset is detached: a neuron that fired passes nothing back through v
            surrogate = alpha / 2 / (1 + (math.pi / 2 * alpha * overshoot).square())
            grad_charge = grad_outputs[0][step] * surrogate + grad_membrane * kept
            torch.mul(grad_charge, 1 / tau, out=grad_current[step])
            grad_membrane = grad_charge * (1 - 1 / tau)
        return grad_current.to(dtype), None, None, None
