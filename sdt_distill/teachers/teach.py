"""Trains the frame network on frames and exact depth, with the data, augmentation and optimiser of the students."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sdt_distill.datasets import DatasetError
from sdt_distill.losses import DistillationLoss, LossConfig
from sdt_distill.teachers.frame import FrameConfig, FrameNetwork, save_frame_network
from sdt_distill.training.augment import Augmentation, AugmentConfig
from sdt_distill.training.batch import Batch, collate
from sdt_distill.training.config import ConfigError, DataConfig, OptimiserConfig
from sdt_distill.training.data import Mixture, Source, open_source, require_sky, spread_over, stream
from sdt_distill.training.hardware import pick_precision
from sdt_distill.training.optimise import (
    AveragedNetwork,
    learning_rate,
    make_optimiser,
    optimiser_tensors,
    restore_optimiser,
    set_learning_rate,
)
from sdt_distill.training.state import StateError, below, load_state, part, save_state
from sdt_distill.training.tree import RefusedValueError, from_file, same, to_plain
from sdt_ros.arguments import MOST_SEED
from sdt_ros.evaluation.metrics import average, frame_metrics
from sdt_ros.runtime.device import resolve_device
from sdt_ros.text_files import TextFileError, read_yaml

_log = logging.getLogger(__name__)

STATE = "state.safetensors"
SCORES = ("abs_rel", "rmse_log", "delta1")
PRECISIONS = ("auto", "bfloat16", "float32")
_MEANING = ("min_m", "max_m", "input_scale", "focal_px")  # of the data, what the weights' metres hang on


class TeachError(RuntimeError):
    """The run cannot go on; the message says why and what is left."""


def _require(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise RefusedValueError(key, value, expected)


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class TeachConfig:
    """The training of a frame network.

    Attributes:
        frame: its shape.
        data: frames and depth; all sources must have frames.
        augment: flips, crops and zoom are what it uses, the rest is for events.
        optimiser: how weights move.
        loss: only `depth` and `gradient`, and `far` with its keys, are of use.
        steps: optimiser steps in all.
        batch: samples of a step.
        seed: of weights, order and augmentation.
        device: auto, cpu, cuda or cuda:N.
        precision: bfloat16, float32 or auto.
        threads: of torch on the CPU; 0 leaves torch's choice.
        log_every: steps between lines of the log; the loss is checked for NaN as often.
        save_every: steps between states.
        validation_samples: held-out frames scored at the end, at most; 0 takes all.
    """

    frame: FrameConfig = dataclasses.field(default_factory=FrameConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = dataclasses.field(default_factory=lambda: OptimiserConfig(lr=5e-4))
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    steps: int = 10_000
    batch: int = 8
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    log_every: int = 20
    save_every: int = 500
    validation_samples: int = 400

    def __post_init__(self) -> None:
        """Refuses what makes no run, naming the key."""
        for key in ("steps", "batch", "log_every", "save_every"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        for key in ("threads", "validation_samples"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        _require(0 <= self.seed <= MOST_SEED, "seed", self.seed, f"0 to {MOST_SEED}")
        _require(self.precision in PRECISIONS, "precision", self.precision, " or ".join(PRECISIONS))
        betas = self.optimiser.betas
        _require(all(0 <= beta < 1 for beta in betas), "optimiser.betas", betas, "two numbers in [0, 1)")
        if self.loss.needs_teacher or self.loss.rate:
            raise ConfigError("config key 'loss': feature, similarity, proxy and rate must be 0 for a frame network")


def load_teach_config(path: Path, settings: Sequence[str] = ()) -> TeachConfig:
    """Read a YAML config and apply `key=value` settings to it.

    Raises:
        ConfigError: it cannot be read, or a key or value is wrong.
    """
    try:
        values = read_yaml(path) or {}
    except (OSError, TextFileError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys, found {type(values).__name__}")
    return from_file(TeachConfig, values, settings, path)


def teach(
    config: TeachConfig, out: Path, max_minutes: float = math.inf, progress: bool = False,
    stop: Callable[[], bool] = _never,
) -> dict[str, Any]:  # fmt: skip
    """Train, or go on with a run; writes the network to `out` in the hub's format.

    Args:
        config: the run.
        out: its folder.
        max_minutes: save and stop after so long.
        progress: show a bar.
        stop: is asked behind each step; once it says yes, the run is saved and left as it is, not scored.

    Returns:
        Steps done, whether nothing is left to do, samples a second, and the scores on held-out frames where there are
        any.

    Raises:
        ConfigError: the config does not fit.
        ValueError: so does a part of it to another, such as a crop that is larger than the samples.
        DatasetError: a data set is broken, empty, or has no frames.
        StateError: the folder's state is damaged or of another run.
        TeachError: the loss is NaN or infinite.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if not config.data.sources:
        raise ConfigError("config key 'data.sources' is empty: name at least one data set to learn from")
    device, why = resolve_device(config.device)
    half = pick_precision(config.precision, device) == torch.bfloat16
    sources = [open_source(each, config.data, frames=True) for each in config.data.sources]
    require_sky(config.loss, sources)
    held_out = [open_source(each, config.data, frames=True) for each in config.data.validation]
    for source in (*sources, *held_out):  # told now and not behind the last step
        _frames(collate([source.item(0, 0)]))
    torch.manual_seed(config.seed)
    network = FrameNetwork(config.frame).to(device).train()
    averaged = AveragedNetwork(network, config.optimiser.ema_decay)
    optimiser = make_optimiser([network], config.optimiser)
    loss = DistillationLoss(config.loss, {}, {})
    step = _restore(out / STATE, config, network, averaged, optimiser)
    _log.info("frame network on %s (%s), from step %d of %d", device, why, step, config.steps)
    augment = Augmentation(config.augment, config.seed)
    batches: Iterator[Batch] = stream(
        Mixture(sources, config.seed), config.data, config.batch, step * config.batch, config.batch,
        pin=device.type == "cuda",
    )  # fmt: skip
    start, first = time.monotonic(), step
    bar = tqdm(total=config.steps, initial=step, unit="step", disable=not progress)
    try:
        while step < config.steps:
            batch, _ = augment(next(batches).to(device))
            cost = _step(network, optimiser, loss, batch, config, step, device, half)
            step += 1
            averaged.update(network, step)
            bar.update()
            over = stop() or time.monotonic() - start > 60 * max_minutes
            logs, saves = step % config.log_every == 0 or step == config.steps, step % config.save_every == 0
            if logs or saves or over:  # what is saved was looked at
                _check(cost, step, batch, out)
            if logs:
                bar.set_postfix(loss=f"{cost[0].item():.4g}", refresh=False)
                _log.info("step %d: loss %.4f", step, cost[0].item())
            if saves:
                _save(out / STATE, config, step, network, averaged, optimiser)
            if over:
                break
    finally:
        bar.close()
        if isinstance(batches, Generator):
            batches.close()
        batches = iter(())  # workers end with their iterator, which a traceback would keep
    speed = (step - first) * config.batch / max(1e-9, time.monotonic() - start)
    _save(out / STATE, config, step, network, averaged, optimiser)
    card: dict[str, Any] = {
        "training_data": "; ".join(source.data.describe().splitlines()[0] for source in sources),
        "steps": step,
        "batch": config.batch,
        "scores": None,
    }
    save_frame_network(out, averaged.network, config.data.depth_range, card)  # type: ignore[arg-type]
    scores = _score(averaged.network, held_out, config, device, half, stop) if held_out else None
    if scores is not None:
        save_frame_network(out, averaged.network, config.data.depth_range, {**card, "scores": scores})  # type: ignore[arg-type]
    finished = step >= config.steps and (scores is not None or not held_out)
    return {
        "step": step, "steps": config.steps, "finished": finished, "samples_per_second": speed, "validation": scores,
    }  # fmt: skip


def _step(
    network: FrameNetwork,
    optimiser: torch.optim.Optimizer,
    loss: DistillationLoss,
    batch: Batch,
    config: TeachConfig,
    step: int,
    device: torch.device,
    half: bool,
) -> Tensor:
    """One step; returns its loss and the norm of its gradient, [2]."""
    set_learning_rate(optimiser, learning_rate(step, config.steps, config.optimiser))
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        log_depth = network(_frames(batch))
    total = loss(log_depth, batch.depth, config.data.depth_range, {}, None, batch.depth, {}).total
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimiser.clip)
    optimiser.step()
    return torch.stack([total.detach().float(), norm.float()])


def _frames(batch: Batch) -> Tensor:
    if batch.frame is None:
        raise DatasetError(
            f"{batch.keys[0]}: the batch has samples without a frame; a frame network needs one for each"
        )
    return batch.frame


def _check(cost: Tensor, step: int, batch: Batch, out: Path) -> None:
    if not torch.isfinite(cost).all():
        kept = f"the state in {out} is kept" if (out / STATE).is_file() else "no state was saved yet"
        loss, norm = cost.tolist()
        raise TeachError(f"step {step}: the loss is {loss}, its gradient's norm {norm}; {kept}. "
                         f"The batch: {', '.join(batch.keys)}. "
                         "Look at these samples, or lower optimiser.lr or optimiser.clip")  # fmt: skip


@torch.no_grad()
def _score(
    network: torch.nn.Module, sources: Sequence[Source], config: TeachConfig, device: torch.device, half: bool,
    stop: Callable[[], bool],
) -> dict[str, float] | None:  # fmt: skip
    """Means over held-out frames; None where it was stopped."""
    places = spread_over(sources, config.validation_samples)
    rows = []
    for first in range(0, len(places), config.batch):
        if stop():  # who kills behind SIGTERM waits for seconds
            return None
        batch = collate([sources[k].item(i, 0) for k, i in places[first : first + config.batch]])
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            log_depth = network(_frames(batch).to(device)).float().cpu()
        metres = config.data.depth_range.to_metres(log_depth)
        for estimate, truth in zip(metres, batch.depth, strict=True):
            valid = (truth >= config.data.min_m) & (truth <= config.data.max_m)
            if valid.any():
                rows.append(frame_metrics(estimate[valid].numpy(), truth[valid].numpy()))
    if not rows:
        raise DatasetError("the validation set has no frame with depth in the range of the config")
    averages = average(rows)
    return {name: averages[name].mean for name in SCORES} | {"frames": len(rows)}


def _identity(config: TeachConfig) -> dict[str, Any]:
    """What a state must share with a run that goes on from it, by the config's keys, as JSON holds it."""
    plain = to_plain(config)
    own = {key: plain[key] for key in ("frame", "loss", "seed", "batch", "steps", "optimiser")}
    return own | {f"data.{key}": plain["data"][key] for key in _MEANING}


def _require_same_run(path: Path, stored: Mapping[str, Any], config: TeachConfig) -> None:
    """Refuse a state of another run; what an earlier version did not store is not compared.

    Raises:
        StateError: the identities differ.
    """
    grown = {"frame": config.frame, "loss": config.loss, "optimiser": config.optimiser}  # get new keys with defaults
    for key, value in _identity(config).items():
        if key not in stored or stored[key] == value or (key in grown and same(stored[key], grown[key])):
            continue
        raise StateError(
            f"{path} is the state of another run: its {key} is {stored[key]}, the config's is {value}. "
            "Choose another --out, or delete the folder to start over"
        )


def _save(
    path: Path, config: TeachConfig, step: int, network: FrameNetwork, averaged: AveragedNetwork,
    optimiser: torch.optim.Optimizer,
) -> None:  # fmt: skip
    tensors = {
        **below("network", network.state_dict()),
        **below("average", averaged.network.state_dict()),
        **below("optimiser", optimiser_tensors(optimiser)),
    }
    save_state(path, tensors, {"step": step, "identity": _identity(config)})


def _restore(
    path: Path, config: TeachConfig, network: FrameNetwork, averaged: AveragedNetwork, optimiser: torch.optim.Optimizer
) -> int:
    """Take up a state; returns its step, 0 where there is none.

    Raises:
        StateError: it is damaged or of another run.
    """
    if not path.is_file():
        return 0
    tensors, values = load_state(path)
    _require_same_run(path, values.get("identity", {}), config)
    network.load_state_dict(part(tensors, "network"))
    averaged.network.load_state_dict(part(tensors, "average"))
    restore_optimiser(optimiser, part(tensors, "optimiser"))
    return int(values["step"])
