"""Batch: what one pass of the network sees, made of samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sdt_distill.datasets import DatasetError, Sample
from sdt_ros.events.reduce import reduced_size
from sdt_ros.lens import depth_factor, focal_length

from .cells import resize_frame, resize_nearest, resize_spikes


@dataclasses.dataclass(frozen=True)
class Batch:
    """Samples of one size.

    Attributes:
        spikes: uint8 [B, T, P, H, W] in {0, 1}.
        depth: float32 [B, 1, H, W] along z [m], NaN where unknown, infinite where there is sky.
        frame: float32 [B, 1 or 3, H, W] in [0, 1], aligned to the spikes; None where a sample has none.
        keys: a stable name for each sample: data set, sequence, index. Equal keys are equal frames.
        numbers: int64 [B] on the CPU, place of each sample in the run's stream; augmentation follows from it.
    """

    spikes: Tensor
    depth: Tensor
    frame: Tensor | None
    keys: list[str]
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        frame = None if self.frame is None else self.frame.to(device, non_blocking=True)
        spikes, depth = (each.to(device, non_blocking=True) for each in (self.spikes, self.depth))
        return dataclasses.replace(self, spikes=spikes, depth=depth, frame=frame)

    def pin_memory(self) -> Batch:
        """The batch in memory that a GPU can copy from on its own; torch's data loader calls this."""
        frame = None if self.frame is None else self.frame.pin_memory()
        return dataclasses.replace(self, spikes=self.spikes.pin_memory(), depth=self.depth.pin_memory(), frame=frame)


@dataclasses.dataclass(frozen=True)
class Fit:
    """How samples get the batch's size.

    Attributes:
        scale: factor by which they are reduced first, as the node reduces the sensor's resolution.
        size: height and width wanted; None leaves what the scale gives.
        mode: `crop`, centred and padded with nothing seen and nothing known, or `resize`.
        focal_px: focal length at which depth is given [px], see `CardFacts.focal_px`; None for the camera's own.
        sky: whether depth is missing for the sky alone, as in simulations; it becomes infinite then.
    """

    scale: float = 1.0
    size: tuple[int, int] | None = None
    mode: str = "crop"
    focal_px: float | None = None
    sky: bool = False


@dataclasses.dataclass(frozen=True)
class Item:
    """One sample as tensors: `Batch` without the first axis."""

    spikes: Tensor
    depth: Tensor
    frame: Tensor | None
    key: str
    number: int


def make_item(sample: Sample, key: str, number: int, fit: Fit) -> Item:
    """Turn a sample into tensors of the size wanted.

    Args:
        sample: of any size.
        key: its stable name.
        number: its place in the stream.
        fit: the size.

    Raises:
        DatasetError: depth is wanted at one focal length, and that of the sample is not known.
    """
    spikes = torch.from_numpy(np.ascontiguousarray(sample.spikes))  # [T, P, H, W]
    depth = torch.from_numpy(np.ascontiguousarray(sample.depth, dtype=np.float32))[None]  # [1, H, W]
    if fit.sky:
        depth = depth.nan_to_num(nan=torch.inf, posinf=torch.inf)
    frame = None if sample.frame is None else _frame_tensor(sample.frame)
    size = reduced_size(spikes.shape[-2], spikes.shape[-1], fit.scale)
    if fit.size is not None and fit.mode == "resize":
        size = fit.size
    if fit.focal_px is not None:
        depth = depth / _lens(sample, key, fit.focal_px, size)
    spikes, depth = resize_spikes(spikes, size), resize_nearest(depth, size)
    if frame is not None:
        frame = resize_frame(frame[None], size)[0]
    if fit.size is not None and size != fit.size:
        spikes, depth = _centred(spikes, fit.size, 0), _centred(depth, fit.size, torch.nan)
        frame = None if frame is None else _centred(frame, fit.size, 0)
    return Item(spikes, depth, frame, key, number)


def _lens(sample: Sample, key: str, focal_px: float, size: tuple[int, int]) -> float:
    """What the lens of a sample, reduced to `size`, multiplies depth by, beside one of the focal length wanted."""
    if sample.intrinsics is None:
        raise DatasetError(
            f"{key}: the camera's focal length is not known, but depth is to be learnt for one of data.focal_px; give "
            "the data set's calibration, or set data.focal_px to null"
        )
    height, width = sample.spikes.shape[-2:]
    return depth_factor(focal_px, focal_length(sample.intrinsics), size, (height, width))


def collate(items: Sequence[Item]) -> Batch:
    """Stack samples of one size; frames go along if all have them, as RGB if one has colour.

    Raises:
        DatasetError: the sizes differ; the message names two samples.
    """
    first = items[0]
    for item in items:
        if item.spikes.shape != first.spikes.shape:
            raise DatasetError(
                f"{item.key} has spikes {list(item.spikes.shape)}, {first.key} has {list(first.spikes.shape)}; "
                "set data.size (and data.fit) to bring them to one size"
            )
    frame = None
    frames = [item.frame for item in items if item.frame is not None]
    if len(frames) == len(items):
        channels = max(each.shape[0] for each in frames)
        frame = torch.stack([each.expand(channels, -1, -1) for each in frames])
    return Batch(
        torch.stack([item.spikes for item in items]),
        torch.stack([item.depth for item in items]),
        frame,
        [item.key for item in items],
        torch.tensor([item.number for item in items]),
    )


def _frame_tensor(frame: np.ndarray) -> Tensor:
    """uint8 [H, W] or [H, W, 3] to float32 [1 or 3, H, W] in [0, 1]."""
    tensor = torch.from_numpy(np.array(frame, np.float32, order="C")).div_(255)
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)


def _centred(values: Tensor, size: tuple[int, int], fill: float) -> Tensor:
    """The centre of [..., H, W], padded where it is too small."""
    (height, width), (rows, columns) = values.shape[-2:], size
    top, left = (rows - height) // 2, (columns - width) // 2  # negative where it is cropped
    return functional.pad(values, (left, columns - width - left, top, rows - height - top), value=fill).contiguous()
