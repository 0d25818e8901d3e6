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


def norms_of(network: nn.Module) -> dict[str, nn.Module]:
    """A network's batch norms, by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


@torch.no_grad()
def take_statistics(network: nn.Module, average: nn.Module) -> None:
    """Give a network's batch norms the averaged statistics: running ones are mostly those of the last few batches.

    Args:
        network: in training; changed in place.
        average: its average, of the same names.
    """
    averaged = norms_of(average)
    for name, norm in norms_of(network).items():
        for buffer, value in averaged[name].named_buffers():
            norm.get_buffer(buffer).copy_(value)


def hold_norms(network: nn.Module) -> None:
    """Put a network's batch norms into evaluation mode; their weights go on learning."""
    for norm in norms_of(network).values():
        norm.eval()
