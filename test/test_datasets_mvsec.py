"""MVSEC's reader on a miniature: values worked by hand, and what it says of broken files."""

from __future__ import annotations

import h5py
import miniatures
import numpy as np
import pytest
from miniatures import MVSEC_START_US

from sdt_distill.datasets import DatasetError, open_dataset

MARKS = [
    (49_999, 60, 70, 1),  # before the window of depth image 2
    (50_000, 61, 70, 1),  # its first microsecond: bin 0
    (74_999, 62, 70, 0),  # the last of bin 1
    (75_000, 63, 70, 1),  # the first of bin 2
    (99_999, 64, 70, 0),  # the last of bin 3
    (100_000, 65, 70, 1),  # behind it
    (80_000, 345, 100, 1),  # moves to column 346, off the grid
]


@pytest.fixture
def root(tmp_path):
    return miniatures.write_mvsec(tmp_path / "mvsec", marks=MARKS)


def test_events_are_rectified_and_binned_by_hand(root):
    dataset = open_dataset(root)
    assert [sample.index for sample in dataset] == [1, 2, 3, 4]  # nothing happened before the first
    sample = dataset[1]
    assert sample.t_end_us == MVSEC_START_US + 100_000
    # (x, y) goes to (x + 1.3, y + 0.8), rounded (x + 1, y + 1)
    own = {(x + 1, y + 1) for _, x, y, _ in MARKS}
    found = {tuple(cell) for cell in np.argwhere(sample.spikes).tolist() if (cell[3], cell[2]) in own}
    assert found == {(0, 1, 71, 62), (1, 0, 71, 63), (2, 1, 71, 64), (3, 0, 71, 65)}


def test_all_events_of_the_window_and_no_others_count(root):
    with h5py.File(root / "outdoor_day1_data.hdf5") as file:
        events = file["davis/left/events"][:]
    t = np.rint(events[:, 2] * 1e6).astype(np.int64) - MVSEC_START_US
    inside = events[(t >= 100_000) & (t < 150_000)].astype(int)
    expected = np.zeros((2, 261, 347), np.uint8)
    expected[(inside[:, 3] > 0).astype(int), inside[:, 1] + 1, inside[:, 0] + 1] = 1
    np.testing.assert_array_equal(open_dataset(root)[2].spikes.max(0), expected[:, :260, :346])


def test_depth_frame_and_intrinsics_by_hand(root):
    sample = open_dataset(root)[0]
    assert np.isnan(sample.depth[:30]).all()  # NaN and 0
    np.testing.assert_array_equal(sample.depth[30:], miniatures.box_depth(260, 346)[30:])
    np.testing.assert_array_equal(sample.intrinsics, [[199.6, 0, 177.4], [0, 199.6, 126.8], [0, 0, 1]])
    # the rectified column u comes from u - 1.3 of a ramp of 255 / 345 a column
    for u in (50, 173, 300):
        assert sample.frame[130, u] == pytest.approx((u - 1.3) * 255 / 345, abs=1)
    assert not sample.frame[:, 0].any()  # comes from column -1.3: there is none


def test_maps_may_lie_beside_the_recording(root):
    (root / "outdoor_day1_data.hdf5").rename(root / "a.hdf5")
    place = root / "outdoor_day"
    place.mkdir()
    (root / "a.hdf5").rename(place / "outdoor_day1_data.hdf5")
    (root / "outdoor_day1_gt.hdf5").rename(place / "outdoor_day1_gt.hdf5")
    assert len(open_dataset(root)) == 4


def test_without_camchain_intrinsics_are_unknown(root):
    (root / "outdoor_day_calib/camchain-imucam-outdoor_day.yaml").unlink()
    dataset = open_dataset(root)
    assert dataset[0].intrinsics is None and "no intrinsics" in dataset.describe()


def _change(root, ending, key, change):
    with h5py.File(root / f"outdoor_day1_{ending}.hdf5", "a") as file:
        values = change(file[key][:])
        del file[key]
        file[key] = values


def _truth_times(change):
    return lambda root: _change(root, "gt", "davis/left/depth_image_rect_ts", change)


def _swap(times):
    times[[2, 3]] = times[[3, 2]]
    return times


def _repeat(times):
    times[3] = times[2]
    return times


def _reverse_some(events):
    k = len(events) // 2
    events[k : k + 50, 2] = events[k : k + 50, 2][::-1]
    return events


DATA, TRUTH = r"outdoor_day1_data\.hdf5", r"outdoor_day1_gt\.hdf5"
X_MAP = "outdoor_day_calib/outdoor_day_left_x_map.txt"
BROKEN = {
    "truncated events": (lambda r: miniatures.truncate(r / "outdoor_day1_data.hdf5"), rf"{DATA}: .*cut off"),
    "truncated depth": (lambda r: miniatures.truncate(r / "outdoor_day1_gt.hdf5"), rf"{TRUTH}: .*cut off"),
    "no depth": (lambda r: (r / "outdoor_day1_gt.hdf5").unlink(), rf"{TRUTH}: .*missing"),
    "depth is a pointer": (
        lambda r: (r / "outdoor_day1_gt.hdf5").write_text(miniatures.LFS_POINTER), rf"{TRUTH}: .*git lfs pull"
    ),
    "no map": (lambda r: (r / X_MAP).unlink(), rf"{X_MAP}: the rectification map is missing; unpack outdoor_day_calib"),
    "map of another camera": (lambda r: np.savetxt(r / X_MAP, np.ones((180, 240))), r"240x180 px, the camera 346x260"),
    "unsorted stamps": (_truth_times(_swap), rf"{TRUTH}, index 3: .*lies before the one before"),
    "duplicate stamps": (_truth_times(_repeat), rf"{TRUTH}, index 3: .*repeats the one before"),
    "stamps are missing": (_truth_times(lambda times: times[:3]), rf"{TRUTH}: 3 stamps for depth images of shape \[5,"),
    "depth of another size": (
        lambda r: _change(r, "gt", "davis/left/depth_image_rect", lambda d: d[:, :180, :240]),
        rf"{TRUTH}: depth has 240x180 px, the camera 346x260",
    ),
    "another recording's depth": (_truth_times(lambda t: t + 5000), rf"{DATA}: events and depth do not overlap"),
    "no events": (
        lambda r: _change(r, "data", "davis/left/events", lambda e: e[:0]), r"davis/left/events has shape \[0, 4\]"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_told_at_once(root, what):
    breaks, message = BROKEN[what]
    breaks(root)
    with pytest.raises(DatasetError, match=f"(?s)mvsec outdoor_day1: .*{message}"):
        open_dataset(root)


def test_unsorted_events_are_told_on_reading(root):
    _change(root, "data", "davis/left/events", _reverse_some)
    dataset = open_dataset(root)
    with pytest.raises(DatasetError, match=rf"{DATA}, index \d: the times of events go back near event \d+"):
        list(dataset)
