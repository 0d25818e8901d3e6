"""spikingjelly's neurons in the place of ours: what others would train and run the same network with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def use_spikingjelly(network: nn.Module) -> nn.Module:
    """Put spikingjelly's multi-step `LIFNode` (ATan surrogate, detached reset) for every MLIF, in place.

    On a CPU spikingjelly computes it by torch, on a GPU by the best of its own kernels that it finds there.

    Raises:
        ImportError: spikingjelly is missing.
    """
    from spikingjelly.activation_based import neuron, surrogate
    from torch import nn

    from sdt_ros.network import MLIF

    class Resting(nn.Module):
        """spikingjelly's neurons keep their membranes between calls; these start at rest."""

        def __init__(self, plain: MLIF) -> None:
            super().__init__()
            self.neurons = neuron.LIFNode(
                tau=plain.tau, v_threshold=plain.threshold, v_reset=0.0, detach_reset=True, step_mode="m",
                surrogate_function=surrogate.ATan(plain.alpha),
            )  # fmt: skip

        def forward(self, current: Tensor) -> Tensor:
            self.neurons.reset()
            spikes: Tensor = self.neurons(current)
            return spikes

    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MLIF):
                setattr(parent, name, Resting(child))
    return network
