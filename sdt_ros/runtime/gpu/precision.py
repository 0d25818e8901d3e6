"""The number format that a GPU is fast in and a network fits into."""

from __future__ import annotations

import torch

from sdt_ros.network import SpikingDepthTransformer
from sdt_ros.network.layers import ConvBN

_HALF_RATE = frozenset({(5, 3), (6, 0), (6, 2)})  # float16 at twice the rate of float32, before tensor cores
_TENSOR_CORES, _BFLOAT16 = (7, 0), (8, 0)


def pick_dtype(network: SpikingDepthTransformer, capability: tuple[int, int]) -> tuple[torch.dtype, str]:
    """Choose the format of weights, spikes and currents. Float16 comes before bfloat16, which has three bits less.

    Args:
        network: with folded norms.
        capability: of the GPU, as `torch.cuda.get_device_capability` has it.

    Returns:
        The dtype, and in words why.
    """
    number = "{}.{}".format(*capability)
    if capability < _TENSOR_CORES and capability not in _HALF_RATE:
        return torch.float32, f"compute capability {number} has no fast float16"
    largest = largest_current(network)
    if largest <= torch.finfo(torch.float16).max:
        return torch.float16, f"compute capability {number}"
    if capability >= _BFLOAT16:
        return torch.bfloat16, f"currents may reach {largest:.3g}, beyond float16"
    return torch.float32, f"currents may reach {largest:.3g}, beyond float16, and {number} has no bfloat16"


def largest_current(network: SpikingDepthTransformer) -> float:
    """The largest current that a convolution of spikes can make, whatever fires; infinite for weights that are NaN."""
    bounds = [0.0]
    for module in network.modules():
        if isinstance(module, ConvBN):
            weight = module.conv.weight.detach().float()
            sums = torch.stack([weight.clamp(min=0).sum((1, 2, 3)), -weight.clamp(max=0).sum((1, 2, 3))])
            bounds.append(float(sums.nan_to_num(nan=torch.inf).max()))
    return max(bounds)
