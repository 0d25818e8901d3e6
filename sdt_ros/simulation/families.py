"""Families of scenes: worlds and motions of one kind, drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch

from sdt_ros.simulation.clutter import clutter
from sdt_ros.simulation.indoors import hallway, tabletop
from sdt_ros.simulation.outdoors import driving, flying
from sdt_ros.simulation.scenes import SceneBatch, SceneBuilder, clear_path, stack

Family = Callable[[SceneBuilder, float], float]
"""Fills a builder for a recording of so many seconds; returns how far all things stay away from the camera [m]."""

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"driving": driving, "hallway": hallway, "tabletop": tabletop, "flying": flying, "clutter": clutter}
)

MIXED = ("driving", "hallway", "tabletop", "flying")
"""The families of `mixed`: those that are places."""


def sample_scenes(
    family: str, count: int, seconds: float, seed: int, textures: int, device: torch.device | str = "cpu"
) -> SceneBatch:
    """Draw scenes.

    Args:
        family: one of `FAMILIES`, or `mixed` for those of `MIXED` in turn.
        count: scenes B.
        seconds: how long the camera will move; the world is long enough for it.
        seed: equal seeds give equal scenes.
        textures: textures in the atlas.
        device: where the tensors go.

    Raises:
        ValueError: the family is unknown, or a number is not positive.
    """
    if family != "mixed" and family not in FAMILIES:
        raise ValueError(f"family {family!r} is unknown; choose one of {', '.join(FAMILIES)}, mixed")
    if count < 1 or not 0 < seconds <= 3600 or textures < 1:
        raise ValueError(f"cannot make {count} scenes of {seconds} s with {textures} textures")
    out, clearances = [], []
    for b in range(count):
        rng = np.random.default_rng([seed, 2, b])
        build = SceneBuilder(rng, textures)
        name = MIXED[b % len(MIXED)] if family == "mixed" else family
        clearances.append(FAMILIES[name](build, seconds))
        out.append(build)
    return clear_path(stack(out, device), seconds, torch.tensor(clearances, dtype=torch.float64, device=device))
