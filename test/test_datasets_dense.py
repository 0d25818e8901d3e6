"""The readers of DENSE and DENSE-Spike on miniatures: values worked by hand, and what they say of broken files."""

from __future__ import annotations

import math
import shutil

import miniatures
import numpy as np
import pytest
from PIL import Image

from sdt_distill.datasets import DatasetError, SampleConfig, open_dataset

# Stamps are 33333, 66667, 100000, 133333, 166667 us; the window of depth 2 is 50,000 <= t < 100,000.
MARKS = [
    (49_999, 60, 70, 1),
    (50_000, 61, 70, 1),  # in events_1, as 66667 is its stamp
    (62_499, 62, 70, 0),
    (62_500, 63, 70, 0),
    (80_000, 64, 70, 1),  # in events_2
    (99_999, 65, 70, 1),
    (100_000, 66, 70, 1),  # in events_2 too, but the window ends before
]


@pytest.fixture
def folder(tmp_path):
    return miniatures.write_dense(tmp_path, marks=MARKS)


@pytest.fixture(scope="module")
def spike_source(tmp_path_factory):
    return miniatures.write_dense_spike(tmp_path_factory.mktemp("spike"))


@pytest.fixture
def spike_folder(spike_source, tmp_path):
    return shutil.copytree(spike_source, tmp_path / spike_source.name)


@pytest.mark.parametrize("unit", ["ns", "s"])
def test_events_are_binned_over_files_by_hand(tmp_path, unit):
    miniatures.write_dense(tmp_path, marks=MARKS, unit=unit)
    dataset = open_dataset(tmp_path)
    assert dataset.readers[0].unit == unit
    assert [sample.index for sample in dataset] == [1, 2, 3, 4]  # 50 ms before the first nothing was recorded
    sample = dataset[1]
    assert (sample.index, sample.t_end_us, sample.stamp_ns) == (2, 100_000, 100_000_000)
    own = {(x, y) for _, x, y, _ in MARKS}
    found = {tuple(cell) for cell in np.argwhere(sample.spikes).tolist() if (cell[3], cell[2]) in own}
    assert found == {(0, 1, 70, 61), (0, 0, 70, 62), (1, 0, 70, 63), (2, 1, 70, 64), (3, 1, 70, 65)}


def test_depth_frame_and_intrinsics_by_hand(folder):
    path = folder / "depth/data/depth_0000000002.npy"
    depth = np.load(path)
    depth[200, :3] = [np.inf, 0, -1]
    np.save(path, depth)
    sample = open_dataset(folder.parent)[1]
    assert np.isnan(sample.depth[200, :3]).all() and sample.depth[0, 0] == 1000  # the sky
    np.testing.assert_array_equal(sample.depth[30:200], miniatures.box_depth(260, 346)[30:200])
    np.testing.assert_array_equal(sample.frame, np.repeat(miniatures.ramp(260, 346)[..., None], 3, 2))
    # half of 83 degrees spans half of the columns
    assert math.degrees(math.atan(173 / sample.intrinsics[0, 0])) == pytest.approx(41.5)


def test_one_list_of_stamps_for_the_recording_will_do(folder):
    (folder / "events/data/timestamps.txt").rename(folder / "timestamps.txt")
    (folder / "depth/data/timestamps.txt").unlink()
    assert len(open_dataset(folder.parent)) == 4


def test_an_interval_without_events_is_no_error(folder):
    np.save(folder / "events/data/events_0000000000.npy", np.zeros((0, 4), np.int64))
    np.save(folder / "events/data/events_0000000003.npy", np.zeros((0, 4), np.int64))
    assert [bool(sample.spikes.any()) for sample in open_dataset(folder.parent)] == [True] * 4
    config = SampleConfig(window_ms=30)
    assert [bool(s.spikes.any()) for s in open_dataset(folder.parent, config=config)] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_planes_become_bins_by_hand(spike_folder):
    dataset = open_dataset(spike_folder.parent)
    assert [sample.index for sample in dataset] == [1, 2, 3, 4]
    sample = dataset[0]
    assert sample.spikes.shape == (4, 1, 260, 346)
    assert sample.spikes[:, 0, 20, 10].tolist() == [0, 1, 0, 1]  # planes 40 and 127 of 128, 32 a bin
    planes = np.load(spike_folder / "spike/r128/spike_0000000001.npy")
    np.testing.assert_array_equal(sample.spikes[2, 0], planes[64:96].max(0))
    whole = open_dataset(spike_folder.parent, config=SampleConfig(bins=3))[0]  # 42, 43 and 43 planes
    assert whole.spikes[:, 0, 20, 10].tolist() == [1, 0, 1]


def _edit(path, change):
    np.save(path, change(np.load(path)))


def _reversed(events):
    events[100:200, 0] = events[100:200, 0][::-1]
    return events


def _lines(folder, place, order):
    path = folder / place / "timestamps.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[k] for k in order) + "\n")


def _shift(folder, place, seconds):
    path = folder / place / "timestamps.txt"
    rows = [line.split() for line in path.read_text().splitlines()]
    path.write_text("".join(f"{number} {float(stamp) + seconds:.6f}\n" for number, stamp in rows))


DEPTH, EVENTS, SPIKES = "depth/data/depth_0000000002.npy", "events/data/events_0000000002.npy", "spike/r128"
SPIKE = f"{SPIKES}/spike_0000000002.npy"


def _frame_of_another_size(folder):
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(folder / "rgb/frames/frame_0000000002.png")


BROKEN_DEPTH = {
    "truncated depth": (lambda f: miniatures.truncate(f / DEPTH), rf"{DEPTH}, index 2: .*damaged"),
    "depth is missing": (lambda f: (f / DEPTH).unlink(), rf"{DEPTH}: the depth image is missing"),
    "depth is a pointer": (lambda f: (f / DEPTH).write_text(miniatures.LFS_POINTER), rf"{DEPTH}.*git lfs pull"),
    "depth of another size": (
        lambda f: _edit(f / DEPTH, lambda d: d[:180, :240]), rf"{DEPTH}, index 2: .*\[180, 240\].*\[260, 346\]"
    ),
    "no depth": (lambda f: shutil.rmtree(f / "depth"), r"depth/data: the folder of depth files is missing"),
    "unsorted stamps": (
        lambda f: _lines(f, "depth/data", (0, 2, 1, 3, 4)), r"depth/data/timestamps.txt, index 2: numbers of depth"
    ),
    "duplicate stamps": (lambda f: _lines(f, "depth/data", (0, 1, 1, 3)), r"timestamps.txt, index 2: .*repeats the"),
    "stamps are missing": (lambda f: (f / "depth/data/timestamps.txt").unlink(), r"list of depth stamps is missing"),
    "frame of another size": (_frame_of_another_size, r"frame_0000000002.png, index 2: the frame has 20x10 px, depth"),
}  # fmt: skip
BROKEN_EVENTS = {
    "truncated events": (lambda f: miniatures.truncate(f / EVENTS), rf"{EVENTS}, index 2: .*damaged"),
    "events are missing": (lambda f: (f / EVENTS).unlink(), rf"{EVENTS}: the event file is missing"),
    "voxels for events": (lambda f: np.save(f / EVENTS, np.zeros((5, 260, 346))), rf"{EVENTS}.*take events/data, not"),
    "unsorted events": (lambda f: _edit(f / EVENTS, _reversed), rf"{EVENTS}, index \d: the times of events go back"),
    "events of a larger camera": (
        lambda f: _edit(f / EVENTS, lambda e: e + np.array([0, 300, 0, 0])),
        rf"{EVENTS}, index \d: event \d+ .*outside .*346x260",
    ),
    "events at another time": (
        lambda f: _edit(f / EVENTS, lambda e: e + np.array([10**9, 0, 0, 0])),
        rf"{EVENTS}, index \d: events and stamps do not",
    ),
    "all events at another time": (
        lambda f: [_edit(p, lambda e: e + np.array([10**12, 0, 0, 0])) for p in (f / "events/data").glob("*.npy")],
        r"events_0000000000.npy, index 0: events and stamps do not overlap",
    ),
    "depth at another time": (lambda f: _shift(f, "depth/data", 100), r"events/data: events and depth do not overlap"),
}  # fmt: skip
BROKEN_SPIKES = {
    "truncated spikes": (lambda f: miniatures.truncate(f / SPIKE), rf"{SPIKE}, index 2: .*damaged"),
    "spikes are missing": (lambda f: (f / SPIKE).unlink(), rf"{SPIKE}: the spike file is missing"),
    "spikes of another size": (
        lambda f: _edit(f / SPIKE, lambda s: s[:, :180]), rf"{SPIKE}, index 2: .*\[128, 180, 346\], depth \[260, 346\]"
    ),
    "counts for spikes": (lambda f: _edit(f / SPIKE, lambda s: s * 3), rf"{SPIKE}, index 2: .*other than 0 and 1"),
    "spikes at another time": (lambda f: _shift(f, SPIKES, 100), r"spike/r128: spikes and depth do not overlap"),
    "unsorted stamps": (lambda f: _lines(f, SPIKES, (1, 0, 2, 3, 4)), r"spike/r128/timestamps.txt, index 1: numbers"),
}  # fmt: skip


def tells(folder, breaks, name, message):
    breaks(folder)
    with pytest.raises(DatasetError, match=f"(?s){name} train_sequence_00_town01: .*{message}"):
        list(open_dataset(folder.parent, name))


@pytest.mark.parametrize("what", BROKEN_DEPTH)
def test_dense_tells_of_broken_depth(folder, what):
    tells(folder, BROKEN_DEPTH[what][0], "dense", BROKEN_DEPTH[what][1])


@pytest.mark.parametrize("what", BROKEN_EVENTS)
def test_dense_tells_of_broken_events(folder, what):
    tells(folder, BROKEN_EVENTS[what][0], "dense", BROKEN_EVENTS[what][1])


@pytest.mark.parametrize("what", BROKEN_SPIKES)
def test_dense_spike_tells_of_broken_spikes(spike_folder, what):
    tells(spike_folder, BROKEN_SPIKES[what][0], "dense-spike", BROKEN_SPIKES[what][1])


@pytest.mark.parametrize("what", ["truncated depth", "no depth", "duplicate stamps"])
def test_dense_spike_tells_of_broken_depth(spike_folder, what):
    tells(spike_folder, BROKEN_DEPTH[what][0], "dense-spike", BROKEN_DEPTH[what][1])
