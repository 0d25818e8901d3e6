"""Batch norms folded into the convolutions before them: the same network for inference, with fewer passes over memory.

Folding changes the rounding of currents, so that a spike whose neuron stood exactly at the threshold may move; firing
rates and depth stay the same in the mean.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sdt_ros.network import SpikingDepthTransformer
from sdt_ros.network.head import Upsample
from sdt_ros.network.layers import ConvBN


def prepare(network: SpikingDepthTransformer) -> None:
    """What every fast runtime begins with, in place: norms folded, no gradients, channels last in memory.

    Raises:
        ValueError: its attention is softmax, which has no spikes to be fast with.
    """
    if network.config.attention == "softmax":
        raise ValueError("attention 'softmax' is not made of spikes: it runs in the eager runtime only")
    fold_batch_norms(network)
    network.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fold_batch_norms(network: SpikingDepthTransformer) -> None:
    """Folds the norm of each ConvBN and of the head's decoder, in place; the network can then no longer be trained.

    The norm of the attention stays, since what stands before it is a product, not a convolution.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, ConvBN) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()  # type: ignore[assignment]
        elif isinstance(module, Upsample) and module.refine is not None:
            conv, norm = module.refine.children()
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module.refine = nn.Sequential(fuse_conv_bn_eval(conv, norm), nn.Identity())
