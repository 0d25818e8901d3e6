"""The last part of a run: batch norms hold the statistics that they will be used with.

Before it a norm sees the statistics of its own batch, which is of one size. Of a network for several sizes that is not
what is used later: running statistics are a mean over all sizes, and a size that is rare in it is given a wrong scale.
"""

from __future__ import annotations

import torch
from torch import nn

from .config import OptimiserConfig


def holds_norms(step: int, steps: int, config: OptimiserConfig, done: float = 0.0) -> bool:
    """Whether norms hold their statistics in a step, counted from 0; arguments as of `learning_rate`."""
    return bool(config.hold_norms) and max(step / steps, done) >= 1 - config.hold_norms


@torch.no_grad()
def hold_norms(network: nn.Module, average: nn.Module) -> None:
    """Put a network's batch norms into evaluation mode, with the averaged statistics; their weights go on learning.

    Args:
        network: in training; changed in place.
        average: its average, of the same names. From here on both have the same statistics.
    """
    kept = dict(average.named_modules())
    for name, norm in network.named_modules():
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        for buffer, value in kept[name].named_buffers():
            norm.get_buffer(buffer).copy_(value)
        norm.eval()
