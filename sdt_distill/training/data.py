"""The stream of samples: data sets mixed by weight, in an order that any position of the run can be entered at."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sdt_distill.datasets import FORMATS, Dataset, DatasetError, SampleConfig, open_dataset
from sdt_distill.datasets.bank import BankDataset, BankSequence
from sdt_distill.datasets.simulated import SimulatedDataset, SimulatedSequence
from sdt_distill.datasets.simulated_config import RENDERERS, SimulatedConfig
from sdt_distill.losses import LossConfig
from sdt_ros.evaluation.spread import spread_evenly

from .batch import Batch, Fit, Item, collate, make_item
from .config import DataConfig, SourceConfig
from .tree import ConfigError

_log = logging.getLogger(__name__)

_BLOCK = 1024  # samples within which every source gets exactly its share
_GROUPS = 64  # batches of a block, at least: a source with less than a hundredth of all is none of them
_GRACE_S = 30  # for the step that is being done when a run is told to stop, and for saving
_SIMULATED = "simulated"  # made while training, unlike `simulation`, which is read from a bank or a description


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened data set of a run.

    Attributes:
        name: for keys and messages.
        data: its samples.
        weight: its share, relative to the others.
        fit: how its samples get the batch's size.
        in_order: read in order, because its samples are made in groups; else shuffled anew each epoch.
        strata: kinds of samples that take turns in it; each so many places of an epoch have one of each.
    """

    name: str
    data: Dataset
    weight: float
    fit: Fit
    in_order: bool = False
    strata: int = 1

    def item(self, index: int, number: int) -> Item:
        """Sample `index` of the data set, as place `number` of the stream."""
        sample = self.data[index]
        # The index within the data set makes keys unique where sequences of two folders share a name.
        return make_item(sample, f"{self.name}/{sample.sequence}/{index}", number, self.fit)


def open_source(config: SourceConfig, data: DataConfig, frames: bool) -> Source:
    """Open a data set.

    Args:
        config: which.
        data: window, bins and size.
        frames: whether frames are wanted.

    Raises:
        ConfigError: the source is described wrongly.
        DatasetError: it is none, is broken or is empty.
    """
    scale = data.input_scale if config.scale is None else config.scale
    sample_config = SampleConfig(data.window_ms, data.bins, frames)
    opened: Dataset
    if config.kind == _SIMULATED:
        try:
            options = {"bins": data.bins, "window_ms": data.window_ms, **config.options}
            if config.split is not None:
                options["split"] = config.split
            simulated = SimulatedConfig.from_dict(options)
        except DatasetError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"a source of kind {_SIMULATED!r}: options: {error}") from error
        opened = SimulatedDataset(simulated, frames=frames)
        name = f"{_SIMULATED}-{simulated.seed}-{simulated.split}"
    else:
        if config.kind is not None and config.kind not in FORMATS:
            known = ", ".join((*FORMATS, _SIMULATED))
            raise ConfigError(f"a source is of kind {config.kind!r}; known are {known}")
        if config.path is None:
            raise ConfigError(f"a source of kind {config.kind or 'any'} lacks its path")
        if config.options:
            raise ConfigError(f"a source of kind {config.kind or 'any'} takes no options, only {_SIMULATED!r} does")
        if not config.path.exists():
            raise DatasetError(f"there is nothing at {config.path}; set the source's path")
        opened = open_dataset(config.path, config.kind, sample_config, config.split)
        name = config.path.resolve().name
    if not len(opened):
        raise DatasetError(f"{config.path or name}: the data set is empty; check its path and split")
    fit = Fit(scale, config.size or data.size, data.fit, data.focal_px, knows_sky(opened))
    name = f"{name}-{_fingerprint(opened, config.path, fit)}"
    return Source(name, opened, config.weight, fit, config.kind == _SIMULATED, config.strata)


def require_sky(loss: LossConfig, sources: Sequence[Source]) -> None:
    """Refuses a loss of the sky where no source says what is sky.

    Raises:
        ConfigError: that is so.
    """
    if loss.sky and not any(source.fit.sky for source in sources):
        raise ConfigError(
            "config key 'loss.sky' has a weight, but only our own simulator tells the sky from what is unknown, and "
            "data.sources have none of its samples: set it to 0"
        )


class Mixture:
    """Which sample of which source stands at which place of the stream; a function of seed and place alone.

    Places come in blocks of 1024, in which every source has its share, in random order. Within a source each epoch has
    its own order, or none where it says so.

    Args:
        sources: one or more. Those of one size are mixed sample by sample.
        seed: of the order.
        together: so many places in a row are of one size. Where sources are of different sizes that must be the
            samples of a step's batch, of all processes; blocks are then of about 1024 places, or of 64 batches.
    """

    def __init__(self, sources: Sequence[Source], seed: int, together: int = 1) -> None:
        self.sources, self.seed, self.together = tuple(sources), seed, together
        sizes = list(dict.fromkeys(source.fit.size for source in sources))
        self._size_of = np.array([sizes.index(source.fit.size) for source in sources])
        groups = max(_GROUPS, _BLOCK // together)
        self._block = groups * together
        weights = np.array([source.weight for source in sources])
        by_size = np.bincount(self._size_of, weights)
        self._counts = np.zeros(len(sources), int)
        for size, places in enumerate(_shares(by_size, groups) * together):
            mine = self._size_of == size
            self._counts[mine] = _shares(weights[mine], int(places))
        if not self._counts.all():
            rare = self.sources[int(np.argmin(self._counts))].name
            raise ConfigError(
                f"the weight of source {rare!r} is too small a share: of {groups} batches none would have it; leave it "
                "out, or raise its weight"
            )
        self._block_of = lru_cache(maxsize=4)(self._draw_block)
        self._order_of = lru_cache(maxsize=2 * len(sources))(self._draw_order)

    @property
    def polarities(self) -> int:
        """Channels of a bin: 2 for events, 1 for a spiking camera."""
        return int(self.sources[0].data[0].spikes.shape[1])

    def place(self, number: int) -> tuple[int, int]:
        """The source and the index within it."""
        block, offset = divmod(number, self._block)
        source, before = self._block_of(block)
        k = int(source[offset])
        turn = block * int(self._counts[k]) + int(before[offset])
        epoch, position = divmod(turn, len(self.sources[k].data))
        return k, position if self.sources[k].in_order else int(self._order_of(k, epoch)[position])

    def item(self, number: int) -> Item:
        """The sample at a place."""
        k, index = self.place(number)
        return self.sources[k].item(index, number)

    def _draw_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """For each place of a block its source, and how often that source came before in the block."""
        rng = np.random.default_rng([self.seed, 1, block])
        groups = np.bincount(self._size_of, self._counts).astype(int) // self.together
        size = np.repeat(rng.permutation(np.repeat(np.arange(len(groups)), groups)), self.together)
        source = np.empty(self._block, int)
        before = np.empty(self._block, int)
        for k in range(len(groups)):
            mine = np.flatnonzero(self._size_of == k)
            source[size == k] = rng.permutation(np.repeat(mine, self._counts[mine]))
        for k in range(len(self._counts)):
            own = source == k
            before[own] = np.arange(np.count_nonzero(own))
        return source, before

    def _draw_order(self, source: int, epoch: int) -> np.ndarray:
        count, strata = len(self.sources[source].data), self.sources[source].strata
        rng = np.random.default_rng([self.seed, 2, source, epoch])
        if strata == 1:
            return rng.permutation(count)
        rows, left = divmod(count, strata)  # samples that fill no row come last
        table = np.stack([rng.permutation(rows) * strata + k for k in range(strata)], 1)
        return np.concatenate([rng.permuted(table, axis=1).ravel(), count - left + rng.permutation(left)])

    def __getstate__(self) -> dict[str, Any]:
        return {"sources": self.sources, "seed": self.seed, "together": self.together}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _shares(weights: np.ndarray, whole: int) -> np.ndarray:
    """Whole numbers in proportion to the weights that add up to `whole`."""
    exact = weights / weights.sum() * whole
    counts = np.floor(exact).astype(int)
    short = np.argsort(-(exact - counts), kind="stable")[: whole - counts.sum()]
    counts[short] += 1
    return np.asarray(counts)


class _Batches(TorchDataset):
    """Batches by the number of their first sample, as torch's data loader wants them."""

    def __init__(self, mixture: Mixture, size: int) -> None:
        self._mixture, self._size = mixture, size

    def __getitem__(self, first: int) -> Batch:
        return collate([self._mixture.item(number) for number in range(first, first + self._size)])


class _Firsts:
    """The numbers of the first samples of batches from a place on, without end."""

    def __init__(self, start: int, stride: int) -> None:
        self._start, self._stride = start, stride

    def __iter__(self) -> Iterator[int]:
        number = self._start
        while True:
            yield number
            number += self._stride


def stream(mixture: Mixture, config: DataConfig, size: int, start: int, stride: int, *, pin: bool) -> Iterator[Batch]:
    """Batches from a place of the stream on, without end.

    Args:
        mixture: the samples.
        config: its `workers` and `prefetch`.
        size: samples of a batch.
        start: number of the first sample.
        stride: from one batch's first sample to the next one's; larger than `size` where other processes take the rest.
        pin: whether batches will be copied to a GPU.
    """
    loader: DataLoader[Batch] = DataLoader(
        _Batches(mixture, size),
        batch_size=None,
        sampler=_Firsts(start, stride),
        num_workers=config.workers,
        prefetch_factor=config.prefetch if config.workers else None,
        pin_memory=pin,
        worker_init_fn=leave_signals,
    )
    return iter(loader) if config.workers else _ahead(iter(loader), config.prefetch)


def leave_signals(worker: int) -> None:
    """Ctrl-C and a batch system's SIGTERM reach the whole group: the trainer saves, and workers end with it.

    Of themselves they end a while after SIGTERM: an interpreter that ends by an error sends it, and waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))


def _ahead(batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """Make batches in a thread while others are used. Compiled readers and torch leave the interpreter meanwhile."""
    made: queue.Queue[Batch | BaseException] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                made.put(entry, timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for batch in batches:
                put(batch)
                if stop.is_set():
                    return
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            entry = made.get()
            if isinstance(entry, BaseException):
                raise entry
            yield entry
    finally:
        stop.set()
        thread.join()


def _fingerprint(opened: Dataset, path: Path | None, fit: Fit) -> str:
    """What tells a source's frames from others of its name: what they were made of or where they lie, and their size.

    What a teacher saw is kept under it, so that equal fingerprints must be equal frames.
    """
    made = _made_of(opened)
    told: Any = made if made is not None else None if path is None else str(path.resolve())
    whole = json.dumps([told, fit.scale, fit.size, fit.mode], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:8]


def _made_of(opened: Dataset) -> dict[str, Any] | None:
    """The settings that simulated samples were made of, whatever their number; None of recordings."""
    if isinstance(opened, BankDataset):
        made = opened.bank.config
    elif isinstance(opened, SimulatedDataset):
        made = opened.config.to_dict()
    else:
        return None
    return {key: value for key, value in made.items() if key != "samples"}


def warn_of_seen(data: DataConfig, sources: Sequence[Source], held_out: Sequence[Source]) -> None:
    """Say which validation data are also learnt from.

    Args:
        data: the config of both.
        sources: its `sources`, opened.
        held_out: its `validation`, opened.
    """
    for k, (held, there) in enumerate(zip(data.validation, held_out, strict=True)):
        for own, (source, here) in enumerate(zip(data.sources, sources, strict=True)):
            if _share_samples(held, there.data, source, here.data):
                _log.warning(
                    "data.validation.%d (%s) has the samples of data.sources.%d: its scores are not of held-out data; "
                    "name another split or folder", k, there.name, own,
                )  # fmt: skip


def _share_samples(one: SourceConfig, first: Dataset, other: SourceConfig, second: Dataset) -> bool:
    made = _made_of(first), _made_of(second)
    if None not in made:
        return made[0] == made[1]
    if one.path is None or other.path is None or one.path.resolve() != other.path.resolve():
        return False
    return one.split == other.split or None in (one.split, other.split)


def knows_sky(opened: Dataset) -> bool:
    """Whether depth is missing for the sky alone.

    Our simulator knows all surfaces of a scene. Sensors miss depth for many reasons, MuJoCo what is far.
    """
    renderers = set()
    for reader in getattr(opened, "readers", ()):
        if isinstance(reader, BankSequence):
            renderers.add(reader.bank.config.get("renderer", RENDERERS[0]))
        elif isinstance(reader, SimulatedSequence):
            renderers.add(reader.source.config.renderer)
        else:
            return False
    return renderers == {RENDERERS[0]}


def spread_over(sources: Sequence[Source], most: int) -> list[tuple[int, int]]:
    """At most so many (source, index) of some sources, from all over them and the same each time; 0 takes all."""
    every = [(k, index) for k, source in enumerate(sources) for index in range(len(source.data))]
    return [every[place] for place in spread_evenly(len(every), most)]


def activity(spikes: torch.Tensor) -> torch.Tensor:
    """Spikes [B, T, P, H, W] to how many there are in each pixel, float32 [B, 1, H, W]."""
    return spikes.sum((1, 2), dtype=torch.float32)[:, None]
