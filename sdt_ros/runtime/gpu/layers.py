"""The network's modules in a GPU's way: classes that are put in the place of a network's, with its weights.

Nothing here defines a network. `use_gpu_layers` gives each module of `sdt_ros.network` a subclass of its own class that
computes the same thing from the same parameters, with fewer passes over memory: biases, shortcuts and pools are part of
the neurons' kernels (`Ops`). Features keep their shapes, [T, B, C, H, W], and lie channels last in memory. Hooks on
convolutions, neurons and products see every pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdt_ros.network import MLIF, SpikingDepthTransformer
from sdt_ros.network.attention import SCALE_TOKENS, SpikeProduct, SpikingSelfAttention
from sdt_ros.network.block import SpikingMLP
from sdt_ros.network.config import PATCH
from sdt_ros.network.head import FusionHead, LinearHead, Upsample
from sdt_ros.network.layers import ConvBN
from sdt_ros.network.stem import Downsample, PatchEmbedding
from sdt_ros.runtime.fold import prepare
from sdt_ros.runtime.gpu.ops import Ops
from sdt_ros.runtime.gpu.torch_ops import max_pool
from sdt_ros.runtime.spike_conv import observe

_SAFE = 2.0**-6  # keeps sums over all tokens in the range of float16, exactly


def use_gpu_layers(network: SpikingDepthTransformer, ops: Ops, dtype: torch.dtype) -> SpikingDepthTransformer:
    """Make a network fast on a GPU, in place; it can then no longer be trained or saved.

    Args:
        network: plain.
        ops: the kernels between convolutions.
        dtype: of spikes, weights and currents; membranes, biases and the last convolution stay float32.

    Returns:
        The same object.

    Raises:
        ValueError: its attention is softmax, which has no spikes to be fast with.
    """
    prepare(network)
    for module in list(network.modules()):
        if isinstance(module, ConvBN):
            module.conv.__class__ = BareConv2d
            module.conv.weight.data = module.conv.weight.data.to(dtype)
        elif isinstance(module, Upsample):
            _narrow(module.reduce, dtype)
            if module.refine is not None:
                _narrow(module.refine[0], dtype)  # type: ignore[index]
        elif isinstance(module, FusionHead | LinearHead):
            module.depth.__class__ = WideConv2d
    for module in network.modules():
        module.__class__ = _FAST.get(type(module), type(module))
        if isinstance(module, GpuMLIF):
            module.ops, module.spikes = ops, dtype
        elif isinstance(module, _OPS):
            module.ops = ops
        if isinstance(module, GpuAttention) and not module.spike_driven:
            module.fold_norm()
    return network


def _narrow(conv: nn.Module, dtype: torch.dtype) -> None:
    for parameter in conv.parameters():
        parameter.data = parameter.data.to(dtype)


class BareConv2d(nn.Conv2d):
    """A convolution that leaves its bias, which stays float32, to the pass that follows."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H, W] without the bias."""
        return self._conv_forward(input, self.weight, None)

    def currents(self, spikes: Tensor) -> Tensor:
        """Spikes [T, B, C, H, W] to currents [T, B, C', H, W] without the bias."""
        currents: Tensor = self(spikes.flatten(0, 1))
        return currents.unflatten(0, spikes.shape[:2])

    def mean_over_time(self, spikes: Tensor) -> Tensor:
        """Mean over T of the currents of spikes [T, B, C, H, W] with the bias: [B, C', H, W] in the weights' dtype.

        One convolution of the mean, in the place of T: convolutions are linear.
        """
        observe(self, (spikes.flatten(0, 1),), (spikes.shape[1], self.out_channels, *spikes.shape[-2:]))
        assert self.bias is not None
        mean = spikes.mean(0).contiguous(memory_format=torch.channels_last)
        return self._conv_forward(mean, self.weight, self.bias.to(self.weight.dtype))


class WideConv2d(nn.Conv2d):
    """A convolution in float32 of whatever comes: the last one, whose rounding would be seen in the depth."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H, W] float32."""
        return super().forward(input.to(self.weight.dtype))

    def mean_over_time(self, spikes: Tensor) -> Tensor:
        """Mean over T of what it makes of spikes [T, B, C, H, W]: [B, C', H, W]."""
        observe(self, (spikes.flatten(0, 1),), (spikes.shape[1], self.out_channels, *spikes.shape[-2:]))
        return self._conv_forward(spikes.to(self.weight.dtype).mean(0), self.weight, self.bias)


class GpuMLIF(MLIF):
    """`MLIF` in one pass, together with what stands before it.

    Attributes:
        ops: the kernels.
        spikes: dtype of what it fires.
    """

    ops: Ops
    spikes: torch.dtype

    def forward(
        self, current: Tensor, *, scale: Tensor | None = None, bias: Tensor | None = None, pool: bool = False
    ) -> Tensor:
        """The same as `MLIF.forward` for scale * pool(current) + bias, [T, B, C, H, W]; see `Ops.fire`."""
        steps, batch = current.shape[:2]
        fired = self.ops.fire(
            current.flatten(0, 1), steps, self.tau, self.threshold, self.spikes, scale=scale, bias=bias, pool=pool
        )
        return fired.unflatten(0, (steps, batch))


class GpuConvBN(ConvBN):
    """`ConvBN` for where nothing takes over its bias."""

    def forward(self, spikes: Tensor) -> Tensor:
        """See `ConvBN.forward`; float32."""
        conv = _bare(self)
        assert conv.bias is not None
        return conv.currents(spikes) + conv.bias[:, None, None]


class GpuPatchEmbedding(PatchEmbedding):
    """`PatchEmbedding` whose pools and biases are part of the neurons."""

    ops: Ops

    def forward(self, spikes: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `PatchEmbedding.forward`."""
        skips = [spikes]
        downs = [_bare(down.conv_bn) for down in self.downs if isinstance(down, Downsample)]
        for conv, neurons in list(zip(downs, self.neurons, strict=True))[:-1]:
            skips.append(neurons(conv.currents(skips[-1]), bias=conv.bias, pool=True))
        last = downs[-1]
        assert last.bias is not None
        membrane = max_pool(last.currents(skips[-1])) + last.bias[:, None, None]  # float32: the stream begins
        return _shortcut(self.ops, membrane, self.position, self.neurons[-1](membrane)), skips


class GpuAttention(SpikingSelfAttention):
    """`SpikingSelfAttention` whose norm and scale are part of the neurons behind them."""

    ops: Ops
    norm_scale: Tensor  # [D]
    norm_offset: Tensor

    def fold_norm(self) -> None:
        """Makes the norm's scale and offset."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        offset = norm.bias.double() - norm.running_mean.double() * scale
        self.register_buffer("norm_scale", scale.float(), persistent=False)
        self.register_buffer("norm_offset", offset.float(), persistent=False)

    def forward(self, membrane: Tensor) -> Tensor:
        """See `SpikingSelfAttention.forward`."""
        if self.spike_driven:
            return super().forward(membrane)
        assert isinstance(self.product, SpikeProduct)
        steps, batch, _, height, width = membrane.shape
        conv = _bare(self.qkv)
        spikes = self.qkv_neurons(conv.currents(self.input_neurons(membrane)), bias=conv.bias)  # [T, B, 3D, H, W]
        tokens = spikes.flatten(0, 1).flatten(2).unflatten(1, (3, self.heads, -1))  # [TB, 3, heads, d, N]
        q, k, v = tokens.permute(1, 0, 2, 4, 3).flatten(1, 2).contiguous()  # each [TB * heads, N, d]
        if self.product._forward_hooks:
            queries = tuple(x.unflatten(0, (steps, batch, self.heads)) for x in (q, k, v))
            observe(self.product, queries, tuple(queries[0].shape))
        counts = _product(q, k, v, SCALE_TOKENS / (height * width))
        # [TB, N, heads, d] in memory is channels last for [TB, D, H, W].
        currents = counts.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)  # [TB, N, D]
        currents = currents.transpose(1, 2).unflatten(2, (height, width)).unflatten(0, (steps, batch))
        attended = self.attention_neurons(currents, scale=self.norm_scale, bias=self.norm_offset)
        return _shortcut(self.ops, membrane, self.project, attended)


class GpuMLP(SpikingMLP):
    """`SpikingMLP` whose biases are part of neurons and shortcut."""

    ops: Ops

    def forward(self, membrane: Tensor) -> Tensor:
        """See `SpikingMLP.forward`."""
        conv = _bare(self.expand)
        hidden = self.hidden_neurons(conv.currents(self.input_neurons(membrane)), bias=conv.bias)
        return _shortcut(self.ops, membrane, self.project, hidden)


class GpuFusionHead(FusionHead):
    """`FusionHead` that takes the mean over time before convolutions that nothing spiking follows."""

    ops: Ops

    def context_of(self, stages: Sequence[Tensor]) -> Tensor:
        """See `FusionHead.context_of`."""
        spikes = [neurons(stage) for neurons, stage in zip(self.stage_neurons, stages, strict=True)]
        joined = torch.cat([stage.permute(0, 1, 3, 4, 2) for stage in spikes], dim=-1).permute(0, 1, 4, 2, 3)
        fuse, context, output = (_bare(part) for part in (self.fuse, self.context, self.output))
        currents = fuse.currents(joined)
        assert fuse.bias is not None and context.bias is not None
        beside = context.currents(self.context_neurons(currents, bias=fuse.bias))
        membrane = self.ops.shortcut(currents.flatten(0, 1), beside.flatten(0, 1), fuse.bias + context.bias)
        final = self.output_neurons(membrane.unflatten(0, currents.shape[:2]))
        return functional.relu(output.mean_over_time(final))


class GpuUpsample(Upsample):
    """`Upsample` that takes the mean over time before the lateral convolution."""

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """See `Upsample.forward`."""
        upsampled = functional.interpolate(self.reduce(coarse), scale_factor=2, mode="bilinear", align_corners=False)
        features = functional.relu(upsampled + _bare(self.lateral).mean_over_time(skip))
        if self.refine is not None:
            features = features + functional.relu(self.refine(features))
        return features


class GpuLinearHead(LinearHead):
    """`LinearHead` that takes the mean over time first."""

    def forward(
        self, stages: Sequence[Tensor], skips: Sequence[Tensor], uncertainty: nn.Module | None = None
    ) -> Tensor:
        """See `LinearHead.forward`."""
        assert isinstance(self.depth, WideConv2d)
        depth = self.depth.mean_over_time(self.neurons(stages[-1]))
        return functional.interpolate(depth, scale_factor=PATCH, mode="bilinear", align_corners=False)


def _bare(part: Any) -> BareConv2d:
    """The convolution of a ConvBN."""
    conv = part.conv
    assert isinstance(conv, BareConv2d)
    return conv


def _shortcut(ops: Ops, membrane: Tensor, part: ConvBN, spikes: Tensor) -> Tensor:
    """The stream [T, B, D, H, W] with what a ConvBN makes of spikes added, float32."""
    conv = _bare(part)
    assert conv.bias is not None
    total = ops.shortcut(membrane.flatten(0, 1), conv(spikes.flatten(0, 1)), conv.bias)
    return total.unflatten(0, membrane.shape[:2])


def _product(q: Tensor, k: Tensor, v: Tensor, factor: float) -> Tensor:
    """Spikes q, k, v [batch, N, d] to factor * Q K^T V in the cheaper order, [batch, N, d]."""
    unread = q.new_empty(1, 1, 1)
    if SpikeProduct.keys_first(q):
        keys = torch.baddbmm(unread, k.transpose(1, 2), v, beta=0, alpha=_SAFE)
        return torch.baddbmm(unread, q, keys, beta=0, alpha=factor / _SAFE)
    scores = torch.baddbmm(unread, q, k.transpose(1, 2), beta=0, alpha=_SAFE)
    return torch.baddbmm(unread, scores, v, beta=0, alpha=factor / _SAFE)


_FAST: dict[type, type] = {
    MLIF: GpuMLIF,
    ConvBN: GpuConvBN,
    PatchEmbedding: GpuPatchEmbedding,
    SpikingSelfAttention: GpuAttention,
    SpikingMLP: GpuMLP,
    FusionHead: GpuFusionHead,
    Upsample: GpuUpsample,
    LinearHead: GpuLinearHead,
}
_OPS = GpuPatchEmbedding | GpuAttention | GpuMLP | GpuFusionHead
