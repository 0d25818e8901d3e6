"""Fits a head for uncertainty to what a network is off by; the network itself is at rest."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from sdt_distill.uncertainty.mistakes import Mistakes, joined
from sdt_ros.network import NetworkConfig, UncertaintyHead

_log = logging.getLogger(__name__)

_FEW = 200  # steps: the rate has hardly risen when it falls again, and the head tells what it told untrained
_LN_SQRT2 = 0.5 * math.log(2)  # a Laplace distribution's deviation is sqrt(2) b


@dataclass(frozen=True)
class FitConfig:
    """How the head is fitted.

    Attributes:
        epochs: times that each window is seen.
        batch: windows of a step, all of one size.
        lr: learning rate at its highest, three tenths on the way.
        weight_decay: of AdamW.
        seed: of the head's first weights, and of the order of windows.
    """

    epochs: int = 8
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr}, expected a finite number above 0")


def losses(head: UncertaintyHead, mistakes: Mistakes) -> tuple[Tensor, Tensor]:
    """Negative log likelihoods of what a network was off by, under Laplace's distribution, less ln(2).

    Returns:
        Of the scale, and of places, the mean over pixels of each picture: means over pictures, both scalars.
    """
    told = mistakes.told_by(head) - _LN_SQRT2  # ln(b), float32 [B, 2, H, W]
    of_scale, of_place = told[:, 0, 0, 0], told[:, 1]
    scale = mistakes.scale.abs() * (-of_scale).exp() + of_scale
    error = mistakes.place.float()
    known = error.isfinite()
    place = torch.where(known, error, 0).abs() * (-of_place).exp() + of_place
    pixels = known.flatten(1).sum(1).clamp_min(1)
    return scale.mean(), ((place * known).flatten(1).sum(1) / pixels).mean()


def fit(network: NetworkConfig, parts: Sequence[Mistakes], config: FitConfig | None = None) -> UncertaintyHead:
    """Fit a head.

    Args:
        network: whose mistakes these are.
        parts: the mistakes; windows of several sizes may be among them.
        config: how.

    Returns:
        The head, on the CPU.

    Raises:
        ValueError: the network's head is not the fusion head, or there are no mistakes.
        FloatingPointError: the loss is not finite.
    """
    config = config or FitConfig()
    groups = joined(parts)
    if not groups:
        raise ValueError("no mistakes to learn from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = UncertaintyHead(network)
        steps = config.epochs * sum(math.ceil(len(group) / config.batch) for group in groups)
        if steps < _FEW:
            _log.warning("%d steps say little: name more data, or raise --epochs", steps)
        optimiser = torch.optim.AdamW(head.parameters(), config.lr, weight_decay=config.weight_decay)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=steps)
        bar = tqdm(_batches(groups, config), desc="fit", total=steps, unit="step")
        for batch in bar:
            scale, place = losses(head, batch)
            if not torch.isfinite(scale + place):
                raise FloatingPointError(
                    f"the loss is {float(scale + place)}: features or depths of the network are not finite"
                )
            optimiser.zero_grad()
            (scale + place).backward()
            optimiser.step()
            rate.step()
            bar.set_postfix(scale=f"{scale.item():.3f}", place=f"{place.item():.3f}", refresh=False)
    return head.eval()


def _batches(groups: Sequence[Mistakes], config: FitConfig) -> Iterator[Mistakes]:
    """Every window once an epoch, sizes mixed."""
    for _ in range(config.epochs):
        chosen = [(group, part) for group in groups for part in torch.randperm(len(group)).split(config.batch)]
        for number in torch.randperm(len(chosen)).tolist():
            group, part = chosen[number]
            yield group.of(part)
