"""`sdt bench simulation`: the event model of its peer, its figures with and without a peer, and refused arguments."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from sdt_ros.bench import mujoco_peer, simulation
from sdt_ros.bench.mujoco_peer import EventModel, MujocoPeer, find_platform
from sdt_ros.cli import main
from sdt_ros.simulation.sensor import SensorConfig
from sdt_ros.simulation.simulator import Simulator, SimulatorConfig

QUICK = ["bench", "simulation", "--size", "24x16", "--samples", "1", "--rounds", "1"]


def grey(value: int) -> np.ndarray:
    return np.full((2, 3, 3), value, np.uint8)


def light(value: int) -> float:
    return float(np.log((value / 255) ** 2.2 + 0.02))


def run_model(sensor: SensorConfig, values: list[int], step_us: int = 1000) -> np.ndarray:
    model = EventModel(sensor, grey(values[0]))
    spikes = np.zeros((len(values) - 1, 2, 2, 3), np.uint8)
    for k in range(1, len(values)):
        window_us = step_us * (len(values) - 1)
        model.step(grey(values[k]), (k - 1) * step_us, k * step_us, spikes, 0, window_us)
    return spikes


def test_the_event_model_crosses_thresholds_when_it_should():
    sensor = SensorConfig.ideal()  # 0.2 either way
    rise = (light(140) - light(100)) / 0.2
    assert 3 < rise < 4
    spikes = run_model(sensor, [100, 140, 140, 100])
    # Three steps up, none at rest; three steps down from the third threshold, none of the other polarity.
    assert spikes[:, :, 0, 0].tolist() == [[0, 1], [0, 0], [1, 0]]
    assert (spikes == spikes[:, :, :1, :1]).all()
    assert not run_model(sensor, [100, 104, 100, 104]).any()  # below the threshold
    assert run_model(SensorConfig.ideal(), [100, 104, 108, 112, 116, 120, 124, 128])[:, 1, 0, 0].sum() == 2  # adds up


def test_crossings_lie_between_frames():
    """One step of 1 ms, watched in bins of 0.1 ms: the n-th crossing is where the line is at n thresholds."""
    model = EventModel(SensorConfig.ideal(), grey(100))
    spikes = np.zeros((10, 2, 2, 3), np.uint8)
    model.step(grey(140), 0, 1000, spikes, 0, 1000)
    slope = light(140) - light(100)
    expected = sorted(int(0.2 * n / slope * 10) for n in (1, 2, 3))
    assert np.flatnonzero(spikes[:, 1, 0, 0]).tolist() == expected


def test_a_refractory_period_swallows_events_and_the_settling_time_is_left_out():
    sensor = SensorConfig(0.2, 0.2, 0.0, 650, 0, 0, 0, 0, 0)
    model = EventModel(sensor, grey(100))
    spikes = np.zeros((10, 2, 2, 3), np.uint8)
    model.step(grey(140), 0, 1000, spikes, 0, 1000)
    assert spikes[:, 1, 0, 0].sum() == 1  # at 0.30, not at 0.60 and 0.90 ms, which are within 650 us of it
    later = np.zeros((2, 2, 2, 3), np.uint8)
    model = EventModel(SensorConfig.ideal(), grey(100))
    model.step(grey(140), 0, 1000, later, 700, 300)
    assert later[:, 1, 0, 0].sum() == 1


def test_thresholds_differ_by_pixel_and_seed():
    sensor = SensorConfig(threshold_spread=0.05)
    one, other, again = (EventModel(sensor, np.zeros((40, 40, 3), np.uint8), seed)._on for seed in (0, 1, 0))
    assert one.std() == pytest.approx(0.05, rel=0.2) and one.min() >= 0.05
    assert (one != other).any() and (one == again).all()


def test_without_a_peer_the_figures_are_null_and_the_reason_is_said(tmp_path, capsys, monkeypatch):
    why = f"MuJoCo cannot render here (egl: no library): {mujoco_peer.PACKAGES}"
    monkeypatch.setattr(mujoco_peer, "find_platform", lambda: (None, why))
    file = tmp_path / "new/bench.json"
    before = os.sched_getaffinity(0)
    assert main([*QUICK, "--json", str(file)]) == 0
    assert os.sched_getaffinity(0) == before
    figures = json.loads(file.read_text())
    assert figures["peer"] is None and figures["ratio"] is None and figures["why_no_peer"] == why
    assert [f["peer_samples_s"] for f in figures["families"]] == [None] * 4
    assert all(f["samples_s"] > 0 and f["frames"] >= 1 for f in figures["families"])
    assert figures["samples_s"] == pytest.approx(4 / sum(1 / f["samples_s"] for f in figures["families"]))
    out = capsys.readouterr().out
    assert "no peer: MuJoCo cannot render here" in out and "apt-get install libegl1" in out


def test_why_a_platform_fails_is_told(monkeypatch):
    pytest.importorskip("mujoco", reason="the peer is MuJoCo: pip install mujoco")
    monkeypatch.setattr(mujoco_peer, "PLATFORMS", ("abacus",))
    name, why = find_platform()
    assert name is None and "abacus: ModuleNotFoundError" in why and "libegl1" in why


def test_senseless_arguments_are_refused(capsys):
    assert main(["bench", "simulation", "--rounds", "0"]) == 2
    assert "--rounds, --samples" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["hallway", "driving"])
def test_the_peer_sees_what_we_see(family):
    """Only where MuJoCo can render: depth and pictures of one scene agree."""
    platform, why = find_platform()
    if platform is None:
        pytest.skip(why)
    config = SimulatorConfig(family=family, camera=simulation.lens(64, 48))
    simulator = Simulator(config, 3)
    likeness = []
    for number in (2, 3, 4):
        sample = simulator.sample(1, number)
        (scene,) = simulator.draw(1, number).scenes
        peer = MujocoPeer(platform, scene, 0, config.camera, simulator.atlas, np.array([0, 26_000, 52_000]), 2000, 4)
        seen = peer.sample(config.sensor)
        peer.close()
        ours, near = sample.depth[0, 0].numpy(), (sample.depth[0, 0] < 60).numpy()
        assert near.mean() > 0.3 and np.median(np.abs(seen.depth[near] / ours[near] - 1)) < 5e-3
        frame, picture = sample.frame[0, 0].numpy(), seen.frame[..., 0] / 255.0
        likeness.append([np.corrcoef(view[near], picture[near])[0, 1] for view in (frame, frame[:, ::-1])])
        assert seen.spikes.any() and torch.is_tensor(sample.spikes)
    alike, mirrored = np.mean(likeness, 0)
    assert alike > 0.5 and alike > mirrored + 0.3  # their faces carry other parts of the same textures
