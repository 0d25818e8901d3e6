"""Patch features of vision transformers: frames in, maps of named layers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from sdt_distill.teachers.base import TeacherError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Resizing:
    """How frames get a size of whole patches.

    Attributes:
        patch: side of a patch in pixels.
        grid: patches down and across, whatever the frame's shape.
        short_side: length of the shorter side in pixels, the other in proportion.
    """

    patch: int
    grid: tuple[int, int] | None = None
    short_side: int | None = None

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a frame of that height and width is resized to, in pixels."""
        if self.grid is not None:
            return self.grid[0] * self.patch, self.grid[1] * self.patch
        scale = 1.0 if self.short_side is None else self.short_side / min(height, width)
        return self._whole(height * scale), self._whole(width * scale)

    def _whole(self, pixels: float) -> int:
        return max(1, round(pixels / self.patch)) * self.patch


def to_rgb(frames: Tensor) -> Tensor:
    """Frames [B, 1 or 3, H, W] to [B, 3, H, W]; grey is repeated.

    Raises:
        ValueError: the shape is another.
    """
    if frames.ndim != 4 or frames.shape[1] not in (1, 3):
        raise ValueError(f"frames have shape {list(frames.shape)}, expected [B, 1 or 3, H, W]")
    return frames.expand(-1, 3, -1, -1)


def resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames [B, C, H, W] to that height and width, smoothed where they shrink."""
    if tuple(frames.shape[-2:]) == size:
        return frames
    return functional.interpolate(frames, size, mode="bicubic", antialias=True).clamp(0, 1)


def normalise(frames: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Frames [B, 3, H, W] in [0, 1] less a mean, over a deviation, of each channel."""
    return (frames - frames.new_tensor(mean).view(3, 1, 1)) / frames.new_tensor(std).view(3, 1, 1)


def layer_numbers(layers: Sequence[str], blocks: int) -> dict[str, int]:
    """Numbers of the named layers, counted from 1.

    Raises:
        TeacherError: a name is none; the message lists those there are.
    """
    known = {**{f"layer.{i}": i for i in range(1, blocks + 1)}, "last": blocks}
    for name in layers:
        if name not in known:
            raise TeacherError(f"teacher has no layer {name!r}; there are layer.1 to layer.{blocks}, and last")
    return {name: known[name] for name in layers}


def patch_maps(model: Any, pixels: Tensor, numbers: Mapping[str, int]) -> dict[str, Tensor]:
    """Runs a DINOv2 or DINOv3 of `transformers` and collects what its blocks give.

    The class token and the registers stand before the patches and are dropped. Every layer passes the model's last
    norm, as the authors' own `get_intermediate_layers` does: without, a few channels outweigh all others.

    Args:
        model: `Dinov2Model`, `Dinov2WithRegistersModel` or `DINOv3ViTModel`.
        pixels: normalised frames [B, 3, H, W], H and W whole patches.
        numbers: number of the block, from 1, by name of the layer.

    Returns:
        Maps [B, C, H / patch, W / patch] by name of the layer.

    Raises:
        TeacherError: the model gives another number of tokens than its config promises.
    """
    blocks, norm = parts(model)
    caught: dict[int, Tensor] = {}

    def catch(number: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            caught[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks[number - 1].register_forward_hook(catch(number)) for number in set(numbers.values())]
    try:
        model(pixel_values=pixels)
    finally:
        for handle in handles:
            handle.remove()
    patch = model.config.patch_size
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    prefix = 1 + getattr(model.config, "num_register_tokens", 0)
    maps = {}
    for name, number in numbers.items():
        tokens = norm(caught[number])  # [B, prefix + rows * columns, C]
        if tokens.shape[1] != prefix + rows * columns:
            raise TeacherError(
                f"teacher gives {tokens.shape[1]} tokens for {rows}x{columns} patches and {prefix} others: "
                "its config.json does not belong to it"
            )
        maps[name] = tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
    return maps


def parts(model: Any) -> tuple[nn.ModuleList, nn.Module]:
    """Blocks and last norm of a model, which the families name differently.

    Raises:
        TeacherError: it is of another family.
    """
    if hasattr(model, "encoder") and hasattr(model, "layernorm"):
        return model.encoder.layer, model.layernorm
    if hasattr(model, "rope_embeddings") and hasattr(model, "norm"):
        return getattr(model, "model", model).layer, model.norm  # before transformers 5 without `model` between
    raise TeacherError(
        f"teacher is a {type(model).__name__}; DINOv2, with registers or without, and DINOv3 ViT can be read"
    )
