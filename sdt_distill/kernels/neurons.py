"""`use_fused_neurons`: every MLIF of a network computed by compiled loops, to the same bit."""

from __future__ import annotations

import functools
import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sdt_distill.kernels.lif import fire_backward
from sdt_distill.kernels.triton_module import open_triton_module
from sdt_ros.network.neurons import MLIF
from sdt_ros.runtime.kernels.lif import BLOCK, fire
from sdt_ros.runtime.kernels.parallel import array, spread

_COMPILED = (torch.float32, torch.bfloat16)
_Network = TypeVar("_Network", bound=nn.Module)


def use_fused_neurons(network: _Network) -> _Network:
    """Give every `MLIF` of a network compiled forward and backward passes, in place.

    Spikes are those of the plain neurons to the bit; gradients agree to float32 rounding. Under autocast on a CPU
    spikes are of autocast's dtype, in which a convolution wants them and 0 and 1 are exact. Parameters, module names
    and hooks stay. On a CPU float32 and bfloat16 are compiled, on a CUDA GPU also float16, where Triton is installed;
    other currents are computed by the plain neurons.

    Args:
        network: any module; neurons already swapped stay as they are.

    Returns:
        The same object.

    Raises:
        ValueError: it has no MLIF, or one of a class derived from it, whose own forward would be lost.
    """
    neurons = [(name, module) for name, module in network.named_modules() if isinstance(module, MLIF)]
    if not neurons:
        raise ValueError(f"{type(network).__name__} has no MLIF neurons to swap")
    for name, module in neurons:
        if type(module) not in (MLIF, FusedMLIF):
            raise ValueError(f"{name} is a {type(module).__name__}; only plain MLIF neurons can be swapped")
        module.__class__ = FusedMLIF
    return network


class FusedMLIF(MLIF):
    """`MLIF` in compiled loops on a CPU and by Triton on a CUDA GPU."""

    def forward(self, current: Tensor) -> Tensor:
        """The same as `MLIF.forward`."""
        if current.is_cuda:
            spikes = _fire_on_gpu(current, self.tau, self.threshold, self.alpha)
            return super().forward(current) if spikes is None else spikes
        if current.dtype not in _COMPILED or current.device.type != "cpu" or current.numel() == 0:
            return super().forward(current)
        wanted = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else current.dtype
        spiking = wanted if wanted in _COMPILED else current.dtype
        fired: Tensor = _CompiledLIF.apply(current, self.tau, self.threshold, self.alpha, spiking)
        return fired


def _fire_on_gpu(current: Tensor, tau: float, threshold: float, alpha: float) -> Tensor | None:
    """Spikes by Triton; None where it is not installed or does not take such currents."""
    kernels = triton_lif(current.device)
    if kernels is None or current.dtype not in kernels.FORMATS:
        return None
    if current.numel() == 0 or len(current) > kernels.STEPS:
        return None
    spikes: Tensor = kernels.TritonLIF.apply(current, tau, threshold, alpha)
    return spikes


@functools.cache
def triton_lif(device: torch.device) -> Any:
    """The module of Triton's neurons, or None where it is missing or does not work; that is logged once."""

    def prove(kernels: Any) -> Tensor:
        current = torch.zeros(2, 8, device=device, requires_grad=True)
        total: Tensor = kernels.TritonLIF.apply(current, 2.0, 1.0, 2.0).sum()
        return total

    return open_triton_module("sdt_distill.kernels.triton_lif", "neurons", device, prove)


class _CompiledLIF(torch.autograd.Function):
    """All T steps as one node in the graph; it keeps the currents and nothing else."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, tau: float, threshold: float, alpha: float, spiking: torch.dtype) -> Tensor:
        steps, neurons = current.shape[0], current[0].numel()
        spikes = _steps_apart(current, spiking)
        currents = current if current.stride() == spikes.stride() else torch.empty_like(spikes, dtype=current.dtype)
        if currents is not current:
            currents.copy_(current)
        ctx.save_for_backward(currents)
        ctx.constants = (tau, threshold, alpha)
        spread(
            fire, neurons, current.numel(), _flat(currents), _flat(spikes), steps, neurons,
            np.float32(1 / tau), np.float32(threshold), grain=BLOCK,
        )  # fmt: skip
        wanted = torch.empty_like(current, dtype=spiking)
        return spikes if spikes.stride() == wanted.stride() else wanted.copy_(spikes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        (current,) = ctx.saved_tensors
        tau, threshold, alpha = ctx.constants
        grad_current = torch.empty_like(current)
        steps, neurons = current.shape[0], current[0].numel()
        spread(
            fire_backward, neurons, current.numel(), _flat(current), _flat(_like(grad_outputs[0], grad_current)),
            _flat(grad_current), steps, neurons, np.float32(1 / tau), np.float32(threshold),
            np.float32(alpha / 2), np.float32(math.pi / 2 * alpha), grain=BLOCK,
        )  # fmt: skip
        return grad_current, None, None, None, None


def _steps_apart(current: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty tensor with one whole step after another in memory, laid out as the currents where those are so."""
    same = torch.empty_like(current, dtype=dtype)
    return same if current.shape[0] == 1 or same.stride(0) == same[0].numel() else torch.empty(same.shape, dtype=dtype)


def _like(tensor: Tensor, layout: Tensor) -> Tensor:
    """The tensor with its values where `layout` has them in memory: itself, where that is so already."""
    return tensor if tensor.stride() == layout.stride() else torch.empty_like(layout).copy_(tensor)


def _flat(tensor: Tensor) -> np.ndarray:
    """A dense tensor as the array of its values in the order of memory."""
    return array(tensor.as_strided((tensor.numel(),), (1,)))
