"""Weights to start from: a network whose neurons all have something to say before its first training step.

A spiking network starts dead or saturated easily: neurons that never reach the threshold send no spikes on. Batch norm
keeps currents in the threshold's reach, but only once its statistics are known. So they are taken from one pass over
synthetic events, and the untrained network fires in evaluation mode as it will in training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sdt_ros.network.attention import SpikingSelfAttention
from sdt_ros.network.block import SpikingMLP
from sdt_ros.network.config import NetworkConfig, get_preset
from sdt_ros.network.head import FusionHead, Upsample
from sdt_ros.network.neurons import MLIF
from sdt_ros.network.transformer import SpikingDepthTransformer


def build_network(network: str | NetworkConfig) -> SpikingDepthTransformer:
    """Builds an untrained network, in training mode.

    Args:
        network: name of a preset, or a config.

    Returns:
        The network, weights drawn from torch's global generator.

    Raises:
        ValueError: no preset has that name.
    """
    config = get_preset(network) if isinstance(network, str) else network
    model = SpikingDepthTransformer(config)
    initialise(model, synthetic_events(bins=4, height=128, width=128, polarities=config.polarities))
    return model.train()


def initialise(model: SpikingDepthTransformer, spikes: Tensor) -> None:
    """Draws the weights of a network, and sets its norms by the spikes [B, T, P, H, W] that it will see first."""
    _draw_weights(model)
    with torch.no_grad():
        _set_statistics(model, spikes)
        if isinstance(model.head, FusionHead):
            _open_decoder(model.eval(), model.head, spikes)
        _centre_depth(model, spikes)


def synthetic_events(bins: int, height: int, width: int, polarities: int = 2, seed: int = 0) -> Tensor:
    """Events of a drifting random pattern, for statistics and tests; no scene, no depth.

    A pixel fires ON (polarity 1) where the sign of a sum of plane waves rises between two bins, OFF where it falls,
    and one in a hundred fires by chance.

    Returns:
        Spikes [1, bins, polarities, height, width] uint8 in {0, 1}.
    """
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frequency = torch.randn(2, 12, 1, 1, 1, generator=generator) * 0.15  # radians a pixel
    drift = torch.randn(12, 1, 1, 1, generator=generator)  # radians a bin
    time = torch.arange(bins + 1).view(-1, 1, 1)
    pattern = torch.sin(frequency[0] * x + frequency[1] * y + drift * time).sum(0) > 0  # [bins + 1, H, W]
    change = pattern[1:].int() - pattern[:-1].int()
    events = torch.stack([change == (1 if p % 2 else -1) for p in range(polarities)], dim=1)
    noise = torch.rand(events.shape, generator=generator) < 0.01
    return (events | noise)[None].to(torch.uint8)


def _norms_before_neurons(model: SpikingDepthTransformer) -> Iterator[tuple[nn.BatchNorm2d, nn.Module]]:
    for module in model.modules():
        if isinstance(module, SpikingSelfAttention) and not module.softmax:
            yield module.qkv.bn, module.qkv_neurons
            yield module.norm, module.attention_neurons
        elif isinstance(module, SpikingMLP):
            yield module.expand.bn, module.hidden_neurons
        elif isinstance(module, FusionHead):
            yield module.fuse.bn, module.context_neurons
            yield module.context.bn, module.output_neurons


def _draw_weights(model: SpikingDepthTransformer) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    # Branches of the blocks start small, so that the membrane stream keeps its scale over 2 L additions.
    for module in model.modules():
        if isinstance(module, SpikingSelfAttention | SpikingMLP):
            nn.init.constant_(module.project.bn.weight, 1 / math.sqrt(2 * model.config.depth))
    # Neurons behind a norm alone see a mean of 0, those behind a max pool more. The former are given the spread of
    # the current that makes a resting neuron fire in one step, tau * threshold: about a tenth of their steps fire.
    for norm, neurons in _norms_before_neurons(model):
        if isinstance(neurons, MLIF):
            nn.init.constant_(norm.weight, neurons.tau * neurons.threshold)


def _set_statistics(model: SpikingDepthTransformer, spikes: Tensor) -> None:
    """Gives each batch norm the mean and variance that it has on these spikes."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # this batch alone
    model.train()(spikes)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def _open_decoder(model: SpikingDepthTransformer, head: FusionHead, spikes: Tensor) -> None:
    """Brings what each rectifier of the decoder's steps gets to a mean and a spread of 1, so that most of it passes.

    Coarse features are all positive, their random weights are not: half the channels would start below 0 everywhere.
    With another spread, features would grow from step to step, being positive, and gradients with them.
    """
    for step in (head.up8, head.up4, head.up2, head.up1):  # each sees what those before it let through

        def open_rectifier(step: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
            assert isinstance(step, Upsample)
            currents = step.joined(*inputs)
            spread, mean = torch.std_mean(currents, (0, 2, 3))
            spread.clamp_(min=1e-3)  # of a channel that is the same everywhere
            step.reduce.weight.div_(spread[:, None, None, None])
            step.lateral.bn.weight.div_(spread)
            step.lateral.bn.bias.sub_(mean).div_(spread).add_(1)

        with step.register_forward_pre_hook(open_rectifier):
            model(spikes)


def _centre_depth(model: SpikingDepthTransformer, spikes: Tensor) -> None:
    """Starts in the middle of the depth range, with little contrast.

    Too much is the first thing to be unlearnt, and the quickest way there is a decoder that gives nothing any more.
    """
    estimate = model.eval()(spikes)
    gain = 0.01 / estimate.std()
    projection = model.head.depth
    projection.weight.mul_(gain)
    projection.bias.sub_(estimate.mean()).mul_(gain).add_(0.5)  # type: ignore[union-attr]
