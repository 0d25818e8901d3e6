"""The card beside a checkpoint: what the weights are, so that whoever loads them needs no other settings."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from sdt_ros.network.config import NetworkConfig, presets
from sdt_ros.network.depth_range import DepthRange
from sdt_ros.text_files import TextFileError, parse_json

FORMAT_VERSION = 1
MOST_BINS, LONGEST_WINDOW_MS = 64, 10_000.0  # as many as the node's windows can have


class CheckpointError(ValueError):
    """A checkpoint does not fit or is damaged; the message names the file and what is wrong with it."""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the card of any network says, whatever its kind.

    Attributes:
        bins: time bins T in a window.
        window_ms: length of the window in milliseconds, all bins together.
        depth_range: metres that the network's output stands for.
        input_scale: resolution that the network sees, as a fraction of the sensor's, in (0, 1].
        focal_px: focal length that the network's metres are for [px], at its resolution; before a lens of another one
            the same picture is as much farther away as the lens is longer. None: metres as they come out.
        trained: whether the weights were trained; False for weights as they were drawn.
        training_data: what they were trained on, in words.
        steps: optimiser steps taken.
        scores: figures measured on these weights, each under a name that says on what.
        limits: what the weights cannot do, in plain words; may be missing in a file.
        licence: SPDX name of the weights' licence.
        created: ISO 8601 time at which the card was made.
        weights_sha256: digest of the safetensors file; filled in on saving.
    """

    bins: int = 4
    window_ms: float = 50.0
    depth_range: DepthRange = field(default_factory=DepthRange)
    input_scale: float = 1.0
    focal_px: float | None = None
    trained: bool = False
    training_data: str = ""
    steps: int = 0
    scores: Mapping[str, Any] = field(default_factory=dict)
    limits: str = ""
    licence: str = "Apache-2.0"
    created: str = field(default_factory=_now)
    weights_sha256: str = ""

    def __post_init__(self) -> None:
        """Refuses values that no checkpoint can have, naming the key."""
        _require_number("bins", self.bins, low=1, high=MOST_BINS, whole=True)
        _require_number("window_ms", self.window_ms, low=1e-3, high=LONGEST_WINDOW_MS)
        _require_number("input_scale", self.input_scale, low=1e-3, high=1)
        if self.focal_px is not None:
            _require_number("focal_px", self.focal_px, low=1e-3, high=1e6)
        _require_number("steps", self.steps, low=0, high=1 << 62, whole=True)
        kinds = {"trained": bool, "training_data": str, "limits": str, "licence": str, "scores": Mapping}
        for key, kind in kinds.items():
            if not isinstance(getattr(self, key), kind):
                raise CheckpointError(f"card key {key!r} is {_short(getattr(self, key))}, expected {kind.__name__}")
        if self.trained and not self.training_data:
            raise CheckpointError("card key 'training_data' is empty: trained weights must say on what")

    def plain(self) -> dict[str, Any]:
        """The card as plain values that JSON can hold, `format_version` first."""
        names = sorted((entry.name for entry in dataclasses.fields(self)), key=_OWN_FIRST.__contains__, reverse=True)
        values = {"format_version": FORMAT_VERSION, **{name: getattr(self, name) for name in names}}
        values["depth_range"] = dataclasses.asdict(self.depth_range)
        values["scores"] = dict(self.scores)
        return values

    def to_json(self) -> str:
        """The card as the text of its file."""
        return json.dumps(self.plain(), indent=2) + "\n"

    @classmethod
    def _plain_from_json(cls, text: str) -> dict[str, Any]:
        """The values of a card's text, of this version and with the keys of this class; the depth range is made.

        Raises:
            CheckpointError: they are not.
            TypeError, ValueError: the depth range is none.
        """
        values = read_json(text)
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise CheckpointError(f"format_version is {version!r}, this software reads {FORMAT_VERSION}")
        known = [entry.name for entry in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise CheckpointError(f"unknown card key {', '.join(map(repr, unknown))}; known keys: {', '.join(known)}")
        if missing := [key for key in known if key not in values and key not in _OPTIONAL]:
            raise CheckpointError(f"the card lacks {', '.join(map(repr, missing))}")
        values["depth_range"] = DepthRange(**values["depth_range"])
        return values


_OPTIONAL = ("limits", "focal_px", "uncertainty")  # came after the first checkpoints were written
_OWN_FIRST = ("peer", "network", "preset")  # what the weights are comes before what was done with them


def read_json(text: str) -> dict[str, Any]:
    """The object that a card's text holds.

    Raises:
        CheckpointError: the text is no JSON object.
    """
    try:
        values = parse_json(text)
    except TextFileError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"expected a JSON object, found {type(values).__name__}")
    return values


@dataclass(frozen=True)
class Card(CardFacts):
    """What a checkpoint's weights were made for and from.

    Attributes:
        network: shape of the network.
        preset: name of the preset that `network` is, or None where it is of one's own.
        uncertainty: what the head that tells uncertainty was fitted on, in words; empty: there is none. May be missing
            in a file.
    """

    network: NetworkConfig
    preset: str | None = None
    uncertainty: str = ""

    def __post_init__(self) -> None:
        """Refuses values that no checkpoint can have, naming the key."""
        super().__post_init__()
        if not isinstance(self.uncertainty, str):
            raise CheckpointError(f"card key 'uncertainty' is {_short(self.uncertainty)}, expected str")
        if self.preset is not None:
            if self.preset not in presets:
                raise CheckpointError(f"unknown preset {self.preset!r}; presets: {', '.join(presets)}")
            preset, own = presets[self.preset].to_dict(), self.network.to_dict()
            differing = [f"{key} {own[key]}, not {preset[key]}" for key in own if own[key] != preset[key]]
            if differing:
                raise CheckpointError(f"the network is not preset {self.preset!r}: {'; '.join(differing)}")

    @classmethod
    def of_preset(cls, name: str, **values: Any) -> Card:
        """A card for a network of a preset; `values` are the other attributes.

        Raises:
            CheckpointError: no preset has that name, or a value is impossible.
        """
        if name not in presets:
            raise CheckpointError(f"unknown preset {name!r}; presets: {', '.join(presets)}")
        return cls(network=presets[name], preset=name, **values)

    def plain(self) -> dict[str, Any]:
        """The card as plain values that JSON can hold."""
        return {**super().plain(), "network": self.network.to_dict()}

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Reads a card back.

        Raises:
            CheckpointError: the text is no card, or not one of this version; the message names the key.
        """
        if peer := read_json(text).get("peer"):
            raise CheckpointError(
                f"these are weights of {peer}, a network to compare with, which only `sdt-distill eval` runs; "
                "name the checkpoint of a spiking depth transformer"
            )
        try:
            values = cls._plain_from_json(text)
            values["network"] = NetworkConfig.from_dict(values["network"])
            return cls(**values)
        except CheckpointError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(str(error)) from error


def _short(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # numbers of more digits than Python writes
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else text[:80] + "..."


def _require_number(key: str, value: object, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not (fits and low <= value <= high and value < math.inf):  # type: ignore[operator]
        upper = "" if high == math.inf else f" and at most {high}"
        raise CheckpointError(
            f"card key {key!r} is {_short(value)}, "
            f"expected a {'whole ' if whole else ''}number of at least {low}{upper}"
        )
