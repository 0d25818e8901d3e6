"""Samples packed to be kept by the thousand: spikes a bit a cell, depth as float32; 0.11 MB a sample at 172x130."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .batch import Batch, Item
from .config import ConfigError

_SPARE = 0.8  # of a GPU's free memory: the network wants some too


class NoRoomError(ConfigError):
    """A device has no memory for more samples; those that it keeps are as they were."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some samples of one size.

    Attributes:
        spikes: uint8 [N, bytes], a bit a cell of [T, P, H, W], the first in the highest bit.
        depth: float32 [N, 1, H, W] [m].
        shape: (T, P, H, W).
        keys: of the samples.
    """

    spikes: Tensor
    depth: Tensor
    shape: tuple[int, ...]
    keys: list[str]


def pack(items: Sequence[Item]) -> Chunk:
    """One or more samples as a chunk; frames are left out.

    Raises:
        ConfigError: their sizes differ.
    """
    shape = tuple(items[0].spikes.shape)
    for item in items:
        _same(item.key, tuple(item.spikes.shape), items[0].key, shape)
    spikes = np.stack([np.packbits(item.spikes.numpy()) for item in items])
    depth = torch.stack([item.depth for item in items])
    return Chunk(torch.from_numpy(spikes), depth, shape, [item.key for item in items])


class Shelf:
    """The packed samples of one source on a device; more can be put on it at any time.

    Args:
        name: of the source, for messages.
        device: where they are kept.
        room: how many there will be at least.
    """

    def __init__(self, name: str, device: torch.device, room: int) -> None:
        self._name, self._device, self._room = name, device, max(1, room)
        self.shape: tuple[int, ...] = ()
        self.keys: list[str] = []
        self._spikes = self._depth = torch.empty(0)

    def __len__(self) -> int:
        return len(self.keys)

    def put(self, chunk: Chunk) -> None:
        """Add samples.

        Raises:
            ConfigError: they are of another size than those that are there.
            NoRoomError: the device has no memory for them.
        """
        if not self.keys:
            self.shape = chunk.shape
            self._make_room(chunk, max(self._room, len(chunk.keys)))
        _same(chunk.keys[0], chunk.shape, self.keys[0] if self.keys else chunk.keys[0], self.shape)
        rows = slice(len(self), len(self) + len(chunk.keys))
        if rows.stop > len(self._spikes):
            self._make_room(chunk, max(rows.stop, 2 * len(self._spikes)))
        self._spikes[rows].copy_(chunk.spikes)
        self._depth[rows].copy_(chunk.depth)
        self.keys += chunk.keys

    def take(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Packed spikes and depth of some samples."""
        chosen = torch.from_numpy(rows).to(self._device, non_blocking=True)
        return self._spikes[chosen], self._depth[chosen]

    def _make_room(self, chunk: Chunk, count: int) -> None:
        needed = count * (chunk.spikes[0].nbytes + chunk.depth[0].nbytes)
        if self._device.type == "cuda":
            free = torch.cuda.mem_get_info(self._device)[0]
            if needed > _SPARE * free:
                raise NoRoomError(
                    f"data.resident: {count} samples of {self._name} need {needed / 1e9:.1f} GB, and {self._device} "
                    f"has {free / 1e9:.1f} GB free; set data.resident to false"
                )
        before = self._spikes[: len(self)], self._depth[: len(self)]
        self._spikes, self._depth = (
            torch.empty(count, *each.shape[1:], dtype=each.dtype, device=self._device)
            for each in (chunk.spikes, chunk.depth)
        )
        if self.keys:
            self._spikes[: len(self)], self._depth[: len(self)] = before


class Shelves:
    """The shelves of a run's sources.

    Args:
        shelves: one for each source.
    """

    def __init__(self, shelves: Sequence[Shelf]) -> None:
        self.shelves = tuple(shelves)

    def batch(self, places: Sequence[tuple[int, int]], first: int) -> Batch:
        """The samples at some (source, index), all of one size, as those of the stream from number `first` on."""
        of, index = (np.array(column) for column in zip(*places, strict=True))
        used = [self.shelves[k] for k in dict.fromkeys(of.tolist())]
        for shelf in used[1:]:
            _same(shelf.keys[0], shelf.shape, used[0].keys[0], used[0].shape)
        parts = {k: self.shelves[k].take(index[of == k]) for k in dict.fromkeys(of.tolist())}
        spikes, depth = (torch.cat(column) for column in zip(*parts.values(), strict=True))
        if len(parts) > 1:  # back to the order asked for
            order = np.argsort(np.concatenate([np.flatnonzero(of == k) for k in parts]))
            chosen = torch.from_numpy(order).to(spikes.device, non_blocking=True)
            spikes, depth = spikes[chosen], depth[chosen]
        keys = [self.shelves[k].keys[index] for k, index in places]
        numbers = torch.arange(first, first + len(places))
        return Batch(_unpacked(spikes, self.shelves[int(of[0])].shape), depth, None, keys, numbers)


def _unpacked(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """uint8 [B, bytes] to uint8 [B, *shape] in {0, 1}."""
    bits = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    cells = ((packed[:, :, None] >> bits) & 1).flatten(1)
    return cells[:, : int(np.prod(shape))].reshape(len(packed), *shape)


def _same(key: str, shape: tuple[int, ...], other: str, wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise ConfigError(
            f"data.resident: {key} has spikes {list(shape)}, {other} has {list(wanted)}; set data.size to bring them "
            "to one size"
        )
