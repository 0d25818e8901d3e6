"""All samples of a run's banks kept on the device, so that no step waits for a disk.

A GPU trains a small network on more samples a second than processors can read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from .batch import Batch
from .config import DataConfig
from .data import Mixture, Source
from .packed import Chunk, Shelf, Shelves, pack

_CHUNK = 64  # samples that a worker reads at a time


class _Chunks(TorchDataset):
    """A source, `_CHUNK` samples at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return -(-len(self._source.data) // _CHUNK)

    def __getitem__(self, chunk: int) -> Chunk:
        last = min((chunk + 1) * _CHUNK, len(self._source.data))
        return pack([self._source.item(index, 0) for index in range(chunk * _CHUNK, last)])


def read_all(sources: Sequence[Source], config: DataConfig, device: torch.device, *, progress: bool) -> Shelves:
    """Read each source once, whole.

    Args:
        sources: with samples that are there already.
        config: its `workers` read.
        device: where the samples will be kept.
        progress: whether to show a bar.

    Raises:
        ConfigError: samples of a source differ in size, or are more than the device's memory holds.
        DatasetError: a sample cannot be read.
    """
    shelves = []
    total = sum(len(source.data) for source in sources)
    with tqdm(total=total, desc="to the device", unit="sample", disable=not progress) as bar:
        for source in sources:
            shelf = Shelf(source.name, device, len(source.data))
            loader: DataLoader[Chunk] = DataLoader(
                _Chunks(source),
                batch_size=None,
                num_workers=config.workers,
                prefetch_factor=config.prefetch if config.workers else None,
            )
            for chunk in loader:
                shelf.put(chunk)
                bar.update(len(chunk.keys))
            shelves.append(shelf)
    return Shelves(shelves)


def resident_stream(shelves: Shelves, mixture: Mixture, size: int, start: int, stride: int) -> Iterator[Batch]:
    """The batches that `stream` gives, without frames, of samples that are on the device."""
    first = start
    while True:
        yield shelves.batch([mixture.place(number) for number in range(first, first + size)], first)
        first += stride
