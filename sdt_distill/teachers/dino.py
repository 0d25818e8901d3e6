"""DINOv2 and DINOv3 as teachers of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdt_distill.teachers.base import TeacherError, TeacherOutput
from sdt_distill.teachers.config import TeacherConfig
from sdt_distill.teachers.digest import digest
from sdt_distill.teachers.hub import CONFIG, PREPROCESSING, find_weights, read_json, weight_files
from sdt_distill.teachers.patches import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Resizing,
    layer_numbers,
    normalise,
    patch_maps,
    resize,
    to_rgb,
)

FAMILIES = ("dinov2", "dinov2_with_registers", "dinov3_vit")


class DinoTeacher:
    """Patch features of named layers (DINOv2 arXiv 2304.07193, registers 2309.16588, DINOv3 2508.10104).

    Frames must be aligned to the event camera: each feature is compared with the student's at the same place.

    Args:
        config: of kind "dino".
        device: where it computes.

    Raises:
        TeacherError: weights are missing, damaged, of another family or of another patch size.
    """

    def __init__(self, config: TeacherConfig, device: torch.device | str = "cpu") -> None:
        folder = find_weights(str(config.weights))
        self._model = load_model(folder, config.patch).to(device).eval().requires_grad_(False)
        self._device = torch.device(device)
        self._bf16 = config.bf16
        self._numbers = layer_numbers(config.layers, self._model.config.num_hidden_layers)
        self._resizing = Resizing(self._model.config.patch_size, config.grid, config.short_side)
        self._mean, self._std = _statistics(folder)
        settings = {
            "layers": list(config.layers),
            "grid": config.grid,
            "short_side": config.short_side,
            "bf16": config.bf16,
            "statistics": [self._mean, self._std],
        }
        self.name = f"{read_json(folder / CONFIG)['model_type']} {config.weights}"
        self.key = digest([folder / CONFIG, *weight_files(folder)], settings)
        self.layers = {name: int(self._model.config.hidden_size) for name in config.layers}

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> TeacherOutput:
        """Frames in [0, 1], float32 [B, 1 or 3, H, W], to float32 maps [B, C, h, w] on the frames' device."""
        pixels = to_rgb(frames.to(self._device, torch.float32))
        pixels = normalise(resize(pixels, self._resizing.size(*frames.shape[-2:])), self._mean, self._std)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            maps = patch_maps(self._model, pixels, self._numbers)
        return TeacherOutput({name: each.float().to(frames.device) for name, each in maps.items()})


def load_model(folder: Path, patch: int | None = None) -> Any:
    """The model of a folder in the hub's format, float32 on the CPU.

    Args:
        folder: a complete folder.
        patch: patch size that it must have, None for any.

    Raises:
        TeacherError: it is damaged, of another family or of another patch size.
    """
    values = read_json(folder / CONFIG)
    if values.get("model_type") not in FAMILIES:
        kind, known = values.get("model_type"), ", ".join(FAMILIES)
        raise TeacherError(f"{folder / CONFIG}: model_type is {kind!r}; these can be teachers: {known}")
    if patch is not None and values.get("patch_size") != patch:
        raise TeacherError(
            f"{folder / CONFIG}: patch size is {values.get('patch_size')} px, the config asks for {patch}: "
            "set teacher key 'patch' to that of the weights, or take other weights"
        )
    try:
        import transformers
    except ImportError as error:
        raise TeacherError("this teacher needs transformers: pip install 'sdt_ros[distill]'") from error
    transformers.utils.logging.disable_progress_bar()
    try:
        model, loading = transformers.AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # what transformers raises here depends on what is wrong: OSError, RuntimeError, ...
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TeacherError(f"teacher weights {folder}: cannot be loaded: {first}; fetch them again") from error
    for what in ("missing_keys", "mismatched_keys"):  # transformers draws these at random, and only warns
        wrong = sorted(map(str, loading[what]))
        if wrong:
            some = ", ".join(wrong[:3])
            raise TeacherError(
                f"teacher weights {folder}: {len(wrong)} {what.replace('_', ' ')}, as {some}: "
                f"{CONFIG} and weights do not belong together; fetch both again"
            )
    return model


def _statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels that the weights were trained on: ImageNet's, or what the folder says."""
    if not (folder / PREPROCESSING).is_file():
        return IMAGENET_MEAN, IMAGENET_STD
    values = read_json(folder / PREPROCESSING)
    return tuple(values.get("image_mean", IMAGENET_MEAN)), tuple(values.get("image_std", IMAGENET_STD))
