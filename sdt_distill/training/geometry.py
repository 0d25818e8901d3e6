"""Where the pixels of a varied batch came from: crops, zooms and flips, of the batch and of a teacher's maps."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from .batch import Batch
from .cells import resize_frame, resize_nearest, resize_spikes


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where each sample's pixels came from, so that maps of the unvaried frame can follow.

    Attributes:
        size: height and width of the batch before.
        out: height and width behind.
        boxes: int64 [B, 4]: top, left, height and width of the part that was kept, in pixels before.
        flips: bool [B, 2]: upside down, left to right; flipped after cropping.
    """

    size: tuple[int, int]
    out: tuple[int, int]
    boxes: Tensor
    flips: Tensor

    @property
    def is_identity(self) -> bool:
        """Whether nothing moved."""
        whole = torch.tensor([0, 0, *self.size])
        return self.size == self.out and not self.flips.any() and bool((self.boxes == whole).all())

    def apply(self, features: Tensor, mode: str = "bilinear") -> Tensor:
        """Moves maps [B, C, h, w] of any resolution as the batch was moved.

        Args:
            features: the maps.
            mode: `bilinear` between the maps' cells, or `nearest`, for depth, which must not be mixed across edges.

        Returns:
            [B, C, h', w'], h' and w' in the proportion of the batch's sizes.
        """
        if self.is_identity:
            return features
        height = max(1, round(features.shape[-2] * self.out[0] / self.size[0]))
        width = max(1, round(features.shape[-1] * self.out[1] / self.size[1]))
        # grid_sample's coordinates go from -1 to 1 over the outer edges of the map.
        boxes = self.boxes.to(torch.float32)
        extent = torch.tensor(self.size, dtype=torch.float32)
        scale = boxes[:, 2:] / extent * torch.where(self.flips, -1.0, 1.0)  # [B, 2] of y, x
        centre = (2 * boxes[:, :2] + boxes[:, 2:]) / extent - 1
        theta = torch.zeros(len(boxes), 2, 3)
        theta[:, 0, 0], theta[:, 0, 2] = scale[:, 1], centre[:, 1]
        theta[:, 1, 1], theta[:, 1, 2] = scale[:, 0], centre[:, 0]
        shape = [len(boxes), features.shape[1], height, width]
        grid = functional.affine_grid(theta.to(features.device), shape, align_corners=False)
        moved = functional.grid_sample(features.float(), grid, mode=mode, padding_mode="border", align_corners=False)
        return moved.to(features.dtype)


def move(batch: Batch, geometry: Geometry) -> Batch:
    """Crop, zoom and flip each sample. Whole samples are only flipped, all at once: on a GPU each call costs alike."""
    if (geometry.boxes == torch.tensor([0, 0, *geometry.size])).all() and geometry.size == geometry.out:
        frame = None if batch.frame is None else _flip(batch.frame, geometry.flips)
        spikes, depth = _flip(batch.spikes, geometry.flips), _flip(batch.depth, geometry.flips)
        return dataclasses.replace(batch, spikes=spikes, depth=depth, frame=frame)
    spike_parts: list[Tensor] = []
    depths: list[Tensor] = []
    frames: list[Tensor] = []
    for k, (top, left, height, width) in enumerate(geometry.boxes.tolist()):
        rows, columns = slice(top, top + height), slice(left, left + width)
        spike_parts.append(resize_spikes(batch.spikes[k, ..., rows, columns], geometry.out))
        depths.append(resize_nearest(batch.depth[k, ..., rows, columns], geometry.out))
        if batch.frame is not None:
            frames.append(resize_frame(batch.frame[k : k + 1, ..., rows, columns], geometry.out)[0])
    return dataclasses.replace(
        batch,
        spikes=_flip(torch.stack(spike_parts), geometry.flips),
        depth=_flip(torch.stack(depths), geometry.flips),
        frame=_flip(torch.stack(frames), geometry.flips) if frames else None,
    )


def _flip(values: Tensor, flips: Tensor) -> Tensor:
    """[B, ..., H, W] with those samples flipped that `flips` [B, 2] says: upside down, left to right."""
    for axis, wanted in zip((-2, -1), flips.unbind(1), strict=True):
        if wanted.any():
            values = torch.where(per_sample(wanted, values), values.flip(axis), values)
    return values


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] on the device of `like` and ready to be broadcast over it."""
    return values.to(like.device, non_blocking=True).reshape(-1, *(1,) * (like.ndim - 1))
