"""The ANN twin: the spiking depth transformer with its neurons exchanged, to learn what the spikes cost and gain.

**What is equal.** The definition is that of `sdt_ros.network`, line by line: the same layers in the same order, under
the same names, of the same shapes, trained by the same engine on the same samples with as many steps.

**What differs, and why.** Each MLIF becomes a ReLU, which is what these neurons are without time: real numbers from 0
on in place of spikes. A ReLU has no dynamics, so steps would not see each other: the T bins come as channels of one
step (polarities 2T, T = 1), and the twin has all of the window's information at its first convolution, which is the
only layer that grows. That is how the field feeds events to ANNs. It needs a T-th of the spiking network's passes, each
of which multiplies: the energy count tells this by itself, since inputs are no longer 0 or 1.

**What is not tuned for it.** Batch norms start at a gain of 1 as usual, for there is no threshold to reach. Step size,
regularisers and the attention without softmax (which then is linear attention of positive features) are those of the
spiking network; ask for `attention: softmax` to have the twin of the usual transformer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdt_ros.network import MLIF, NetworkConfig, SpikingDepthTransformer, synthetic_events
from sdt_ros.network.initialise import initialise


@dataclass(frozen=True)
class TwinConfig:
    """Which network it is the twin of.

    Attributes:
        network: of the spiking network.
        bins: time bins T of the windows that it takes.
    """

    network: NetworkConfig
    bins: int = 4

    def __post_init__(self) -> None:
        """Refuses values that make no network, naming the key."""
        if not isinstance(self.bins, int) or isinstance(self.bins, bool) or self.bins < 1:
            raise ValueError(f"network key 'bins' is {self.bins!r}, expected a whole number of at least 1")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TwinConfig:
        """Builds a config from plain values.

        Raises:
            ValueError: a key is missing or unknown, or a value makes no network; the message names it.
        """
        if set(values) != {"network", "bins"}:
            raise ValueError(f"a twin has the keys 'network' and 'bins', found {', '.join(map(repr, sorted(values)))}")
        return cls(NetworkConfig.from_dict(values["network"]), values["bins"])

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values that JSON can hold; `from_dict` reads them back."""
        return {"network": self.network.to_dict(), "bins": self.bins}


class AnnTwin(SpikingDepthTransformer):
    """The twin, weights as torch draws them; `build_twin` gives one ready to use.

    Attributes:
        twin_config: which network it is the twin of; `config` is that of the definition, all bins as polarities.
    """

    def __init__(self, config: TwinConfig) -> None:
        stacked = config.bins * config.network.polarities
        super().__init__(dataclasses.replace(config.network, polarities=stacked))
        self.twin_config = config
        _exchange_neurons(self)

    def forward(self, spikes: Tensor, *, with_uncertainty: bool = False) -> Tensor:
        """Estimates depth, as `SpikingDepthTransformer` does, of spikes [B, T, P, H, W] with the T of its config."""
        bins, polarities = self.twin_config.bins, self.twin_config.network.polarities
        if spikes.ndim != 5 or tuple(spikes.shape[1:3]) != (bins, polarities):
            expected = f"[B, {bins}, {polarities}, H, W]"
            raise ValueError(f"spikes have shape {list(spikes.shape)}, expected {expected}")
        return super().forward(spikes.flatten(1, 2)[:, None], with_uncertainty=with_uncertainty)


def build_twin(config: TwinConfig) -> AnnTwin:
    """Builds an untrained twin, in training mode; weights are drawn from torch's global generator."""
    twin = AnnTwin(config)
    polarities = config.network.polarities
    # As many windows as the spiking network has steps: norms of sums over all tokens have one value a window and step.
    windows = [synthetic_events(config.bins, 128, 128, polarities, seed) for seed in range(max(2, config.bins))]
    initialise(twin, torch.cat(windows))
    twin.train()
    return twin


def _exchange_neurons(network: nn.Module) -> None:
    for name, module in network.named_children():
        if isinstance(module, MLIF):
            setattr(network, name, nn.ReLU())
        else:
            _exchange_neurons(module)
