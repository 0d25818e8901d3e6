"""The reader of bags on a miniature: values worked by hand, and what it says of broken recordings."""

from __future__ import annotations

import dataclasses

import miniatures
import numpy as np
import pytest
from miniatures import BAG_START_NS, image_message

from sdt_distill.datasets import DatasetError, SampleConfig, open_dataset
from sdt_distill.datasets.bag import find_bags, name_of
from sdt_distill.datasets.check import check
from sdt_distill.datasets.registry import select
from sdt_ros.bags import BagWriter, open_bag, parse_event_packet, serialize, serialize_event_packet, spike_windows

# The window of depth image 1 is 150,000 <= t < 200,000.
MARKS = [
    (0, 20, 20, 1),
    (149_999, 60, 70, 1),
    (150_000, 61, 70, 1),
    (162_499, 62, 70, 0),
    (162_500, 63, 70, 1),
    (199_999, 64, 70, 0),
    (200_000, 65, 70, 1),
]
DEPTH, FRAMES, EVENTS = "/depth/image_rect", "/camera/image_raw", "/event_camera/events"


@pytest.mark.parametrize("encoding", ["evt3", "libcaer_cmp"])
def test_events_are_binned_by_hand(tmp_path, encoding):
    dataset = open_dataset(miniatures.write_bag(tmp_path / "drive", MARKS, encoding=encoding))
    assert [sample.index for sample in dataset] == [0, 1, 2]
    sample = dataset[1]
    assert sample.stamp_ns == BAG_START_NS + 200_000_000
    own = {(x, y) for _, x, y, _ in MARKS}
    found = {tuple(cell) for cell in np.argwhere(sample.spikes).tolist() if (cell[3], cell[2]) in own}
    assert found == {(0, 1, 70, 61), (0, 0, 70, 62), (1, 1, 70, 63), (3, 0, 70, 64)}


@pytest.mark.parametrize("encoding", ["evt3", "libcaer"])
def test_late_packets_do_not_move_their_events(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr("sdt_distill.datasets.bag._BEFORE_NS", 10_000_000)  # so that a slice has late packets only
    config = SampleConfig(window_ms=20)
    on_time = open_dataset(miniatures.write_bag(tmp_path / "a", encoding=encoding), config=config)
    late = open_dataset(miniatures.write_bag(tmp_path / "b", encoding=encoding, late_from=10), config=config)
    for one, other in zip(on_time, late, strict=True):
        np.testing.assert_array_equal(one.spikes, other.spikes)


def test_depth_frame_and_intrinsics_by_hand(tmp_path):
    sample = open_dataset(miniatures.write_bag(tmp_path / "drive"))[0]
    assert np.isnan(sample.depth[:10]).all()
    np.testing.assert_array_equal(sample.depth[10:], miniatures.box_depth(120, 160)[10:])
    np.testing.assert_array_equal(sample.frame, miniatures.ramp(120, 160))
    np.testing.assert_array_equal(sample.intrinsics, [[150, 0, 80], [0, 150, 60], [0, 0, 1]])


def test_a_bent_lens_is_straightened_where_depth_is(tmp_path):
    # On the row of the centre, with f = 150 px: a rectified x lies at 80 + (x - 80) (1 + k1 ((x - 80) / 150)^2).
    k1, x = -0.3, 135
    raw = 80 + (x - 80) * (1 + k1 * ((x - 80) / 150) ** 2)  # 132.78
    marks = [(180_000, round(raw), 60, 1)]
    sample = open_dataset(miniatures.write_bag(tmp_path / "rect", marks, k1=k1))[1]
    at = [tuple(cell) for cell in np.argwhere(sample.spikes[2:3, :, 60, 128:142]).tolist()]
    assert (0, 1, x - 128) in at and round(raw) == 133
    assert sample.frame[60, x] == pytest.approx(raw * 255 / 159, abs=1)
    assert sample.intrinsics[0, 0] == 150

    # Depth that is as the lens bends it: events stay where they are, and no pinhole describes them.
    dataset = open_dataset(miniatures.write_bag(tmp_path / "raw", marks, k1=k1, depth_topic="/depth/image"))
    assert dataset[1].spikes[2, 1, 60, round(raw)] == 1 and dataset[1].intrinsics is None
    assert "distorted" in dataset.describe()


def test_a_window_is_the_same_however_the_bag_is_walked(tmp_path):
    dataset = open_dataset(miniatures.write_bag(tmp_path / "drive"), config=SampleConfig(window_ms=90))
    forward = [sample.spikes for sample in dataset]
    for k in (2, 0, 1):
        np.testing.assert_array_equal(dataset[k].spikes, forward[k])


def test_windows_are_those_of_the_node(tmp_path):
    bag = miniatures.write_bag(tmp_path / "drive")
    reader = open_dataset(bag).readers[0]
    windows = list(spike_windows(bag, bins=4, window_ms=50.0, rate_hz=20.0))
    assert len(windows) >= 4
    for window in windows:
        np.testing.assert_array_equal(reader.read_spikes(window.stamp_ns)[0], window.spikes)


def test_frames_stand_in_for_depth(tmp_path):
    dataset = open_dataset(miniatures.write_bag(tmp_path / "drive", depth=False))
    assert len(dataset) == 3 and "no depth" in dataset.describe()
    assert np.isnan(dataset[0].depth).all() and dataset[0].frame.shape == (120, 160) and dataset[0].spikes.any()


def test_a_folder_of_bags_is_a_data_set(tmp_path):
    for name in ("one", "two"):
        miniatures.write_bag(tmp_path / name)
    assert open_dataset(tmp_path).sequences == ("one", "two")


def test_names_are_those_of_folders_and_files_and_keep_their_dots(tmp_path):
    for name in ("drive.1", "drive.2"):
        miniatures.write_bag(tmp_path / name)
    assert open_dataset(tmp_path).sequences == ("drive.1", "drive.2")
    assert name_of(next((tmp_path / "drive.1").glob("*.mcap"))) == next((tmp_path / "drive.1").glob("*.mcap")).stem
    assert name_of(tmp_path / "x.db3.zstd") == "x"


def test_bags_of_a_recorder_that_was_killed_are_found(tmp_path):
    """They have no metadata.yaml; files of several bags in one folder are bags of their own."""
    for name in ("one", "two", "three"):
        miniatures.write_bag(tmp_path / name)
    (tmp_path / "two/metadata.yaml").unlink()
    (file,) = (tmp_path / "two").glob("*.mcap")
    file.rename(tmp_path / "two/two_0.mcap")
    (tmp_path / "three/metadata.yaml").unlink()
    (file,) = (tmp_path / "three").glob("*.mcap")
    file.rename(tmp_path / "three/noon.mcap")
    assert find_bags(tmp_path) == [tmp_path / "one", tmp_path / "two", tmp_path / "three/noon.mcap"]
    dataset = open_dataset(tmp_path)
    assert dataset.sequences == ("one", "two", "noon")
    np.testing.assert_array_equal(dataset[3].spikes, dataset[0].spikes)
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "x.mcap.zstd").write_bytes(b"not looked into")
    assert find_bags(packed) == [packed / "x.mcap.zstd"]


@pytest.mark.parametrize("later_ms", [230, 260, -600, 86_400_000])
def test_when_a_bag_was_recorded_does_not_move_its_events(tmp_path, later_ms):
    """A recorder may be slow, and a bag that is played may be recorded again on another day."""
    expected = open_dataset(miniatures.write_bag(tmp_path / "first"))
    again = rewritten(tmp_path, lambda topic, number, data: [data], later_ms)
    found = open_dataset(again)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.spikes.any()
        np.testing.assert_array_equal(one.spikes, other.spikes)
        np.testing.assert_array_equal(one.depth, other.depth)


@pytest.mark.parametrize("topic", ["/camera/aligned_depth_to_color/image_raw", "/depth/image_rect"])
def test_depth_is_told_from_its_picture_by_the_encoding(tmp_path, topic):
    bag = miniatures.write_bag(tmp_path / "first", depth_topic=topic)
    assert open_dataset(bag).readers[0].topics["depth"] == topic

    def coloured(name, number, data):
        picture = np.zeros((120, 160, 3), np.uint8)
        stamp = BAG_START_NS + 100_000_000 * (number + 1)
        return [serialize(image_message(picture, "rgb8", stamp))] if name == DEPTH else [data] * (name != FRAMES)

    with pytest.raises(DatasetError, match="neither depth nor frames"):
        open_dataset(rewritten(tmp_path, coloured))


def test_a_bag_whose_windows_are_blank_is_not_sound(tmp_path):
    def silent(topic, number, data):
        return [data] if topic != EVENTS or number == 0 else [blank_packet(data)]

    readers = select(rewritten(tmp_path, silent), "bag")
    report = check(tmp_path, "bag", readers)
    assert not report.sound
    assert "none of the 3 samples that were read has a spike" in report.text()


def blank_packet(data):
    packet = parse_event_packet(data)
    return serialize_event_packet(dataclasses.replace(packet, payload=packet.payload[:0]))


def rewritten(path, change, later_ms=0):
    """The bag with each of its messages changed by `change(topic, number, data)` to a list of messages' bytes."""
    source = miniatures.write_bag(path / "source")
    counts: dict[str, int] = {}
    with open_bag(source) as bag, BagWriter(path / "drive") as target:
        for message in bag.messages():
            number = counts[message.topic] = counts.get(message.topic, -1) + 1
            for data in change(message.topic, number, message.data):
                target.write(message.topic, message.type, message.timestamp_ns + later_ms * 1_000_000, data)
    return path / "drive"


def _with_depth(images):
    return lambda path: rewritten(
        path, lambda topic, number, data: [images(number)] if topic == DEPTH and images(number) else [data]
    )


def _depth_at(milliseconds):
    depth = miniatures.box_depth(120, 160)
    return _with_depth(lambda k: serialize(image_message(depth, "32FC1", BAG_START_NS + milliseconds[k] * 1_000_000)))


def _truncated(path):
    bag = miniatures.write_bag(path / "drive")
    miniatures.truncate(next(bag.glob("*.mcap")), 0.6)
    return bag


def _pointer(path):
    bag = miniatures.write_bag(path / "drive")
    next(bag.glob("*.mcap")).write_text(miniatures.LFS_POINTER)
    return bag


def _small(k):
    return serialize(image_message(np.ones((60, 80), np.float32), "32FC1", BAG_START_NS + (k + 1) * 100_000_000))


def _coloured(k):
    pixels = np.zeros((120, 160, 3), np.uint8)
    return serialize(image_message(pixels, "rgb8", BAG_START_NS + (k + 1) * 100_000_000))


BROKEN = {
    "truncated": (_truncated, r"drive.*damaged or incomplete.*mcap recover"),
    "a pointer": (_pointer, r"drive.*git lfs pull"),
    "no events": (
        lambda p: miniatures.write_bag(p / "drive", drop=("events",)),
        rf"has no topic of .*EventPacket; there are: .*{DEPTH}",
    ),
    "neither depth nor frames": (
        lambda p: miniatures.write_bag(p / "drive", depth=False, drop=("frames",)),
        rf"neither depth nor frames .*; there are: .*{EVENTS}",
    ),
    "duplicate stamps": (_depth_at((100, 100, 300)), rf"index 1: stamps of {DEPTH} are not increasing: .*repeats"),
    "unsorted stamps": (_depth_at((100, 300, 200)), rf"index 2: stamps of {DEPTH} are not increasing: .*lies before"),
    "another clock": (_depth_at((10**6, 10**6 + 1, 10**6 + 2)), r"events and depth do not overlap"),
    "depth of another size": (_with_depth(lambda k: k == 1 and _small(k)), rf"index 1: {DEPTH} has 80x60 px, the"),
    "colours for depth": (_with_depth(lambda k: k == 1 and _coloured(k)), rf"index 1: {DEPTH}: a depth image must be"),
    "damaged packet": (
        lambda p: rewritten(p, lambda topic, k, data: [data[:60]] if (topic, k) == (EVENTS, 20) else [data]),
        rf"index \d: {EVENTS}: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_told(tmp_path, what):
    make, message = BROKEN[what]
    bag = make(tmp_path)
    with pytest.raises(DatasetError, match=f"(?s)bag drive: .*{message}"):
        list(open_dataset(bag))
