"""All samples of a run kept on the device, at the batch's size and packed, so that no step waits for a disk.

A GPU trains a small network on more samples a second than processors can read. Spikes are kept a bit a cell, depth as
float32: 0.15 MB a sample at 172x130.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from .batch import Batch
from .config import ConfigError, DataConfig
from .data import Mixture, Source

_CHUNK = 64  # samples that a worker reads at a time
_SPARE = 0.8  # of the device's free memory: the network wants some too


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Samples packed: spikes uint8 [N, bytes], depth float32 [N, 1, H, W], shape of a sample's spikes, keys."""

    spikes: Tensor
    depth: Tensor
    shape: tuple[int, ...]
    keys: list[str]


class _Chunks(TorchDataset):
    """A source, `_CHUNK` samples at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return -(-len(self._source.data) // _CHUNK)

    def __getitem__(self, chunk: int) -> _Chunk:
        last = min((chunk + 1) * _CHUNK, len(self._source.data))
        items = [self._source.item(index, 0) for index in range(chunk * _CHUNK, last)]
        for item in items:
            if item.spikes.shape != items[0].spikes.shape:
                raise ConfigError(
                    f"data.resident: {item.key} has spikes {list(item.spikes.shape)}, {items[0].key} has "
                    f"{list(items[0].spikes.shape)}; set data.size to bring them to one size"
                )
        packed = np.stack([np.packbits(item.spikes.numpy()) for item in items])
        depth = torch.stack([item.depth for item in items])
        return _Chunk(torch.from_numpy(packed), depth, tuple(items[0].spikes.shape), [item.key for item in items])


@dataclasses.dataclass
class _Held:
    """All samples of one source on the device."""

    spikes: Tensor
    depth: Tensor
    shape: tuple[int, ...]
    keys: list[str]


class ResidentSamples:
    """The samples of a run's sources on a device.

    Args:
        sources: each is read once, whole.
        config: its `workers` read.
        device: where the samples are kept.
        progress: whether to show a bar.

    Raises:
        ConfigError: samples are made while training, differ in size, or are more than the device's memory holds.
        DatasetError: a sample cannot be read.
    """

    def __init__(self, sources: Sequence[Source], config: DataConfig, device: torch.device, progress: bool) -> None:
        made = [source.name for source in sources if source.in_order]
        if made:
            raise ConfigError(f"data.resident: {made[0]} is made while training; write a bank, and train on that")
        self._device = device
        total = sum(len(source.data) for source in sources)
        with tqdm(total=total, desc="to the device", unit="sample", disable=not progress) as bar:
            self._held = [self._read(source, config, bar) for source in sources]

    def batch(self, places: Sequence[tuple[int, int]], first: int) -> Batch:
        """The samples at some (source, index), all of one size, as those of the stream from number `first` on."""
        of, index = (np.array(column) for column in zip(*places, strict=True))
        first_held = self._held[int(of[0])]
        spikes = first_held.spikes.new_empty(len(places), first_held.spikes.shape[1])
        depth = first_held.depth.new_empty(len(places), *first_held.depth.shape[1:])
        for k in dict.fromkeys(of.tolist()):
            held, mine = self._held[k], of == k
            rows = torch.from_numpy(index[mine]).to(self._device, non_blocking=True)
            if mine.all():
                spikes, depth = held.spikes[rows], held.depth[rows]
            else:
                into = torch.from_numpy(np.flatnonzero(mine)).to(self._device, non_blocking=True)
                spikes[into], depth[into] = held.spikes[rows], held.depth[rows]
        keys = [self._held[k].keys[index] for k, index in places]
        numbers = torch.arange(first, first + len(places))
        return Batch(_unpacked(spikes, first_held.shape), depth, None, keys, numbers)

    def _read(self, source: Source, config: DataConfig, bar: tqdm) -> _Held:
        loader: DataLoader[_Chunk] = DataLoader(
            _Chunks(source),
            batch_size=None,
            num_workers=config.workers,
            prefetch_factor=config.prefetch if config.workers else None,
        )
        count, start = len(source.data), 0
        held: _Held | None = None
        for chunk in loader:
            if held is None:
                held = self._room(source, chunk, count)
            if chunk.shape != held.shape:
                raise ConfigError(
                    f"data.resident: {chunk.keys[0]} has spikes {list(chunk.shape)}, {held.keys[0]} has "
                    f"{list(held.shape)}; set data.size to bring them to one size"
                )
            rows = slice(start, start + len(chunk.keys))
            held.spikes[rows].copy_(chunk.spikes)
            held.depth[rows].copy_(chunk.depth)
            held.keys += chunk.keys
            start = rows.stop
            bar.update(len(chunk.keys))
        assert held is not None  # no source is empty
        return held

    def _room(self, source: Source, chunk: _Chunk, count: int) -> _Held:
        needed = count * (chunk.spikes[0].nbytes + chunk.depth[0].nbytes)
        if self._device.type == "cuda":
            free = torch.cuda.mem_get_info(self._device)[0]
            if needed > _SPARE * free:
                raise ConfigError(
                    f"data.resident: the {count} samples of {source.name} need {needed / 1e9:.1f} GB, and "
                    f"{self._device} has {free / 1e9:.1f} GB free; set data.resident to false"
                )
        spikes, depth = (
            torch.empty(count, *each.shape[1:], dtype=each.dtype, device=self._device)
            for each in (chunk.spikes, chunk.depth)
        )
        return _Held(spikes, depth, chunk.shape, [])


def resident_stream(samples: ResidentSamples, mixture: Mixture, size: int, start: int, stride: int) -> Iterator[Batch]:
    """The batches that `stream` gives, without frames, of samples that are on the device."""
    first = start
    while True:
        yield samples.batch([mixture.place(number) for number in range(first, first + size)], first)
        first += stride


def _unpacked(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """uint8 [B, bytes], the first cell in the highest bit, to uint8 [B, *shape] in {0, 1}."""
    bits = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    cells = ((packed[:, :, None] >> bits) & 1).flatten(1)
    return cells[:, : int(np.prod(shape))].reshape(len(packed), *shape)
