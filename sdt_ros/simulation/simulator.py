"""Simulated cameras: when to render, and what comes out as events or as samples to learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdt_ros.simulation.camera import CAMERAS, Camera
from sdt_ros.simulation.compiled import CompiledRenderer, Eye, in_threads, pack, plan, table_of
from sdt_ros.simulation.families import MIXED, sample_scenes
from sdt_ros.simulation.randomise import Randomisation
from sdt_ros.simulation.render import Renderer, Views
from sdt_ros.simulation.scenes import SceneBatch, pick
from sdt_ros.simulation.sensor import EventList, EventSensor, SensorConfig, SpikeTensor
from sdt_ros.simulation.textures import TextureAtlas, build_atlas

MOST_STEP_PX = 0.5
"""Nothing moves by more than this between two frames."""

_AIM_PX = 0.46  # what is aimed at, since speed is known on a grid only
_PROBE_US = 2000  # how often speed is looked at; vibration ends at some 50 Hz
_PROBE_STRIDE = 5  # [px] of that grid
_LONGEST_US = 5000  # between two frames, however slow all is


ENGINES = ("auto", "compiled", "torch")


def choose_engine(engine: str, device: torch.device) -> str:
    """`compiled` or `torch`.

    Raises:
        ValueError: no such engine, or not on this device.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is unknown; choose one of {', '.join(ENGINES)}")
    if engine == "auto":
        return "compiled" if device.type == "cpu" else "torch"
    if engine == "compiled" and device.type != "cpu":
        raise ValueError(f"the compiled engine runs on the CPU, not on {device}; use the torch engine there")
    return engine


class Clockwork:
    """Decides at which times to render, so that nothing moves by more than `MOST_STEP_PX` between two frames.

    The exact flow is looked at on a coarse grid of pixels every 2 ms; frames then part the distance covered by the
    fastest point, not the time, evenly.

    Args:
        camera: whose pixels count.
        device: where to compute.
    """

    def __init__(self, camera: Camera, device: torch.device | str = "cpu") -> None:
        width, height = (max(8, side // _PROBE_STRIDE) for side in (camera.width, camera.height))
        # The corners of the grid are the corners of the image, where things are often fastest.
        sx, sy = (width - 1) / (camera.width - 1), (height - 1) / (camera.height - 1)
        scaled = (camera.fx * sx, camera.fy * sy, camera.cx * sx, camera.cy * sy)
        self._probe = Renderer(Camera(width, height, *scaled, *camera.d), None, device)
        self._scale = torch.tensor([1 / sx, 1 / sy], device=device)

    def frame_times(self, scene: SceneBatch, start_us: Tensor, end_us: Tensor) -> list[Tensor]:
        """Times of frames for each scene.

        Args:
            scene: the scenes.
            start_us: int64 [B], a frame is there already.
            end_us: int64 [B], gets a frame.

        Returns:
            For each scene int64 [F_b] rising times [us], the last its `end_us`.
        """
        device = start_us.device
        batch = len(start_us)
        probes = max(2, math.ceil(int((end_us - start_us).max()) / _PROBE_US) + 1)
        part = torch.linspace(0, 1, probes, dtype=torch.float64, device=device)
        probe_us = start_us[:, None] + (end_us - start_us)[:, None] * part  # float64 [B, probes]
        index = torch.arange(batch, device=device).repeat_interleave(probes)
        t = probe_us.flatten() * 1e-6
        delta = 2e-4  # [s], short against any change of speed
        fastest = torch.cat(
            [self._fastest(scene, i, s, delta) for i, s in zip(index.split(32), t.split(32), strict=True)]
        ).view(batch, probes)
        # Between two probes the faster one counts.
        speed = torch.maximum(fastest[:, 1:], fastest[:, :-1]) * 1e-6  # [px / us]
        speed = speed.clamp_min(_AIM_PX / _LONGEST_US)
        moved = torch.cat([torch.zeros_like(speed[:, :1]), (speed * probe_us.diff(dim=1)).cumsum(1)], 1)
        times = []
        for way, when, end in zip(moved.cpu().numpy(), probe_us.cpu().numpy(), end_us.tolist(), strict=True):
            frames = max(1, math.ceil(way[-1] / _AIM_PX))
            at = np.interp(way[-1] * np.arange(1, frames + 1) / frames, way, when)
            rounded = np.unique(np.maximum(np.rint(at).astype(np.int64), int(when[0]) + 1))
            rounded[-1] = end
            times.append(torch.from_numpy(rounded).to(device))
        return times

    def _fastest(self, scene: SceneBatch, index: Tensor, t: Tensor, delta: float) -> Tensor:
        """Speed of the fastest point in each view [px/s]."""
        views = self._probe.render(scene, index, t, brightness=False)
        flow = self._probe.flow(scene, index, t, t + delta, views)
        return (flow * self._scale).norm(dim=-1).nan_to_num(0.0).flatten(1).amax(1).double() / delta


@dataclass(frozen=True)
class Sample:
    """What B scenes gave, in the shape that training wants.

    Attributes:
        spikes: uint8 [B, T, 2, H, W] in {0, 1}, of the window that ends at the depth's time.
        depth: float32 [B, 1, H, W] along z [m]; NaN where there is nothing.
        frame: float32 [B, 1, H, W] brightness in [0, 1], gamma-coded as a camera's.
        frames: rendered frames of each scene; of its tiles on average, where those differ.
        cameras: of each scene.
        families: of each scene.
    """

    spikes: Tensor
    depth: Tensor
    frame: Tensor
    frames: list[int]
    cameras: list[Camera]
    families: list[str]

    @property
    def intrinsics(self) -> Tensor:
        """The matrices K, float64 [B, 3, 3]; see `cameras` for the distortion."""
        return torch.tensor([camera.k for camera in self.cameras], dtype=torch.float64).view(-1, 3, 3)


@dataclass(frozen=True)
class Draw:
    """B scenes with who looks at them.

    Attributes:
        scenes: batches of one, or one batch of B.
        cameras: of each scene.
        sensors: of each scene.
        gains: of each frame's brightness.
        families: of each scene.
        seed: of noise.
    """

    scenes: list[SceneBatch]
    cameras: list[Camera]
    sensors: list[SensorConfig]
    gains: list[float]
    families: list[str]
    seed: int

    def scene(self, b: int) -> tuple[SceneBatch, int]:
        """A scene as a batch and its place in it."""
        return (self.scenes[b], 0) if len(self.scenes) > 1 else (self.scenes[0], b)


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """What to simulate.

    Attributes:
        family: of scenes, see `families.FAMILIES`, or `mixed`.
        camera: the intrinsics.
        sensor: the event sensor.
        bins: time bins T of a window.
        window_ms: duration of a window [ms].
        settle_ms: how long the sensor looks at the scene before the window begins [ms].
        photographs: folder of photographs for textures, or None.
        chunk_pixels: pixels that the torch engine renders at once; bounds the memory.
        engine: `compiled` (CPU only), `torch`, or `auto`: compiled on the CPU.
        randomisation: what else differs from sample to sample, or None.
    """

    family: str = "mixed"
    camera: Camera = CAMERAS["davis346"]
    sensor: SensorConfig = field(default_factory=SensorConfig)
    bins: int = 4
    window_ms: float = 50.0
    settle_ms: float = 2.0
    photographs: Path | None = None
    chunk_pixels: int = 100_000
    engine: str = "auto"
    randomisation: Randomisation | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.bins <= 64 or not 1 <= self.window_ms <= 10_000 or not 0 <= self.settle_ms <= 1000:
            raise ValueError(
                f"bins={self.bins}, window_ms={self.window_ms} or settle_ms={self.settle_ms} is out of range "
                "(1 to 64, 1 to 10000, 0 to 1000)"
            )
        if self.chunk_pixels < 1:
            raise ValueError(f"chunk_pixels={self.chunk_pixels} must be positive")
        if self.engine not in ENGINES:
            raise ValueError(f"engine {self.engine!r} is unknown; choose one of {', '.join(ENGINES)}")


class Simulator:
    """Makes samples for training: batches of new scenes, spikes straight on the device.

    Equal seeds give equal samples on equal devices and engines, whatever the number of threads; sample number n depends
    on seed and n alone.

    Args:
        config: what to simulate.
        seed: of textures, scenes and noise.
        device: where everything is computed.
        atlas: textures to use instead of those that seed and `photographs` give.

    Raises:
        ValueError: the engine does not run on this device.
    """

    def __init__(
        self,
        config: SimulatorConfig | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        atlas: TextureAtlas | None = None,
    ) -> None:
        self.config = config or SimulatorConfig()
        self.device = torch.device(device)
        self.engine = choose_engine(self.config.engine, self.device)
        self.seed = seed
        self.atlas = atlas or build_atlas(seed, photographs=self.config.photographs, device=device)
        pixels = self.config.camera.width * self.config.camera.height
        self._views_at_once = max(1, self.config.chunk_pixels // pixels)

    def draw(self, batch: int, number: int = 0) -> Draw:
        """Draw `batch` scenes and what looks at them.

        Args:
            batch: scenes B.
            number: which batch of the seed's series.
        """
        config = self.config
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        seconds = (round(config.settle_ms * 1000) + round(config.window_ms * 1000)) * 1e-6
        longest = 1.0 if config.randomisation is None else config.randomisation.pace[1]
        scene = sample_scenes(config.family, batch, seconds * max(1.0, longest), seed, self.atlas.count, self.device)
        cameras, sensors, gains = [config.camera] * batch, [config.sensor] * batch, [1.0] * batch
        scenes = [scene]
        if config.randomisation is not None:
            scenes = []
            for b in range(batch):
                rng = np.random.default_rng([seed, 3, b])
                cameras[b] = config.randomisation.camera(rng, config.camera)
                sensors[b] = config.randomisation.sensor(rng)
                scenes.append(config.randomisation.scene(rng, pick(scene, [b])))
                gains[b] = config.randomisation.exposed(rng)
        names = MIXED if config.family == "mixed" else (config.family,)
        families = [names[b % len(names)] for b in range(batch)]
        return Draw(scenes, cameras, sensors, gains, families, seed)

    @torch.no_grad()
    def sample(self, batch: int, number: int = 0) -> Sample:
        """Draw `batch` scenes and let each be seen for one window.

        Args:
            batch: scenes B.
            number: which batch of the seed's series.
        """
        config, drawn = self.config, self.draw(batch, number)
        scenes, cameras, sensors, seed = drawn.scenes, drawn.cameras, drawn.sensors, drawn.seed
        settle_us, window_us = round(config.settle_ms * 1000), round(config.window_ms * 1000)
        edges = [settle_us + j * window_us // config.bins for j in range(config.bins + 1)]
        if self.engine == "compiled":
            parts = in_threads(
                lambda b: self._compiled(
                    *drawn.scene(b), cameras[b], sensors[b], seed + b, edges,
                    torch.get_num_threads() if batch == 1 else 1,
                ),
                range(batch),
                torch.get_num_threads(),
            )  # fmt: skip
        elif config.randomisation is None:
            parts = [self._torch(scenes[0], cameras[0], sensors[0], seed, edges)]
        else:
            parts = [self._torch(scenes[b], cameras[b], sensors[b], seed + b, edges) for b in range(batch)]
        spikes, depth, image = (torch.cat(whole) for whole in list(zip(*parts, strict=True))[:3])
        depth = torch.where(depth.isinf(), torch.nan, depth)
        frame = to_frame(image, exposure(image) * torch.tensor(drawn.gains, device=self.device))
        frames = [count for *_, counts in parts for count in counts]
        return Sample(spikes, depth[:, None], frame[:, None], frames, cameras, drawn.families)

    def _compiled(
        self, scene: SceneBatch, b: int, camera: Camera, sensor: SensorConfig, seed: int, edges: list[int], threads: int
    ) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Spikes [1, T, 2, H, W], depth and brightness [1, H, W] of one scene."""
        planned = plan(pack(scene, b, camera), camera, 0, edges[-1])
        eye = Eye(camera, sensor, table_of(self.atlas), seed)
        spikes = np.zeros((1, self.config.bins, 2, camera.height, camera.width), np.uint8)
        eye.look(planned, np.array(edges), spikes, threads)
        images = (torch.from_numpy(part)[None] for part in (eye.depth, eye.image))
        return (torch.from_numpy(spikes), *images, [round(planned.frames)])  # type: ignore[return-value]

    def _torch(
        self, scene: SceneBatch, camera: Camera, sensor_config: SensorConfig, seed: int, edges: list[int]
    ) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Spikes [B, T, 2, H, W], depth and brightness [B, H, W] of all scenes at once."""
        device, batch, end_us = self.device, len(scene.kind), edges[-1]
        renderer = Renderer(camera, self.atlas, device)
        start = torch.zeros(batch, dtype=torch.int64, device=device)
        times = Clockwork(camera, device).frame_times(scene, start, start + end_us)
        # Sensors with more frames come first, so that those still at work are always the first ones.
        order = sorted(range(batch), key=lambda b: -len(times[b]))
        scene, times = pick(scene, order), [times[b] for b in order]
        taken = SpikeTensor(
            (batch, self.config.bins, camera.height, camera.width),
            torch.tensor(edges, device=device).repeat(batch, 1),
            device,
        )
        generator = torch.Generator(device).manual_seed(seed)
        every = torch.arange(batch, device=device)
        sensor = EventSensor(sensor_config, self._render(renderer, scene, every, start).seen(), start, generator)
        counts = [len(each) for each in times]
        sensor.lean(self._render(renderer, scene, every, torch.stack([each[0] for each in times])).seen())
        step = 0
        while step < counts[0]:
            active = sum(count > step for count in counts)
            steps = min(max(1, self._views_at_once // active), counts[active - 1] - step)
            t_us = torch.stack([times[b][step : step + steps] for b in range(active)], 1)  # [steps, active]
            brightness = self._render(renderer, scene, every[:active].repeat(steps), t_us.flatten()).seen()
            for now_us, image in zip(t_us, brightness.split(active), strict=True):
                sensor.step(image, now_us, taken)
            step += steps
        last = self._render(renderer, scene, every, start + end_us)
        back = torch.argsort(torch.tensor(order, device=device))
        return taken.spikes[back], last.depth[back], last.seen()[back], [counts[b] for b in back.tolist()]

    def _render(self, renderer: Renderer, scene: SceneBatch, index: Tensor, t_us: Tensor) -> Views:
        parts = [
            renderer.render(scene, i, t.double() * 1e-6)
            for i, t in zip(index.split(self._views_at_once), t_us.split(self._views_at_once), strict=True)
        ]
        return Views(*(torch.cat([getattr(part, name) for part in parts]) for name in ("depth", "hit", "brightness")))


def exposure(brightness: Tensor) -> Tensor:
    """What a camera multiplies brightness [B, H, W] with, so that one pixel in fifty is overexposed: [B]."""
    pixels = brightness.flatten(1)
    return 1 / pixels.kthvalue(max(1, int(0.98 * pixels.shape[1])), 1).values


def to_frame(brightness: Tensor, gain: Tensor) -> Tensor:
    """Brightness [B, H, W] as a frame camera gives it: exposed by gain [B], clipped to [0, 1], gamma 2.2."""
    return (brightness * gain[:, None, None]).clamp(0, 1) ** (1 / 2.2)


class EventCamera:
    """One camera that moves through one scene: events and images, as long as one wants.

    The sensor's clock begins with the scene's, at 0.

    Args:
        scene: a batch of one.
        camera: the intrinsics.
        sensor: the event sensor.
        atlas: the textures.
        seed: of noise and of the sensor's spread.
        device: where to compute.
        chunk_pixels: pixels that the torch engine renders at once; bounds the memory.
        engine: `compiled`, `torch`, or `auto`, see `SimulatorConfig`.

    Raises:
        ValueError: there is not one scene, or the engine does not run on this device.
    """

    def __init__(
        self,
        scene: SceneBatch,
        camera: Camera,
        sensor: SensorConfig,
        atlas: TextureAtlas,
        seed: int = 0,
        device: torch.device | str = "cpu",
        chunk_pixels: int = 100_000,
        engine: str = "auto",
    ) -> None:
        if len(scene.kind) != 1:
            raise ValueError(f"an event camera sees one scene, not {len(scene.kind)}")
        self.scene = scene
        self.camera = camera
        self.now_us = 0
        self.frames = 1
        self.engine = choose_engine(engine, torch.device(device))
        self.renderer: Renderer | CompiledRenderer
        if self.engine == "compiled":
            self.renderer = CompiledRenderer(camera, atlas)
            self._packed = pack(scene, 0, camera)
            self._eye = Eye(camera, sensor, table_of(atlas), seed)
            self.last = self.views([0])
            return
        self.renderer = Renderer(camera, atlas, device)
        self._clockwork = Clockwork(camera, device)
        self._views_at_once = max(1, chunk_pixels // (camera.width * camera.height))
        self._events = EventList(camera.width)
        self.last = self.views([0])
        generator = torch.Generator(device).manual_seed(seed)
        self._sensor = EventSensor(sensor, self.last.seen(), self._clock([0]), generator)

    def _clock(self, t_us: Sequence[int]) -> Tensor:
        return torch.tensor(t_us, dtype=torch.int64, device=self.scene.kind.device)

    @torch.no_grad()
    def views(self, t_us: Sequence[int]) -> Views:
        """What the camera sees at some times [us]."""
        t = self._clock(t_us)
        return self.renderer.render(self.scene, torch.zeros_like(t), t.double() * 1e-6)

    @torch.no_grad()
    def advance(self, until_us: int) -> np.ndarray:
        """Go on to a later time.

        Args:
            until_us: the sensor's time [us].

        Returns:
            EVENT_DTYPE [N] in the order of time, all with `now_us` <= t < `until_us`; `last` is the view at `until_us`.

        Raises:
            ValueError: that time is not later than now.
        """
        if until_us <= self.now_us:
            raise ValueError(f"the camera is at {self.now_us} us and cannot go to {until_us} us")
        events = self._advance_compiled(until_us) if self.engine == "compiled" else self._advance_torch(until_us)
        self.now_us = until_us
        return events

    def _advance_compiled(self, until_us: int) -> np.ndarray:
        planned = plan(self._packed, self.camera, self.now_us, until_us)
        events = self._eye.look(planned, threads=torch.get_num_threads())
        number = np.append(planned.scene.number, self.scene.kind.shape[1])
        parts = (self._eye.depth.copy(), number[self._eye.hit], self._eye.image.copy())
        self.last = Views(*(torch.from_numpy(part)[None] for part in parts))
        self.frames += round(planned.frames)
        return events

    def _advance_torch(self, until_us: int) -> np.ndarray:
        (times,) = self._clockwork.frame_times(self.scene, self._clock([self.now_us]), self._clock([until_us]))
        for part in times.split(self._views_at_once):
            views = self.views(part.tolist())
            for t, image in zip(part, views.seen(), strict=True):
                if self.frames == 1 and t == times[0]:
                    self._sensor.lean(image[None])
                self._sensor.step(image[None], t[None], self._events)
        self.last = Views(views.depth[-1:], views.hit[-1:], views.seen()[-1:])
        self.frames += len(times)
        return self._events.take()
