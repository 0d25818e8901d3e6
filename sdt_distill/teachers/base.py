"""What every teacher is: a frozen network from frames to features, to depth, or to both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

DepthKind = Literal["metric", "relative"]


class TeacherError(ValueError):
    """A teacher cannot be used; the message names the file or setting and the fix."""


@dataclass(frozen=True)
class TeacherOutput:
    """What a teacher sees in a batch of frames.

    Attributes:
        features: maps [B, C, h, w] by layer, each over the whole frame.
        depth: depth [B, 1, H, W] at the size of the frames, NaN where unknown, or None.
        depth_kind: "metric" for metres; "relative" for inverse depth, larger is nearer, of unknown scale and shift.
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    depth: Tensor | None = None
    depth_kind: DepthKind | None = None


class Teacher(Protocol):
    """A frozen network.

    It sees frames that are aligned to the event camera, pixel by pixel, as the data sets' `Sample.frame` are: its
    output is compared with the student's in place.
    """

    @property
    def name(self) -> str:
        """What it is, in words."""

    @property
    def key(self) -> str:
        """Digest of its weights and settings: equal keys mean equal output."""

    @property
    def layers(self) -> dict[str, int]:
        """Channels of its layers by name; empty where it gives depth alone."""

    def __call__(self, frames: Tensor) -> TeacherOutput:
        """Frames, float32 [B, 3, H, W] RGB or [B, 1, H, W] grey in [0, 1], to what it sees in them."""
