"""Textures: procedural ones and crops of photographs, tileable, with a mip pyramid, sampled on the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SIZE = 256  # [texels] a side
LEVELS = 9  # 256 to 1
TEXELS = (4 * SIZE * SIZE - 1) // 3  # of a whole pyramid
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class TextureAtlas:
    """Mip pyramids of tileable textures with mean 1.

    Attributes:
        table: float32 [textures * TEXELS, 4]; each row holds the 2x2 texels that a bilinear look-up needs, so that it
            is one access to memory.
        count: textures.
    """

    table: Tensor
    count: int

    @classmethod
    def from_images(cls, images: np.ndarray, device: torch.device | str = "cpu") -> TextureAtlas:
        """From float [N, SIZE, SIZE] tileable reflectances, scaled to mean 1 each."""
        level = torch.from_numpy(np.ascontiguousarray(images, np.float32)).to(device)
        level = level / level.mean((1, 2), keepdim=True)
        rows = []
        for _ in range(LEVELS):
            right, below = level.roll(-1, 2), level.roll(-1, 1)
            rows.append(torch.stack([level, right, below, right.roll(-1, 1)], -1).flatten(1, 2))
            if level.shape[-1] > 1:
                level = torch.nn.functional.avg_pool2d(level, 2)
        return cls(torch.cat(rows, 1).flatten(0, 1).contiguous(), len(images))

    def sample(self, base: Tensor, u: Tensor, v: Tensor, level: Tensor) -> Tensor:
        """Trilinear look-up.

        Args:
            base: int32 [N], first row of the texture, `texture * TEXELS`.
            u: float [N] in tiles; wraps.
            v: float [N] in tiles; wraps.
            level: float [N] mip level, 0 the finest.

        Returns:
            float32 [N].
        """
        level = level.clamp(0, LEVELS - 1.001)
        coarse = level.floor()
        u, v = u - u.floor(), v - v.floor()
        fine_value = self._bilinear(base, u, v, coarse)
        coarse_value = self._bilinear(base, u, v, coarse + 1)
        return torch.lerp(fine_value, coarse_value, level - coarse)

    def _bilinear(self, base: Tensor, u: Tensor, v: Tensor, level: Tensor) -> Tensor:
        size = torch.exp2(8 - level)
        x, y = u * size - 0.5, v * size - 0.5
        left, top = x.floor(), y.floor()
        fx, fy = x - left, y - top
        # One step beyond a border is the only wrap there is, since u and v lie in [0, 1].
        left = torch.where(left < 0, size - 1, left)
        top = torch.where(top < 0, size - 1, top)
        before = (SIZE * SIZE - size * size) * (4 / 3)  # texels of the finer levels
        # Below 2^24, so that float32 is exact; the base is added as an integer.
        rows = self.table.index_select(0, base + (before + top * size + left).round().to(torch.int32))
        upper = torch.lerp(rows[:, 0], rows[:, 1], fx)
        lower = torch.lerp(rows[:, 2], rows[:, 3], fx)
        return torch.lerp(upper, lower, fy)


def build_atlas(
    seed: int,
    procedural: int = 16,
    photographs: Path | None = None,
    crops: int = 24,
    device: torch.device | str = "cpu",
) -> TextureAtlas:
    """Make the textures of a run.

    Args:
        seed: of everything that is drawn.
        procedural: how many procedural textures.
        photographs: folder of photographs to crop from, or None.
        crops: how many crops.
        device: where the table goes.

    Raises:
        ValueError: the folder holds no readable photograph of at least 64 pixels a side.
    """
    rng = np.random.default_rng([seed, 1])
    images = [procedural_texture(rng, kind) for kind in range(procedural)]
    if photographs is not None:
        images += photograph_crops(photographs, crops, rng)
    if not images:
        raise ValueError("an atlas needs at least one texture")
    return TextureAtlas.from_images(np.stack(images), device)


def _noise(rng: np.random.Generator, slope: float, stretch: float = 1.0) -> np.ndarray:
    """Tileable noise [SIZE, SIZE] with a power-law spectrum, mean 0 and deviation 1: octaves of equal shape."""
    fy, fx = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]
    frequency = np.hypot(fy * stretch, fx) * SIZE
    frequency[0, 0] = np.inf
    spectrum = frequency**-slope * np.exp(2j * np.pi * rng.random(frequency.shape))
    noise = np.fft.irfft2(spectrum, (SIZE, SIZE))
    return np.asarray((noise - noise.mean()) / noise.std())


def procedural_texture(rng: np.random.Generator, kind: int) -> np.ndarray:
    """One tileable texture float64 [SIZE, SIZE], positive: noise of many octaves, alone or over a pattern."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    grain = _noise(rng, rng.uniform(0.9, 1.5))
    pattern = np.ones((SIZE, SIZE))
    low = rng.uniform(0.25, 0.6)
    style = kind % 8
    if style == 1:  # bricks with mortar, each of its own shade
        rows, columns = 2 * int(rng.integers(3, 7)), int(rng.integers(2, 6))
        row = np.floor(y * rows).astype(int)
        shifted = (x * columns + 0.5 * (row % 2)) % columns
        shade = rng.uniform(0.6, 1.3, (rows, columns))[row, np.floor(shifted).astype(int)]
        joint = (y * rows % 1 < 0.09) | (shifted % 1 < 0.05)
        pattern = np.where(joint, 1.5 * low, shade)
    elif style == 2:  # tiles
        n = int(rng.integers(2, 6))
        shade = rng.choice([low, 1.0], (n, n)) if n % 2 else np.where(np.indices((n, n)).sum(0) % 2, low, 1.0)
        pattern = shade[(y * n).astype(int), (x * n).astype(int)]
        pattern = np.where((x * n % 1 < 0.03) | (y * n % 1 < 0.03), 0.3, pattern)
    elif style == 3:  # planks
        n = int(rng.integers(4, 9))
        pattern = rng.uniform(0.6, 1.3, n)[(x * n).astype(int)]
        pattern = np.where(x * n % 1 < 0.04, 0.3, pattern)
        grain = _noise(rng, 1.1, stretch=8.0)
    elif style == 4:  # windows in a wall
        n = int(rng.integers(2, 5))
        inside = (np.abs(x * n % 1 - 0.5) < rng.uniform(0.2, 0.35)) & (np.abs(y * n % 1 - 0.5) < rng.uniform(0.2, 0.38))
        panes = rng.uniform(0.12, 0.6, (n, n))[(y * n).astype(int), (x * n).astype(int)]
        frame = (np.abs(x * n % 1 - 0.5) < 0.02) & inside
        pattern = np.where(inside, np.where(frame, 1.2, panes), 1.0)
        grain = 0.5 * grain
    elif style == 5:  # cells
        points = rng.random((40, 2))
        d = np.abs(np.stack([x, y], -1)[:, :, None] - points)
        d = np.minimum(d, 1 - d)
        near = np.sort(np.hypot(d[..., 0], d[..., 1]), axis=-1)
        pattern = np.where(near[..., 1] - near[..., 0] < 0.012, low, 1.0)
        index = np.argmin(np.hypot(d[..., 0], d[..., 1]), -1)
        pattern = pattern * rng.uniform(0.7, 1.2, len(points))[index]
    elif style == 6:  # blotches with sharp borders
        pattern = np.where(_noise(rng, 2.0) > rng.uniform(-0.5, 0.5), 1.0, low)
    elif style == 7:  # letters, labels, stickers: rectangles of many sizes
        for _ in range(60):
            w, h = rng.integers(6, 60, 2)
            top, left = rng.integers(0, SIZE, 2)
            rows, columns = (np.arange(h) + top) % SIZE, (np.arange(w) + left) % SIZE
            pattern[np.ix_(rows, columns)] = rng.uniform(low, 1.4)
    strength = 0.35 if style in (0, 5, 6) else 0.2
    return np.asarray(np.clip(pattern, 0.05, None) * np.exp(strength * np.clip(grain, -3, 3)))


def photograph_crops(folder: Path, crops: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Tileable crops float64 [SIZE, SIZE] of a folder's photographs, in linear light.

    Raises:
        ValueError: no such folder, or no readable photograph of at least 64 pixels a side in it.
    """
    from PIL import Image, UnidentifiedImageError

    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of photographs")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    pictures: list[np.ndarray] = []
    for path in paths:
        try:
            with Image.open(path) as opened:
                opened.thumbnail((1024, 1024))
                grey = np.asarray(opened.convert("L"), np.float64) / 255
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} cannot be read as a photograph: {error}; remove it") from None
        if min(grey.shape) >= 64:
            pictures.append(grey**2.2)
    if not pictures:
        raise ValueError(f"{folder} holds no photograph of at least 64 px a side ({', '.join(sorted(_SUFFIXES))})")
    ramp = np.sin(np.pi * (np.arange(SIZE) + 0.5) / SIZE) ** 2
    weight = np.minimum(ramp[:, None], ramp[None]) ** 0.5
    out = []
    for k in range(crops):
        picture = pictures[k % len(pictures)]
        side = int(min(min(picture.shape), rng.integers(64, 513)))
        top, left = (int(rng.integers(0, extent - side + 1)) for extent in picture.shape)
        crop = Image.fromarray(picture[top : top + side, left : left + side].astype(np.float32), "F")
        tile = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float64)
        tile = tile / max(tile.mean(), 1e-3)
        # Fade into itself moved by half a tile, whose borders are the crop's middle: the seam disappears.
        other = np.roll(tile, (SIZE // 2, SIZE // 2), (0, 1))
        norm = np.sqrt(weight**2 + (1 - weight) ** 2)  # keeps the contrast
        out.append(np.clip(1 + (weight * (tile - 1) + (1 - weight) * (other - 1)) / norm, 0.04, 4.0))
    return out
