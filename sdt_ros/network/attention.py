"""Attention between tokens, made of spikes: no softmax, no multiplication of two reals.

Q, K and V are spikes, so Q K^T is a matrix of non-negative counts by itself and needs no softmax (Spikformer,
arXiv 2209.15425). Without it the product is associative: (Q K^T) V and Q (K^T V) are the same whole numbers, and the
cheaper one is computed. The spike-driven variant (arXiv 2307.01694) has no product at all.

The third variant is no such thing: softmax attention of real Q, K and V, there to learn what the spikes cost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdt_ros.network.config import NetworkConfig
from sdt_ros.network.firing import firing_rate
from sdt_ros.network.layers import ConvBN
from sdt_ros.network.neurons import MLIF

# Attention sums over all tokens: dividing by their number makes it independent of resolution, so that a network trained
# on crops fits a larger sensor. The constant makes the factor 1/8, the usual fixed scale, at 512 tokens.
SCALE_TOKENS = 64.0


class SpikeProduct(nn.Module):
    """The counts Q K^T V, in whichever order costs less; it has no parameters."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Multiplies spikes q, k, v [..., N tokens, d] to counts [..., N, d]."""
        if self.keys_first(q):
            return q @ (k.transpose(-2, -1) @ v)
        return (q @ k.transpose(-2, -1)) @ v

    @staticmethod
    def keys_first(q: Tensor) -> bool:
        """Whether Q (K^T V), 2 N d^2 operations, is no dearer than (Q K^T) V, 2 N^2 d."""
        tokens, channels = q.shape[-2:]
        return channels <= tokens

    def operations(self, q: Tensor, k: Tensor, v: Tensor) -> list[tuple[str, int, float | None]]:
        """What one call costs: (product, MACs a time step and window, rate of the spikes that gate its additions).

        The rate is None where the gate is no spikes, as in a network whose neurons were exchanged: it multiplies.
        """
        heads, tokens, channels = q.shape[-3:]
        if self.keys_first(q):
            macs = heads * tokens * channels * channels
            return [("k^T v", macs, firing_rate(k)), ("q (k^T v)", macs, firing_rate(q))]
        macs = heads * tokens * tokens * channels
        return [("q k^T", macs, firing_rate(q)), ("(q k^T) v", macs, firing_rate(v))]


class SpikeAgreement(nn.Module):
    """How many tokens have K and V firing together, for each channel; it has no parameters."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Spikes q, k, v [..., N, d] to counts [..., 1, d]; `q` is taken for the shape's sake and not read."""
        return (k * v).sum(dim=-2, keepdim=True)

    def operations(self, q: Tensor, k: Tensor, v: Tensor) -> list[tuple[str, int, float | None]]:
        """What one call costs, as `SpikeProduct.operations`: one addition where both K and V fire."""
        heads, tokens, channels = k.shape[-3:]
        return [("sum k*v", heads * tokens * channels, firing_rate(k * v))]


class SoftmaxProduct(nn.Module):
    """softmax(Q K^T / sqrt d) V of real numbers (Vaswani et al., arXiv 1706.03762); it has no parameters."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends: q, k, v [T, B, heads, N tokens, d] to the same shape."""
        steps = q.shape[:2]  # exporters know the product of four axes alone
        attended = functional.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        return attended.unflatten(0, steps)

    def operations(self, q: Tensor, k: Tensor, v: Tensor) -> list[tuple[str, int, float | None]]:
        """What one call costs, as `SpikeProduct.operations`; the exponentials are not counted."""
        heads, tokens, channels = q.shape[-3:]
        macs = heads * tokens * tokens * channels
        return [("q k^T", macs, None), ("softmax(q k^T) v", macs, None)]


class SpikingSelfAttention(nn.Module):
    """Multi-head attention of spikes with a membrane shortcut; `attention` of the config picks the variant.

    "softmax" keeps the shortcut, the neurons at the input and all projections. Q, K and V stay the real numbers that
    they are behind their norm, and what is attended goes to the projection as it is.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.heads = config.heads
        self.spike_driven = config.attention == "spike_driven"
        self.softmax = config.attention == "softmax"
        self.input_neurons = MLIF.of(config)
        self.qkv = ConvBN(dim, 3 * dim)
        if self.softmax:
            self.product: nn.Module = SoftmaxProduct()
        else:
            self.qkv_neurons = MLIF.of(config)
            self.product = SpikeAgreement() if self.spike_driven else SpikeProduct()
            # Counts of sparse spikes are mostly small and would starve the neurons behind them: normalise them first.
            self.norm = nn.BatchNorm2d(dim)
            self.attention_neurons = MLIF.of(config)
        self.project = ConvBN(dim, dim)

    def forward(self, membrane: Tensor) -> Tensor:
        """Membrane stream [T, B, D, H, W] to the same with attention added."""
        currents = self.qkv(self.input_neurons(membrane))
        if self.softmax:
            attended = self.product(*self._split(currents))
            return membrane + self.project(self._merge(attended, membrane.shape))
        q, k, v = self._split(self.qkv_neurons(currents))  # each [T, B, heads, N, d]
        counts = self.product(q, k, v) * (SCALE_TOKENS / q.shape[-2])
        attended = self.attention_neurons(self._normalise(counts))
        if self.spike_driven:
            attended = attended * q  # a channel that fired lets its queries pass
        return membrane + self.project(self._merge(attended, membrane.shape))

    def _split(self, spikes: Tensor) -> tuple[Tensor, ...]:
        """[T, B, 3D, H, W] to q, k, v, each [T, B, heads, N, d]."""
        tokens = spikes.flatten(3).unflatten(2, (3, self.heads, -1))  # [T, B, 3, heads, d, N]
        return tokens.transpose(-2, -1).unbind(2)

    def _normalise(self, counts: Tensor) -> Tensor:
        """Batch norm of [T, B, heads, N, d] over the D = heads * d channels."""
        steps, batch, heads, tokens, channels = counts.shape
        flat = counts.transpose(-2, -1).reshape(steps * batch, heads * channels, tokens, 1)
        return self.norm(flat).reshape(steps, batch, heads, channels, tokens).transpose(-2, -1)

    @staticmethod
    def _merge(spikes: Tensor, shape: torch.Size) -> Tensor:
        """[T, B, heads, N, d] back to [T, B, D, H, W]."""
        return spikes.transpose(-2, -1).reshape(shape)
