"""Samples made while training, and kept on the device: processors make what they can, a GPU draws from all there is.

A sample takes a processor some fifty milliseconds and a GPU less than one to learn from. So each is seen many times,
the more often the earlier it was made; but none is waited for, and what is seen grows more varied until the end.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from sdt_distill.datasets import DatasetError
from sdt_distill.datasets.simulated import SimulatedDataset

from .batch import Batch
from .config import ConfigError, DataConfig
from .data import Mixture, Source
from .packed import Chunk, Shelf, Shelves, pack

_FIRST = 16  # samples, at least, that each source has before the first batch
_PATIENCE_S = 0.2  # between two looks whether the run is to stop
_TURNS = 256  # groups of samples within which each source gets its share


class _Makers(IterableDataset[tuple[int, Chunk]]):
    """Groups of samples of several sources, shared out among the workers of a data loader; each is made once."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        weights = np.array([source.weight for source in sources])
        counts = np.maximum(1, np.round(weights / weights.sum() * _TURNS)).astype(int)
        self._counts = counts
        order = np.argsort(np.concatenate([(np.arange(n) + 0.5) / n for n in counts]), kind="stable")
        self._turns = np.repeat(np.arange(len(counts)), counts)[order]  # spread evenly

    def __iter__(self) -> Iterator[tuple[int, Chunk]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        before = [np.cumsum(self._turns == k) - (self._turns == k) for k in range(len(self._counts))]
        done: set[int] = set()
        for turn in itertools.count(first, step):
            round_, place = divmod(turn, len(self._turns))
            k = int(self._turns[place])
            made = self._group(k, round_ * int(self._counts[k]) + int(before[k][place]))
            if made is not None:
                yield k, made
            elif len(done | {k}) == len(self._counts):
                return
            else:
                done.add(k)

    def _group(self, k: int, number: int) -> Chunk | None:
        """A group of samples of a source; None where the source ends before it."""
        source = self._sources[k]
        size = source.data.source.config.group  # type: ignore[attr-defined]
        indices = range(number * size, min((number + 1) * size, len(source.data)))
        return pack([source.item(index, 0) for index in indices]) if indices else None


class GrowingSamples:
    """What has been made so far.

    Args:
        sources: all of kind `simulated`; their `samples` bound what is made.
        config: its `workers` make samples.
        device: where they are kept.

    Raises:
        ConfigError: a source is no simulator, or there are no workers.
    """

    def __init__(self, sources: Sequence[Source], config: DataConfig, device: torch.device) -> None:
        for source in sources:
            if not isinstance(source.data, SimulatedDataset):
                raise ConfigError(
                    f"data.resident: {source.name} is read and others are made while training: "
                    "let all sources be of kind 'simulated', or none"
                )
        if not config.workers:
            raise ConfigError("data.resident: samples made while training need data.workers, the more the better")
        self._shelves = [Shelf(source.name, device, 4096) for source in sources]
        self.shelves = Shelves(self._shelves)
        self._made: queue.Queue[tuple[int, Chunk] | BaseException | None] = queue.Queue()
        self._ended = False
        self._stop = threading.Event()
        loader: DataLoader[Any] = DataLoader(
            _Makers(sources), batch_size=None, num_workers=config.workers, prefetch_factor=config.prefetch
        )
        self._thread = threading.Thread(target=self._receive, args=(loader,), name="samples", daemon=True)
        self._thread.start()
        self._enough = [min(_FIRST, len(source.data)) for source in sources]

    def __len__(self) -> int:
        return sum(map(len, self._shelves))

    def wait(self, stopping: Callable[[], bool], *, progress: bool) -> bool:
        """Wait until there are samples of each source; False where the run is to stop before.

        Raises:
            ConfigError: as `Shelf.put`.
            DatasetError: a sample could not be made.
        """
        with tqdm(total=sum(self._enough), desc="first samples", unit="sample", disable=not progress) as bar:
            while True:
                self.take_in()
                there = [min(len(shelf), least) for shelf, least in zip(self._shelves, self._enough, strict=True)]
                bar.update(sum(there) - bar.n)
                if there == self._enough or stopping():
                    return there == self._enough
                time.sleep(_PATIENCE_S)

    def take_in(self) -> None:
        """Put on the shelves what was made since the last call.

        Raises:
            ConfigError: as `Shelf.put`.
            DatasetError: a sample could not be made.
        """
        while not self._ended:
            try:
                entry = self._made.get_nowait()
            except queue.Empty:
                return
            if entry is None:
                self._ended = True
            elif isinstance(entry, BaseException):
                self._ended = True
                last = (str(entry).strip() or repr(entry)).splitlines()[-1]  # a worker's error is its whole traceback
                raise DatasetError(f"samples made while training: {last}") from entry
            else:
                self._shelves[entry[0]].put(entry[1])

    def batches(self, mixture: Mixture, size: int, start: int, stride: int) -> Iterator[Batch]:
        """Batches from a place of the stream on: sources in their shares, of each any of the samples made so far."""
        first = start
        while True:
            self.take_in()
            yield self.shelves.batch([self._place(mixture, number) for number in range(first, first + size)], first)
            first += stride

    def close(self) -> None:
        """Make no more; what there is stays."""
        self._stop.set()
        self._thread.join()

    def _place(self, mixture: Mixture, number: int) -> tuple[int, int]:
        k, _ = mixture.place(number)
        return k, int(np.random.default_rng([mixture.seed, 3, number]).integers(len(self._shelves[k])))

    def _receive(self, loader: DataLoader[Any]) -> None:
        try:
            for entry in loader:
                if self._stop.is_set():
                    return
                self._made.put(entry)
            self._made.put(None)
        except BaseException as error:  # of a worker, or of the loader: told by `take_in`
            self._made.put(error)
