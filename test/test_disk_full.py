"""A disk that is full while something is recorded: one clear error, and no half file that looks like a whole one."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sdt_ros.bags import BagError
from sdt_ros.evaluation.command import save
from sdt_ros.simulation.recording import RecordingConfig, write_recording


@contextmanager
def room_for(octets: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: the system refuses to write, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def scorer(count: int) -> SimpleNamespace:
    frames = [SimpleNamespace(stamp_ns=number) for number in range(count)]
    depth = SimpleNamespace(stacked=lambda: np.ones((count, 40, 50), np.float32))
    return SimpleNamespace(groups={"g": SimpleNamespace(name="a/b", frames=frames, depth=depth)})


def test_depth_that_does_not_fit_is_not_saved(tmp_path: Path) -> None:
    with room_for(20_000), pytest.raises(OSError, match=r"a_b\.npz.*--save"):
        save(tmp_path, scorer(10))
    assert not list(tmp_path.iterdir())
    assert save(tmp_path, scorer(10)) == [tmp_path / "a_b.npz"]
    with np.load(tmp_path / "a_b.npz") as saved:
        assert saved["depth"].shape == (10, 40, 50)


def test_an_earlier_result_outlives_a_full_disk(tmp_path: Path) -> None:
    save(tmp_path, scorer(1))
    before = (tmp_path / "a_b.npz").read_bytes()
    with room_for(20_000), pytest.raises(OSError, match="cannot write"):
        save(tmp_path, scorer(10))
    assert (tmp_path / "a_b.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_simulated_bag_that_does_not_fit_is_not_left_behind(tmp_path: Path) -> None:
    config = RecordingConfig(seconds=0.2)
    write_recording(tmp_path / "whole", config, progress=False)  # compiled, and it would fit elsewhere
    with room_for(100_000), pytest.raises(BagError, match=r"part.*choose another folder"):
        write_recording(tmp_path / "part", config, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
