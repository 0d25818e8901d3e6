"""What the teacher of a run says about its batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from sdt_distill.teachers import CachedTeacher, Teacher, TeacherOutput, open_teacher

from .batch import Batch
from .config import ConfigError, TrainingConfig
from .data import Source
from .geometry import Geometry

_log = logging.getLogger(__name__)


class Lessons:
    """A frozen teacher, its answers kept on disk where the config wants that.

    Args:
        config: of the run; its losses need a teacher.
        sources: whose frames it will see.
        device: where it computes.

    Raises:
        TeacherError: its weights are missing or others than the config says.
    """

    def __init__(self, config: TrainingConfig, sources: Sequence[Source], device: torch.device) -> None:
        teacher = open_teacher(config.teacher, device)
        assert teacher is not None  # the config was checked
        _log.info("teacher: %s", teacher.name)
        self._data, cache = config.data, config.teacher.cache
        self._teacher: CachedTeacher | Teacher = teacher
        if cache is not None:
            self._teacher = CachedTeacher(teacher, cache, frames=sum(len(source.data) for source in sources))

    @property
    def layers(self) -> dict[str, int]:
        """Channels of each layer that it tells, by name."""
        return self._teacher.layers

    def about(self, batch: Batch, geometry: Geometry) -> TeacherOutput:
        """What the teacher sees in a batch as it was before augmentation, moved as the batch was moved.

        Raises:
            ConfigError: a sample has no frame.
        """
        if batch.frame is None:
            raise ConfigError(f"the teacher needs frames, and there is none for one of {', '.join(batch.keys)}")
        if isinstance(self._teacher, CachedTeacher):
            # A frame is another one at another size.
            fit = f"{self._data.fit}-{'x'.join(map(str, batch.frame.shape[-2:]))}"
            seen = self._teacher(batch.frame, [f"{key}@{fit}" for key in batch.keys])
        else:
            seen = self._teacher(batch.frame)
        depth = None if seen.depth is None else geometry.apply(seen.depth, "nearest")
        return TeacherOutput({n: geometry.apply(f) for n, f in seen.features.items()}, depth, seen.depth_kind)

    def keep(self) -> None:
        """Write to disk what is to be kept; where that fails, it is told."""
        if isinstance(self._teacher, CachedTeacher):
            self._teacher.keep()
