"""The decoder's rectifier: ReLU forwards, and a gradient that leaks, so that channels that die can come back.

Full-size features of an untrained decoder are noise to be rid of, and the quickest way there is to push every channel
below 0 in the first hundred steps, which a plain rectifier never takes back. Spiking neurons are trained through a
surrogate gradient for the same reason. What runs on a robot is a plain ReLU.

Source: arXiv 2505.22074, surrogate gradients for ReLU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEAK = 0.1
"""Share of the gradient that reaches an input below 0."""


def rectify(x: Tensor) -> Tensor:
    """max(x, 0) of any shape and floating dtype; its gradient is that of the output, times `LEAK` where that is 0."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return functional.relu(x)
    rectified: Tensor = _Rectifier.apply(x)
    return rectified


class _Rectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = functional.relu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        grad: Tensor = torch.ops.aten.leaky_relu_backward(grad_outputs[0], y, LEAK, True)
        return grad
