"""The event model against a slow reference, and spikes against the stream of events."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sdt_ros.events import EVENT_DTYPE
from sdt_ros.simulation.camera import camera
from sdt_ros.simulation.families import FAMILIES, MIXED, sample_scenes
from sdt_ros.simulation.render import Renderer
from sdt_ros.simulation.sensor import EventList, EventSensor, SensorConfig, SpikeTensor
from sdt_ros.simulation.simulator import (
    MOST_STEP_PX,
    Clockwork,
    EventCamera,
    Simulator,
    SimulatorConfig,
)
from sdt_ros.simulation.textures import build_atlas

TINY = camera("davis346").scaled(40, 30)


def reference_events(frames, times_us, on, off, leak, above, refractory_us, bandwidth_hz):
    """The event model pixel by pixel in float64, as one would write it down. Returns a list of (t, x, y, p)."""
    out = []
    for y in range(frames.shape[1]):
        for x in range(frames.shape[2]):
            level = math.log(frames[0, y, x])
            difference, last = above[y, x], -math.inf
            for k in range(1, len(frames)):
                t0, t1 = times_us[k - 1], times_us[k]
                target = math.log(frames[k, y, x])
                if bandwidth_hz:
                    target += (level - target) * math.exp(-2 * math.pi * bandwidth_hz * (t1 - t0) * 1e-6)
                start, end = difference, difference + target - level + leak[y, x] * (t1 - t0)
                level = target
                threshold = on[y, x] if end > start else -off[y, x]
                crossing = threshold
                while abs(crossing) <= abs(end) and crossing * end > 0:
                    t = t0 + min(math.floor((crossing - start) / (end - start) * (t1 - t0)), t1 - t0 - 1)
                    if t - last >= refractory_us:
                        out.append((t, x, y, int(end > start)))
                        last = t
                    crossing += threshold
                difference = end - (crossing - threshold)
    return sorted(out)


def moving_frames(seed, count=25, size=12):
    """Bright blobs that move and flash: double precision frames [count, size, size]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    times = np.concatenate([[0], np.cumsum(rng.integers(80, 3000, count - 1))])
    frames = []
    for t in times * 1e-3:
        cx, cy = 6 + 5 * math.sin(0.3 * t), 6 + 4 * math.cos(0.21 * t)
        frames.append(0.1 + 2 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 6) + 0.05 * math.sin(t) ** 2)
    return np.stack(frames), times


@pytest.mark.parametrize(
    "config",
    [
        SensorConfig.ideal(),
        SensorConfig(refractory_us=0, leak_hz=0, shot_noise_hz=0, hot_pixels=0, bandwidth_hz=0),
        SensorConfig(refractory_us=900, leak_hz=20, shot_noise_hz=0, hot_pixels=0.05, bandwidth_hz=0),
        SensorConfig(0.1, 0.3, refractory_us=300, leak_hz=5, shot_noise_hz=0, hot_pixels=0.02, bandwidth_hz=150),
    ],
    ids=["ideal", "spread", "refractory, leak, hot", "all"],
)
def test_events_equal_those_of_the_slow_reference(config):
    frames, times = moving_frames(1)
    images = torch.from_numpy(frames)
    sensor = EventSensor(config, images[:1], torch.zeros(1, dtype=torch.int64), torch.Generator().manual_seed(4))
    parts = [part[0].numpy() for part in (sensor.on, sensor.off, sensor.leak, sensor.above)]
    taken = EventList(12)
    for image, t in zip(images[1:], times[1:], strict=True):
        sensor.step(image[None], torch.tensor([t]), taken)
    events = taken.take()
    expected = reference_events(frames, times.tolist(), *parts, config.refractory_us, config.bandwidth_hz)
    assert len(expected) > 1000
    found = sorted(zip(*(events[name].tolist() for name in "txyp"), strict=True))
    assert len(found) == len(expected)
    # A time that falls on a whole microsecond may round either way.
    key = [sorted((x, y, p, t) for t, x, y, p in some) for some in (found, expected)]
    assert [entry[:3] for entry in key[0]] == [entry[:3] for entry in key[1]]
    assert max(abs(a[3] - b[3]) for a, b in zip(*key, strict=True)) <= 1
    assert sum(a != b for a, b in zip(*key, strict=True)) < 0.01 * len(expected)


def test_float32_makes_the_same_events_as_the_reference_nearly_always():
    config = SensorConfig(refractory_us=0, leak_hz=0, shot_noise_hz=0, hot_pixels=0, bandwidth_hz=0)
    frames, times = moving_frames(2)
    images = torch.from_numpy(frames).float()
    sensor = EventSensor(config, images[:1], torch.zeros(1, dtype=torch.int64), torch.Generator().manual_seed(4))
    parts = [part[0].double().numpy() for part in (sensor.on, sensor.off, sensor.leak, sensor.above)]
    taken = EventList(12)
    for image, t in zip(images[1:], times[1:], strict=True):
        sensor.step(image[None], torch.tensor([t]), taken)
    expected = reference_events(images.double().numpy(), times.tolist(), *parts, 0, 0)
    assert abs(len(taken.take()) - len(expected)) <= max(2, 2e-3 * len(expected))


def test_one_step_by_hand():
    # log brightness rises by 0.5 in 1000 us: with C = 0.2 from the reference on, ON at 400 us and 800 us.
    sensor = EventSensor(
        SensorConfig.ideal(), torch.ones((1, 1, 1), dtype=torch.float64), torch.tensor([5000]), torch.Generator()
    )
    sensor._above.zero_()
    taken = EventList(1)
    sensor.step(torch.full((1, 1, 1), math.exp(0.5), dtype=torch.float64), torch.tensor([6000]), taken)
    assert taken.take().tolist() == [(5400, 0, 0, 1), (5800, 0, 0, 1)]
    assert sensor.above.item() == pytest.approx(0.1)


def test_noise_comes_at_its_rate_and_respects_the_refractory_period():
    config = SensorConfig(shot_noise_hz=40, leak_hz=0, hot_pixels=0, refractory_us=2000, bandwidth_hz=0)
    dark = torch.full((2, 50, 50), 1e-3)
    sensor = EventSensor(config, dark, torch.zeros(2, dtype=torch.int64), torch.Generator().manual_seed(0))
    taken = EventList(50)
    for k in range(1, 401):
        sensor.step(dark, torch.full((2,), k * 1000), taken)
    pixel = torch.cat([part.pixel for part in taken._parts])
    t = torch.cat([part.t_us for part in taken._parts])
    rate = len(pixel) / (2 * 2500 * 0.4)
    assert rate == pytest.approx(40 / (1 + 40 * 2e-3), rel=0.05)
    order = np.lexsort((t, pixel))
    same = np.diff(pixel.numpy()[order]) == 0
    assert np.diff(t.numpy()[order])[same].min() >= 2000


def test_leak_makes_on_events_at_its_rate_and_hot_pixels_more():
    config = SensorConfig(leak_hz=10, shot_noise_hz=0, hot_pixels=0.1, hot_hz=400, refractory_us=0, bandwidth_hz=0)
    grey = torch.full((1, 40, 40), 0.5)
    sensor = EventSensor(config, grey, torch.zeros(1, dtype=torch.int64), torch.Generator().manual_seed(0))
    taken = EventList(40)
    for k in range(1, 501):
        sensor.step(grey, torch.tensor([k * 2000]), taken)
    events = taken.take()
    assert (events["p"] == 1).all()
    counts = np.bincount(events["y"].astype(int) * 40 + events["x"], minlength=1600)
    assert np.median(counts) == 10
    assert 0.06 < (counts > 12).mean() < 0.14


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_moves_by_more_than_half_a_pixel_between_frames(family):
    model = camera("davis346").scaled(86, 65)
    scene = sample_scenes(family, 4, 0.06, 1, 4)
    start = torch.zeros(4, dtype=torch.int64)
    renderer = Renderer(model)
    for b, times in enumerate(Clockwork(model).frame_times(scene, start, start + 50_000)):
        assert times[-1] == 50_000
        t = torch.cat([start[:1], times])
        assert (t.diff() > 0).all()
        index, t = torch.full((len(times),), b), t.double() * 1e-6
        views = renderer.render(scene, index, t[:-1], brightness=False)
        moved = renderer.flow(scene, index, t[:-1], t[1:], views).norm(dim=-1)
        assert moved.nan_to_num(9.0).max() <= MOST_STEP_PX


def test_events_of_a_camera_are_ordered_and_complete():
    atlas = build_atlas(0, 4)
    scene = sample_scenes("hallway", 1, 0.2, 1, atlas.count)
    runs = []
    for stops in ((40_000,), (7_000, 40_000)):
        eye = EventCamera(scene, TINY, SensorConfig(), atlas, seed=5)
        parts, begin = [], 0
        for stop in stops:
            events = eye.advance(stop)
            assert events.dtype == EVENT_DTYPE
            assert (np.diff(events["t"]) >= 0).all()
            assert begin <= events["t"][0]
            assert events["t"][-1] < stop
            parts.append(events)
            begin = stop
        runs.append(np.concatenate(parts))
    assert len(runs[0]) > 200
    assert len(runs[1]) == pytest.approx(len(runs[0]), rel=0.1)  # other frames, but the same scene
    with pytest.raises(ValueError, match="cannot go to"):
        eye.advance(40_000)


def test_spikes_equal_the_binned_stream():
    """The same steps, into both: a cell is 1 where the stream has an event of its bin, pixel and polarity."""
    atlas = build_atlas(0, 4)
    scene = sample_scenes("mixed", 4, 0.06, 2, atlas.count)
    renderer, index = Renderer(TINY, atlas), torch.arange(4)
    start = torch.zeros(4, dtype=torch.int64)
    edges = torch.tensor([2_000, 10_000, 20_500, 30_000])
    spikes = SpikeTensor((4, 3, 30, 40), edges.repeat(4, 1))
    stream = []
    sensor = EventSensor(
        SensorConfig(), renderer.render(scene, index, start.double()).seen(), start, torch.Generator().manual_seed(1)
    )

    def both(crossings):
        spikes(crossings)
        stream.append(crossings)

    for t in range(1_000, 36_000, 1_000):
        now = torch.full((4,), t)
        sensor.step(renderer.render(scene, index, now * 1e-6).seen(), now, both)
    expected = np.zeros((4, 3, 2, 30, 40), np.uint8)
    for part in stream:
        for pixel, t, on in zip(part.pixel.tolist(), part.t_us.tolist(), part.on.tolist(), strict=True):
            b, rest = divmod(pixel, 1200)
            for j in range(3):
                if edges[j] <= t < edges[j + 1]:
                    expected[b, j, int(on), rest // 40, rest % 40] = 1
    assert expected.sum() > 200
    assert np.array_equal(spikes.spikes.numpy(), expected)


def test_samples_equal_the_windows_of_a_camera():
    """The batched way, frames of different number and all, gives what one camera alone gives."""
    config = SimulatorConfig("mixed", TINY, SensorConfig.ideal(), window_ms=30, settle_ms=5)
    simulator = Simulator(config, seed=7, atlas=build_atlas(0, 4))
    sample = simulator.sample(4, 8)
    assert sample.spikes.shape == (4, 4, 2, 30, 40)
    assert len(set(sample.frames)) > 1
    seed = int(np.random.SeedSequence([7, 8]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    scene = sample_scenes("mixed", 4, 0.035, seed, 4)
    last = Renderer(TINY).render(scene, torch.arange(4), torch.full((4,), 0.035, dtype=torch.float64), False)
    assert torch.allclose(sample.depth[:, 0].nan_to_num(math.inf), last.depth, rtol=1e-5)
    assert sample.intrinsics[0].flatten().tolist() == list(TINY.k)
    assert sample.families == list(MIXED)
    density = sample.spikes.float().mean((1, 2, 3, 4))
    assert (density > 0.003).all()
    assert sample.frame.shape == (4, 1, 30, 40)
    assert sample.frame.min() >= 0
    assert sample.frame.max() <= 1


def test_equal_seeds_give_equal_samples_and_others_do_not():
    config = SimulatorConfig("tabletop", TINY, window_ms=10)
    atlas = build_atlas(0, 4)
    one, two = (Simulator(config, seed=1, atlas=atlas).sample(2, 5) for _ in range(2))
    assert torch.equal(one.spikes, two.spikes)
    assert torch.equal(one.frame, two.frame)
    other = Simulator(config, seed=1, atlas=atlas).sample(2, 6)
    assert not torch.equal(one.spikes, other.spikes)


@pytest.mark.parametrize("bad", [{"threshold_on": 0}, {"refractory_us": -1}, {"hot_pixels": 2}, {"leak_hz": math.nan}])
def test_senseless_sensors_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad)).split("_")[0]):
        SensorConfig(**bad)
