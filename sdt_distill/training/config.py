"""What a training run is made of: one tree of frozen dataclasses, from YAML and `key=value` settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sdt_distill.losses import LossConfig
from sdt_distill.networks import resolve
from sdt_distill.teachers import TeacherConfig
from sdt_ros.events import WindowConfig
from sdt_ros.network import DepthRange
from sdt_ros.text_files import TextFileError, read_yaml

from .augment import AugmentConfig
from .tree import ConfigError, RefusedValueError, from_file, to_plain

__all__ = ["ConfigError", "DataConfig", "OptimiserConfig", "RunConfig", "SourceConfig",
           "TrainingConfig", "load_config", "save_config"]  # fmt: skip


def _require(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise RefusedValueError(key, value, expected)


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """A data set.

    Attributes:
        kind: a format of `sdt_distill.datasets`; `simulated` makes samples while training; None takes what the
            folder looks like.
        path: its folder; `simulated` has none.
        split: a published split of it.
        weight: share of the samples drawn from it, relative to the other sources.
        scale: factor by which its samples are reduced before the network; None takes `data.input_scale`. Data made at
            the network's resolution have 1.
        size: height and width of its samples in a batch [px]; None takes `data.size`. Where sources differ, each
            batch is of one size.
        strata: how many kinds of samples take turns in it, as families do in a bank: 4 puts one of each kind into every
            four samples of a shuffled epoch, so that batches do not differ in their mixture.
        options: of `simulated`, the keys of `sdt_distill.datasets.simulated.SimulatedConfig`.
    """

    kind: str | None = None
    path: Path | None = None
    split: str | None = None
    weight: float = 1.0
    scale: float | None = None
    size: tuple[int, int] | None = None
    strata: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.weight > 0, "weight", self.weight, "above 0")
        _require(self.scale is None or 0 < self.scale <= 1, "scale", self.scale, "in (0, 1]")
        _require(self.size is None or min(self.size) >= 16, "size", self.size, "sides of 16 px or more")
        _require(self.strata >= 1, "strata", self.strata, "1 or more")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What the network is shown.

    Attributes:
        sources: data sets to learn from.
        validation: data sets held out.
        size: height and width of the samples that go into a batch [px]; None asks all samples to be of one size.
        fit: how samples of another size get it: `crop` (centred; padded where too small) or `resize`.
        bins: time bins T of a window.
        window_ms: duration of a window [ms].
        min_m: nearest depth of the network's output [m].
        max_m: farthest depth of the network's output [m].
        input_scale: resolution that the network sees as a fraction of the sensor's; goes into the card.
        focal_px: focal length that all samples are brought to [px], at the network's resolution; goes into the card.
            With it `min_m` and `max_m` are depths before a lens of that focal length. None for none: metres as they
            are, which a network can tell before lenses of one kind only.
        workers: processes that read samples; 0 reads in a thread of this one.
        prefetch: batches made ahead.
        resident: keep all samples on the device, packed: for a GPU, and for banks that fit into its memory, which are
            read once, before the first step. Sources of kind `simulated` are made by `workers` processes while
            training, and drawn from as far as they are made. Frames are not kept, so it goes without a teacher.
    """

    sources: tuple[SourceConfig, ...] = ()
    validation: tuple[SourceConfig, ...] = ()
    size: tuple[int, int] | None = None
    fit: str = "crop"
    bins: int = 4
    window_ms: float = 50.0
    min_m: float = 0.3
    max_m: float = 80.0
    input_scale: float = 1.0
    focal_px: float | None = None
    workers: int = 0
    prefetch: int = 2
    resident: bool = False

    def __post_init__(self) -> None:
        WindowConfig(window_ms=self.window_ms, bins=self.bins, rate_hz=1.0)
        DepthRange(self.min_m, self.max_m)
        _require(self.fit in ("crop", "resize"), "fit", self.fit, "crop or resize")
        _require(0 < self.input_scale <= 1, "input_scale", self.input_scale, "in (0, 1]")
        _require(self.focal_px is None or self.focal_px > 0, "focal_px", self.focal_px, "above 0")
        _require(self.workers >= 0, "workers", self.workers, "0 or more")
        _require(self.prefetch >= 1, "prefetch", self.prefetch, "1 or more")
        _require(self.size is None or min(self.size) >= 16, "size", self.size, "height and width of 16 px or more")

    @property
    def depth_range(self) -> DepthRange:
        """The metres that the network's output stands for."""
        return DepthRange(self.min_m, self.max_m)


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with warm-up and cosine.

    Attributes:
        lr: highest learning rate.
        final_lr: last learning rate, as a fraction of `lr`.
        warmup_steps: steps over which it rises.
        cooldown: share of the steps behind the warm-up over which it falls, at their end; 1 is a cosine over all. A
            run with a small one can be prolonged: copy its folder while the rate is still `lr`, and let the copy cool
            down at once by fewer `run.steps`.
        decoder_rate: learning rate of those weights of the fusion and linear heads' decoders that no norm follows, as a
            fraction of `lr`; E2Depth's decoder learns at `lr`.
        hold_norms: share of the run, at its end, in which batch norms hold the averaged statistics, as in use, where
            before each batch had its own; 1 is all of it, 0 none. For networks that are to serve several sizes, see
            `training.held_norms`.
        weight_decay: of weights; batch norms and biases have none.
        betas: of AdamW.
        clip: largest norm of the gradient.
        ema_decay: of the averaged weights, which are those validated and kept; 0 keeps the plain ones.
    """

    lr: float = 2.5e-3
    final_lr: float = 0.02
    warmup_steps: int = 60
    cooldown: float = 1.0
    decoder_rate: float = 0.1
    hold_norms: float = 0.0
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    ema_decay: float = 0.998

    def __post_init__(self) -> None:
        _require(self.lr > 0, "lr", self.lr, "above 0")
        _require(0 <= self.final_lr <= 1, "final_lr", self.final_lr, "in [0, 1]")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        _require(0 < self.cooldown <= 1, "cooldown", self.cooldown, "above 0 and at most 1")
        _require(0 < self.decoder_rate <= 1, "decoder_rate", self.decoder_rate, "above 0 and at most 1")
        _require(0 <= self.hold_norms <= 1, "hold_norms", self.hold_norms, "in [0, 1]")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _require(self.clip > 0, "clip", self.clip, "above 0")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How long, how wide, on what, and what is written when.

    Attributes:
        steps: optimiser steps in all, at most.
        minutes: the run ends, and the learning rate falls, by the clock, which counts training alone: reading, waiting
            for first samples, validation and saving come on top. 0 for by steps alone.
        batch: samples of one process and one pass.
        accumulation: passes of one optimiser step.
        seed: of weights, order and augmentation.
        device: auto, cpu, cuda or cuda:N; under torchrun each process takes the GPU of its local rank.
        threads: of torch on the CPU; 0 leaves torch's choice.
        precision: `bfloat16` (autocast, membranes stay float32), `float32`, or `auto`: bfloat16 on a GPU and on CPUs
            with instructions for it.
        checkpointing: recompute stem and blocks in the backward pass, which saves memory and costs a third more time.
        fused: compiled layers and neurons: `auto` where they can be had, `on` or `off`.
        graph: replay whole steps as CUDA graphs: `auto` on one GPU without a teacher, accumulation or checkpointing,
            `on` or `off`.
        log_every: steps between lines of the log; losses are checked for NaN as often.
        save_every: steps between states.
        validate_every: steps between validations; 0 validates at the end only.
        validation_samples: at most so many, evenly spread over the held-out set; 0 takes all.
        pictures_every: steps between pictures; 0 draws none but at the end.
        start_from: checkpoint of the same network, or a packaged one's name, whose weights a new run begins with; None
            for random ones. Only the weights are taken over: the optimiser starts anew.
    """

    steps: int = 10_000
    minutes: float = 0.0
    batch: int = 8
    accumulation: int = 1
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    precision: str = "auto"
    checkpointing: bool = False
    fused: str = "auto"
    graph: str = "auto"
    log_every: int = 10
    save_every: int = 200
    validate_every: int = 500
    validation_samples: int = 400
    pictures_every: int = 1000
    start_from: str | None = None

    def __post_init__(self) -> None:
        for key in ("steps", "batch", "accumulation", "log_every", "save_every"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        for key in ("threads", "validate_every", "validation_samples", "pictures_every", "seed"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        _require(self.minutes >= 0, "minutes", self.minutes, "0 or more")
        switch = ("auto", "on", "off")
        choices = {"precision": ("auto", "bfloat16", "float32"), "fused": switch, "graph": switch}
        for key, known in choices.items():
            _require(getattr(self, key) in known, key, getattr(self, key), " or ".join(known))


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Attributes:
        network: what is trained: a name or a mapping, as `sdt_distill.networks.build` takes them.
        data: what it sees.
        augment: how that is varied.
        teacher: who else teaches it, by the frames.
        loss: what it is taught by.
        optimiser: how weights move.
        run: how long, on what.
    """

    network: Any = "sdt_tiny"
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimiser: OptimiserConfig = dataclasses.field(default_factory=OptimiserConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        resolve(self.network, self.data.bins)
        if self.loss.needs_teacher and self.teacher.kind == "none":
            raise ConfigError("loss.feature, loss.similarity or loss.proxy has a weight, but teacher.kind is 'none'")
        if self.loss.needs_teacher and self.data.resident:
            raise ConfigError("data.resident keeps no frames, which the teacher needs: set it to false")
        if self.loss.proxy and self.augment.zoom_depth:
            raise ConfigError(
                "augment.zoom_depth moves the camera, which loss.proxy cannot follow: set one of them to 0"
            )
        if self.data.focal_px is not None:
            self._check_focal_length()

    def _check_focal_length(self) -> None:
        if self.augment.zoom > 1 and not self.augment.zoom_depth:
            raise ConfigError("augment.zoom moves samples away from data.focal_px: set augment.zoom_depth, too")
        if self.loss.proxy and (self.teacher.kind == "frame" or self.teacher.depth == "metric"):
            raise ConfigError("loss.proxy: the teacher's metres are the camera's, not those of data.focal_px: drop one")


def load_config(path: str | Path, settings: Sequence[str] = ()) -> TrainingConfig:
    """Read a config file and apply settings to it.

    Args:
        path: a YAML file; what it lacks keeps its default.
        settings: `key=value` with dotted keys, as `optimiser.lr=1e-3` or `data.sources.0.path=/data/DSEC`.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong.
    """
    path = Path(path)
    try:
        values = read_yaml(path)
    except (OSError, TextFileError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys, found {type(values).__name__}")
    return from_file(TrainingConfig, values, settings, path)


def save_config(path: Path, config: TrainingConfig) -> None:
    """Write a config with all its values."""
    path.write_text(yaml.safe_dump(to_plain(config), sort_keys=False), encoding="utf-8")
