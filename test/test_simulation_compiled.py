"""The compiled CPU engine against the torch engine, the slow reference and an independent ray caster."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_simulation_render import SMALL, mujoco_depth, seconds, zeros
from test_simulation_sensor import moving_frames, reference_events

from sdt_ros.simulation import kernels, tiles
from sdt_ros.simulation.camera import CAMERAS, Camera, camera
from sdt_ros.simulation.compiled import CompiledRenderer, Eye, lens_of, pack, plan, poses, sensor_columns, table_of
from sdt_ros.simulation.families import FAMILIES, sample_scenes
from sdt_ros.simulation.randomise import Randomisation
from sdt_ros.simulation.render import Renderer
from sdt_ros.simulation.sensor import EventList, EventSensor, SensorConfig
from sdt_ros.simulation.simulator import MOST_STEP_PX, EventCamera, Simulator, SimulatorConfig
from sdt_ros.simulation.textures import build_atlas

TINY = camera("davis346").scaled(40, 30)


@pytest.fixture(scope="module")
def atlas():
    return build_atlas(0, 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_engines_see_the_same(family, atlas):
    model = camera("davis346").scaled(86, 65)  # tiles that hang over the border
    scene = sample_scenes(family, 3, 1.0, 4, atlas.count)
    index, t = torch.tensor([2, 0, 1, 0]), seconds(0.9, 0.1, 0.5, 0.6)
    one, two = (engine(model, atlas).render(scene, index, t) for engine in (Renderer, CompiledRenderer))
    same = one.hit == two.hit
    assert same.float().mean() > 0.9995  # at edges rounding decides
    finite = same & one.depth.isfinite()
    assert torch.equal(one.depth.isinf() & same, two.depth.isinf() & same)
    near = finite & (one.depth < 200)
    assert (one.depth[near] / two.depth[near] - 1).abs().max() < 1e-5
    ratio = (one.seen() / two.seen() - 1).abs()[same]
    assert ratio.quantile(0.99) < 1e-4
    assert ratio.max() < 0.02


@pytest.mark.parametrize(("family", "seed"), [*((family, 3) for family in FAMILIES), ("driving", 11)])
def test_depth_equals_that_of_mujoco(family, seed):
    scene, t = sample_scenes(family, 1, 1.0, seed, 4), seconds(0.7)
    seen = CompiledRenderer(SMALL).render(scene, zeros(1), t, brightness=False).depth[0].double().numpy()
    expected = mujoco_depth(scene, t)
    agree = np.isclose(seen, expected, rtol=1e-4, atol=0) | (np.isinf(seen) & np.isinf(expected))
    assert agree.mean() > 0.999, f"{(~agree).sum()} pixels differ"
    assert np.isfinite(expected).mean() > 0.5


@pytest.mark.parametrize("name", CAMERAS)
def test_rays_equal_those_of_the_camera(name):
    model = CAMERAS[name].scaled(100, 70)
    lens = lens_of(model)
    x, y = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (100, 70)), indexing="xy")
    expected = model.rays(x, y).numpy()
    pixels = np.empty(kernels.AREA, np.int64)
    for tile in range(len(lens.rays)):
        tiles.tile_pixels(tile, lens.columns, 100, 70, pixels)
        inside = pixels >= 0
        for axis in range(2):
            found = lens.rays[tile, axis * kernels.AREA : (axis + 1) * kernels.AREA][inside]
            assert np.allclose(found, expected[..., axis].ravel()[pixels[inside]], atol=1e-6)
    with pytest.raises(ValueError, match="cannot be inverted"):
        lens_of(Camera(64, 48, 40, 40, 32, 24, k1=-2.0))


@pytest.mark.parametrize(
    "config",
    [
        SensorConfig.ideal(),
        SensorConfig(refractory_us=900, leak_hz=20, shot_noise_hz=0, hot_pixels=0.05, bandwidth_hz=0),
        SensorConfig(0.1, 0.3, refractory_us=300, leak_hz=5, shot_noise_hz=0, hot_pixels=0.02, bandwidth_hz=150),
    ],
    ids=["ideal", "refractory, leak, hot", "all"],
)
def test_events_equal_those_of_the_slow_reference(config):
    frames, times = moving_frames(1, size=16)
    frames = frames.astype(np.float32)
    state, clock = np.empty(kernels.STATE, np.float32), np.empty(kernels.CLOCK, np.int64)
    first = (frames.reshape(len(frames), -1), times, state, clock, np.arange(256), sensor_columns(config), np.uint64(5))
    tiles.run_frames(first[0][:1], *first[1:], True)
    names = (kernels.ON, kernels.OFF, kernels.LEAK, kernels.ABOVE)
    parts = [state[at : at + kernels.AREA].reshape(16, 16).astype(float) for at in names]
    packed = np.sort(tiles.run_frames(*first, False))
    stamp, pixel = packed >> tiles.PIXEL_BITS, packed & ((1 << tiles.PIXEL_BITS) - 1)
    expected = reference_events(
        frames.astype(float), times.tolist(), *parts, config.refractory_us, config.bandwidth_hz
    )  # [(t, x, y, p)]
    assert len(expected) > 1500
    found = {(int(p) % 16, int(p) // 16, int(s) & 1, int(s) >> 1) for s, p in zip(stamp, pixel, strict=True)}
    wanted = {(x, y, p, t) for t, x, y, p in expected}
    # Rounding to float32 moves a time by a microsecond here and there, and seldom adds an event or takes one away.
    near = {(x, y, p, t + d) for x, y, p, t in wanted for d in (-2, -1, 0, 1, 2)}
    assert len(found & near) > 0.998 * len(wanted)
    assert abs(len(found) - len(wanted)) < 0.002 * len(wanted) + 2
    assert len(found & wanted) > 0.9 * len(wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_ideal_events_agree_with_the_torch_engine_at_equal_frame_times(family, atlas):
    scene = sample_scenes(family, 1, 0.1, 1, atlas.count)
    times = np.arange(0, 80_001, 1000)
    eye = Eye(TINY, SensorConfig.ideal(), table_of(atlas), 3)
    packed = pack(scene, 0, TINY)
    eye.look(plan(packed, TINY, 0, 1, times[:1]))  # only makes the state
    above = np.zeros((30, 40), np.float32)
    pixels = np.empty(kernels.AREA, np.int64)
    for tile in range(len(eye.state)):
        tiles.tile_pixels(tile, eye.lens.columns, 40, 30, pixels)
        above.ravel()[pixels[pixels >= 0]] = eye.state[tile, : kernels.AREA][pixels >= 0]
    found = eye.look(plan(packed, TINY, 0, 80_000, times))
    renderer = Renderer(TINY, atlas)
    views = renderer.render(scene, torch.zeros(len(times), dtype=torch.int64), torch.from_numpy(times * 1e-6))
    sensor = EventSensor(SensorConfig.ideal(), views.seen()[:1], torch.zeros(1, dtype=torch.int64), torch.Generator())
    sensor._above = torch.from_numpy(above)[None]
    taken = EventList(40)
    for t, image in zip(times[1:], views.seen()[1:], strict=True):
        sensor.step(image[None], torch.tensor([t]), taken)
    expected = taken.take()
    assert len(expected) > 40
    assert abs(len(found) - len(expected)) <= 2 + 0.01 * len(expected)
    cells = [{(int(e["x"]), int(e["y"]), int(e["p"]), int(e["t"]) // 1000) for e in some} for some in (found, expected)]
    assert len(cells[0] & cells[1]) > 0.98 * len(cells[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_moves_by_more_than_half_a_pixel_between_frames_of_a_tile(family):
    model = camera("davis346").scaled(86, 65)
    scene = sample_scenes(family, 4, 0.06, 1, 4)
    renderer = Renderer(model)
    pixels = np.empty(kernels.AREA, np.int64)
    saved = 0.0
    for b in range(4):
        planned = plan(pack(scene, b, model), model, 0, 50_000)
        saved += planned.frames / (len(planned.times_us) - 1) / 4
        moved = np.zeros((len(planned.offsets) - 1, 0)).tolist()
        for tile in range(len(moved)):
            steps = planned.steps[planned.offsets[tile] : planned.offsets[tile + 1]]
            t = torch.from_numpy(planned.times_us[np.append(0, steps)])
            assert t[-1] == 50_000
            assert (t.diff() > 0).all()
            tiles.tile_pixels(tile, lens_of(model).columns, 86, 65, pixels)
            if tile % 5 == b % 5:
                index, s = torch.full((len(t) - 1,), b), t.double() * 1e-6
                views = renderer.render(scene, index, s[:-1], brightness=False)
                flow = renderer.flow(scene, index, s[:-1], s[1:], views).norm(dim=-1).flatten(1)
                assert flow[:, pixels[pixels >= 0]].nan_to_num(9.0).max() <= MOST_STEP_PX
    assert saved < 0.8


def test_samples_do_not_depend_on_the_number_of_threads(atlas):
    config = SimulatorConfig("mixed", TINY, randomisation=Randomisation())
    threads = torch.get_num_threads()
    try:
        samples = []
        for number in (1, 3):
            torch.set_num_threads(number)
            samples.append(Simulator(config, 5, atlas=atlas).sample(4, 2))
            eye = EventCamera(sample_scenes("flying", 1, 0.1, 1, atlas.count), TINY, SensorConfig(), atlas, 1)
            samples.append(np.concatenate([eye.advance(20_000), eye.advance(50_000)]))
    finally:
        torch.set_num_threads(threads)
    for name in ("spikes", "depth", "frame"):
        one, two = (getattr(sample, name).nan_to_num(-1.0) for sample in samples[::2])
        assert torch.equal(one, two)
    assert np.array_equal(samples[1], samples[3])
    assert len(samples[1]) > 100


def test_the_first_bin_is_as_full_as_the_last(atlas):
    """The sensor's start is forgotten when the window begins."""
    for randomisation in (None, Randomisation()):
        config = SimulatorConfig("mixed", CAMERAS["davis346"].scaled(86, 65), randomisation=randomisation)
        spikes = torch.cat([Simulator(config, 1, atlas=atlas).sample(8, n).spikes for n in range(4)])
        rates = spikes.float().mean((0, 2, 3, 4))
        assert rates[0] / rates[1:].mean() == pytest.approx(1, abs=0.2)


def test_noise_comes_at_its_rate_and_respects_the_refractory_period():
    config = SensorConfig(shot_noise_hz=40, leak_hz=0, hot_pixels=0, refractory_us=2000, bandwidth_hz=0)
    dark = np.full((401, kernels.AREA), 1e-3, np.float32)
    stamps, pixels = [], []
    for seed in range(20):
        state, clock = np.empty(kernels.STATE, np.float32), np.empty(kernels.CLOCK, np.int64)
        packed = tiles.run_frames(
            dark, np.arange(401) * 1000, state, clock, np.arange(256), sensor_columns(config), np.uint64(seed), True
        )
        stamps.append(packed >> (tiles.PIXEL_BITS + 1))
        pixels.append((packed & ((1 << tiles.PIXEL_BITS) - 1)) + 256 * seed)
    t, pixel = np.concatenate(stamps), np.concatenate(pixels)
    assert len(t) / (20 * 256 * 0.4) == pytest.approx(40 / (1 + 40 * 2e-3), rel=0.05)
    order = np.lexsort((t, pixel))
    assert np.diff(t[order])[np.diff(pixel[order]) == 0].min() >= 2000


def test_randomised_samples_differ_in_lens_and_sensor_and_say_so(atlas):
    config = SimulatorConfig("hallway", TINY, randomisation=Randomisation())
    sample = Simulator(config, 2, atlas=atlas).sample(6)
    wide = [2 * math.degrees(math.atan(0.5 * 40 / model.fx)) for model in sample.cameras]
    assert 45 <= min(wide) < max(wide) <= 100
    assert len(set(wide)) == 6
    assert sample.intrinsics.shape == (6, 3, 3)
    assert sample.intrinsics[3, 0, 0] == sample.cameras[3].fx
    sensors = [Randomisation().sensor(np.random.default_rng(seed)) for seed in range(50)]
    assert min(s.threshold_on for s in sensors) < 0.15
    assert max(s.threshold_off for s in sensors) > 0.4
    assert any(s.threshold_on > 1.1 * s.threshold_off for s in sensors)
    torch_sample = Simulator(SimulatorConfig("hallway", TINY, engine="torch", randomisation=Randomisation()), 2,
                             atlas=atlas).sample(6)  # fmt: skip
    both = torch.stack([sample.depth, torch_sample.depth]).nan_to_num(1e3)
    assert ((both[0] / both[1] - 1).abs() < 1e-3).float().mean() > 0.998


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="threshold"):
        Randomisation(threshold=(0.5, 0.1))
    with pytest.raises(ValueError, match="field_of_view_deg"):
        Randomisation(field_of_view_deg=(5, 20))
    with pytest.raises(ValueError, match="compiled, torch"):
        SimulatorConfig(engine="fast")


def test_a_pose_is_that_of_the_scene(atlas):
    scene = sample_scenes("tabletop", 1, 2.0, 9, atlas.count)
    t = seconds(0.3, 1.7)
    packed = pack(scene, 0, TINY)
    pose, _ = poses(packed, TINY, t.numpy())
    rotation, position = scene.path.pose(zeros(2), t)
    turn, centre = scene.object_pose(zeros(2), t)
    expected = (turn.mT @ rotation[:, None]).flatten(2)[:, packed.number]
    assert np.allclose(pose[:, :-1, :9], expected, atol=1e-12)
    origin = torch.einsum("vnji,vnj->vni", turn, position[:, None] - centre)[:, packed.number]
    assert np.allclose(pose[:, :-1, 9:12], origin, atol=1e-12)
