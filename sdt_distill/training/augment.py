"""Augmentation of a batch, the same for the same seed and sample number, whatever batch or process it falls into."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from .batch import Batch
from .geometry import Geometry, move, per_sample
from .spike_noise import SpikeDraw, vary_spikes


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
        draws = [self._draw(number, size, out, batch.spikes.shape[2]) for number in batch.numbers.tolist()]
        geometry = Geometry(
            size, out, torch.tensor([draw.box for draw in draws]), torch.tensor([draw.flips for draw in draws])
        )
        moved = move(batch, geometry)
        depth = moved.depth
        if self.config.zoom_depth:
            depth = depth / per_sample(torch.tensor([draw.factor for draw in draws]).to(depth.dtype), depth)
        spikes = vary_spikes(moved.spikes, [draw.spikes for draw in draws])
        return dataclasses.replace(moved, spikes=spikes, depth=depth), geometry

    def _draw(self, number: int, size: tuple[int, int], out: tuple[int, int], polarities: int) -> _Draw:
        """How the sample of a number is varied."""
        config = self.config
        rng = np.random.default_rng([self.seed, number])
        box, factor = self._box(rng, size, out)
        flips = (bool(rng.random() < config.flip_vertical), bool(rng.random() < config.flip_horizontal))
        swap = bool(rng.random() < config.polarity_swap)
        drop, noise, jitter = (float(rng.uniform(0, most)) for most in (config.drop, config.noise, config.jitter))
        kept = (1 - drop) / rng.uniform(1, config.threshold, polarities)
        later = bool(rng.random() < 0.5)
        blocks = tuple(_draw_block(rng, out) for _ in range(int(rng.integers(config.blocks + 1))))
        seed = int(rng.integers(2**31))
        return _Draw(box, factor, flips, SpikeDraw(swap, tuple(kept.tolist()), noise, jitter, later, blocks, seed))

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


@dataclasses.dataclass(frozen=True, slots=True)
class _Draw:
    """How one sample is varied: `box` and `flips` as in `Geometry`, by what factor it is magnified, and its spikes."""

    box: tuple[int, int, int, int]
    factor: float
    flips: tuple[bool, bool]
    spikes: SpikeDraw


def _draw_block(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int, int, int]:
    height, width = (int(rng.integers(1, max(2, side // 4 + 1))) for side in size)
    top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
    return top, left, height, width
