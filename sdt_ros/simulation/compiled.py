"""The CPU engine: the work of `render` and `sensor` by compiled code, tile by tile, on as many threads as wanted."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sdt_ros.events import EVENT_DTYPE
from sdt_ros.simulation import kernels as k
from sdt_ros.simulation import tiles
from sdt_ros.simulation.camera import Camera
from sdt_ros.simulation.render import Views
from sdt_ros.simulation.scenes import CYLINDER, PLANE, SPHERE, SceneBatch
from sdt_ros.simulation.sensor import SensorConfig
from sdt_ros.simulation.textures import SIZE, TEXELS, TextureAtlas

AIM_PX = 0.46  # between two frames of a tile; speed is known on a grid only
LONGEST_US = 5000  # between two frames, however slow all is
_PROBE_US = 2000  # how often speed is looked at; vibration ends at some 50 Hz
_PROBE_STRIDE = 5  # [px] of that grid
_DELTA_S = 2e-4  # short against any change of speed
_FINER = 2  # frames to choose from for each that the fastest tile needs: slower tiles lose less to rounding
_REACH = 0.2  # how far beyond the image (x/z) things matter that may come in between two probes
_BEYOND = np.array([-_REACH, -_REACH, _REACH, _REACH], np.float32)
_RESIDUAL_PX = 1e-3
T = TypeVar("T")
R = TypeVar("R")
_NO_SPIKES = np.empty(0, np.uint8)
_NO_EDGES = np.empty(0, np.int64)


@dataclass(frozen=True)
class Lens:
    """A camera as the kernels want it: rays float32 [tiles, 3 * AREA], their bounds, intrinsics and distortion."""

    rays: np.ndarray
    edge: np.ndarray
    intrinsics: np.ndarray
    d: np.ndarray
    columns: int


@lru_cache(maxsize=16)
def lens_of(camera: Camera) -> Lens:
    """Rays of a camera's pixels, tile by tile.

    Raises:
        ValueError: the distortion cannot be inverted.
    """
    columns, rows = -(-camera.width // k.SIDE), -(-camera.height // k.SIDE)
    rays = np.empty((rows * columns, 3 * k.AREA), np.float32)
    d = np.array(camera.d)
    worst = k.invert_rays(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, d, rays)
    if not worst < _RESIDUAL_PX:
        raise ValueError(
            f"the distortion {list(camera.d)} cannot be inverted within {camera.width}x{camera.height} px "
            f"(off by {worst:.3g} px); use weaker coefficients"
        )
    x, y = rays[:, : k.AREA], rays[:, k.AREA : 2 * k.AREA]
    edge = np.array([x.min(), y.min(), x.max(), y.max()], np.float32)
    return Lens(rays, edge, np.array([camera.fx, camera.fy, camera.cx, camera.cy, columns]), d, columns)


@dataclass(frozen=True)
class PackedScene:
    """One scene as the kernels want it; see `kernels` for the columns.

    Attributes:
        objects: float64 [N, OBJECT_COLUMNS], those that are there.
        kind: int64 [N].
        number: int64 [N], their numbers in the batch.
        material: float32 [N + 1, MATERIAL_COLUMNS]; the sky comes last.
        base: int32 [N + 1].
        light: float64 [LIGHTS].
        path: float64 [7, 2 + 3 K].
    """

    objects: np.ndarray
    kind: np.ndarray
    number: np.ndarray
    material: np.ndarray
    base: np.ndarray
    light: np.ndarray
    path: np.ndarray

    def only(self, keep: np.ndarray) -> PackedScene:
        """The scene with fewer objects; keep bool [N]."""
        sky = np.append(keep, True)
        return PackedScene(
            self.objects[keep], self.kind[keep], self.number[keep], self.material[sky], self.base[sky], self.light,
            self.path,
        )  # fmt: skip


def pack(scene: SceneBatch, b: int, camera: Camera) -> PackedScene:
    """Scene number b of a batch."""

    def array(tensor: Tensor) -> np.ndarray:
        return np.asarray(tensor[b].cpu().numpy())

    number = np.flatnonzero(array(scene.kind) >= 0)
    n = len(number)
    names = ("centre", "rotation", "half", "velocity", "swing", "swing_hz", "swing_phase", "yaw_rate", "kind")
    objects = np.concatenate([array(getattr(scene, name))[number].reshape(n, -1) for name in names], 1).astype(
        np.float64
    )
    kind = array(scene.kind)[number]
    half = objects[:, k.HALF : k.HALF + 3]
    flat, ball, tube = kind == PLANE, kind == SPHERE, kind == CYLINDER
    outward = np.where(flat[:, None], 0.0, 1 / np.maximum(half, 1e-9))
    curved = np.where((ball | tube)[:, None], 1 / np.maximum(half[:, :1], 1e-9), 0.0)
    factor = np.where(outward > 0, curved / np.maximum(outward, 1e-30), 0.0)  # from q to the normal of a round side
    factor[tube, 2] = 0
    # A tube's end stands out farther than its side only where |z| is all of its half: 0.7 < 1 / sqrt(2).
    outward[tube, 2] *= 0.7
    material = np.zeros((n + 1, k.MATERIAL_COLUMNS))
    tiling = array(scene.tiling)[number]
    texel = SIZE / camera.fx * float(scene.softness[b])
    material[:n, :3], material[:n, k.OUTWARD : k.OUTWARD + 3] = half, outward
    material[:n, k.FLAT], material[:n, k.ROUND], material[:n, k.TUBE] = flat, ball | tube, tube
    material[:n, k.FACTOR : k.FACTOR + 3] = factor
    material[:n, k.FOOTPRINT], material[:n, k.TILING] = tiling * texel, tiling
    material[:n, k.SHIFT : k.SHIFT + 2] = array(scene.shift)[number]
    material[:n, k.CONTRAST], material[:n, k.ALBEDO] = array(scene.contrast)[number], array(scene.albedo)[number]
    sky = material[n]
    sky[k.OUTWARD : k.OUTWARD + 3] = 1
    sky[k.FOOTPRINT], sky[k.TILING], sky[k.CONTRAST], sky[k.ALBEDO] = 0.3 * texel, 0.3, 0.15, array(scene.sky)
    base = np.append(array(scene.texture)[number], array(scene.sky_texture)) * TEXELS
    lights = ("light", "ambient", "diffuse", "flicker", "flicker_hz", "flicker_phase")
    light = np.concatenate([np.atleast_1d(array(getattr(scene, name))) for name in lights])
    path = scene.path
    parts = [array(path.offset)[:, None], array(path.rate)[:, None]]
    parts += [array(path.amplitude), array(path.hz), array(path.phase)]
    return PackedScene(
        objects, kind, number, material.astype(np.float32), base.astype(np.int32), light, np.concatenate(parts, 1)
    )


def poses(
    packed: PackedScene, camera: Camera, seconds: np.ndarray, margin: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`kernels.pose_table` in float64, and the bounds."""
    pose = np.empty((len(seconds), len(packed.kind) + 1, k.POSE_COLUMNS))
    bounds = np.empty((len(seconds), len(packed.kind), 5), np.float32)
    # A pixel's rounding further out, so that float32 is safe.
    k.pose_table(packed.objects, packed.light, packed.path, seconds, 1 / camera.fx, pose, bounds)
    return pose, bounds


class CompiledRenderer:
    """Renders views of one camera in float32; the same as `render.Renderer` on the CPU, to rounding.

    Args:
        camera: the intrinsics.
        atlas: the textures; None to render depth only.
    """

    def __init__(self, camera: Camera, atlas: TextureAtlas | None = None) -> None:
        self.camera = camera
        self.atlas = atlas
        self._lens = lens_of(camera)

    def render(self, scene: SceneBatch, index: Tensor, t: Tensor, brightness: bool = True) -> Views:
        """Render views; arguments as those of `render.Renderer.render`.

        Raises:
            ValueError: brightness is wanted and there are no textures.
        """
        if brightness and self.atlas is None:
            raise ValueError("this renderer has no textures; give it an atlas to render brightness")
        shape = (len(index), self.camera.height, self.camera.width)
        depth, hit = np.empty(shape, np.float32), np.empty(shape, np.int64)
        image = np.empty(shape if brightness else (0, 0, 0), np.float32)
        table = table_of(self.atlas) if brightness else np.empty(0, np.float32)
        lens = self._lens
        for b in np.unique(index.numpy()):
            rows = np.flatnonzero(index.numpy() == b)
            packed = pack(scene, int(b), self.camera)
            pose, bounds = poses(packed, self.camera, t.numpy()[rows])
            parts = [np.empty((len(rows), *whole.shape[1:]), whole.dtype) for whole in (depth, hit)]
            parts.append(np.empty((len(rows) if brightness else 0, *image.shape[1:]), np.float32))
            tiles.view_tiles(
                lens.columns, self.camera.width, self.camera.height, pose.astype(np.float32), bounds, packed.kind,
                packed.material, packed.base, table, lens.rays, *parts,
            )  # fmt: skip
            depth[rows], hit[rows] = parts[0], np.append(packed.number, scene.kind.shape[1])[parts[1]]
            if brightness:
                image[rows] = parts[2]
        return Views(torch.from_numpy(depth), torch.from_numpy(hit), torch.from_numpy(image) if brightness else None)


def table_of(atlas: TextureAtlas | None) -> np.ndarray:
    """The textures as the kernels want them: float32, flat."""
    if atlas is None:
        raise ValueError("there are no textures")
    return np.asarray(atlas.table.numpy()).reshape(-1)


@dataclass(frozen=True)
class Plan:
    """A scene's frames over some time.

    Attributes:
        scene: the objects that may be seen.
        times_us: int64 [F]; the first is the start, the last the end.
        pose: float32 [F, N + 1, POSE_COLUMNS].
        bounds: float32 [F, N, 5].
        steps: int32, the frames that each tile takes, one tile after another.
        offsets: int64 [tiles + 1] into `steps`.
    """

    scene: PackedScene
    times_us: np.ndarray
    pose: np.ndarray
    bounds: np.ndarray
    steps: np.ndarray
    offsets: np.ndarray

    @property
    def frames(self) -> float:
        """Frames that were rendered, in whole images."""
        return len(self.steps) / (len(self.offsets) - 1)


def plan(packed: PackedScene, camera: Camera, start_us: int, end_us: int, times_us: np.ndarray | None = None) -> Plan:
    """Decide when each tile of a scene is rendered.

    The exact flow is looked at on a grid of pixels every 2 ms. Frames part the distance covered by the fastest point,
    not the time, evenly; a tile takes so many of them that nothing in it or beside it moves by more than half a pixel.

    Args:
        packed: the scene.
        camera: the intrinsics.
        start_us: a frame is there.
        end_us: gets a frame.
        times_us: int64 [F], frames that all tiles take instead, from start to end.
    """
    lens = lens_of(camera)
    probes = max(2, math.ceil((end_us - start_us) / _PROBE_US) + 1)
    probe_us = np.linspace(start_us, end_us, probes)
    now, bounds = poses(packed, camera, probe_us * 1e-6)
    union = np.empty((len(packed.kind), 4), np.float32)
    tiles.widest(bounds, union)
    keep = np.zeros(len(packed.kind), bool)
    near = np.empty(len(packed.kind), np.int64)
    keep[near[: tiles.nearby(union, packed.kind, lens.edge + _BEYOND, near)]] = True
    packed, now, bounds = packed.only(keep), now[:, np.append(keep, True)], np.ascontiguousarray(bounds[:, keep])
    if times_us is None:
        later, _ = poses(packed, camera, probe_us * 1e-6 + _DELTA_S)
        speeds = np.empty((probes, len(lens.rays)))
        tiles.probe_speeds(
            now.astype(np.float32), now, later, bounds, packed.kind, packed.material, lens.rays, _PROBE_STRIDE,
            lens.intrinsics, lens.d, _DELTA_S, speeds,
        )  # fmt: skip
        slowest = AIM_PX / LONGEST_US * 1e6
        fastest = np.maximum(speeds.max(1), slowest)
        way = np.append(0, np.cumsum(np.maximum(fastest[1:], fastest[:-1]) * np.diff(probe_us) * 1e-6))
        frames = max(1, math.ceil(way[-1] / AIM_PX)) * _FINER
        at = np.interp(way[-1] * np.arange(frames + 1) / frames, way, probe_us)
        times_us = np.unique(np.rint(at).astype(np.int64))
        steps = np.empty(len(lens.rays) * len(times_us), np.int32)
        offsets = np.empty(len(lens.rays) + 1, np.int64)
        taken = tiles.choose_steps(speeds, probe_us, times_us, slowest, AIM_PX, steps, offsets)
        steps = steps[:taken]
    else:
        steps = np.tile(np.arange(1, len(times_us), dtype=np.int32), len(lens.rays))
        offsets = np.arange(len(lens.rays) + 1) * (len(times_us) - 1)
    pose, bounds = poses(packed, camera, times_us * 1e-6)
    return Plan(packed, times_us, pose.astype(np.float32), bounds, steps, offsets)


def sensor_columns(sensor: SensorConfig) -> np.ndarray:
    """The settings as the kernels want them: float64 [9]."""
    names = (
        *("threshold_on", "threshold_off", "threshold_spread", "refractory_us", "leak_hz", "shot_noise_hz"),
        *("hot_pixels", "hot_hz", "bandwidth_hz"),
    )
    return np.array([getattr(sensor, name) for name in names], np.float64)


@dataclass
class Eye:
    """A camera with the state of its pixels.

    Args:
        camera: the intrinsics.
        sensor: the event sensor.
        table: textures, see `table_of`.
        seed: of the noise, 0 to 2^64 - 1.

    Attributes:
        depth: float32 [H, W] at the end of the last plan [m]; inf where there is nothing.
        hit: int64 [H, W], index of the object in the plan's scene; its number of objects for the sky.
        image: float32 [H, W] brightness then.
        state: float32 [tiles, STATE].
        clock: int64 [tiles, CLOCK].
    """

    camera: Camera
    sensor: SensorConfig
    table: np.ndarray
    seed: int

    def __post_init__(self) -> None:
        self.lens = lens_of(self.camera)
        shape = (self.camera.height, self.camera.width)
        self.depth, self.image = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.hit = np.empty(shape, np.int64)
        self.state = np.empty((len(self.lens.rays), k.STATE), np.float32)
        self.clock = np.empty((len(self.lens.rays), k.CLOCK), np.int64)
        self.fresh = True

    def look(
        self, plan: Plan, edges_us: np.ndarray = _NO_EDGES, spikes: np.ndarray = _NO_SPIKES, threads: int = 1
    ) -> np.ndarray:
        """Go through a plan's frames.

        Args:
            plan: begins where the one before ended.
            edges_us: int64 [T + 1], bins of the spike tensor; none to get events instead.
            spikes: uint8 [T, 2, H, W], ones are set in it.
            threads: how many work on it; what comes out is the same for all numbers.

        Returns:
            EVENT_DTYPE [N], ordered by time, then polarity, row and column; none if there are bins.
        """
        lens, scene, count = self.lens, plan.scene, len(self.lens.rays)
        config, fresh = sensor_columns(self.sensor), self.fresh

        def work(part: tuple[int, int]) -> np.ndarray:
            return tiles.run_tiles(
                *part, lens.columns, self.camera.width, self.camera.height, plan.times_us, plan.pose, plan.bounds,
                scene.kind, scene.material, scene.base, self.table, lens.rays, plan.steps, plan.offsets, config,
                np.uint64(self.seed), self.state, self.clock, fresh, edges_us, spikes.reshape(-1), self.depth,
                self.hit, self.image,
            )  # fmt: skip

        parts = 1 if threads == 1 else min(count, 8 * threads)
        bounds = [count * i // parts for i in range(parts + 1)]
        found = in_threads(work, list(pairwise(bounds)), threads)
        self.fresh = False
        packed = np.sort(np.concatenate(found))
        events = np.empty(len(packed), EVENT_DTYPE)
        events["y"], events["x"] = np.divmod(packed & ((1 << tiles.PIXEL_BITS) - 1), self.camera.width)
        stamps = packed >> tiles.PIXEL_BITS
        events["t"], events["p"] = stamps >> 1, stamps & 1
        return events


def in_threads(work: Callable[[T], R], jobs: Sequence[T], threads: int) -> list[R]:
    """Do jobs, whose compiled code lets go of the GIL, on some threads; results in the order of jobs."""
    if threads == 1 or len(jobs) == 1:
        return [work(job) for job in jobs]
    return list(_pool(threads, os.getpid()).map(work, jobs))


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """One pool for each number of threads, and for each process: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, "simulator")
