"""One transformer block: attention between tokens, then an MLP on each token."""

from __future__ import annotations

from torch import Tensor, nn

from sdt_ros.network.attention import SpikingSelfAttention
from sdt_ros.network.config import NetworkConfig
from sdt_ros.network.layers import ConvBN
from sdt_ros.network.neurons import MLIF


class SpikingMLP(nn.Module):
    """Two 1x1 convolutions of spikes with a membrane shortcut."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim, hidden = config.embed_dim, config.embed_dim * config.mlp_ratio
        self.input_neurons = MLIF.of(config)
        self.expand = ConvBN(dim, hidden)
        self.hidden_neurons = MLIF.of(config)
        self.project = ConvBN(hidden, dim)

    def forward(self, membrane: Tensor) -> Tensor:
        """Membrane stream [T, B, D, H, W] to the same with the MLP added."""
        hidden = self.hidden_neurons(self.expand(self.input_neurons(membrane)))
        return membrane + self.project(hidden)


class TransformerBlock(nn.Sequential):
    """Attention and MLP, both adding to the membrane stream [T, B, D, H, W].

    A membrane shortcut adds potentials, not spikes: neurons stand before each convolution, so that its input is in
    {0, 1} while the stream itself keeps full precision and its gradient.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.add_module("attention", SpikingSelfAttention(config))
        self.add_module("mlp", SpikingMLP(config))
