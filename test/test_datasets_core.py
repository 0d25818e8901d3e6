"""Binning, warps, searches in time and the command: what all data set readers share."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import miniatures
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from sdt_distill.cli import main
from sdt_distill.datasets import SPLITS, DatasetError, SampleConfig, detect, open_dataset
from sdt_distill.datasets.files import Hdf5File, check_increasing, read_array, read_numbers
from sdt_distill.datasets.rectification import rectified_cells
from sdt_distill.datasets.timeline import Timeline
from sdt_distill.datasets.warp import homography_grid, invert_map, sample_bilinear
from sdt_ros.events.binning import bin_edges, bin_on_cells

WRITERS = {
    "dsec": miniatures.write_dsec,
    "mvsec": miniatures.write_mvsec,
    "dense": miniatures.write_dense,
    "dense-spike": miniatures.write_dense_spike,
    "bag": lambda root: miniatures.write_bag(root / "drive"),
}  # simulations have tests of their own


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """A sound miniature of each format; nothing is written to them."""
    found = {}
    for name, write in WRITERS.items():
        found[name] = tmp_path_factory.mktemp(name)
        write(found[name])
    return found


def test_events_move_by_the_map_and_leave_the_grid():
    rows, columns = np.mgrid[0:4, 0:5].astype(float)
    map_x, map_y = columns + 1.4, rows - 0.6
    map_x[2, 1] = np.nan
    cells = rectified_cells(map_x, map_y, 4, 5)
    assert cells[1, 0] == 0 * 5 + 1  # (0, 1) -> (1.4, 0.4)
    assert cells[3, 3] == 2 * 5 + 4  # (3, 3) -> (4.4, 2.4)
    assert cells[3, 4] == -1 and cells[2, 1] == -1  # off the right, unknown
    assert cells[0, 0] == -1  # row -0.6 is nearest to -1
    edges = bin_edges(100, 100, 1)
    spikes = bin_on_cells(*np.array([[5, 0, 1, 1], [6, 4, 3, 1], [7, 1, 2, 1]]).T, cells, (4, 5), edges)
    assert np.argwhere(spikes).tolist() == [[0, 1, 0, 1]]


def test_homography_and_bilinear_sampling_by_hand():
    x, y = homography_grid(np.array([[2.0, 0, 1], [0, 2, -1], [0, 0, 1]]), 3, 4)
    assert (x[2, 3], y[2, 3]) == (7, 3)
    image = np.array([[0, 100], [40, 200]], np.uint8)
    sampled = sample_bilinear(image, np.array([[0.5, 1.0, 1.2]]), np.array([[0.5, 1.0, 0.0]]))
    assert sampled.tolist() == [[85, 200, 0]]  # the mean of four; a pixel itself; outside


def test_inverted_map_leads_back():
    rows, columns = np.mgrid[0:60, 0:80].astype(float)
    r2 = ((columns - 40) ** 2 + (rows - 30) ** 2) / 50**2
    map_x, map_y = 40 + (columns - 40) * (1 + 0.1 * r2) + 2.2, 30 + (rows - 30) * (1 + 0.1 * r2)
    x, y = invert_map(map_x, map_y)
    a, b = x[30, 50], y[30, 50]  # along the axis: 40 + d (1 + 0.1 d^2 / 2500) + 2.2 = 50
    assert b == pytest.approx(30, abs=1e-6)
    assert (a - 40) * (1 + 0.1 * (a - 40) ** 2 / 2500) == pytest.approx(7.8, abs=1e-3)  # but for interpolation
    x, y = invert_map(columns + 3, rows)
    assert np.isnan(x[:, :2]).all()  # no pixel goes there
    np.testing.assert_allclose(x[:, 3:], columns[:, :-3], atol=1e-9)


@pytest.fixture(scope="module")
def long_file(tmp_path_factory) -> Path:
    """Two million events, MVSEC's way."""
    path = tmp_path_factory.mktemp("long") / "long.hdf5"
    with h5py.File(path, "w") as file:
        table = file.create_dataset("e", (2_000_000, 4), "f8", chunks=(8192, 4))
        for start in range(0, 2_000_000, 100_000):
            part = np.zeros((100_000, 4))
            part[:, 2] = 1.5e9 + np.arange(start, start + 100_000) * 3e-6
            table[start : start + 100_000] = part
    return path


def test_search_in_time_reads_little_and_finds_exactly(long_file):
    timeline = Timeline(Hdf5File("test", long_file, "the file"), "e", 2)
    start = 1_500_000_000_000_000
    tracemalloc.start()
    for t, row in ((0, 0), (1, 1), (3, 1), (2_999_999, 1_000_000), (3_000_000, 1_000_000), (9_000_000, 2_000_000)):
        assert timeline.first_from(start + t) == row
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # the file's times alone are 16 MB


def test_memory_does_not_grow_with_the_recording(tmp_path):
    peaks = []
    for count in (20_000, 600_000):
        root = tmp_path / str(count)
        folder = miniatures.write_dsec(root, count=20_000)
        with h5py.File(folder / "events/left/events.h5", "a") as file:
            # The same events, and then many more, long after the last disparity.
            t = np.concatenate([file["events/t"][:], 1_000_000 + np.arange(count)]).astype("u4")
            for key in "xyp":
                values = np.concatenate([file[f"events/{key}"][:], np.zeros(count, file[f"events/{key}"].dtype)])
                del file[f"events/{key}"]
                file.create_dataset(f"events/{key}", data=values, chunks=(4096,))
            del file["events/t"], file["ms_to_idx"]
            file.create_dataset("events/t", data=t, chunks=(4096,))
            file.create_dataset("ms_to_idx", data=np.searchsorted(t, np.arange(0, t[-1], 1000)).astype("u8"))
        dataset = open_dataset(root, config=SampleConfig(frames=False))
        dataset[0]  # compiles, fills caches
        tracemalloc.start()
        spikes = [dataset.readers[0].read_spikes(miniatures.DSEC_OFFSET_US + 100_000 * k) for k in (1, 2, 3)]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert spikes[0].any()
    assert peaks[1] < 1.05 * peaks[0]


@pytest.mark.parametrize("name", WRITERS)
def test_samples_have_one_shape_in_all_formats(roots, name):
    dataset = open_dataset(roots[name], config=SampleConfig(bins=3, window_ms=30.0))
    assert detect(roots[name]) == name
    assert len(dataset) == sum(len(reader) for reader in dataset.readers) >= 3
    assert name in dataset.describe() and dataset.sequences[0] in dataset.describe()
    sample = dataset[-1]
    height, width = sample.depth.shape
    assert sample.spikes.shape == (3, 1 if name == "dense-spike" else 2, height, width)
    assert sample.spikes.dtype == np.uint8 and set(np.unique(sample.spikes)) == {0, 1}
    assert sample.depth.dtype == np.float32 and np.nanmin(sample.depth) > 3
    assert sample.frame.dtype == np.uint8 and sample.frame.shape[:2] == (height, width)
    assert sample.intrinsics.shape == (3, 3) and sample.intrinsics[2, 2] == 1
    assert sample.sequence == dataset.sequences[-1]
    assert abs(sample.stamp_ns // 1000 - sample.t_end_us) < 1 or name == "bag"
    with pytest.raises(IndexError):
        dataset[len(dataset)]


@pytest.mark.parametrize("name", ["dsec", "mvsec", "bag"])
def test_data_sets_go_to_workers_open_or_not(roots, name):
    dataset = open_dataset(roots[name], config=SampleConfig(frames=False))
    here = [dataset[k] for k in range(len(dataset))]  # leaves files open
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy[1].spikes, here[1].spikes)
    there = [batch[0] for batch in DataLoader(dataset, num_workers=1, collate_fn=list)]
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.spikes, other.spikes)
        np.testing.assert_array_equal(one.depth, other.depth)


def test_errors_come_through_a_loader_with_their_text(tmp_path):
    folder = miniatures.write_dsec(tmp_path)
    dataset = open_dataset(tmp_path)
    miniatures.truncate(folder / "disparity/event/000004.png")
    with pytest.raises(DatasetError, match=r"000004\.png, index 4.*damaged"):
        list(DataLoader(dataset, num_workers=1, collate_fn=list))


def test_splits_do_not_overlap_and_have_the_published_sizes():
    dsec = SPLITS["dsec"]
    assert (len(set(dsec["train"])), len(set(dsec["validation"]))) == (31, 10)
    for splits in (dsec, SPLITS["dense"], {key: SPLITS["mvsec"][key] for key in ("train", "test")} if SPLITS else {}):
        names = [name for split in splits.values() for name in split]
        assert len(names) == len(set(names))


def test_a_split_takes_its_recordings_only(tmp_path):
    for name in ("outdoor_day1", "outdoor_day2"):
        miniatures.write_mvsec(tmp_path, name, count=2000)
    assert open_dataset(tmp_path, split="train").sequences == ("outdoor_day2",)
    with pytest.raises(DatasetError, match=r"none of the 2 recordings is in the split test_night.*outdoor_night1"):
        open_dataset(tmp_path, split="test_night")
    with pytest.raises(ValueError, match="mvsec has no split 'validation'; known are train, test"):
        open_dataset(tmp_path, split="validation")


def test_stamps_and_text_are_checked(tmp_path):
    path = tmp_path / "timestamps.txt"
    with pytest.raises(DatasetError, match=r"index 2: stamps are not increasing: 20 us repeats the one before"):
        check_increasing("test", path, np.array([10, 20, 20]), "stamps")
    with pytest.raises(DatasetError, match=r"index 1: stamps are not increasing: 5 us lies before"):
        check_increasing("test", path, np.array([10, 5]), "stamps")
    path.write_text("0 1.5\n\n1 oops\n")
    with pytest.raises(DatasetError, match=r"timestamps\.txt, index 2: the list: '1 oops' is not 2 number"):
        read_numbers("test", path, 2, "the list")
    path.write_text("\n")
    with pytest.raises(DatasetError, match="has no rows"):
        read_numbers("test", path, 2, "the list")


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"a\.npy: the array cannot be read.*[oO]bject"):
        read_array("test", tmp_path / "a.npy", "the array")


@pytest.mark.parametrize("name", WRITERS)
def test_check_finds_sound_folders_sound(roots, name, tmp_path, capsys):
    picture, findings = tmp_path / "sample.png", tmp_path / "new/findings.json"
    assert main(["data", "check", str(roots[name]), "--picture", str(picture), "--json", str(findings)]) == 0
    text = capsys.readouterr().out
    assert f": {name}, 1 sequence(s)" in text and text.splitlines()[-2] == "sound"
    found = json.loads(findings.read_text())
    assert found["sound"] and found["dataset"] == name
    (sequence,) = found["sequences"]
    assert sequence["samples"] == sequence["read"] >= 3 and not sequence["problems"]
    assert 3.9 < sequence["nearest_m"] < 4.2
    drawn = np.asarray(Image.open(picture))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 50  # events, a ramp and depth, not a blank


def test_check_goes_on_behind_what_is_broken(tmp_path, capsys):
    folder = miniatures.write_dsec(tmp_path)
    (folder / "calibration/cam_to_cam.yaml").unlink()
    (folder / "events/left/rectify_map.h5").write_text(miniatures.LFS_POINTER)
    miniatures.write_dsec(tmp_path, "zurich_city_00_b", count=1000)
    assert main(["data", "check", str(tmp_path), "--samples", "1"]) == 1
    text = capsys.readouterr().out
    assert "zurich_city_00_a: 2 PROBLEM(S)" in text and "zurich_city_00_b: sound" in text
    assert "cam_to_cam.yaml: the calibration is missing" in text and "git lfs pull" in text


def test_wrong_arguments_are_told_apart(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 2
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "is no data set that is known here" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path), "--dataset", "dsec"]) == 2
    assert main(["data", "check", str(tmp_path), "--bins", "0"]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["data", "check", str(tmp_path), "--samples", "0"])
    with pytest.raises(SystemExit, match="2"):
        main(["train-everything"])


def test_a_sample_that_is_not_there_gives_no_picture(roots, tmp_path, capsys):
    arguments = ["data", "check", str(roots["mvsec"]), "--picture", str(tmp_path / "p.png"), "--sample", "99"]
    assert main(arguments) == 1
    assert "no picture: there is no sample 99" in capsys.readouterr().err


def test_nothing_of_ros_is_imported():
    code = "import sys, sdt_distill.datasets.command, sdt_distill.cli; print('rclpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "False"
