"""The network's modules in the CPU's own way: classes that are put in the place of a network's, with its weights.

Nothing here defines a network. `use_cpu_layers` gives each module of `sdt_ros.network` a subclass of its own class that
computes the same thing from the same parameters. Tensors keep their shapes, [T, B, C, H, W], and lie channels last in
memory. Hooks on convolutions and products see every pass, also where they are computed as part of something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdt_ros.network import MLIF, SpikingDepthTransformer
from sdt_ros.network.attention import SCALE_TOKENS, SpikeProduct, SpikingSelfAttention
from sdt_ros.network.block import SpikingMLP
from sdt_ros.network.head import FusionHead, LinearHead, Upsample
from sdt_ros.network.layers import ConvBN
from sdt_ros.network.stem import Downsample, PatchEmbedding
from sdt_ros.runtime.fold import prepare
from sdt_ros.runtime.kernels import events, gather
from sdt_ros.runtime.kernels.attend import attend
from sdt_ros.runtime.kernels.decode import decode
from sdt_ros.runtime.kernels.lif import BLOCK, add_fire, fire, pool_fire
from sdt_ros.runtime.kernels.parallel import array, spread
from sdt_ros.runtime.spike_conv import FloatConv2d, Int8Conv2d, observe, observed

_FIRED = "fired"  # attribute of a tensor: what neurons of some constants fire at it


def use_cpu_layers(network: SpikingDepthTransformer, *, int8: bool) -> SpikingDepthTransformer:
    """Make a network fast on a CPU, in place; it can then no longer be trained or saved.

    Args:
        network: plain, on the CPU.
        int8: round the weights of spiking convolutions to int8; else all is float32.

    Returns:
        The same object.

    Raises:
        ValueError: its attention is softmax, which has no spikes to be fast with.
    """
    prepare(network)
    last = network.head.up1.lateral if isinstance(network.head, FusionHead) else None  # once a window, in one pass
    for module in list(network.modules()):
        if isinstance(module, ConvBN):
            module.conv = _spike_conv(module.conv, int8 and module is not last)
        elif isinstance(module, LinearHead):
            module.depth = _spike_conv(module.depth, False)
    for module in network.modules():
        module.__class__ = _FAST.get(type(module), type(module))
        if isinstance(module, FastMLIF):
            module.spikes = torch.uint8 if int8 else torch.float32
    return network


def _spike_conv(conv: nn.Conv2d, int8: bool) -> nn.Conv2d:
    if int8 and conv.in_channels > events.POLARITIES:
        return Int8Conv2d(conv)
    conv.__class__ = FloatConv2d  # also the convolutions of events: in tables or once a window, they cost little
    return conv


class FastMLIF(MLIF):
    """`MLIF` as compiled loops, to the same bit.

    Attributes:
        spikes: dtype of what it fires: uint8 or float32.
    """

    spikes = torch.float32

    def forward(self, current: Tensor) -> Tensor:
        """The same as `MLIF.forward`, for any [T, ...] float32 or bfloat16."""
        fired = getattr(current, _FIRED, {}).get((self.constants(), self.spikes))
        return self._fire(current) if fired is None else fired

    def _fire(self, current: Tensor) -> Tensor:
        steps, neurons = current.shape[0], current[0].numel()
        currents = current
        if not _is_dense(current[0]) or (steps > 1 and current.stride(0) != neurons):
            currents = current.contiguous()
        fired = torch.empty_like(currents, dtype=self.spikes)
        spread(
            fire,
            neurons,
            current.numel(),
            _flat(currents),
            _flat(fired),
            steps,
            neurons,
            *self.constants(),
            grain=BLOCK,
        )
        return fired

    def constants(self) -> tuple[np.float32, np.float32]:
        """Rate and threshold, as kernels take them."""
        return np.float32(1 / self.tau), np.float32(self.threshold)

    def fire_after(self, layer: ConvBN, spikes: Tensor) -> Tensor:
        """What these neurons fire at a layer's currents; in one pass where few of its inputs fire.

        Args:
            layer: of spikes [T, 1, C, H, W].
            spikes: its input.
        """
        if not _gathers(layer, spikes):
            return self(layer(spikes))
        return self._fire_behind(layer, spikes, torch.empty(0), torch.empty(0))

    def add(self, membrane: Tensor, layer: ConvBN, spikes: Tensor) -> Tensor:
        """The sum of the stream [T, 1, C', H, W] and a layer's currents, and what these neurons fire at it.

        The spikes go with the sum: any neurons of these constants that are given this very tensor find them.
        """
        total = torch.empty_like(membrane)
        in_steps = _is_dense(total[0]) and (len(total) == 1 or total.stride(0) == total[0].numel())
        if in_steps and _gathers(layer, spikes) and _same_layout(membrane, _channels_last(total)):
            fired = self._fire_behind(layer, spikes, membrane, total)
        else:
            update = layer(spikes)
            if not (in_steps and _same_layout(membrane, total) and _same_layout(update, total)):
                return membrane + update
            neurons, fired = membrane[0].numel(), torch.empty_like(total, dtype=self.spikes)
            spread(
                add_fire, neurons, 2 * membrane.numel(), _flat(membrane), _flat(update), _flat(total), _flat(fired),
                len(membrane), neurons, *self.constants(), grain=BLOCK,
            )  # fmt: skip
        setattr(total, _FIRED, {(self.constants(), self.spikes): fired})
        return total

    def _fire_behind(self, layer: ConvBN, spikes: Tensor, membrane: Tensor, total: Tensor) -> Tensor:
        """Spikes of a layer that adds; the sum with the stream is written where there is one."""
        conv, (steps, _, _, height, width) = layer.conv, spikes.shape
        assert isinstance(conv, Int8Conv2d)
        fired = torch.empty((steps, 1, height, width, conv.out_channels), dtype=self.spikes)
        conv.gather(
            gather.convolve, height, spikes.flatten(0, 1), _flat(membrane), _flat(total), array(fired),
            *self.constants(),
        )  # fmt: skip
        return fired.permute(0, 1, 4, 2, 3)


class FastPatchEmbedding(PatchEmbedding):
    """`PatchEmbedding` whose first convolution is a table, and whose pools and neurons are one pass."""

    def forward(self, spikes: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `PatchEmbedding.forward`; B must be 1."""
        skips = [spikes]
        batch, polarities = spikes.shape[1:3]
        if batch != 1:
            raise ValueError(f"{batch} windows at once: this runtime takes one at a time")
        for number, (down, neurons) in enumerate(list(zip(self.downs, self.neurons, strict=True))[:-1]):
            assert isinstance(down, Downsample) and isinstance(neurons, FastMLIF)
            of_events = number == 0 and polarities == events.POLARITIES
            skips.append(
                _events_down(down, neurons, skips[-1]) if of_events else _down(down, neurons, skips[-1], keep=False)[0]
            )
        last, neurons = self.downs[-1], self.neurons[-1]
        assert isinstance(last, Downsample) and isinstance(neurons, FastMLIF)
        tokens, membrane = _down(last, neurons, skips[-1], keep=True)
        return neurons.add(membrane, self.position, tokens), skips


def _events_down(down: Downsample, neurons: FastMLIF, spikes: Tensor) -> Tensor:
    """The first `Downsample` and its neurons, of one window."""
    steps, _, _, height, width = spikes.shape
    conv = down.conv_bn.conv
    assert isinstance(conv, FloatConv2d) and conv.bias is not None  # of the norm that was folded
    table = conv.table()
    channels = conv.out_channels
    codes = np.zeros((steps, height + 2, width), np.uint8)
    work = spikes.numel()
    fired = torch.empty((steps, 1, height // 2, width // 2, channels), dtype=neurons.spikes)
    with observed(conv, (spikes.flatten(0, 1),), (steps, channels, height, width)):
        spread(events.encode, steps * height, work, array(spikes.contiguous()), codes, height, width)
        spread(
            events.convolve_pool_fire, height // 2, work * channels, codes, table, array(fired), channels,
            *neurons.constants(),
        )  # fmt: skip
    return fired.permute(0, 1, 4, 2, 3)


def _down(down: Downsample, neurons: FastMLIF, spikes: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
    """A `Downsample` and its neurons, of one window; the spikes, and the currents where they are to be kept."""
    steps, _, _, height, width = spikes.shape
    conv, inputs = down.conv_bn.conv, spikes.flatten(0, 1)
    shape = steps, 1, height // 2, width // 2, conv.out_channels
    fired, pooled = torch.empty(shape, dtype=neurons.spikes), torch.empty(shape if keep else 0)
    if isinstance(conv, Int8Conv2d) and conv.is_worth_gathering(inputs):
        out = array(fired), array(pooled)
        conv.gather(gather.convolve_pool_fire, height // 2, inputs, *out, *neurons.constants())
    else:
        x = conv(inputs)  # [T, C, H, W] channels last
        spread(
            pool_fire, height // 2, x.numel(), _flat(x), array(fired), array(pooled), steps, height // 2, width,
            conv.out_channels, *neurons.constants(),
        )  # fmt: skip
    return fired.permute(0, 1, 4, 2, 3), pooled.permute(0, 1, 4, 2, 3) if keep else pooled


class FastAttention(SpikingSelfAttention):
    """`SpikingSelfAttention` whose product, norm and neurons are one pass; one window at a time."""

    _constants: Mapping[int, tuple[np.ndarray, np.ndarray]] = MappingProxyType({})

    def forward(self, membrane: Tensor) -> Tensor:
        """See `SpikingSelfAttention.forward`."""
        steps, _, dim, height, width = membrane.shape
        if self.spike_driven:
            return super().forward(membrane)
        assert isinstance(self.product, SpikeProduct) and isinstance(self.attention_neurons, FastMLIF)
        assert isinstance(self.qkv_neurons, FastMLIF)
        spikes = self.qkv_neurons.fire_after(self.qkv, self.input_neurons(membrane))  # [T, 1, 3D, H, W] channels last
        tokens = height * width
        if self.product._forward_hooks:
            queries = self._split(spikes)
            observe(self.product, queries, tuple(queries[0].shape))
        fired = torch.empty((steps, 1, height, width, dim), dtype=spikes.dtype)
        spread(
            attend, self.heads, 1 << 30, _flat(spikes), array(fired), steps, tokens, self.heads, dim // self.heads,
            *self._scale_and_offset(tokens), *self.attention_neurons.constants(),
        )  # fmt: skip
        return self.attention_neurons.add(membrane, self.project, fired.permute(0, 1, 4, 2, 3))

    def _scale_and_offset(self, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """What the norm does to counts of so many tokens, float32 [D] each."""
        if tokens not in self._constants:
            norm = self.norm
            assert norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
            offset = norm.bias.double() - norm.running_mean.double() * scale
            self._constants = {tokens: ((scale * (SCALE_TOKENS / tokens)).float().numpy(), offset.float().numpy())}
        return self._constants[tokens]


class FastMLP(SpikingMLP):
    """`SpikingMLP` whose sum is one pass with the neurons that read it."""

    def forward(self, membrane: Tensor) -> Tensor:
        """See `SpikingMLP.forward`."""
        assert isinstance(self.hidden_neurons, FastMLIF)
        hidden = self.hidden_neurons.fire_after(self.expand, self.input_neurons(membrane))
        return self.hidden_neurons.add(membrane, self.project, hidden)


class FastFusionHead(FusionHead):
    """`FusionHead` that joins stages channels last, and whose last step is one pass."""

    def context_of(self, stages: Sequence[Tensor]) -> Tensor:
        """See `FusionHead.context_of`."""
        spikes = [neurons(stage) for neurons, stage in zip(self.stage_neurons, stages, strict=True)]
        membrane = self.fuse(self.join(spikes))
        assert isinstance(self.context_neurons, FastMLIF)
        membrane = self.context_neurons.add(membrane, self.context, self.context_neurons(membrane))
        return functional.relu(self.output(self.output_neurons(membrane)).mean(0))

    def join(self, stages: Sequence[Tensor]) -> Tensor:
        """See `FusionHead.join`."""
        return torch.cat([stage.permute(0, 1, 3, 4, 2) for stage in stages], dim=-1).permute(0, 1, 4, 2, 3)

    def finish(self, features: Tensor, events: Tensor) -> Tensor:
        """See `FusionHead.finish`; one window, in one pass."""
        steps, _, polarities, height, width = events.shape
        up, depth = self.up1, self.depth
        lateral, channels = up.lateral.conv, up.reduce.out_channels
        assert up.refine is None and lateral.bias is not None and depth.bias is not None
        observe(up.reduce, (features,), (1, channels, *features.shape[-2:]))
        observe(lateral, (events.flatten(0, 1),), (1, channels, height, width))
        planes = up.reduce.weight.flatten(1) @ features[0].permute(1, 2, 0).flatten(0, 1).T
        log_depth = torch.empty((1, 1, height, width))
        seen = torch.empty((1, channels, height, width) if depth._forward_hooks else 0)
        spread(
            decode, height, channels * log_depth.numel(), array(events.contiguous()), planes.numpy(),
            lateral.weight.numpy(), lateral.bias.numpy(), depth.weight[0].numpy(), np.float32(depth.bias.item()),
            array(log_depth), array(seen), steps, polarities, height, width,
        )  # fmt: skip
        observe(depth, (seen,), (1, 1, height, width))
        return log_depth


class FastUpsample(Upsample):
    """`Upsample` that takes the mean over time before the lateral convolution, which is linear, not behind it."""

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """See `Upsample.forward`."""
        conv = self.lateral.conv
        assert isinstance(conv, Int8Conv2d | FloatConv2d)
        # A 1x1 convolution of few channels, channels last, is a product of matrices; oneDNN leaves it to a slow loop.
        observe(self.reduce, (coarse,), (len(coarse), self.reduce.out_channels, *coarse.shape[-2:]))
        reduced = functional.linear(coarse.permute(0, 2, 3, 1), self.reduce.weight.flatten(1)).permute(0, 3, 1, 2)
        upsampled = functional.interpolate(reduced, scale_factor=2, mode="bilinear", align_corners=False)
        features = functional.relu_(upsampled.add_(conv.mean_over_time(skip)))
        if self.refine is not None:
            features = features + functional.relu_(self.refine(features))
        return features


_FAST: dict[type, type] = {
    MLIF: FastMLIF,
    PatchEmbedding: FastPatchEmbedding,
    SpikingSelfAttention: FastAttention,
    SpikingMLP: FastMLP,
    FusionHead: FastFusionHead,
    Upsample: FastUpsample,
}


def _gathers(layer: ConvBN, spikes: Tensor) -> bool:
    """Whether a layer adds weights where its input fires, rather than to multiply all of it."""
    return isinstance(layer.conv, Int8Conv2d) and layer.conv.is_worth_gathering(spikes.flatten(0, 1))


def _channels_last(x: Tensor) -> Tensor:
    """A tensor of the same shape [T, 1, C, H, W], without memory, that lies channels last."""
    steps, batch, channels, height, width = x.shape
    return torch.empty((steps, batch, height, width, channels), device="meta").permute(0, 1, 4, 2, 3)


def _same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether both are float32, of one shape, with each value at the same place."""
    places = [one for size, *one in zip(a.shape, a.stride(), b.stride(), strict=True) if size > 1]
    return a.shape == b.shape and a.dtype == b.dtype == torch.float32 and all(x == y for x, y in places)


def _is_dense(x: Tensor) -> bool:
    """Whether its values fill their memory, in whatever order."""
    return torch.empty_like(x).stride() == x.stride()


def _flat(tensor: Tensor) -> np.ndarray:
    """A dense tensor as the array of its values in the order of memory."""
    return array(tensor.as_strided((tensor.numel(),), (1,)))
