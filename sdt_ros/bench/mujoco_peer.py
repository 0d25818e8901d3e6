"""The peer of `sdt bench simulation`: MuJoCo renders our scenes, and a compiled event model looks at the pictures.

What is given to it for nothing: no shadows, no multisampling, no noise, leak, hot pixels or low pass in its sensor,
poses computed beforehand, and scenes compiled and sent to the renderer before its time is taken.
"""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdt_ros.compiled import njit
from sdt_ros.simulation.camera import Camera
from sdt_ros.simulation.scenes import ABSENT, BOX, CYLINDER, PLANE, SPHERE, SceneBatch
from sdt_ros.simulation.sensor import SensorConfig
from sdt_ros.simulation.textures import SIZE, TEXELS, TextureAtlas

PLATFORMS = ("egl", "osmesa")
PACKAGES = "apt-get install libegl1 libgl1-mesa-dri libgles2 (EGL), or libosmesa6 (OSMesa)"
_NEAR_M, _FAR_M = 0.05, 2000.0
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_NEVER_US = -(1 << 60)


def find_platform() -> tuple[str | None, str]:
    """Which of MuJoCo's ways to render without a display works here.

    Returns:
        Its name, or None; and why not.
    """
    try:
        importlib.import_module("mujoco")
    except ImportError:
        return None, "mujoco is not installed: pip install 'sdt_ros[bench]'"
    reasons = []
    for name in PLATFORMS:
        # In a process of its own: a library that is missing or crashes must not take this one along.
        code = f"from mujoco.{name} import GLContext; GLContext(16, 16).make_current()"
        try:
            ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            reasons.append(f"{name}: no answer in 120 s")
            continue
        if ran.returncode == 0:
            # Triton has an LLVM of its own, and crashes when it is loaded behind the one of Mesa's software renderer.
            with suppress(ImportError):
                importlib.import_module("triton")
            return name, ""
        lines = ran.stderr.strip().splitlines()
        reasons.append(f"{name}: {lines[-1] if lines else f'exit code {ran.returncode}'}")
    return None, f"MuJoCo cannot render here ({'; '.join(reasons)}): {PACKAGES}"


def centred(camera: Camera) -> Camera:
    """A camera as MuJoCo's are: without distortion, of square pixels, its axis through the image's middle."""
    width, height = camera.width, camera.height
    return Camera(width, height, camera.fy, camera.fy, (width - 1) / 2, (height - 1) / 2)


@dataclass(frozen=True)
class PeerSample:
    """What the peer gave for one scene.

    Attributes:
        spikes: uint8 [T, 2, H, W].
        depth: float32 [H, W] [m]; `_FAR_M` where there is nothing.
        frame: uint8 [H, W, 3].
        render_s: seconds spent on pictures and depth.
        events_s: seconds spent on events.
    """

    spikes: np.ndarray
    depth: np.ndarray
    frame: np.ndarray
    render_s: float
    events_s: float


class MujocoPeer:
    """One scene in MuJoCo, with everything made ready that can be.

    Args:
        platform: one of `PLATFORMS`, that works.
        scene: scenes.
        b: which of them.
        camera: without distortion, its principal point in the middle.
        atlas: the scenes' textures.
        times_us: int64 [F], when frames are rendered; the first at 0.
        settle_us: when the window begins.
        bins: time bins of the window, which ends at the last frame.

    Attributes:
        setup_s: seconds that it took to make.
    """

    def __init__(
        self,
        platform: str,
        scene: SceneBatch,
        b: int,
        camera: Camera,
        atlas: TextureAtlas,
        times_us: np.ndarray,
        settle_us: int,
        bins: int,
    ) -> None:
        began = time.perf_counter()
        import mujoco

        self._mj = mujoco
        self._camera, self._times_us, self._settle_us, self._bins = camera, times_us, settle_us, bins
        t = torch.from_numpy(times_us * 1e-6)
        index = torch.full_like(t, b, dtype=torch.int64)
        rotation, position = (part.numpy() for part in scene.path.pose(index, t))  # [F, 3, 3], [F, 3]
        objects, centres = (part.numpy() for part in scene.object_pose(index, t))  # [F, N, 3, 3], [F, N, 3]
        self._context = importlib.import_module(f"mujoco.{platform}").GLContext(camera.width, camera.height)
        self._context.make_current()
        moving = _moving(scene, b)
        self._model = _build(mujoco, scene, b, camera, atlas, objects[0], centres[0], moving).compile()
        self._data = mujoco.MjData(self._model)
        # MuJoCo's cameras look along -z with y up.
        poses = [(rotation * [1.0, -1.0, -1.0], position), *((objects[:, n], centres[:, n]) for n in moving)]
        self._positions = np.stack([place for _, place in poses], 1)  # [F, 1 + moving, 3]
        self._turns = np.empty((len(times_us), len(poses), 4))
        for k, (turn, _) in enumerate(poses):
            for frame in range(len(times_us)):
                mujoco.mju_mat2Quat(self._turns[frame, k], np.ascontiguousarray(turn[frame]).ravel())
        self._scene = mujoco.MjvScene(self._model, maxgeom=self._model.ngeom + 100)
        for flag in ("SHADOW", "REFLECTION"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._view = mujoco.MjvCamera()
        self._view.type, self._view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
        self._options, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._gpu = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._gpu)
        self._window = mujoco.MjrRect(0, 0, camera.width, camera.height)
        self.setup_s = time.perf_counter() - began

    def close(self) -> None:
        """Give back what the renderer holds."""
        self._gpu.free()
        self._context.free()

    def picture(self, frame: int, rgb: np.ndarray, depth: np.ndarray | None = None) -> None:
        """Render a frame, upside down as OpenGL has it.

        Args:
            frame: its number.
            rgb: uint8 [H, W, 3], for the picture.
            depth: float32 [H, W], for what is in the depth buffer, if wanted.
        """
        mj = self._mj
        self._data.mocap_pos[:], self._data.mocap_quat[:] = self._positions[frame], self._turns[frame]
        mj.mj_kinematics(self._model, self._data)
        mj.mj_camlight(self._model, self._data)
        mj.mjv_updateScene(
            self._model, self._data, self._options, self._perturb, self._view, mj.mjtCatBit.mjCAT_ALL, self._scene
        )
        mj.mjr_render(self._window, self._scene, self._gpu)
        mj.mjr_readPixels(rgb, depth, self._window, self._gpu)

    def sample(self, sensor: SensorConfig, seed: int = 0) -> PeerSample:
        """Go through all frames."""
        self._context.make_current()
        height, width = self._camera.height, self._camera.width
        rgb, buffer = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.float32)
        spikes = np.zeros((self._bins, 2, height, width), np.uint8)
        render_s = events_s = 0.0
        model: EventModel | None = None
        window_us = int(self._times_us[-1]) - self._settle_us
        for frame, now_us in enumerate(self._times_us.tolist()):
            began = time.perf_counter()
            self.picture(frame, rgb, buffer if frame == len(self._times_us) - 1 else None)
            rendered = time.perf_counter()
            if model is None:
                model = EventModel(sensor, rgb, seed)
            else:
                model.step(rgb, int(self._times_us[frame - 1]), now_us, spikes, self._settle_us, window_us)
            render_s += rendered - began
            events_s += time.perf_counter() - rendered
        near, far = _NEAR_M, _FAR_M
        depth = near * far / (far - buffer * (far - near))
        return PeerSample(spikes[:, :, ::-1], depth[::-1], rgb[::-1], render_s, events_s)


def _moving(scene: SceneBatch, b: int) -> list[int]:
    """Numbers of the objects that move by themselves."""
    moves = (scene.velocity[b] != 0).any(1) | (scene.swing[b] != 0).any(1) | (scene.yaw_rate[b] != 0)
    return (moves & (scene.kind[b] != ABSENT)).nonzero().flatten().tolist()


def _build(
    mj: Any,
    scene: SceneBatch,
    b: int,
    camera: Camera,
    atlas: TextureAtlas,
    rotation: np.ndarray,
    centre: np.ndarray,
    moving: list[int],
) -> Any:
    """A scene as MuJoCo's model: the same bodies, textures, tiling, light and lens."""
    spec = mj.MjSpec()
    spec.stat.extent = 1.0
    spec.stat.center = [0, 0, 0]
    spec.visual.map.znear, spec.visual.map.zfar = _NEAR_M, _FAR_M
    spec.visual.global_.offwidth, spec.visual.global_.offheight = camera.width, camera.height
    spec.visual.quality.offsamples = 0
    ambient, diffuse = float(scene.ambient[b]), float(scene.diffuse[b])
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [ambient] * 3, [0, 0, 0]
    spec.visual.headlight.specular = [0, 0, 0]
    sun = spec.worldbody.add_light()
    sun.type = mj.mjtLightType.mjLIGHT_DIRECTIONAL
    sun.dir, sun.pos, sun.diffuse = -scene.light[b].numpy(), [0, 0, 100], [diffuse] * 3
    sun.ambient, sun.specular, sun.castshadow = [0, 0, 0], [0, 0, 0], False
    sky = spec.add_texture()
    sky.name, sky.type, sky.builtin = "sky", mj.mjtTexture.mjTEXTURE_SKYBOX, mj.mjtBuiltin.mjBUILTIN_GRADIENT
    sky.rgb1, sky.rgb2, sky.width, sky.height = [0.7] * 3, [0.9] * 3, 64, 384
    eye = spec.worldbody.add_body(mocap=True)
    lens = eye.add_camera()
    lens.fovy = math.degrees(2 * math.atan(camera.height / 2 / camera.fy))
    for n in moving:  # in this order the positions come
        spec.worldbody.add_body(name=f"mover{n}", mocap=True)
    texels = atlas.table.view(atlas.count, TEXELS, 4)[:, : SIZE * SIZE, 0].view(-1, SIZE, SIZE).numpy()
    kinds = {
        PLANE: mj.mjtGeom.mjGEOM_PLANE,
        BOX: mj.mjtGeom.mjGEOM_BOX,
        SPHERE: mj.mjtGeom.mjGEOM_SPHERE,
        CYLINDER: mj.mjtGeom.mjGEOM_CYLINDER,
    }
    used: set[int] = set()
    for n, kind in enumerate(scene.kind[b].tolist()):
        if kind == ABSENT:
            continue
        texture = int(scene.texture[b, n])
        if texture not in used:
            used.add(texture)
            image = spec.add_texture()
            image.name, image.type, image.nchannel = f"texture{texture}", mj.mjtTexture.mjTEXTURE_2D, 3
            image.width = image.height = SIZE
            grey = (np.clip(texels[texture] / 2, 0, 1) * 255).astype(np.uint8)  # of mean 1
            image.data = grey[..., None].repeat(3, -1).tobytes()
        material = spec.add_material()
        material.name = f"material{n}"
        material.textures[mj.mjtTextureRole.mjTEXROLE_RGB] = f"texture{texture}"
        material.texuniform, material.texrepeat = True, [float(scene.tiling[b, n])] * 2
        material.rgba = [*([min(1.0, 2 * float(scene.albedo[b, n]))] * 3), 1.0]
        material.specular = 0.0
        body = spec.body(f"mover{n}") if n in moving else spec.worldbody
        geom = body.add_geom()
        geom.type, geom.material = kinds[kind], material.name
        geom.contype = geom.conaffinity = 0
        half = scene.half[b, n].tolist()
        geom.size = [0, 0, 1] if kind == PLANE else [half[0], half[2], 0] if kind == CYLINDER else half
        if n not in moving:
            quaternion = np.zeros(4)
            mj.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation[n]).ravel())
            geom.pos, geom.quat = centre[n], quaternion
    return spec


class EventModel:
    """ESIM's pixels (Rebecq et al., CoRL 2018): log brightness linear between frames, thresholds of each pixel's own.

    Args:
        sensor: thresholds, their spread and the refractory period; the rest is left out.
        rgb: uint8 [H, W, 3], what the pixels see first.
        seed: of the spread.
    """

    def __init__(self, sensor: SensorConfig, rgb: np.ndarray, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        shape = rgb.shape[:2]
        self._on, self._off = (
            np.maximum(rng.normal(mean, sensor.threshold_spread, shape), mean / 4).astype(np.float32)
            for mean in (sensor.threshold_on, sensor.threshold_off)
        )
        self._refractory_us = sensor.refractory_us
        light = (np.arange(256) / 255) ** 2.2  # linear light of a display's values
        self._linear = light.astype(np.float32)
        self._before = np.log(self._linear[rgb] @ _LUMA + np.float32(0.02)).astype(np.float32)
        self._reference = self._before.copy()
        self._last_us = np.full(shape, _NEVER_US, np.int64)

    def step(
        self, rgb: np.ndarray, start_us: int, end_us: int, spikes: np.ndarray, settle_us: int, window_us: int
    ) -> None:
        """Go on to the next picture; events of the window are set in `spikes` [T, 2, H, W]."""
        _step(
            rgb, self._linear, self._before, self._reference, self._on, self._off, self._last_us,
            self._refractory_us, start_us, end_us, settle_us, window_us, spikes,
        )  # fmt: skip


@njit(cache=True)  # one thread: at these sizes more only wait for each other
def _step(  # type: ignore[no-untyped-def]
    rgb, linear, before, reference, on, off, last_us, refractory_us, start_us, end_us, settle_us, window_us, spikes
):
    bins = spikes.shape[0]
    span = np.float32(end_us - start_us)
    for y in range(rgb.shape[0]):
        for x in range(rgb.shape[1]):
            light = (
                np.float32(0.2126) * linear[rgb[y, x, 0]]
                + np.float32(0.7152) * linear[rgb[y, x, 1]]
                + np.float32(0.0722) * linear[rgb[y, x, 2]]
            )
            old, new = before[y, x], np.float32(np.log(light + np.float32(0.02)))
            before[y, x] = new
            polarity = 1 if new > old else 0
            threshold = on[y, x] if polarity else -off[y, x]
            while new != old:
                crossing = reference[y, x] + threshold
                if (crossing > new) if polarity else (crossing < new):
                    break
                reference[y, x] = crossing
                part = min(max((crossing - old) / (new - old), np.float32(0)), np.float32(1))
                t = start_us + min(np.int64(part * span), end_us - start_us - 1)
                if t - last_us[y, x] < refractory_us:
                    continue
                last_us[y, x] = t
                if t >= settle_us:
                    spikes[(t - settle_us) * bins // window_us, polarity, y, x] = 1
