"""Banks that MuJoCo renders: the simulator's scenes, seen by another renderer and another sensor."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sdt_distill.cli import main
from sdt_distill.datasets import bank, open_dataset
from sdt_distill.datasets.simulated import SimulatedSource, source_of
from sdt_distill.datasets.simulated_config import SimulatedConfig, parse_camera
from sdt_ros.bench.mujoco_peer import find_platform
from sdt_ros.simulation.randomise import Randomisation

PLATFORM, WHY = find_platform()
needs_mujoco = pytest.mark.skipif(PLATFORM is None, reason=WHY)
CONFIG = SimulatedConfig(
    camera=parse_camera("86x65"), samples=8, seed=3, randomisation=Randomisation(light=(1.0, 1.0), shot_noise_hz=(0, 0))
)
MUJOCO = dataclasses.replace(CONFIG, renderer="mujoco")


class OwnViewOfTheSame(SimulatedSource):
    """Our renderer with the lens and the times that MuJoCo gets."""

    def _settings(self):
        return source_of(MUJOCO)._settings()


@needs_mujoco
def test_mujoco_sees_the_scenes_that_we_see():
    theirs, ours = source_of(MUJOCO).group(0), OwnViewOfTheSame(CONFIG).group(0)
    assert [one.sequence for one in theirs] == [one.sequence for one in ours]
    errors, shares = [], []
    for one, other in zip(theirs, ours, strict=True):
        assert one.spikes.shape == other.spikes.shape
        assert one.spikes.dtype == np.uint8
        assert np.nanmax(one.depth) < 100
        np.testing.assert_allclose(one.intrinsics, other.intrinsics, rtol=0.02)
        both = (one.depth < 60) & (other.depth < 60)
        errors.append(np.median(np.abs(one.depth[both] / other.depth[both] - 1)))
        shares.append(one.spikes.mean() / other.spikes.mean())
    assert np.median(errors) < 0.01
    assert 0.3 < np.median(shares) < 3  # another sensor, of the same thresholds


@needs_mujoco
def test_a_bank_of_mujoco_s_is_written_and_read(tmp_path):
    arguments = ["--camera", "86x65", "--samples", "8", "--split", "test", "--renderer", "mujoco"]
    assert main(["data", "simulate", str(tmp_path / "bank"), *arguments]) == 0
    dataset = open_dataset(tmp_path / "bank", "simulation", split="test")
    assert len(dataset) == 8
    assert "rendered by mujoco" in dataset.describe()
    assert all(dataset[k].spikes.any() for k in range(8))


@needs_mujoco
def test_mujoco_renders_on_the_cpu_only():
    with pytest.raises(ValueError, match="runs on cpu, not cuda"):
        source_of(MUJOCO, "cuda")


def test_without_mujoco_the_error_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sdt_distill.datasets.mujoco.find_platform", lambda: (None, "pip install 'sdt_ros[bench]'"))
    assert main(["data", "simulate", str(tmp_path / "bank"), "--renderer", "mujoco"]) == 1
    assert "pip install" in capsys.readouterr().err


def test_an_unknown_renderer_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown; choose one of sdt, mujoco"):
        dataclasses.replace(CONFIG, renderer="blender")


def test_banks_of_two_renderers_are_not_taken_for_one_another():
    ours, theirs = (bank._identity(dataclasses.replace(CONFIG, renderer=name), 8) for name in ("sdt", "mujoco"))
    assert ours != theirs and {**ours, "renderer": "mujoco"} == theirs
