"""Samples made while training, and kept on the device: processors make what they can, a GPU draws from all there is.

A sample takes a processor some hundred milliseconds and a GPU less than one to learn from. So each is seen many times,
the more often the earlier it was made; but none is waited for, and what is seen grows more varied until the end.
"""

from __future__ import annotations

import logging
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
from .data import Mixture, Source, leave_signals
from .packed import Chunk, NoRoomError, Shelf, Shelves, pack

_log = logging.getLogger(__name__)
_FIRST = 16  # samples, at least, that each source has before the first batch
_PATIENCE_S = 0.2  # between two looks whether the run is to stop
_TURNS = 64  # blocks of samples within which each source gets its share


class _Makers(IterableDataset[tuple[int, Chunk]]):
    """Samples of several sources, shared out among the workers of a data loader; each is made once.

    A worker takes whole blocks that share textures, which cost as much to make ready as a group of samples, and gives
    them group by group.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        weights = np.array([source.weight for source in sources])
        counts = np.maximum(1, np.round(weights / weights.sum() * _TURNS)).astype(int)
        self._counts = counts
        order = np.argsort(np.concatenate([np.arange(n) / n for n in counts]), kind="stable")
        self._turns = np.repeat(np.arange(len(counts)), counts)[order]  # spread evenly, each source once at first

    def __iter__(self) -> Iterator[tuple[int, Chunk]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        before = [np.cumsum(self._turns == k) - (self._turns == k) for k in range(len(self._counts))]
        blocks = [-(-len(source.data) // self._block(k)) for k, source in enumerate(self._sources)]
        rounds = max(-(-blocks[k] // int(count)) for k, count in enumerate(self._counts))
        for turn in range(first, rounds * len(self._turns), step):
            round_, place = divmod(turn, len(self._turns))
            k = int(self._turns[place])
            yield from ((k, chunk) for chunk in self._made(k, round_ * int(self._counts[k]) + int(before[k][place])))

    def _block(self, k: int) -> int:
        return int(self._config(k).texture_block)

    def _config(self, k: int) -> Any:
        return self._sources[k].data.source.config  # type: ignore[attr-defined]

    def _made(self, k: int, block: int) -> Iterator[Chunk]:
        """The groups of a block of a source; none where the source ends before it."""
        source, group = self._sources[k], self._config(k).group
        for first in range(block * self._block(k), min((block + 1) * self._block(k), len(source.data)), group):
            last = min(first + group, len(source.data))
            yield pack([source.item(index, 0) for index in range(first, last)])


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
        # Bounded: what waits in it holds shared memory and open files.
        self._made: queue.Queue[tuple[int, Chunk] | BaseException | None] = queue.Queue(4 * config.workers)
        self._ended = False
        self._stop = threading.Event()
        loader: DataLoader[Any] = DataLoader(
            _Makers(sources), batch_size=None, num_workers=config.workers, prefetch_factor=config.prefetch,
            worker_init_fn=leave_signals,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._receive, args=(loader,), name="samples", daemon=True)
        self._thread.start()
        self._enough = [min(_FIRST, len(source.data)) for source in sources]

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def counts(self) -> list[int]:
        """Samples made of each source so far."""
        return [len(shelf) for shelf in self._shelves]

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
                self._put(*entry)

    def _put(self, k: int, chunk: Chunk) -> None:
        try:
            self._shelves[k].put(chunk)
        except NoRoomError as error:
            if not len(self._shelves[k]):
                raise
            self._ended = True
            self._stop.set()
            _log.warning("no more samples are made, the %d that there are go on: %s", len(self), error)

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
                if not self._hand_over(entry):
                    return
            self._hand_over(None)
        except BaseException as error:  # of a worker, or of the loader: told by `take_in`
            self._hand_over(error)

    def _hand_over(self, entry: tuple[int, Chunk] | BaseException | None) -> bool:
        """Wait for room in the queue; whether there was any before the end."""
        while not self._stop.is_set():
            try:
                self._made.put(entry, timeout=_PATIENCE_S)
                return True
            except queue.Full:
                continue
        return False
