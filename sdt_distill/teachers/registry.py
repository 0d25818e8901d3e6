"""Opens a teacher by its config."""

from __future__ import annotations

import torch

from sdt_distill.teachers.base import Teacher
from sdt_distill.teachers.config import TeacherConfig


def open_teacher(config: TeacherConfig, device: torch.device | str = "cpu") -> Teacher | None:
    """Opens a teacher; wrap it into a `CachedTeacher` to keep what it saw.

    Args:
        config: which.
        device: where it computes.

    Returns:
        The teacher, or None for kind "none".

    Raises:
        TeacherError: its weights are missing, damaged or of another patch size, or a package is missing.
    """
    # Imported where they are needed: nobody without a teacher pays for transformers or onnxruntime.
    if config.kind == "dino":
        from sdt_distill.teachers.dino import DinoTeacher

        return DinoTeacher(config, device)
    if config.kind == "onnx":
        from sdt_distill.teachers.onnx_depth import OnnxTeacher

        return OnnxTeacher(config, device)
    if config.kind == "frame":
        from sdt_distill.teachers.frame import FrameTeacher

        return FrameTeacher(config, device)
    return None
