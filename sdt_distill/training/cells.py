"""Spikes, depth and frames on grids of another size, as the node's own binning gives them.

A pixel y of H belongs to cell y * h // H, the rule of `sdt_ros.events.spikes`; a cell spikes if any of its pixels does.
Where a grid grows instead, a cell takes the pixel at its centre.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def resize_spikes(spikes: Tensor, size: tuple[int, int]) -> Tensor:
    """Spikes [..., H, W] uint8 to [..., h, w]: any spike of a cell where it shrinks, nearest where it grows."""
    return _resize_axis(_resize_axis(spikes, -2, size[0]), -1, size[1])


def resize_nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Values [..., H, W] to [..., h, w], each from the pixel at the centre of its cell; nothing is averaged."""
    rows = centres(values.shape[-2], size[0], values.device)
    columns = centres(values.shape[-1], size[1], values.device)
    return values.index_select(-2, rows).index_select(-1, columns)


def resize_frame(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames [B, C, H, W] float32 to [B, C, h, w], averaged over what a pixel covers."""
    if tuple(frame.shape[-2:]) == tuple(size):
        return frame
    return functional.interpolate(frame, size=size, mode="bilinear", align_corners=False, antialias=True)


def centres(old: int, new: int, device: torch.device | str) -> Tensor:
    """Index int64 [new] of the pixel at the centre of each cell."""
    return ((torch.arange(new, device=device) * 2 + 1) * old // (2 * new)).clamp_(max=old - 1)


def _resize_axis(spikes: Tensor, axis: int, new: int) -> Tensor:
    old = spikes.shape[axis]
    if new == old:
        return spikes
    if new > old:
        return spikes.index_select(axis, centres(old, new, spikes.device))
    cells = torch.arange(old, device=spikes.device) * new // old
    shape = list(spikes.shape)
    shape[axis] = new
    # At most old / new pixels fall into a cell, so counts fit uint8 for any sensible pair of sizes.
    counts = torch.zeros(shape, dtype=torch.uint8 if old // new < 255 else torch.int32, device=spikes.device)
    return counts.index_add_(axis, cells, spikes.to(counts.dtype)).clamp_(max=1).to(spikes.dtype)
