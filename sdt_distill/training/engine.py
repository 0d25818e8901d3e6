"""The loop: batches in, weights out, and a state on disk that the same command goes on from."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from sdt_distill.losses import DistillationLoss
from sdt_distill.networks import build, config_of, make_card, name_of, save_network, take_weights
from sdt_distill.teachers import TeacherOutput
from sdt_ros.runtime.device import resolve_device
from sdt_ros.weights import weights_file

from .augment import Augmentation
from .batch import Batch
from .clock import RunClock
from .config import ConfigError, TrainingConfig, save_config
from .data import Mixture, Source, activity, open_source, require_sky, stream, warn_of_seen
from .distributed import Group, share_batch_norms, shared_mean
from .graphed import GraphedStep
from .growing import GrowingSamples
from .hardware import pick_layers, pick_precision
from .held_norms import hold_norms, holds_norms, take_statistics
from .identity import identity_of, require_same_run, shown_by, warn_of_changes
from .lessons import Lessons
from .lock import locked
from .log import RunLog
from .optimise import (
    AveragedNetwork,
    learning_rate,
    make_optimiser,
    optimiser_tensors,
    restore_optimiser,
    set_learning_rate,
)
from .packed import Shelves
from .pictures import example_picture
from .resident import read_all, resident_stream
from .state import UnsavedError, below, load_state, part, save_state
from .summary import write_summary
from .taps import Taps, recompute_in_backward
from .validate import Scores, Validator

_log = logging.getLogger(__name__)

STATE_NAME = "state.safetensors"
DEAD, SATURATED = 0.001, 0.90
_PATIENCE = 5  # readings at which a decoder gives nothing, one after the other, before the run ends


class TrainingError(RuntimeError):
    """A run cannot go on; the message says why and what is left."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `Trainer.run` ended.

    Attributes:
        step: optimiser steps done in all.
        finished: whether these were all.
        scores: of the last validation, None before the first.
        samples_per_second: of this call, over all processes, validation and saving left out.
    """

    step: int
    finished: bool
    scores: Scores | None
    samples_per_second: float


class Student(nn.Module):
    """The network with its taps and losses: what each process runs on its part of a batch."""

    def __init__(self, network: nn.Module, loss: DistillationLoss, taps: Taps, config: TrainingConfig, group: Group):
        super().__init__()
        self.network, self.loss = network, loss
        self._taps, self._range, self._group = taps, config.data.depth_range, group

    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss of a batch and its parts."""
        self._taps.clear()
        log_depth = self.network(batch.spikes)
        rates = self._taps.rates
        if self.loss.config.rate and rates:  # it bends, so the mean over processes comes first
            means = shared_mean(torch.stack(list(rates.values())), self._group)
            rates = dict(zip(rates, means.unbind(), strict=True))
        features = self._taps.features
        result = self.loss(log_depth, batch.depth, self._range, features, teacher, activity(batch.spikes), rates)
        return result.total, result.parts


@dataclasses.dataclass
class _Pending:
    """A step whose losses were not read from the device yet."""

    step: int
    values: Tensor
    keys: list[str]
    lr: float


class Trainer:
    """A run in a folder; made anew by each process that goes on with it.

    Args:
        config: the run.
        out: its folder: `config.yaml`, `state.safetensors`, `log.jsonl`, checkpoints, summary.
        group: the processes.

    Raises:
        ConfigError: something in the config does not fit.
        DatasetError: a data set is missing, broken or empty.
        StateError: the folder's state is damaged or of another run.
    """

    def __init__(self, config: TrainingConfig, out: Path, group: Group | None = None) -> None:
        self.config, self.out, self.group = config, out, group or Group()
        run, data = config.run, config.data
        if run.threads:
            torch.set_num_threads(run.threads)
        wanted = run.device
        if self.group.world > 1 and (wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())):
            wanted = f"cuda:{self.group.local_rank}"
        self.device, why = resolve_device(wanted)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.precision = pick_precision(run.precision, self.device)
        if not data.sources:
            raise ConfigError("config key 'data.sources' is empty: name at least one data set to learn from")
        self._sources = [open_source(each, data, frames=config.loss.needs_teacher) for each in data.sources]
        require_sky(config.loss, self._sources)
        held_out = [open_source(each, data, frames=True) for each in data.validation]
        warn_of_seen(data, self._sources, held_out)
        self._validator = (
            Validator(held_out, run.validation_samples, data.depth_range, run.batch, self.group) if held_out else None
        )
        one_size = len({source.fit.size for source in self._sources}) == 1
        self._mixture = Mixture(self._sources, run.seed, 1 if one_size else run.batch * self.group.world)
        self._augment = Augmentation(config.augment, run.seed)
        if run.minutes and self.group.world > 1:
            raise ConfigError("config key 'run.minutes' is for one process: clocks differ; set run.steps instead")
        if data.resident and self.group.world > 1 and any(source.in_order for source in self._sources):
            raise ConfigError("data.resident: each process would make the same samples; write banks for several")

        torch.manual_seed(run.seed)
        self.network = build(config.network, data.bins)
        saved = load_state(state) if (state := out / STATE_NAME).is_file() else None
        # What the weights that it begins with had learnt from; they are needed once.
        self._before = "" if saved is None else saved[1].get("before", "")
        if run.start_from is not None and (saved is None or "before" not in saved[1]):
            start = take_weights(self.network, weights_file(run.start_from), data.depth_range)
            self._before = f"{start.training_data} ({start.steps} steps)" if start.trained else ""
        self.network.to(self.device)
        layers = pick_layers(run.fused, self.network, shared_norms=self.group.world > 1)
        self.average = AveragedNetwork(self.network, config.optimiser.ema_decay)
        if self.group.world > 1:
            self.network = share_batch_norms(self.network, self.device.type)
        self._lessons = Lessons(config, self._sources, self.device) if config.loss.needs_teacher else None
        stages = dict.fromkeys(stage for stage, _ in config.loss.pairs)
        self.taps = Taps(self.network, tuple(stages))
        channels = self.taps.channels(self.network, data.bins, self._mixture.polarities) if stages else {}
        loss = DistillationLoss(config.loss, channels, {} if self._lessons is None else self._lessons.layers)
        loss = loss.to(self.device)
        if run.checkpointing:
            recompute_in_backward(self.network, self.taps)
        self._student = Student(self.network, loss, self.taps, config, self.group)
        self._optimiser = make_optimiser([self._student], config.optimiser)

        self._shelves: Shelves | None = None
        self._growing: GrowingSamples | None = None
        self._made: list[int] = []  # of each source, where they were made while training
        self._silent = 0  # readings, up to the last, at which a step of the decoder gave nothing
        self._stopping = self._held = False  # held: by norms, their statistics
        self.step = self.samples_seen = 0
        self.best: dict[str, Any] = {}
        self.clock = RunClock(run.minutes)
        if saved is not None:
            self._restore(state, *saved)
        self._step_module: nn.Module = self._student
        if self.group.world > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self._step_module = DistributedDataParallel(self._student, device_ids=devices, broadcast_buffers=False)
        self._graphed = self._pick_graph()
        if self.group.is_first:
            self.out.mkdir(parents=True, exist_ok=True)
            if not self._is_finished():  # else it stays that of the steps done
                save_config(self.out / "config.yaml", config)
            for source in self._sources:
                _log.info("%s", source.data.describe())
            parameters = sum(p.numel() for p in self.network.parameters())
            _log.info(
                "%s, %.2f M parameters, on %s (%s), %s, %s layers, %d process(es)",
                name_of(config_of(self.network)), parameters / 1e6, self.device, why, self.precision,
                layers, self.group.world,
            )  # fmt: skip

    def run(self, max_minutes: float = math.inf, progress: bool = True) -> Outcome:
        """Go on until all steps are done, the time is over, or nothing can be learnt any more.

        Raises:
            TrainingError: a loss or gradient was NaN or infinite, or the decoder gives nothing whatever it is shown;
                the last good state is on disk.
            UnsavedError: the disk did not take the last state.
            StateError: another process trains in the folder.
        """
        with locked(self.out) if self.group.is_first else nullcontext():
            return self._run(max_minutes, progress)

    def _run(self, max_minutes: float, progress: bool) -> Outcome:
        run = self.config.run
        deadline = time.monotonic() + max_minutes * 60
        batch_of_all = run.batch * self.group.world
        batches: Iterator[Batch] = iter(())
        if not self._is_finished():
            batches = self._batches(batch_of_all, progress and self.group.is_first)
        if self._growing is not None and not self._is_ready(self._growing, deadline, progress):
            return Outcome(self.step, False, None, 0.0)
        log = RunLog(self.out, self.step) if self.group.is_first else None
        bar = tqdm(total=run.steps, initial=self.step, unit="step", disable=not (progress and self.group.is_first))
        pending: list[_Pending] = []
        scores: Scores | None = None
        busy, seen, lap_seen = 0.0, 0, 0
        self.clock.start_lap()
        try:
            while not self._is_finished():
                pending.append(self._train_step(batches))
                seen, lap_seen = seen + batch_of_all * run.accumulation, lap_seen + batch_of_all * run.accumulation
                bar.update()
                last, saves, validates = self._turns(self.step)
                alone_and_over = self.group.world == 1 and self._is_over(deadline)
                if self._is_read(self.step) or alone_and_over:
                    rates = self._read(pending, log, lap_seen / self.clock.lap, bar)
                    busy += self.clock.end_lap()
                    over = self.group.any(self._is_over(deadline))
                    if self._is_finished():  # by the clock, while the GPU was waited for
                        last = saves = validates = True
                    if validates or saves or over:
                        self._report_neurons(rates, log)
                    if validates and self._validator is not None:
                        scores = self._validate(log, last)
                    if saves or over:
                        self._save(final=last or over)
                    if over:
                        break
                    self.clock.start_lap()
                    lap_seen = 0
        finally:
            bar.close()
            if isinstance(batches, Generator):
                batches.close()
            self._stop_making()
            if log is not None:
                log.close()
        finished = self._is_finished()
        if self.group.is_first:
            if seen or not (self.out / "last.safetensors").is_file():  # else it has the scores of an earlier call
                self._write_checkpoint("last", scores)
            write_summary(self.out)
        self.group.wait()
        return Outcome(self.step, finished, scores, seen / busy if busy else 0.0)

    def stop(self) -> None:
        """Ask a running `run` to save and return after the step that it is at; may be called by a signal handler."""
        self._stopping = True

    def _batches(self, batch_of_all: int, progress: bool) -> Iterator[Batch]:
        """This process's batches from the run's place on."""
        data, size = self.config.data, self.config.run.batch
        # Behind a stop, batches may be of another size; those of one size of sample begin at whole ones.
        whole = -(-self.samples_seen // self._mixture.together) * self._mixture.together
        start = whole + self.group.rank * size
        if data.resident and any(source.in_order for source in self._sources):
            if self._growing is None:
                self._growing = GrowingSamples(self._sources, data, self.device)
            return self._growing.batches(self._mixture, size, start, batch_of_all)
        if data.resident:
            if self._shelves is None:
                self._shelves = read_all(self._sources, data, self.device, progress=progress)
            return resident_stream(self._shelves, self._mixture, size, start, batch_of_all)
        return stream(self._mixture, data, size, start, batch_of_all, pin=self.device.type == "cuda")

    def _is_ready(self, growing: GrowingSamples, deadline: float, progress: bool) -> bool:
        """Wait for the first samples; False where the run is over before."""
        ready = False
        try:
            ready = growing.wait(lambda: self._is_over(deadline), progress=progress)
        finally:
            if not ready:
                self._stop_making()
        return ready

    def _stop_making(self) -> None:
        if self._growing is not None:
            self._growing.close()
            self._made, self._growing = self._counts_made(), None

    def _turns(self, step: int) -> tuple[bool, bool, bool]:
        """Whether a step is the last, saves and validates."""
        run = self.config.run
        last = step == run.steps or self.clock.part >= 1
        validates = bool(run.validate_every) and step % run.validate_every == 0
        return last, last or step % run.save_every == 0, last or validates

    def _is_finished(self) -> bool:
        return self.step >= self.config.run.steps or self.clock.is_over

    def _is_read(self, step: int) -> bool:
        """Whether losses and firing rates are read from the device behind a step."""
        return any(self._turns(step)) or step % self.config.run.log_every == 0

    def _is_over(self, deadline: float) -> bool:
        return self._stopping or time.monotonic() > deadline

    def _train_step(self, batches: Iterator[Batch]) -> _Pending:
        """One optimiser step; losses stay on the device, so that it need not wait for them to be read."""
        run = self.config.run
        lr = learning_rate(self.step, run.steps, self.config.optimiser, self.clock.part)
        set_learning_rate(self._optimiser, lr)
        self._student.train()
        if holds_norms(self.step, run.steps, self.config.optimiser, self.clock.part):
            self._hold_norms()
        self.taps.counts = bool(self.config.loss.rate) or self._graphed is not None or self._is_read(self.step + 1)
        keys: list[str] = []
        if self._graphed is None:
            values = self._learn(self._varied(batches, keys))
        else:
            ((batch, _),) = self._varied(batches, keys)
            values = self._learn_by_graph(batch)
        self.step += 1
        self.samples_seen += run.batch * self.group.world * run.accumulation
        self.average.update(self.network, self.step)
        return _Pending(self.step, values, keys, lr)

    def _hold_norms(self) -> None:
        """Norms hold their statistics for this step."""
        if not self._held:
            self._held = True
            take_statistics(self.network, self.average.network)
            _log.info("step %d: batch norms hold their statistics from here on", self.step)
            if self._graphed is not None:  # what it captured are steps of before
                self._graphed = self._pick_graph()
        hold_norms(self.network)

    def _varied(self, batches: Iterator[Batch], keys: list[str]) -> Iterator[tuple[Batch, TeacherOutput | None]]:
        """The varied batches of one step, each with what the teacher says; their samples' names go to `keys`."""
        for _ in range(self.config.run.accumulation):
            seen = next(batches).to(self.device)
            batch, geometry = self._augment(seen)
            keys += batch.keys
            yield batch, None if self._lessons is None else self._lessons.about(seen, geometry)

    def _learn(self, varied: Iterator[tuple[Batch, TeacherOutput | None]]) -> Tensor:
        """Losses and their gradients, clipped, and a step of the optimiser: the loss, its parts and the norm."""
        config, run, module = self.config, self.config.run, self._step_module
        self._optimiser.zero_grad(set_to_none=True)
        total: Tensor | None = None
        for turn, (batch, taught) in enumerate(varied):
            if isinstance(module, DistributedDataParallel):  # gradients are exchanged once a step
                module.require_backward_grad_sync = turn == run.accumulation - 1
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
                loss, parts = module(batch, taught)
            (loss / run.accumulation).backward()
            self._part_names = tuple(parts)
            values = torch.stack([loss.detach(), *parts.values()]) / run.accumulation
            total = values if total is None else total + values
        assert total is not None
        norm = nn.utils.clip_grad_norm_(self._student.parameters(), config.optimiser.clip)
        self._optimiser.step()
        return torch.cat([total, norm.reshape(1).to(total)])

    def _learn_by_graph(self, batch: Batch) -> Tensor:
        """`_learn` of a batch without a teacher, replayed where it can be."""
        assert self._graphed is not None
        try:
            return self._graphed(batch.spikes, batch.depth)
        except RuntimeError as error:
            if isinstance(error, torch.cuda.OutOfMemoryError) or self.config.run.graph == "on":
                raise
            _log.warning("a step is not replayed as a graph, which is slower: %s", error)
            self._graphed = None
            return self._learn(iter([(batch, None)]))

    def _pick_graph(self) -> GraphedStep[Any] | None:
        """A step to be replayed, where `run.graph` wants that and it can be."""
        run = self.config.run
        hindrances = {
            "the device is no GPU": self.device.type != "cuda",
            "there are several processes": self.group.world > 1,
            "there is a teacher": self._lessons is not None,
            "run.accumulation is above 1": run.accumulation > 1,
            "run.checkpointing is set": run.checkpointing,
        }
        why = [reason for reason, hinders in hindrances.items() if hinders]
        if run.graph == "on" and why:
            raise ConfigError(f"config key 'run.graph' is 'on', but {why[0]}: set it to 'auto'")
        if run.graph == "off" or why:
            return None

        def step(spikes: Tensor, depth: Tensor) -> Tensor:
            batch = Batch(spikes, depth, None, [], torch.empty(0, dtype=torch.int64))
            return self._learn(iter([(batch, None)]))

        def told(left: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
            self.taps.rates, self.taps.alive = left

        return GraphedStep(step, tell=lambda: (self.taps.rates, self.taps.alive), told=told)

    def _read(self, pending: list[_Pending], log: RunLog | None, speed: float, bar: Any) -> dict[str, float]:
        """Read the losses of the steps since the last call, and the firing rates of the last step."""
        own = torch.stack([each.values for each in pending])  # [steps, total + parts + norm]
        table = self.group.mean(own).cpu()
        names = ["loss", *self._part_names, "gradient_norm"]
        if not torch.isfinite(table).all():
            self._stop_at(pending, own.cpu(), names)
        for each, row in zip(pending, table.tolist(), strict=True):
            if log is not None:
                values = dict(zip(names, row, strict=True))
                log.write("train", each.step, {**values, "lr": each.lr, "samples_per_second": speed})
        made = {} if self._growing is None else {"made": len(self._growing)}
        bar.set_postfix(loss=f"{table[-1, 0]:.4g}", **made, refresh=False)
        pending.clear()
        layers = {**self.taps.rates, **self.taps.alive}
        if not layers:
            return {}
        shares = self.group.mean(torch.stack(list(layers.values())).detach()).tolist()
        named = dict(zip(layers, shares, strict=True))
        silent = [name for name in self.taps.alive if named[name] == 0]
        self._silent = self._silent + 1 if silent else 0
        if self._silent >= _PATIENCE:
            raise TrainingError(
                f"step {self.step}: all outputs of {', '.join(silent)} are 0, whatever the input, as they were the "
                f"last {_PATIENCE} times that was looked at: the network gives one depth everywhere; {self._kept()}. "
                "Begin anew in another folder: lower optimiser.lr, longer optimiser.warmup_steps or another run.seed"
            )
        return {name: named[name] for name in self.taps.rates}

    def _stop_at(self, pending: list[_Pending], table: Tensor, names: list[str]) -> None:
        """Say which batch broke the run; what is on disk is older and sound."""
        bad = [k for k in range(len(pending)) if not torch.isfinite(table[k]).all()]
        told = None
        if bad:
            what = ", ".join(n for n, v in zip(names, table[bad[0]].tolist(), strict=True) if not math.isfinite(v))
            told = (pending[bad[0]].step, what, pending[bad[0]].keys)
        step, what, keys = min(each for each in self.group.gather(told) if each is not None)
        raise TrainingError(
            f"step {step}: {what} is NaN or infinite; {self._kept()}. The batch: {', '.join(keys)}. "
            "Look at these samples, or lower optimiser.lr or optimiser.clip"
        )

    def _kept(self) -> str:
        """What of the run is on disk, in words."""
        path = self.out / STATE_NAME
        if not path.is_file():
            return "no state was saved yet"
        return f"the state of step {load_state(path)[1]['step']} in {self.out} is kept"

    def _report_neurons(self, rates: Mapping[str, float], log: RunLog | None) -> None:
        if log is None or not rates:
            return
        log.write("rates", self.step, rates)
        for name, rate in rates.items():
            if rate < DEAD or rate > SATURATED:
                state = "dead" if rate < DEAD else "saturated"
                _log.warning("step %d: layer %s is %s, it fires at %.3f %%", self.step, name, state, 100 * rate)

    def _validate(self, log: RunLog | None, last: bool) -> Scores:
        """Score the averaged weights; keep them if they are the best by RMSE log."""
        assert self._validator is not None
        scores = self._validator(self.average.network, self.device, self.precision)
        if log is not None:
            log.write("validation", self.step, scores.mean)
            _log.info(
                "step %d: Abs Rel %.4f, RMSE log %.4f, delta1 %.4f on %d held-out frames",
                self.step, scores.mean["abs_rel"], scores.mean["rmse_log"], scores.mean["delta1"], scores.frames,
            )  # fmt: skip
            every = self.config.run.pictures_every
            if last or (every and self.step % every == 0):
                picture = example_picture(
                    self._validator.examples(4), self.average.network, self.config.data.depth_range, self.device
                )
                try:
                    picture.save(self.out / "examples.png")
                except OSError as error:  # a full disk must not end a run that can still compute
                    _log.error("%s: the picture is lost: %s", self.out / "examples.png", error)
                log.picture("examples", self.step, picture.pixels)
        if not self.best or scores.mean["rmse_log"] < self.best["rmse_log"]:
            self.best = {"step": self.step, **scores.mean}
            if self.group.is_first:
                self._write_checkpoint("best", scores)
        return scores

    def _write_checkpoint(self, name: str, scores: Scores | None) -> None:
        """The averaged weights, as the node loads them."""
        data = self.config.data
        found: dict[str, Any] = {} if scores is None else {"validation": {**scores.mean, "frames": scores.frames}}
        if scores is not None and len(scores.by_sequence) > 1:
            found["validation_by_sequence"] = scores.by_sequence
        card = make_card(
            self.average.network, bins=data.bins, window_ms=data.window_ms, depth_range=data.depth_range,
            input_scale=data.input_scale, focal_px=data.focal_px, trained=True, training_data=self._training_data(),
            steps=self.step, scores=found,
        )  # fmt: skip
        try:
            save_network(self.out / f"{name}.safetensors", self.average.network, card)
        except OSError as error:
            _log.error("%s: the checkpoint of step %d was not written: %s", self.out / name, self.step, error)

    def _counts_made(self) -> list[int]:
        """Samples made of each source; a process that goes on with a run makes the same ones again."""
        if self._growing is None:
            return self._made
        before = self._made or [0] * len(self._sources)
        return [max(pair) for pair in zip(before, self._growing.counts, strict=True)]

    def _training_data(self) -> str:
        """What was learnt from, in words, and what before; of samples made meanwhile, how many there were."""
        words = [source.data.describe().splitlines()[0] for source in self._sources]
        if made := self._counts_made():
            words = [f"{count} samples made of {line}" for count, line in zip(made, words, strict=True)]
        return "; ".join(dict.fromkeys(words)) + (f"; before that {self._before}" if self._before else "")

    def _save(self, final: bool) -> None:
        """Write the state. A full disk costs the newest state only, and at the end of a run it is an error."""
        if self._lessons is not None:
            self._lessons.keep()
        if not self.group.is_first:
            return
        tensors = {
            **below("network", self.network.state_dict()),
            **below("average", self.average.network.state_dict()),
            **below("loss", self._student.loss.state_dict()),
            **below("optimiser", optimiser_tensors(self._optimiser)),
            "rng/cpu": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        values = {
            "step": self.step, "samples_seen": self.samples_seen, "best": self.best, "seconds": self.clock.seconds,
            "made": self._counts_made(), "before": self._before,
            "identity": identity_of(self.config, self.average.network),
            "shown": shown_by(self.config, self.group.world),
        }  # fmt: skip
        path = self.out / STATE_NAME
        try:
            save_state(path, tensors, values)
        except OSError as error:
            kept = f"the state of step {load_state(path)[1]['step']} is kept" if path.is_file() else "there is none yet"
            message = f"{path}: the state of step {self.step} was not written ({error}); {kept}"
            if final:
                raise UnsavedError(message) from error
            _log.error("%s. Make room: the next try comes in %d steps", message, self.config.run.save_every)

    def _restore(self, path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        require_same_run(path, values["identity"], self.config, self.average.network)
        self.network.load_state_dict(part(tensors, "network"))
        self.average.network.load_state_dict(part(tensors, "average"))
        self._student.loss.load_state_dict(part(tensors, "loss"))
        restore_optimiser(self._optimiser, part(tensors, "optimiser"))
        torch.set_rng_state(tensors["rng/cpu"])
        if self.device.type == "cuda" and "rng/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng/cuda"], self.device)
        self.step, self.samples_seen = values["step"], values["samples_seen"]
        self.best, self.clock.seconds, self._made = values["best"], values["seconds"], values["made"]
        if self._is_finished():
            return
        warn_of_changes(path, values.get("shown", {}), shown_by(self.config, self.group.world))
        _log.info("%s: going on after step %d", path, self.step)


__all__ = ["Outcome", "Source", "Trainer", "TrainingError"]
