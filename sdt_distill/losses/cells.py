"""Where the cells of a student's feature map lie in the image, so that a teacher's features are compared in place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LARGEST_PADDING = 32  # pixels that a network may add to fill its last cells


@dataclass(frozen=True)
class CellGrid:
    """Cells of a feature map over an image.

    A network pads its input to whole patches, so its map covers more than the image: at 346x260 the 22x17 cells of
    16 pixels cover 352x272. Stretching such a map onto the image would shift it by most of a cell at the far edges.

    Attributes:
        height: cells down.
        width: cells across.
        cell: height and width of a cell in pixels.
        image: height and width of the image in pixels.
    """

    height: int
    width: int
    cell: tuple[float, float]
    image: tuple[int, int]

    @classmethod
    def of(cls, features: Tensor, image: tuple[int, int]) -> CellGrid:
        """The cells of a map [B, C, h, w] over an image of that height and width.

        Taken are the smallest square cells of a power of two that cover the image; if those overshoot it by more than a
        network pads, the map is taken to cover the image exactly.
        """
        height, width = features.shape[-2:]
        side = 1
        while height * side < image[0] or width * side < image[1]:
            side *= 2
        padding = max(height * side - image[0], width * side - image[1])
        if padding < max(side, LARGEST_PADDING):
            return cls(height, width, (side, side), image)
        return cls(height, width, (image[0] / height, image[1] / width), image)

    def inside(self, device: torch.device) -> Tensor:
        """Which cells have their centre inside the image: bool [h, w]."""
        y, x = self._centres(device)
        return (y < self.image[0])[:, None] & (x < self.image[1])[None, :]

    def sample(self, features: Tensor) -> Tensor:
        """Another map of the whole image, [B, C, h', w'], at the centres of these cells: [B, C, h, w]."""
        needed = [max(1, round(pixels / cell)) for pixels, cell in zip(self.image, self.cell, strict=True)]
        have = features.shape[-2:]
        if any(fine > 1.5 * need for fine, need in zip(have, needed, strict=True)):  # points alone would alias
            smaller = [min(fine, need) for fine, need in zip(have, needed, strict=True)]
            features = functional.interpolate(features, smaller, mode="bilinear", antialias=True)
        y, x = self._centres(features.device)
        y, x = 2 * y / self.image[0] - 1, 2 * x / self.image[1] - 1  # -1 and 1 are the image's edges
        points = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1).to(features.dtype)  # [h, w, 2]
        points = points.expand(len(features), -1, -1, -1)
        return functional.grid_sample(features, points, padding_mode="border", align_corners=False)

    def events(self, activity: Tensor) -> Tensor:
        """Event counts of the image's pixels, [B, 1, H, W], added up by cell: [B, 1, h, w]."""
        side = int(self.cell[0])
        if self.cell == (side, side):
            missing = (0, self.width * side - self.image[1], 0, self.height * side - self.image[0])
            return functional.avg_pool2d(functional.pad(activity, missing), side, divisor_override=1)
        return functional.adaptive_avg_pool2d(activity, (self.height, self.width)) * self.cell[0] * self.cell[1]

    def _centres(self, device: torch.device) -> tuple[Tensor, Tensor]:
        y = (torch.arange(self.height, device=device, dtype=torch.float32) + 0.5) * self.cell[0]
        x = (torch.arange(self.width, device=device, dtype=torch.float32) + 0.5) * self.cell[1]
        return y, x
