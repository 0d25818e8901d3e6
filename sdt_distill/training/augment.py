"""Augmentation of a batch, the same for the same seed and sample number, whatever batch or process it falls into."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .batch import Batch
from .cells import resize_frame, resize_nearest, resize_spikes


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How far samples are varied. A rate's upper bound means: drawn evenly from 0 to it for each sample.

    Attributes:
        flip_horizontal: probability of a left-right flip.
        flip_vertical: probability of an upside-down flip.
        crop: height and width of a crop at a random place [px]; None keeps the whole.
        zoom: largest factor by which a sample is magnified or reduced, 1 for none. It changes the apparent focal
            length, and reduces only as far as the sample reaches beyond the crop.
        zoom_depth: divide depth by the zoom's factor, as if the camera had moved and not the lens.
        polarity_swap: probability of ON and OFF changing places.
        drop: largest share of spikes taken away at random.
        blocks: most rectangles in which spikes are taken away, each of up to a quarter of a side.
        noise: largest share of cells that spike by chance.
        jitter: largest share of spikes moved into a neighbouring time bin.
        threshold: largest factor by which the sensor's contrast threshold grows, for ON and OFF apart, imitated by
            keeping one spike in so many; 1 for none.
    """

    flip_horizontal: float = 0.5
    flip_vertical: float = 0.0
    crop: tuple[int, int] | None = None
    zoom: float = 1.0
    zoom_depth: bool = False
    polarity_swap: float = 0.5
    drop: float = 0.1
    blocks: int = 0
    noise: float = 0.002
    jitter: float = 0.05
    threshold: float = 1.25

    def __post_init__(self) -> None:
        for key in ("flip_horizontal", "flip_vertical", "polarity_swap", "drop", "noise", "jitter"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"augment key {key!r} is {getattr(self, key)}, expected a number in [0, 1]")
        for key in ("zoom", "threshold"):
            if not 1 <= getattr(self, key) <= 4:
                raise ValueError(f"augment key {key!r} is {getattr(self, key)}, expected a number in [1, 4]")
        if self.blocks < 0:
            raise ValueError(f"augment key 'blocks' is {self.blocks}, expected 0 or more")
        if self.crop is not None and min(self.crop) < 16:
            raise ValueError(f"augment key 'crop' is {self.crop}, expected sides of 16 px or more")

    @classmethod
    def none(cls) -> AugmentConfig:
        """No augmentation at all."""
        return cls(flip_horizontal=0.0, polarity_swap=0.0, drop=0.0, noise=0.0, jitter=0.0, threshold=1.0)


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


class Augmentation:
    """Varies batches.

    Args:
        config: how far.
        seed: of the run.
    """

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    def __call__(self, batch: Batch) -> tuple[Batch, Geometry]:
        """Vary a batch on the device it is on; the batch given is left as it was.

        Raises:
            ValueError: the crop is larger than the batch.
        """
        size = (batch.depth.shape[-2], batch.depth.shape[-1])
        out = self.config.crop or size
        if out[0] > size[0] or out[1] > size[1]:
            raise ValueError(f"augment.crop {list(out)} is larger than the samples, {list(size)}")
        spikes, depths, frames, boxes, flips = [], [], [], [], []
        for k, number in enumerate(batch.numbers.tolist()):
            rng = np.random.default_rng([self.seed, number])
            box, factor = self._box(rng, size, out)
            flip = [bool(rng.random() < p) for p in (self.config.flip_vertical, self.config.flip_horizontal)]
            axes = [axis for axis, wanted in zip((-2, -1), flip, strict=True) if wanted]
            rows, columns = slice(box[0], box[0] + box[2]), slice(box[1], box[1] + box[3])
            one = resize_spikes(batch.spikes[k, ..., rows, columns], out).flip(axes)
            spikes.append(self._vary_spikes(one, rng))
            depth = resize_nearest(batch.depth[k, ..., rows, columns], out).flip(axes)
            depths.append(depth / factor if self.config.zoom_depth else depth)
            if batch.frame is not None:
                frames.append(resize_frame(batch.frame[k : k + 1, ..., rows, columns], out)[0].flip(axes))
            boxes.append(box)
            flips.append(flip)
        frame = torch.stack(frames) if frames else None
        varied = dataclasses.replace(batch, spikes=torch.stack(spikes), depth=torch.stack(depths), frame=frame)
        return varied, Geometry(size, out, torch.tensor(boxes), torch.tensor(flips))

    def _box(
        self, rng: np.random.Generator, size: tuple[int, int], out: tuple[int, int]
    ) -> tuple[tuple[int, int, int, int], float]:
        """The part to keep, and by how much it is magnified."""
        reach = math.log(self.config.zoom)
        factor = math.exp(rng.uniform(-reach, reach))
        # Samples end somewhere: what would reach beyond is magnified more.
        factor = max(factor, out[0] / size[0], out[1] / size[1])
        height, width = (min(s, round(o / factor)) for s, o in zip(size, out, strict=True))
        top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
        return (top, left, height, width), factor

    def _vary_spikes(self, spikes: Tensor, rng: np.random.Generator) -> Tensor:
        """Spikes [T, P, H, W] of one sample, varied as a sensor would vary them."""
        config = self.config
        generator = torch.Generator(spikes.device).manual_seed(int(rng.integers(2**63)))

        def chance(rate: float) -> Tensor:
            return torch.rand(spikes.shape, generator=generator, device=spikes.device) < rate

        if rng.random() < config.polarity_swap:
            spikes = spikes.flip(1)
        drop, noise, jitter = (rng.uniform(0, most) for most in (config.drop, config.noise, config.jitter))
        kept = (1 - drop) / rng.uniform(1, config.threshold, spikes.shape[1])
        if kept.min() < 1:
            share = torch.from_numpy(kept).to(spikes.device, torch.float32)[:, None, None]
            even = torch.rand(spikes.shape, generator=generator, device=spikes.device)
            spikes = spikes * (even < share)
        for _ in range(int(rng.integers(config.blocks + 1))):
            spikes = self._without_block(spikes, rng)
        if jitter > 0 and spikes.shape[0] > 1:
            moved = spikes * chance(jitter)
            step = 1 if rng.random() < 0.5 else -1
            shifted = moved.roll(step, 0)
            shifted[0 if step == 1 else -1] = 0  # what leaves the window is lost
            spikes = (spikes ^ moved) | shifted
        if noise > 0:
            spikes = spikes | chance(noise).to(torch.uint8)
        return spikes

    @staticmethod
    def _without_block(spikes: Tensor, rng: np.random.Generator) -> Tensor:
        height, width = (int(rng.integers(1, max(2, side // 4 + 1))) for side in spikes.shape[-2:])
        top, left = int(rng.integers(spikes.shape[-2] - height + 1)), int(rng.integers(spikes.shape[-1] - width + 1))
        spikes = spikes.clone()
        spikes[..., top : top + height, left : left + width] = 0
        return spikes
