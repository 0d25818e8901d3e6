"""How weights move: AdamW, warm-up and cosine, and the average of the weights that is kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sdt_ros.network.head import FusionHead, LinearHead, Upsample

from .config import OptimiserConfig
from .state import StateError


def make_optimiser(modules: Iterable[nn.Module], config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that learn.

    Batch norms and biases, all of one axis, do not decay. The decoder's weights that no norm follows learn more slowly,
    see `OptimiserConfig.decoder_rate`.
    """
    modules = list(modules)
    bare = {id(p) for module in modules for p in _without_norm(module)}
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for share, some in (
        (1.0, [p for p in parameters if id(p) not in bare]),
        (config.decoder_rate, [p for p in parameters if id(p) in bare]),
    ):
        groups.append({"params": [p for p in some if p.ndim > 1], "weight_decay": config.weight_decay, "share": share})
        groups.append({"params": [p for p in some if p.ndim <= 1], "weight_decay": 0.0, "share": share})
    groups = [{**group, "lr": config.lr * group["share"]} for group in groups if group["params"]]
    if not all(p.is_cuda for p in parameters):
        return torch.optim.AdamW(groups, betas=config.betas)
    for group in groups:  # where a replayed step finds each step's own
        group["lr"] = torch.tensor(group["lr"], device=parameters[0].device)
    return torch.optim.AdamW(groups, betas=config.betas, fused=True, capturable=True)


def _without_norm(module: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of the decoder's convolutions whose sums go on as they are.

    All their inputs are positive, so that a step of each weight the same way moves the whole picture: at a common rate
    it throws every depth about, and random walks of the weights go on until nothing is left of the network.
    """
    for part in module.modules():
        if isinstance(part, Upsample):
            yield from part.reduce.parameters()
        elif isinstance(part, FusionHead | LinearHead):
            yield from part.depth.parameters()


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameters a rate, or their share of it."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * group["share"])
        else:
            group["lr"] = rate * group["share"]


def learning_rate(step: int, steps: int, config: OptimiserConfig, done: float = 0.0) -> float:
    """The rate of a step, counted from 0: a line up to `lr`, a plateau, half a cosine down to `final_lr` of it.

    Args:
        step: that it is for.
        steps: of the run.
        config: its shape.
        done: share of the run's time that is over, where the clock ends it; the rate is the lower one of both.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    falling = max(1, round(config.cooldown * (steps - config.warmup_steps)))
    part = min(1.0, max(0, step - (steps - falling)) / falling)
    part = max(part, min(1.0, (done - (1 - config.cooldown)) / config.cooldown))
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * part)))


class AveragedNetwork:
    """The exponential moving average of a network's weights and of its batch norms' statistics.

    Young averages forget faster, as (1 + step) / (10 + step), so that they do not carry the first weights for long.

    Args:
        network: to be averaged; a copy is made.
        decay: share that stays from step to step; 0 follows the network itself.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take the weights after a step, counted from 1."""
        keep = min(self.decay, (1 + step) / (10 + step))
        own, new = self.network.state_dict(), network.state_dict()
        floating = [name for name, tensor in own.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([own[n] for n in floating], [new[n] for n in floating], 1 - keep)
        others = [name for name, tensor in own.items() if not tensor.is_floating_point()]
        if others:
            torch._foreach_copy_([own[n] for n in others], [new[n] for n in others])


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory of each parameter, by its number and the memory's name."""
    state = optimiser.state_dict()["state"]
    return {f"{k}.{name}": torch.as_tensor(value) for k, entry in state.items() for name, value in entry.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimiser back what `optimiser_tensors` took.

    Raises:
        StateError: it was taken from an optimiser of other parameters, or of the same in another order.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        if int(number) >= len(parameters) or (tensor.ndim and tensor.shape != parameters[int(number)].shape):
            raise StateError(f"the state's {key} of the optimiser fits no parameter: start over in another folder")
        state.setdefault(int(number), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
