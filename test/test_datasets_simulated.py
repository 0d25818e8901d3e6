"""The simulator as a data set: numbers, splits, descriptions, and what is refused."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from sdt_distill.datasets import DatasetError, SampleConfig, detect, open_dataset
from sdt_distill.datasets.simulated import SimulatedDataset
from sdt_distill.datasets.simulated_config import (
    SPLIT_NAMES,
    SimulatedConfig,
    parse_camera,
    read_description,
    split_photographs,
)
from sdt_ros.simulation.camera import CAMERAS
from sdt_ros.simulation.families import MIXED, sample_scenes
from sdt_ros.simulation.scenes import PLANE

TINY = {"camera": "32x24", "samples": 6, "group": 4, "texture_block": 4, "texture_sets": 2, "window_ms": 10.0}


def tiny(**changes) -> SimulatedConfig:
    return SimulatedConfig.from_dict({**TINY, **changes})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for k in range(9):
        Image.fromarray(rng.integers(0, 255, (70, 80), np.uint8)).save(folder / f"{k}.png")
    return folder


def test_samples_are_those_of_every_data_set(capsys):
    dataset = SimulatedDataset(tiny())
    assert len(dataset) == 6 and dataset.sequences == MIXED
    for index, sample in enumerate(dataset):
        assert sample.spikes.shape == (4, 2, 24, 32) and sample.spikes.dtype == np.uint8
        assert set(np.unique(sample.spikes)) == {0, 1}
        assert sample.depth.shape == (24, 32) and sample.depth.dtype == np.float32
        known = sample.depth[~np.isnan(sample.depth)]
        assert known.size and (known > 0).all() and np.isfinite(known).all()
        assert sample.frame.shape == (24, 32) and sample.frame.dtype == np.uint8 and sample.frame.std() > 1
        assert sample.sequence == MIXED[index % 4] and sample.index == index
        camera = parse_camera("32x24")
        expected = [[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]
        np.testing.assert_array_equal(sample.intrinsics, expected)
    assert len({sample.stamp_ns for sample in dataset}) == 6
    assert "6 samples of 32x24 px" in dataset.describe()
    with pytest.raises(IndexError, match="sample 6 of 6"):
        dataset[6]


def test_lenses_are_drawn_for_each_sample():
    dataset = SimulatedDataset(tiny(randomisation={"field_of_view_deg": [60, 90], "distortion": [0, 0]}))
    lenses = np.stack([sample.intrinsics for sample in dataset])
    across = np.rad2deg(2 * np.arctan(16 / lenses[:, 0, 0]))
    assert len(np.unique(across)) == 6 and (across > 59).all() and (across < 91).all()
    assert "drawn for each sample" in dataset.describe()
    assert SimulatedConfig.from_dict(json.loads(json.dumps(dataset.config.to_dict()))) == dataset.config
    assert tiny(randomisation=True).randomisation is not None and tiny(randomisation=False) == tiny()


def test_the_simulator_mixes_families_in_turn():
    """What the names of samples rest on."""
    planes = (sample_scenes("mixed", 8, 0.1, 3, 4).kind == PLANE).sum(1).tolist()
    apart = [int((sample_scenes(name, 1, 0.1, 3, 4).kind == PLANE).sum()) for name in MIXED]
    assert planes == 2 * apart and apart == [1, 6, 6, 1]


def equal(a, b) -> bool:
    return (
        np.array_equal(a.spikes, b.spikes)
        and np.array_equal(a.depth, b.depth, equal_nan=True)
        and np.array_equal(a.frame, b.frame)
    )


def test_a_number_gives_one_sample_in_any_order_and_process():
    forward = list(SimulatedDataset(tiny()))
    dataset = SimulatedDataset(tiny(samples=100))
    backward = [dataset[k] for k in (5, 0, 3)]
    assert all(equal(forward[k], sample) for k, sample in zip((5, 0, 3), backward, strict=True))
    assert not any(equal(forward[0], other) for other in forward[1:])
    assert equal(dataset[-1], pickle.loads(pickle.dumps(dataset))[99])
    loader = DataLoader(SimulatedDataset(tiny()), batch_size=4, num_workers=2, collate_fn=list)
    loaded = [sample for batch in loader for sample in batch]
    assert all(equal(a, b) for a, b in zip(forward, loaded, strict=True))


def test_splits_and_seeds_share_nothing():
    first = [SimulatedDataset(tiny(split=split, seed=seed))[0] for split in SPLIT_NAMES for seed in (0, 1)]
    for k, sample in enumerate(first):
        assert not any(np.array_equal(sample.depth, other.depth, equal_nan=True) for other in first[:k])
    atlases = [
        SimulatedDataset(tiny(split=split)).source._simulator(group).atlas.table.numpy()
        for split in SPLIT_NAMES
        for group in (0, 1)
    ]
    for k, table in enumerate(atlases):
        assert not any(np.array_equal(table, other) for other in atlases[:k])


def test_photographs_are_shared_out_by_file(photographs, tmp_path):
    parts = {split: {path.name for path in split_photographs([photographs], split)} for split in SPLIT_NAMES}
    assert set.union(*parts.values()) == {f"{k}.png" for k in range(9)} and sum(map(len, parts.values())) == 9
    assert [len(parts[split]) for split in SPLIT_NAMES] == [7, 1, 1]
    for path in photographs.iterdir():  # the same names elsewhere are shared out alike
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert len(split_photographs([photographs, tmp_path], "test")) == 2
    with_them = SimulatedDataset(tiny(photographs=str(photographs)))
    assert "photographs of 7 files" in with_them.describe()
    assert with_them.source._simulator(0).atlas.count > SimulatedDataset(tiny()).source._simulator(0).atlas.count
    np.testing.assert_array_equal(with_them[0].spikes, SimulatedDataset(tiny(photographs=[str(photographs)]))[0].spikes)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("davis346", CAMERAS["davis346"]),
        ("davis346/2", CAMERAS["davis346"].scaled(173, 130)),
        ("172x130", CAMERAS["davis346"].scaled(172, 130)),
        ("320x240", CAMERAS["gen3_vga"].scaled(320, 240)),
        ("640x360", CAMERAS["gen4_hd"].scaled(640, 360)),
        ("davis346@64x64", CAMERAS["davis346"].scaled(64, 64)),
    ],
)
def test_cameras_by_name(text, expected):
    assert parse_camera(text) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("davis", "choose one of davis346"),
        ("davis346/x", "whole number"),
        ("100x10", "shape of none"),
        ("0x0", "no pixels"),
        ("davis346@big", "WIDTHxHEIGHT"),
        ("4x3", "outside of 8 to 8192"),
    ],
)
def test_cameras_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=message):
        parse_camera(text)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"family": "swimming"}, "family 'swimming' is unknown; choose one of driving"),
        ({"split": "dev"}, "no split 'dev'; known are train, validation, test"),
        ({"samples": 0}, "samples=0"),
        ({"seed": -1}, "seed=-1"),
        ({"group": 3}, "multiple of 4"),
        ({"texture_block": 6}, "texture_block=6 must be a multiple of 4, the samples made together: give 8"),
        ({"bins": 0}, "bins=0"),
        ({"windows": 3}, "unknown key 'windows'; known are family, camera"),
        ({"sensor": {"threshold": 1}}, "sensor: unknown key 'threshold'; known are threshold_on"),
        ({"sensor": {"threshold_on": -1.0}}, "thresholds -1.0"),
        (
            {"randomisation": {"lightness": [1, 2]}},
            "randomisation: unknown key 'lightness'; known are field_of_view_deg",
        ),
        ({"randomisation": {"light": [2.0, 1.0]}}, "light="),
    ],
)
def test_nonsense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_a_description_opens(tmp_path, photographs):
    path = tmp_path / "validation.yaml"
    path.write_text("family: hallway\ncamera: 32x24\nsamples: 3\nsplit: validation\nphotographs: pictures\n")
    (tmp_path / "pictures").symlink_to(photographs)
    assert detect(path) == "simulation"
    dataset = open_dataset(path)
    assert len(dataset) == 3 and dataset.sequences == ("hallway",) and dataset[2].spikes.shape == (4, 2, 24, 32)
    assert dataset.config.photographs == (tmp_path / "pictures",)
    other = open_dataset(path, "simulation", SampleConfig(window_ms=10, bins=2, frames=False), split="test")
    assert other[0].spikes.shape == (2, 2, 24, 32) and other[0].frame is None and other.config.split == "test"
    text = tmp_path / "whole.json"
    text.write_text(json.dumps(dataset.config.to_dict()))
    assert read_description(text) == dataset.config
    with pytest.raises(ValueError, match="no split 'dev'"):
        open_dataset(path, split="dev")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.yaml", "family: [", "cannot be read"),
        ("a.json", "{", "cannot be read"),
        ("a.yaml", "- family", "holds no keys"),
        ("a.yaml", "family: mixed\nlight: 3", "unknown key 'light'"),
        ("a.yaml", "family: mixed\nsamples: many", "samples='many'"),
        ("a.yaml", "family: mixed\nphotographs: nowhere", "nowhere is no folder of photographs"),
    ],
)
def test_broken_descriptions_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DatasetError, match=message) as raised:
        open_dataset(path, "simulation")
    assert str(path) in str(raised.value)


def test_too_few_photographs(tmp_path, photographs):
    with pytest.raises(ValueError, match=r"0 photograph\(s\).*at least 3"):
        split_photographs([tmp_path], "train")
