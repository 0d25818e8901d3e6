"""Taps: read features and firing rates out of a network while it runs, without a change to its code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sdt_ros.network import MLIF, synthetic_events
from sdt_ros.network.head import Upsample


class Taps:
    """Forward hooks on modules by name.

    `features` and `rates` hold what the last pass gave; both keep their graph, so that losses can use them. The
    spikes' share is over all steps, samples and neurons of a layer; it is taken while `counts` is set. So is `alive`,
    the share of a decoder step's outputs above 0: where a rectifier gives nothing, what is before it learns by
    the leak of its gradient alone.

    Args:
        network: what to listen to.
        stages: names of modules, as `blocks.1`, whose output [T, B, C, h, w] (or [B, C, h, w]) is kept, mean over T.

    Raises:
        ValueError: the network has no module of that name; the message lists some that it has.
    """

    def __init__(self, network: nn.Module, stages: Sequence[str] = ()) -> None:
        self.features: dict[str, Tensor] = {}
        self.rates: dict[str, Tensor] = {}
        self.alive: dict[str, Tensor] = {}
        self._decoders = {name: module for name, module in network.named_modules() if isinstance(module, Upsample)}
        self._decoder_handles: list[Any] = []
        self.counts = True
        self._paused = False
        modules = dict(network.named_modules())
        for name in stages:
            if name not in modules:
                likely = [each for each in modules if each and each.count(".") <= 1]
                raise ValueError(f"the network has no module {name!r}; it has {', '.join(likely[:40])}")
        self._handles = [modules[name].register_forward_hook(self._on_stage(name)) for name in stages]
        for name, module in modules.items():
            if isinstance(module, MLIF):
                self._handles.append(module.register_forward_hook(self._on_neurons(name)))

    @property
    def counts(self) -> bool:
        """Whether shares are taken. Decoders have a hook meanwhile, for which compiled layers take a longer way."""
        return self._counts

    @counts.setter
    def counts(self, wanted: bool) -> None:
        self._counts = wanted
        if wanted and not self._decoder_handles:
            for name, module in self._decoders.items():
                self._decoder_handles.append(module.register_forward_hook(self._on_decoder(name)))
        elif not wanted:
            for handle in self._decoder_handles:
                handle.remove()
            self._decoder_handles = []

    def clear(self) -> None:
        """Forget the last pass, and with it its graph."""
        self.features, self.rates, self.alive = {}, {}, {}

    def close(self) -> None:
        """Remove the hooks."""
        self.counts = False
        for handle in self._handles:
            handle.remove()
        self.clear()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hear nothing: what is recomputed for a backward pass was heard before."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def channels(self, network: nn.Module, bins: int, polarities: int = 2) -> dict[str, int]:
        """Channels of each stage, found by one pass over a few synthetic events; the network's state stays."""
        device = next(network.parameters()).device
        training = network.training
        with torch.no_grad():
            network.eval()(synthetic_events(bins, 64, 64, polarities).to(device))
        network.train(training)
        found = {name: feature.shape[1] for name, feature in self.features.items()}
        self.clear()
        return found

    def _on_stage(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if not self._paused:
                self.features[name] = output.mean(0) if output.ndim == 5 else output

        return hook

    def _on_neurons(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, spikes: Tensor) -> None:
            if self.counts and not self._paused:
                self.rates[name] = spikes.mean(dtype=torch.float32)

        return hook

    def _on_decoder(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, features: Tensor) -> None:
            if self.counts and not self._paused:
                self.alive[name] = (features.detach() > 0).mean(dtype=torch.float32)

        return hook


class FrozenStatistics:
    """Keeps batch norms from counting a batch twice while a pass is recomputed.

    Args:
        network: whose batch norms.
    """

    def __init__(self, network: nn.Module) -> None:
        self._norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Batch norms normalise by the batch, as in training, and leave their running statistics as they are.

        They do so by a momentum of 0 and not by `track_running_stats`: the pass must save what the first one saved.
        """
        usual = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = norm.num_batches_tracked.clone()
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(self._norms, usual, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, count


def recompute_in_backward(network: nn.Module, taps: Taps) -> None:
    """Make the stem and every block keep their inputs only, and compute the rest anew in the backward pass.

    Args:
        network: a network with `blocks`; changed in place.
        taps: hear each pass once.

    Raises:
        ValueError: the network has no blocks.
    """
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(f"run.checkpointing: {type(network).__name__} has no `blocks` to recompute; set it to false")
    stem = getattr(network, "stem", None)
    for part in [*([stem] if isinstance(stem, nn.Module) else []), *blocks]:
        _recompute(part, FrozenStatistics(part), taps)


def _recompute(part: nn.Module, frozen: FrozenStatistics, taps: Taps) -> None:
    usual = part.forward

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        with frozen(), taps.paused():
            yield

    def forward(*inputs: Any) -> Any:
        if not (part.training and torch.is_grad_enabled()):
            return usual(*inputs)
        return checkpoint(usual, *inputs, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), again()))

    part.forward = forward
