"""A batch of scenes as tensors: what stands where, how it moves, looks and is lit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from sdt_ros.simulation.paths import CHANNELS, PathBatch

ABSENT, PLANE, BOX, SPHERE, CYLINDER = -1, 0, 1, 2, 3


@dataclass(frozen=True)
class SceneBatch:
    """B scenes of up to N objects each. All geometry is float64, in metres, seconds and radians.

    An object has its own axes: a plane is its z = 0 seen from above; a box spans +-half; a sphere has radius half[0];
    a cylinder radius half[0] about z, from -half[2] to half[2]. At time t its centre is
    `centre + velocity t + swing sin(2 pi swing_hz t + swing_phase)`, turned by `yaw_rate t` about the world's z.

    Attributes:
        kind: int64 [B, N], ABSENT, PLANE, BOX, SPHERE or CYLINDER.
        centre: float64 [B, N, 3].
        rotation: float64 [B, N, 3, 3], object to world at t = 0.
        half: float64 [B, N, 3].
        velocity: float64 [B, N, 3].
        swing: float64 [B, N, 3].
        swing_hz: float64 [B, N].
        swing_phase: float64 [B, N].
        yaw_rate: float64 [B, N].
        texture: int64 [B, N], index in the atlas.
        tiling: float64 [B, N], tiles a metre.
        shift: float64 [B, N, 2], of the texture [tiles].
        albedo: float64 [B, N], mean reflectance.
        contrast: float64 [B, N], of the texture, 1 as it is.
        light: float64 [B, 3], direction to the light, unit, in the world.
        ambient: float64 [B], light from everywhere.
        diffuse: float64 [B], light from `light`.
        flicker: float64 [B], relative amplitude of the light's slow change.
        flicker_hz: float64 [B].
        flicker_phase: float64 [B].
        sky_texture: int64 [B], of directions that meet nothing.
        sky: float64 [B], mean brightness of the sky.
        softness: float64 [B], over how many footprints of a pixel textures are averaged: 1 as a good renderer does;
            below it far textures flicker, as those of renderers without mip maps.
        path: of the cameras.
    """

    kind: Tensor
    centre: Tensor
    rotation: Tensor
    half: Tensor
    velocity: Tensor
    swing: Tensor
    swing_hz: Tensor
    swing_phase: Tensor
    yaw_rate: Tensor
    texture: Tensor
    tiling: Tensor
    shift: Tensor
    albedo: Tensor
    contrast: Tensor
    light: Tensor
    ambient: Tensor
    diffuse: Tensor
    flicker: Tensor
    flicker_hz: Tensor
    flicker_phase: Tensor
    sky_texture: Tensor
    sky: Tensor
    softness: Tensor
    path: PathBatch

    def object_pose(self, index: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Objects to world.

        Args:
            index: int64 [V], which scene.
            t: float64 [V] [s].

        Returns:
            Rotations float64 [V, N, 3, 3] and centres [V, N, 3].
        """
        time = t[:, None]
        angle = self.yaw_rate[index] * time
        cos, sin = angle.cos()[..., None], angle.sin()[..., None]
        x, y, z = self.rotation[index].unbind(-2)  # rows, [V, N, 3] each
        rotation = torch.stack([cos * x - sin * y, sin * x + cos * y, z], -2)
        phase = 2 * torch.pi * self.swing_hz[index] * time + self.swing_phase[index]
        centre = self.centre[index] + self.velocity[index] * time[..., None]
        return rotation, centre + self.swing[index] * phase.sin()[..., None]


_OBJECT_FIELDS = [
    *("kind", "centre", "rotation", "half", "velocity", "swing", "swing_hz", "swing_phase", "yaw_rate"),
    *("texture", "tiling", "shift", "albedo", "contrast"),
]
_LIGHT_FIELDS = [
    *("light", "ambient", "diffuse", "flicker", "flicker_hz", "flicker_phase", "sky_texture", "sky", "softness"),
]
_MOST_SINES = 4


@dataclass
class SceneBuilder:
    """Collects one scene's objects; `stack` makes a batch of several."""

    rng: np.random.Generator
    textures: int
    objects: list[dict[str, np.ndarray]] = field(default_factory=list)
    light: dict[str, np.ndarray] = field(default_factory=dict)
    offset: np.ndarray = field(default_factory=lambda: np.zeros(len(CHANNELS)))
    rate: np.ndarray = field(default_factory=lambda: np.zeros(len(CHANNELS)))
    sines: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)

    def add(
        self,
        kind: int,
        centre: np.ndarray | Sequence[float],
        half: np.ndarray | Sequence[float],
        yaw: np.ndarray | float = 0.0,
        tilt: np.ndarray | None = None,
        tiling: np.ndarray | float = 1.0,
        texture: np.ndarray | int | None = None,
        albedo: np.ndarray | float | None = None,
        contrast: np.ndarray | float = 1.0,
        **motion: np.ndarray | Sequence[float] | float,
    ) -> None:
        """Add n objects of one kind.

        Args:
            kind: PLANE, BOX, SPHERE or CYLINDER.
            centre: [n, 3] or [3] [m].
            half: [n, 3] or [3] [m].
            yaw: [n] or one, about z [rad].
            tilt: [n, 3, 3] or [3, 3], rotation before the yaw.
            tiling: tiles a metre.
            texture: index; drawn if None.
            albedo: mean reflectance; drawn if None.
            contrast: of the texture.
            motion: `velocity`, `swing`, `swing_hz`, `swing_phase`, `yaw_rate`.
        """
        centre = np.atleast_2d(np.asarray(centre, float))
        n = len(centre)
        if not n:
            return
        rotation = _yaw_matrices(_filled((n,), yaw)) @ (np.eye(3) if tilt is None else tilt)
        drawn = {
            "kind": np.full(n, kind),
            "centre": centre,
            "rotation": rotation,
            "half": _filled((n, 3), half),
            "texture": self.rng.integers(0, self.textures, n) if texture is None else _filled((n,), texture),
            "tiling": _filled((n,), tiling),
            "shift": self.rng.random((n, 2)),
            "albedo": self.rng.uniform(0.12, 0.85, n) if albedo is None else _filled((n,), albedo),
            "contrast": _filled((n,), contrast),
        }
        for name, width in (("velocity", 3), ("swing", 3), ("swing_hz", 0), ("swing_phase", 0), ("yaw_rate", 0)):
            drawn[name] = _filled((n, width) if width else (n,), motion.get(name, 0.0))
        self.objects.append(drawn)

    def sine(self, channel: str, amplitude: float, hz: float, phase: float | None = None) -> float:
        """Let a channel of the path swing; returns the phase [rad]."""
        phase = self.rng.uniform(0, 2 * np.pi) if phase is None else phase
        self.sines.setdefault(channel, []).append((amplitude, hz, phase))
        return phase

    def start(self, **channels: float) -> None:
        """Set channels of the path at time 0."""
        for name, value in channels.items():
            self.offset[CHANNELS.index(name)] = value

    def set_light(
        self, direction: Sequence[float], ambient: float, diffuse: float, sky: float = 1.0, flicker: float = 0.0
    ) -> None:
        """Set the light; how it flickers is drawn."""
        self.light = {
            "light": np.asarray(direction) / np.linalg.norm(direction),
            "ambient": np.array(ambient),
            "diffuse": np.array(diffuse),
            "flicker": np.array(flicker),
            "flicker_hz": np.array(self.rng.uniform(0.1, 1.5)),
            "flicker_phase": np.array(self.rng.uniform(0, 2 * np.pi)),
            "sky_texture": np.array(self.rng.integers(0, self.textures)),
            "sky": np.array(sky),
            "softness": np.array(1.0),
        }

    def joined(self) -> dict[str, np.ndarray]:
        """All objects, field by field."""
        return {name: np.concatenate([group[name] for group in self.objects]) for name in _OBJECT_FIELDS}


def stack(builders: Sequence[SceneBuilder], device: torch.device | str = "cpu") -> SceneBatch:
    """Make a batch; scenes with fewer objects are filled up with absent ones."""
    joined = [builder.joined() for builder in builders]
    most = max(len(scene["kind"]) for scene in joined)
    tensors: dict[str, Tensor] = {}
    for name in _OBJECT_FIELDS:
        fill = ABSENT if name == "kind" else 0
        padded = [
            np.concatenate([scene[name], np.full((most - len(scene[name]), *scene[name].shape[1:]), fill)])
            for scene in joined
        ]
        tensors[name] = torch.from_numpy(np.stack(padded))
    for name in _LIGHT_FIELDS:
        tensors[name] = torch.from_numpy(np.stack([np.asarray(builder.light[name]) for builder in builders]))
    tensors = {
        name: tensor.to(device, torch.int64 if name in ("kind", "texture", "sky_texture") else torch.float64)
        for name, tensor in tensors.items()
    }
    sines = np.zeros((3, len(builders), len(CHANNELS), _MOST_SINES))
    for b, builder in enumerate(builders):
        for channel, waves in builder.sines.items():
            for k, wave in enumerate(waves):
                sines[:, b, CHANNELS.index(channel), k] = wave
    path = PathBatch(
        torch.from_numpy(np.stack([builder.offset for builder in builders])).to(device),
        torch.from_numpy(np.stack([builder.rate for builder in builders])).to(device),
        *(torch.from_numpy(part).to(device) for part in sines),
    )
    return SceneBatch(**tensors, path=path)


def pick(scene: SceneBatch, index: Sequence[int]) -> SceneBatch:
    """Some scenes of a batch."""
    rows = torch.as_tensor(index, device=scene.kind.device)
    chosen = {f.name: getattr(scene, f.name)[rows] for f in fields(scene) if f.name != "path"}
    return SceneBatch(**chosen, path=PathBatch(*(getattr(scene.path, f.name)[rows] for f in fields(scene.path))))


def clear_path(scene: SceneBatch, seconds: float, clearance_m: Tensor) -> SceneBatch:
    """Take away the objects that come closer to their camera than `clearance_m` [B] within `seconds`.

    Planes stay: families keep their paths inside of rooms by themselves.
    """
    samples = max(16, int(seconds * 20))
    kind = scene.kind.clone()
    for b in range(len(kind)):
        t = torch.linspace(0, seconds, samples, dtype=torch.float64, device=kind.device)
        index = torch.full((samples,), b, device=kind.device)
        _, camera = scene.path.pose(index, t)
        rotation, centre = scene.object_pose(index, t)
        local = torch.einsum("vnji,vnj->vni", rotation, camera[:, None] - centre)
        distance = (local.abs() - scene.half[b]).clamp_min(0).norm(dim=-1).amin(0)
        kind[b, (distance < clearance_m[b]) & (kind[b] > PLANE)] = ABSENT
    values = {f.name: getattr(scene, f.name) for f in fields(scene)}
    return SceneBatch(**{**values, "kind": kind})


def _filled(shape: tuple[int, ...], value: np.ndarray | Sequence[float] | float) -> np.ndarray:
    """Broadcast to float64; quicker than numpy's own function."""
    out = np.empty(shape)
    out[...] = value
    return out


def _yaw_matrices(yaw: np.ndarray) -> np.ndarray:
    out = np.zeros((len(yaw), 3, 3))
    out[:, 0, 0] = out[:, 1, 1] = np.cos(yaw)
    out[:, 1, 0] = np.sin(yaw)
    out[:, 0, 1] = -out[:, 1, 0]
    out[:, 2, 2] = 1
    return out
