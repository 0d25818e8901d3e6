"""Which teacher, which weights, and what is read from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdt_distill.teachers.base import TeacherError

KINDS = ("none", "dino", "onnx", "frame")
PIXELS = ("byte", "unit", "imagenet")
DEPTHS = ("relative", "metric")


@dataclass(frozen=True)
class TeacherConfig:
    """A teacher and its settings.

    Attributes:
        kind: "none"; "dino", a DINOv2 or DINOv3 of `transformers`; "onnx", any depth network of one image; "frame", the
            depth network of frames that `sdt_distill` trains itself.
        weights: for "dino" a folder or a name on the hub (facebook/dinov2-small), for "onnx" a file, for "frame" a
            folder.
        layers: layers to read, "layer.1" for the first block and so on, "last" for the last; normalised by the model's
            own last norm.
        patch: patch size that the weights must have, in pixels; None for any.
        grid: patches down and across that a frame is resized to.
        short_side: length that a frame's shorter side is resized to, in pixels, rounded to whole patches; with neither
            of the two, both sides are rounded to whole patches.
        size: for "onnx", height and width of the input in pixels; only where the model leaves them open.
        pixels: for "onnx", what the input wants: "byte" for 0 to 255, "unit" for 0 to 1, "imagenet" for 0 to 1 less
            ImageNet's mean, over its deviation. A model does not say, so it must be given.
        depth: for "onnx", what comes out: "relative" inverse depth of any scale and shift, or "metric" metres.
        output: for "onnx", name of the output; only where there are several.
        bf16: compute in bfloat16 autocast where the teacher is a torch network.
        cache: folder for what the teacher saw; None computes it anew in every epoch.
    """

    kind: str = "none"
    weights: str | None = None
    layers: tuple[str, ...] = ("last",)
    patch: int | None = None
    grid: tuple[int, int] | None = None
    short_side: int | None = None
    size: tuple[int, int] | None = None
    pixels: str | None = None
    depth: str = "relative"
    output: str | None = None
    bf16: bool = True
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what is no teacher, naming the key."""
        _require(self.kind in KINDS, "kind", self.kind, f"one of {', '.join(KINDS)}")
        _require(self.kind == "none" or bool(self.weights), "weights", self.weights, f"a path for kind {self.kind!r}")
        if self.weights is not None:
            object.__setattr__(self, "weights", str(self.weights))
        _require(not isinstance(self.layers, str), "layers", self.layers, 'a list of names, as ["layer.4", "last"]')
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.cache is not None:
            object.__setattr__(self, "cache", Path(self.cache))
        for key in ("patch", "short_side"):
            value = getattr(self, key)
            _require(value is None or _is_length(value), key, value, "a whole number above 0")
        for key in ("grid", "size"):
            value = getattr(self, key)
            fits = value is None or (len(value) == 2 and all(map(_is_length, value)))
            _require(fits, key, value, "two whole numbers above 0, height first")
            object.__setattr__(self, key, None if value is None else tuple(value))
        both = self.grid is not None and self.short_side is not None
        _require(not both, "grid", self.grid, "to be given without short_side: one of them decides")
        _require(self.depth in DEPTHS, "depth", self.depth, f"one of {', '.join(DEPTHS)}")
        known = self.pixels in PIXELS or (self.pixels is None and self.kind != "onnx")
        _require(known, "pixels", self.pixels, f"one of {', '.join(PIXELS)}: see the model's own preprocessing")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TeacherConfig:
        """Builds a config from plain values, as YAML holds them.

        Raises:
            TeacherError: a key is unknown, or a value is wrong; the message names it.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise TeacherError(f"unknown teacher key {', '.join(map(repr, unknown))}; known keys: {', '.join(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values that JSON and YAML can hold; `from_dict` reads them back."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return {**plain, "cache": None if self.cache is None else str(self.cache)}


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise TeacherError(f"teacher key {key!r} is {value!r}, expected {expected}")
