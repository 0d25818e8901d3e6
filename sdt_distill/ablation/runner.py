"""Trains every arm with every seed and scores what came out; finished ones are not done again."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sdt_distill.evaluate import NetworkEstimator, score_network
from sdt_distill.networks import load_network, resolve
from sdt_distill.networks.registry import name_of
from sdt_distill.teachers import open_teacher
from sdt_distill.training.batch import collate
from sdt_distill.training.config import ConfigError, TrainingConfig
from sdt_distill.training.data import Source, open_source, spread_over
from sdt_distill.training.engine import Trainer, TrainingError
from sdt_distill.training.log import read_log
from sdt_distill.training.state import StateError
from sdt_distill.training.tree import from_plain, to_plain, without_defaults
from sdt_ros.evaluation.protocol import OF_DATASET, protocols
from sdt_ros.evaluation.source import Window
from sdt_ros.text_files import TextFileError, read_json

from .questions import Arm, Question

_log = logging.getLogger(__name__)

RESULT_NAME, WEIGHTS_NAME = "result.json", "last.safetensors"
_MOST_BYTES = 1 << 26  # of a result: many sequences, each with its figures
# What may change between calls without making another experiment of it.
_FREE = {"run": ("device", "threads", "log_every", "save_every", "pictures_every"), "data": ("workers", "prefetch")}


class AblationError(ValueError):
    """An ablation cannot be run or gone on with; the message says why."""


@dataclass(frozen=True)
class Trial:
    """One training: an arm with a seed.

    Attributes:
        arm: name of the arm.
        seed: of weights, order and augmentation.
        config: the whole config.
        folder: of the run and its result; named after the config, so that arms of several questions that are the same
            training share it.
    """

    arm: str
    seed: int
    config: TrainingConfig
    folder: Path

    @property
    def result(self) -> dict[str, Any] | None:
        """What came out; None while it is not finished.

        Raises:
            StateError: the file is damaged.
        """
        path = self.folder / RESULT_NAME
        if not path.is_file():
            return None
        repair = "delete it, and the trial is scored again"
        try:
            content = read_json(path, _MOST_BYTES)
        except (OSError, TextFileError) as error:
            raise StateError(f"{path}: cannot be read: {error}; {repair}") from error
        if not _is_result(content):
            raise StateError(f"{path}: no result of a trial; {repair}")
        return {**content, "arm": self.arm}

    def scored_on(self, samples: int) -> dict[str, Any] | None:
        """The result, if so many samples were asked for (0: all); one that failed is of any number.

        Raises:
            StateError: as `result`.
        """
        result = self.result
        if result is None or result["failed"]:
            return result
        # Earlier versions stored how many there were alone, which tells less where fewer are held out than asked for.
        known = (result.get("scored_on"), result["scores"].get("counts", {}).get("samples"))
        return result if samples in known else None


def plan(question: Question, base: TrainingConfig, steps: int | None, seeds: int, out: Path) -> list[Trial]:
    """All trials: every seed over all arms before the next seed, so that a part of them can be compared.

    Args:
        question: the arms.
        base: config that all start from; its `run.seed` is the first seed.
        steps: optimiser steps; those of the config if None.
        seeds: how many.
        out: folder of the ablation.

    Raises:
        AblationError: the config cannot be ablated so.
    """
    trials = []
    for seed in range(base.run.seed, base.run.seed + seeds):
        for arm in question.arms:
            config = _config(arm, base, steps, seed)
            trials.append(Trial(arm.name, seed, config, out / folder_of(config)))
    if not base.data.validation:
        raise AblationError("config key 'data.validation' is empty: name held-out data to score the arms on")
    return trials


def folder_of(config: TrainingConfig) -> str:
    """Name of a trial's folder: the network, the seed and a digest of all that decides what comes out.

    What has its default is left out, so that a key of a later version does not make another trial of it.
    """
    network = resolve(config.network, config.data.bins)
    free = from_plain(TrainingConfig, {**_identity(config), "network": config.network})  # back at their defaults
    told = {**without_defaults(free), "network": [type(network).__name__, without_defaults(network)]}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]
    name = re.sub(r"[^a-z0-9_]+", "-", name_of(network).lower()).strip("-")
    return f"{name}-seed{config.run.seed}-{digest}"


def run_trials(trials: Sequence[Trial], max_minutes: float, samples: int, progress: bool) -> list[dict[str, Any]]:
    """Train and score what is not finished, until the time is over.

    An arm whose losses become NaN is a result too: it is kept as failed, and not tried again.

    Args:
        trials: in the order to be done.
        max_minutes: for this call; inf for no limit.
        samples: held-out samples to score on, at most, spread evenly; 0 for all.
        progress: show bars.

    Returns:
        The results that there are, in the order of the trials, all scored on the same samples.

    Raises:
        AblationError, ConfigError, DatasetError, StateError, TeacherError, OSError: a trial cannot be run.
    """
    deadline = time.monotonic() + max_minutes * 60
    _look_at_teachers([trial for trial in trials if trial.result is None])
    for number, trial in enumerate(trials):
        if trial.scored_on(samples) is not None:
            continue
        left = (deadline - time.monotonic()) / 60
        if left <= 0:
            break
        _log.info("%s, seed %d (%d of %d)", trial.arm, trial.seed, number + 1, len(trials))
        if trial.result is not None:
            _score_again(trial, samples)
            continue
        failure = None
        try:
            trainer = Trainer(trial.config, trial.folder)
            if not trainer.run(left, progress=progress).finished:
                break
        except TrainingError as error:
            failure = str(error)
            _log.error("%s, seed %d: %s", trial.arm, trial.seed, failure)
        _keep(trial, {"failed": failure} if failure else score_trial(trial, samples))
    return [result for trial in trials if (result := trial.scored_on(samples)) is not None]


def _look_at_teachers(trials: Sequence[Trial]) -> None:
    """Open each teacher once, so that a file that is missing is told before the arms without it are trained.

    Raises:
        TeacherError: its weights are missing or others than the config says.
    """
    configs = [trial.config.teacher for trial in trials if trial.config.loss.needs_teacher]
    for config in dict.fromkeys(configs):
        open_teacher(config)


def _score_again(trial: Trial, samples: int) -> None:
    """Score a finished trial whose result is of another number of samples, from the weights that are there.

    Raises:
        StateError: they are not there any more.
        CheckpointError: they are damaged.
    """
    weights, result = trial.folder / WEIGHTS_NAME, trial.folder / RESULT_NAME
    if not weights.is_file():
        raise StateError(
            f"{result}: scored on another number of samples than {samples or 'all'}, and {weights} is gone: "
            f"give the earlier --samples, or delete {trial.folder} to train it again"
        )
    _log.info("%s: scored on another number of samples; scoring again", result)
    _keep(trial, score_trial(trial, samples))


def score_trial(trial: Trial, samples: int) -> dict[str, Any]:
    """Score the last weights of a finished trial on the held-out data, with probes, and measure what they cost.

    The last weights, not the best: choosing by held-out scores would favour the arm whose scores swing most.
    """
    network, card = load_network(trial.folder / WEIGHTS_NAME)
    data = trial.config.data
    held_out = HeldOut([open_source(each, data, frames=False) for each in data.validation], samples, data.focal_px)
    protocol = protocols[OF_DATASET.get(data.validation[0].kind or "", "mvsec")]
    estimator = NetworkEstimator(network, _at_full_size(card), trial.config.run.device)
    settings = {"recording": held_out.where, "truth": "held-out depth", "schedule": "truth"}
    content, _ = score_network(estimator, held_out, protocol, settings, probe_every=1)
    content.pop("frames")
    speeds = [row["samples_per_second"] for row in read_log(trial.folder) if row["kind"] == "train"]
    return {
        "failed": None,
        "scored_on": samples,
        "steps": card.steps,
        "samples": card.steps * trial.config.run.batch * trial.config.run.accumulation,
        "parameters": estimator.parameters,
        "samples_per_second": median(speeds),
        "scores": content,
    }


class HeldOut:
    """Held-out data of a training config as a source of windows, at the network's resolution.

    Args:
        sources: opened data sets.
        most: samples at most; 0 for all.
        focal_px: focal length that their depth was brought to [px]; None for none.
    """

    def __init__(self, sources: Sequence[Source], most: int, focal_px: float | None = None) -> None:
        self._focal_px = focal_px
        self.where = ", ".join(source.name for source in sources)
        self._sources = tuple(sources)
        self._places = spread_over(self._sources, most)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Window]:
        for number, (k, index) in enumerate(self._places):
            source = self._sources[k]
            batch = collate([source.item(index, number)])
            group = batch.keys[0].rpartition("/")[0]
            if len(self._sources) == 1:  # else they may be of several sizes, which make groups of their own
                group = group.removeprefix(f"{source.name}/")
            yield Window(
                group, number, batch.spikes[0].numpy(), batch.depth[0, 0].numpy(), number, focal_px=self._focal_px
            )

    def finish(self, depth: Any) -> Any:
        """Depth is on the grid of its truth."""
        return depth

    def notes(self) -> dict[str, str]:
        """Nothing more."""
        return {}

    def counts(self) -> dict[str, int]:
        """Samples scored."""
        return {"samples": len(self), "truth_images": len(self)}

    def why_nothing(self) -> str:
        """Why there was no window with a truth."""
        return f"{self.where}: there is no sample; look at it by sdt-distill data check"


def _at_full_size(card: Any) -> Any:
    """The card of a network that is shown samples of its own resolution."""
    return dataclasses.replace(card, input_scale=1.0)


def _config(arm: Arm, base: TrainingConfig, steps: int | None, seed: int) -> TrainingConfig:
    try:
        plain = arm.change(to_plain(base))
        plain["run"]["seed"] = seed
        if steps is not None:
            plain["run"]["steps"] = steps
        return from_plain(TrainingConfig, plain)
    except (ConfigError, ValueError) as error:
        raise AblationError(f"arm {arm.name!r}: {error}") from error


def _identity(config: TrainingConfig) -> dict[str, Any]:
    plain = copy.deepcopy(to_plain(config))
    network = resolve(config.network, config.data.bins)
    plain["network"] = {"kind": type(network).__name__, **dataclasses.asdict(network)}
    for section, keys in _FREE.items():
        for key in keys:
            plain[section].pop(key)
    found: dict[str, Any] = json.loads(json.dumps(plain))  # as it comes back from the file
    return found


def _is_result(content: Any) -> bool:
    """Whether a result has what this module reads of it."""
    if not isinstance(content, Mapping) or "failed" not in content:
        return False
    return bool(content["failed"]) or isinstance(content.get("scores"), Mapping)


def _keep(trial: Trial, content: dict[str, Any]) -> None:
    whole = {"seed": trial.seed, **content, "config": _identity(trial.config)}
    path = trial.folder / RESULT_NAME
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
