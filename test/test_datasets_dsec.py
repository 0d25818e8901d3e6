"""DSEC's reader on a miniature: values worked by hand, and what it says of broken files."""

from __future__ import annotations

import h5py
import miniatures
import numpy as np
import pytest
import yaml
from miniatures import DSEC_OFFSET_US
from PIL import Image

from sdt_distill.datasets import DatasetError, SampleConfig, open_dataset

MARKS = [
    (49_999, 300, 200, 1),  # before the window of disparity 2
    (50_000, 100, 200, 1),  # its first microsecond: bin 0
    (62_499, 110, 200, 0),  # the last of bin 0
    (62_500, 120, 200, 1),  # the first of bin 1
    (99_999, 130, 200, 0),  # the last of bin 3
    (100_000, 140, 200, 1),  # behind it
    (70_000, 639, 300, 1),  # moves to column 642, off the grid
    (70_001, 50, 1, 1),  # moves to row -2, off the grid
]


@pytest.fixture
def folder(tmp_path):
    return miniatures.write_dsec(tmp_path, marks=MARKS)


def test_events_are_rectified_and_binned_by_hand(folder):
    sample = open_dataset(folder.parent)[0]
    assert (sample.index, sample.sequence) == (2, "zurich_city_00_a")
    assert sample.t_end_us == DSEC_OFFSET_US + 100_000 and sample.stamp_ns == sample.t_end_us * 1000
    # (x, y) goes to (x + 3.4, y - 2.6), rounded (x + 3, y - 3)
    own = {(x + 3, y - 3) for _, x, y, _ in MARKS}
    found = {tuple(cell) for cell in np.argwhere(sample.spikes).tolist() if (cell[3], cell[2]) in own}
    assert found == {(0, 1, 197, 103), (0, 0, 197, 113), (1, 1, 197, 123), (3, 0, 197, 133)}


def test_depth_is_by_hand_from_disparity(folder):
    path = folder / "disparity/event/000002.png"
    disparity = np.zeros((480, 640), np.uint16)
    disparity[10, 20] = 14 * 256  # 560 / (2 * 14) = 20 m
    disparity[11, 20] = 1  # 1 / 256 px: 71,680 m, far but said so
    disparity[12, 20] = 3584 + 128  # 14.5 px
    Image.fromarray(disparity).save(path)
    depth = open_dataset(folder.parent)[0].depth
    assert depth[10, 20] == 20 and depth[11, 20] == 71_680
    assert depth[12, 20] == pytest.approx(280 / 14.5, rel=1e-6)
    assert np.isfinite(depth).sum() == 3


def test_frames_are_warped_to_the_events_by_hand(folder):
    dataset = open_dataset(folder.parent)
    sample = dataset[0]
    # column u of the events is column 2 (u - 320) + 720 of the frame, whose value is column * 255 / 1439
    for u in (0, 100, 320, 500, 639):
        assert sample.frame[240, u, 0] == pytest.approx((2 * (u - 320) + 720) * 255 / 1439, abs=1)
    assert (sample.frame[..., 2] == 40).all()  # none of it lies outside of the frame
    np.testing.assert_array_equal(sample.intrinsics, [[560, 0, 320], [0, 560, 240], [0, 0, 1]])

    # The frame camera turned by 0.1 rad to the right sees the same point further left.
    content = miniatures.dsec_calibration()
    turn = np.array([[np.cos(0.1), 0, -np.sin(0.1)], [0, 1, 0], [np.sin(0.1), 0, np.cos(0.1)]])
    content["extrinsics"]["T_10"] = np.block([[turn, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]).tolist()
    (folder / "calibration/cam_to_cam.yaml").write_text(yaml.safe_dump(content))
    column = 1120 * np.tan(np.arctan((400 - 320) / 560) - 0.1) + 720
    assert open_dataset(folder.parent)[0].frame[240, 400, 0] == pytest.approx(column * 255 / 1439, abs=1)


def test_only_even_disparities_but_the_first(folder):
    assert [sample.index for sample in open_dataset(folder.parent)] == [2, 4, 6]
    # Longer windows reach before the first event, but for the later ones.
    assert [s.index for s in open_dataset(folder.parent, config=SampleConfig(window_ms=150))] == [4, 6]


def test_a_stamp_for_each_frame_does_too(folder):
    stamps = [DSEC_OFFSET_US + 50_000 * k for k in range(7)]
    (folder / "disparity/timestamps.txt").write_text("".join(f"{stamp}\n" for stamp in stamps))
    dataset = open_dataset(folder.parent)
    assert [(s.index, s.t_end_us - DSEC_OFFSET_US) for s in dataset] == [(2, 100_000), (4, 200_000), (6, 300_000)]


def test_without_frames_there_are_none(folder):
    assert open_dataset(folder.parent, config=SampleConfig(frames=False))[0].frame is None
    (folder / "images/left/rectified").rename(folder / "images/left/distorted")
    dataset = open_dataset(folder.parent)
    assert dataset[0].frame is None and "no frames" in dataset.describe()


def _stamps(text):
    return lambda f: (f / "disparity/timestamps.txt").write_text(text)


def _drop_key(file, key):
    with h5py.File(file, "a") as opened:
        del opened[key]


def _rewrite(file, key, values):
    with h5py.File(file, "a") as opened:
        del opened[key]
        opened[key] = values


def _unsort(folder):
    file = folder / "events/left/events.h5"
    with h5py.File(file, "r") as opened:
        times = opened["events/t"][:]
    k = np.searchsorted(times, 75_000)
    times[k : k + 20] = times[k : k + 20][::-1] + np.arange(20)[::-1].astype("u4")
    _rewrite(file, "events/t", times)


def _later(folder):
    _rewrite(folder / "events/left/events.h5", "t_offset", np.int64(DSEC_OFFSET_US + 10**9))


def _small(folder):
    Image.fromarray(np.ones((1080, 1440), np.uint16)).save(folder / "disparity/event/000004.png")


def _eight_bits(folder):
    Image.fromarray(np.ones((480, 640), np.uint8)).save(folder / "disparity/event/000004.png")


def _no_depth(folder):
    for file in (folder / "disparity/event").iterdir():
        file.unlink()


EVENTS, MAP = "events/left/events.h5", "events/left/rectify_map.h5"
AT_ONCE = {
    "truncated events": (lambda f: miniatures.truncate(f / EVENTS), rf"{EVENTS}: .*cut off.*again"),
    "events are a pointer": (lambda f: (f / EVENTS).write_text(miniatures.LFS_POINTER), rf"{EVENTS}.*git lfs pull"),
    "empty events": (lambda f: (f / EVENTS).write_bytes(b""), rf"{EVENTS}: the event file is empty"),
    "no index": (lambda f: _drop_key(f / EVENTS, "ms_to_idx"), rf"{EVENTS}.*no array ms_to_idx; it has events"),
    "no map": (lambda f: (f / MAP).unlink(), rf"{MAP}: the rectification map is missing"),
    "no calibration": (lambda f: (f / "calibration/cam_to_cam.yaml").unlink(), r"cam_to_cam\.yaml.*missing.*test set"),
    "calibration of others": (
        lambda f: (f / "calibration/cam_to_cam.yaml").write_text("a: 1\n"), r"cam_to_cam\.yaml.*lacks.*disparity_to"
    ),
    "duplicate stamps": (_stamps("1\n2\n2\n4\n"), r"disparity/timestamps\.txt, index 2.*2 us repeats"),
    "unsorted stamps": (_stamps("1\n5\n4\n9\n"), r"disparity/timestamps\.txt, index 2.*4 us lies before.*5 us"),
    "too few stamps": (_stamps("1\n2\n"), r"2 stamps do not reach disparity 000006\.png"),
    "a test sequence": (_no_depth, r"disparity/event: there are no disparity images.*test set"),
    "another clock": (_later, r"events\.h5: events and depth do not overlap: events from .* us, depth from"),
    "odd numbers": (
        lambda f: (f / "disparity/event/000002.png").rename(f / "disparity/event/000003.png"), r"000003\.png, index 3"
    ),
}  # fmt: skip
ON_READING = {
    "truncated disparity": (lambda f: miniatures.truncate(f / "disparity/event/000004.png"), r"000004\.png, index 4"),
    "disparity is missing": (lambda f: (f / "disparity/event/000004.png").unlink(), r"000004\.png.*missing"),
    "depth of another size": (_small, r"000004\.png, index 4: .*1440x1080 px, the events 640x480.*not disparity/image"),
    "depth of another type": (_eight_bits, r"000004\.png, index 4.*mode L, not 16 bit"),
    "unsorted events": (_unsort, r"events\.h5, index 2: .*go back after event \d+|ms_to_idx does not fit"),
    "an index of others": (
        lambda f: _rewrite(f / EVENTS, "ms_to_idx", np.arange(400, dtype="u8")), r"index 2: ms_to_idx does not fit"
    ),
    "truncated frame": (lambda f: miniatures.truncate(f / "images/left/rectified/000004.png"), r"000004\.png, index 4"),
}  # fmt: skip


@pytest.mark.parametrize("what", AT_ONCE)
def test_what_is_broken_is_told_at_once(folder, what):
    breaks, message = AT_ONCE[what]
    breaks(folder)
    with pytest.raises(DatasetError, match=f"(?s)dsec zurich_city_00_a: .*{message}"):
        open_dataset(folder.parent)


@pytest.mark.parametrize("what", ON_READING)
def test_what_is_broken_is_told_on_reading(folder, what):
    breaks, message = ON_READING[what]
    breaks(folder)
    dataset = open_dataset(folder.parent)
    with pytest.raises(DatasetError, match=f"(?s)dsec zurich_city_00_a: .*{message}"):
        list(dataset)
