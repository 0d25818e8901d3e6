"""The parts of an evaluation: floors, truth and its stamps, windows before stamps, arrays on disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from evaluation_bag import HEIGHT, TRUTH_TOPIC, WIDTH, image, ramp, stamps_20hz, write_bag

from sdt_distill.datasets import Sample
from sdt_ros.bags import BagError, BagWriter, open_bag, parse_event_packet
from sdt_ros.evaluation import EvaluationError, Protocol, protocols
from sdt_ros.evaluation.floors import Floors
from sdt_ros.evaluation.probes import PROBES
from sdt_ros.evaluation.run import evaluate
from sdt_ros.evaluation.score import Scorer
from sdt_ros.evaluation.source import DatasetSource
from sdt_ros.evaluation.spool import Spool
from sdt_ros.evaluation.spread import is_one_of, spread_evenly
from sdt_ros.evaluation.truth import Truth, nearest, onto, read_truth
from sdt_ros.evaluation.windows import StampedWindow, StampedWindows
from sdt_ros.events import EventPacket, EventStream, SpikeWindow, WindowConfig
from sdt_ros.events.reduce import reduce_spikes
from sdt_ros.simulation.patterns import EVENTS_TOPIC, START_NS

ANY = protocols["none"]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "ramp")


@pytest.fixture(scope="module")
def packets(bag: Path) -> list[EventPacket]:
    with open_bag(bag) as reader:
        return [parse_event_packet(message.data) for message in reader.messages([EVENTS_TOPIC])]


# --- floors -----------------------------------------------------------------------------------------------------------


def floors(frames: list[np.ndarray]) -> Floors:
    """The floors of frames in which 0 is not compared."""
    made = Floors()
    for frame in frames:
        made.see(frame)
    made.turn()
    for frame in frames:
        made.see_again(frame)
    made.finish()
    return made


def test_constant_median_by_hand():
    frames = [np.array([[1, 9, 0]], np.float32), np.array([[3, 0, 5]], np.float32)]
    assert floors(frames).constant_m == 3  # of 1 3 5 9 the lower one in the middle
    assert floors(frames[1:]).constant_m == 3


@pytest.mark.parametrize("count", [1, 2, 1000, 4097])
def test_constant_median_is_exact(count: int):
    depth = np.random.default_rng(count).lognormal(2, 1.5, (3, 1, count)).astype(np.float32)
    assert floors(list(depth)).constant_m == np.sort(depth, None)[(depth.size - 1) // 2]


def test_floors_need_a_valid_pixel():
    with pytest.raises(ValueError, match="no valid pixel"):
        floors([np.zeros((2, 2), np.float32)])


def test_mean_map_is_the_geometric_mean_of_what_is_compared():
    made = floors([np.array([[2.0, 0, 0]], np.float32), np.array([[8.0, 5, 0]], np.float32)])
    # sqrt(2 * 8) = 4; only 5; never compared, so the constant
    np.testing.assert_allclose(np.exp(made.log_map((1, 3))), [[4, 5, 5]], rtol=1e-12)


# --- the scorer -------------------------------------------------------------------------------------------------------

SPIKES = np.zeros((4, 2, 1, 2), np.uint8)


def row(*depth: float) -> np.ndarray:
    return np.array([depth], np.float32)


def test_groups_have_floors_of_their_own_and_all_frames_weigh_the_same():
    with Scorer(ANY, "here") as scorer:
        scorer.add("a", 1, row(2, 4), row(1, 4), SPIKES)  # Abs Rel (1 + 0) / 2
        scorer.add("a", 2, row(4, 16), row(4, 16), SPIKES)  # 0
        scorer.add("b", 1, row(20, np.nan), row(10, 10), SPIKES)  # 1, a pixel is missing
        scorer.add("b", 2, row(1, 1), None, SPIKES)
        scores = scorer.finish()
    assert [frame.pixels for frame in scores.frames] == [2, 2, 1, 0] and len(scores.scored) == 3
    assert scores.missing_share == pytest.approx(1 / 6) and scores.without_pixels == 0
    assert scores.total.metric["network"]["abs_rel"].mean == pytest.approx(0.5)
    assert scores.groups["a"].metric["network"]["abs_rel"].mean == pytest.approx(0.25)
    # a: 1 4 4 16, the lower in the middle is 4, the map sqrt(1 * 4), sqrt(4 * 16); b: 10
    assert scores.groups["a"].constant_m == 4 and scores.groups["b"].constant_m == 10
    # against 1 4: 2 and 8, against 4 16: 2 and 8: (1 + 1) / 2, (0.5 + 0.5) / 2
    assert scores.groups["a"].metric["mean map"]["abs_rel"].mean == pytest.approx(0.75)
    assert scores.groups["b"].metric["mean map"]["abs_rel"].mean == pytest.approx(0, abs=1e-12)
    # all: 1 4 4 10 16; the map (1 * 4 * 10)^(1/3), 8
    assert scores.total.constant_m == 4
    first = 40 ** (1 / 3)
    by_hand = ((first - 1 + 1) / 2 + (abs(first - 4) / 4 + 0.5) / 2 + (10 - first) / 10) / 3
    assert scores.total.metric["mean map"]["abs_rel"].mean == pytest.approx(by_hand)
    assert scores.total.band_pixels == pytest.approx([0, 0, 0.2, 0.4, 0.4, 0, 0])


def test_one_group_is_all():
    with Scorer(ANY, "here") as scorer:
        scorer.add("a", 1, row(2, 4), row(1, 4), SPIKES)
        scores = scorer.finish()
    assert scores.total == scores.groups["a"] and scores.total.constant_m == 1 and scores.probed is None


def test_probes_are_scored_on_the_pixels_of_the_network():
    with Scorer(Protocol("cut", 8.0, False), "here") as scorer:
        blank = {"blank": row(3, 100)}
        scorer.add("a", 1, row(2, 4), row(1, 4), SPIKES, probes=blank)  # blank: 2, (8 - 4) / 4
        scorer.add("a", 2, row(4, np.nan), row(2, 4), SPIKES)  # not probed
        scorer.add("a", 3, row(4, np.nan), row(2, 4), SPIKES, probes=blank)  # blank: 0.5
        scores = scorer.finish()
    assert scores.probes["blank"].metric["blank"]["abs_rel"].mean == pytest.approx((1.5 + 0.5) / 2)
    assert scores.probed is not None and scores.probed.frames == scores.probes["blank"].frames == 2
    assert scores.probed.metric["network"]["abs_rel"].mean == pytest.approx((0.5 + 1) / 2)
    assert scores.total.metric["network"]["abs_rel"].mean == pytest.approx((0.5 + 1 + 1) / 3)


def test_nothing_to_compare_is_refused():
    with Scorer(ANY, "here") as scorer, pytest.raises(EvaluationError, match=r"here: the truth has no valid pixel in"):
        scorer.add("a", 1, row(2, 4), row(0, np.nan), SPIKES)
        scorer.finish()
    with Scorer(ANY, "here") as scorer, pytest.raises(EvaluationError, match="both a valid truth and a prediction"):
        scorer.add("a", 1, row(np.nan, 0), row(1, 2), SPIKES)
        scorer.finish()
    with Scorer(ANY, "here") as scorer, pytest.raises(EvaluationError, match=r"here, a, image 1: .*of one size"):
        scorer.add("a", 1, row(1, 2), row(1, 2), SPIKES)
        scorer.add("a", 2, row(1, 2, 3), row(1, 2, 3), SPIKES)


# --- probes and any network -------------------------------------------------------------------------------------------


def test_probes_spoil_as_they_say():
    spikes = np.random.default_rng(0).integers(0, 2, (4, 2, 3, 5), np.uint8)
    assert not PROBES["blank"](spikes).any() and PROBES["blank"](spikes).shape == spikes.shape
    first = PROBES["first_bin"](spikes)
    assert first.shape == spikes.shape and all((one == spikes[0]).all() for one in first)
    np.testing.assert_array_equal(PROBES["reversed"](spikes)[0], spikes[3])
    np.testing.assert_array_equal(PROBES["reversed"](spikes)[3], spikes[0])


@dataclass
class Recorded:
    """A data set of three samples."""

    sequences = ("a", "b")

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        spikes = np.full((4, 2, 2, 2), index % 2, np.uint8)
        depth = np.full((2, 2), 2.0, np.float32)
        return Sample(spikes, depth, 0, index + 1, "ab"[index // 2], index, intrinsics=np.diag([16.0, 9.0, 1.0]))


def test_any_network_can_be_scored_on_any_data_set():
    asked: list[float] = []

    def network(spikes: np.ndarray, focal_px: float | None) -> np.ndarray:
        assert focal_px == 12.0
        asked.append(spikes.mean())
        return np.full(spikes.shape[2:], 1 + spikes.mean(), np.float32)

    with Scorer(ANY, "here") as scorer:
        work = evaluate(DatasetSource(Recorded(), "here"), network, scorer, probe_every=2)
        scores = scorer.finish()
    assert work.windows == 3 and [frame.group for frame in scores.frames] == ["a", "a", "b"]
    assert scores.total.metric["network"]["abs_rel"].mean == pytest.approx((0.5 + 0 + 0.5) / 3)
    probed = sum(is_one_of(2, number) for number in range(3))
    assert scores.probed is not None and scores.probed.frames == probed
    assert len(asked) == 3 + 1 + 2 * probed, "blank windows of a size are asked once"
    assert 0 < work.network_s <= work.seconds
    with Scorer(ANY, "here") as scorer, pytest.raises(EvaluationError, match=r"here: all 1 windows .*--min-events 99"):
        evaluate(DatasetSource(Recorded(), "here", samples=1, min_events=99), network, scorer)


def test_some_samples_of_a_data_set_are_of_all_kinds():
    """Families take turns in a bank: a fixed stride would meet one of them."""
    some = spread_evenly(400, 100)
    assert some == spread_evenly(400, 100) == sorted(set(some)) and len(some) == 100
    assert {number // 4 for number in some} == set(range(100)), "one from each stretch"
    assert spread_evenly(3, 0) == spread_evenly(3, 3) == spread_evenly(3, 9) == [0, 1, 2]


@pytest.mark.parametrize("total", [24, 60, 128, 400, 4000])
@pytest.mark.parametrize("most", [5, 8, 20, 100, 300])
def test_kinds_that_take_turns_are_met_evenly(total: int, most: int):
    some = spread_evenly(total, most)
    assert some == sorted(set(some)) and len(some) == min(most, total)
    for kinds in range(2, 9):
        met = np.bincount([number % kinds for number in some], minlength=kinds)
        assert np.ptp(met) <= 3, f"{kinds} kinds: {met}"
        assert met.min() > 0 or most < (kinds if kinds in (2, 3, 4, 6) else 2 * kinds), f"{kinds} kinds: {met}"


@pytest.mark.parametrize("every", [2, 4, 8])
def test_what_is_probed_is_of_all_kinds(every: int):
    some = [number for number in range(400) if is_one_of(every, number)]
    assert some[0] == 0, "there is one however few windows there are"
    assert [number // every for number in some] == list(range(400 // every)), "one of each so many"
    assert np.bincount([number % 4 for number in some], minlength=4).min() > len(some) / 10
    assert all(is_one_of(1, number) for number in range(9))


@pytest.mark.parametrize("size", [(96, 128), (48, 64), (38, 51), (1, 1)])
def test_shrunken_spikes_are_those_that_the_node_bins(size: tuple[int, int]):
    spikes = (np.random.default_rng(2).random((2, 2, 96, 128)) < 0.05).astype(np.uint8)
    binned = np.zeros((2, 2, *size), np.uint8)
    t, p, y, x = np.nonzero(spikes)
    binned[t, p, y * size[0] // 96, x * size[1] // 128] = 1
    np.testing.assert_array_equal(reduce_spikes(spikes, *size), binned)


# --- arrays on disk ---------------------------------------------------------------------------------------------------


def test_spool_gives_back_what_it_took():
    arrays = np.random.default_rng(0).random((5, 3, 4)).astype(np.float32)
    with Spool() as spool:
        assert spool.stacked().shape[0] == 0
        for number, array in enumerate(arrays):
            assert spool.append(array.T.copy().T) == number  # any memory layout
            np.testing.assert_array_equal(spool[0], arrays[0])
        assert len(spool) == 5
        np.testing.assert_array_equal(spool[3], arrays[3])
        np.testing.assert_array_equal(spool.stacked(), arrays)
        with pytest.raises(ValueError, match="among float32"):
            spool.append(np.zeros((3, 5), np.float32))
        with pytest.raises(IndexError, match="5 of 5"):
            spool[5]


# --- truth ------------------------------------------------------------------------------------------------------------


def read(path: Path, topic: str = TRUTH_TOPIC, drop: bool = False, protocol: Protocol = ANY) -> Truth:
    """All truth of a bag; the frames stay open for the test."""
    with open_bag(path) as reader:
        return read_truth(reader, topic, Spool(), protocol, drop)


def truth_only(path: Path, stamps: list[int], depth: list[np.ndarray] | None = None) -> Path:
    with BagWriter(path) as writer:
        for number, stamp in enumerate(stamps):
            one = ramp() if depth is None else depth[number]
            writer.write(TRUTH_TOPIC, "sensor_msgs/msg/Image", START_NS + number, image(one, stamp))
    return path


def test_truth_is_read_exactly(bag: Path):
    truth = read(bag)
    assert truth.stamps.tolist() == stamps_20hz(1) and truth.dropped == 0 and truth.size == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(truth.frames[4], ramp(t_s=0.25))


def test_missing_topic_is_named_with_those_there(bag: Path):
    with pytest.raises(BagError, match=r"no topic /truth; there are: .*/event_camera/events .*/depth/image_rect"):
        read(bag, "/truth")
    with pytest.raises(EvaluationError, match=r"/event_camera/events is event_camera_msgs.*sensor_msgs/msg/Image"):
        read(bag, EVENTS_TOPIC)


def test_bad_stamps_are_named_counted_and_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = truth_only(tmp_path / "bad", [10**9, 2 * 10**9, 2 * 10**9, 15 * 10**8, 3 * 10**9])
    where = rf"{path}: {TRUTH_TOPIC}: of 5 stamps 1 repeat and 1 go back; the first of them, that of image 2, repeats"
    with pytest.raises(EvaluationError, match=where + ".*--drop-bad-stamps"):
        read(path)
    with caplog.at_level(logging.WARNING):
        truth = read(path, drop=True)
    assert truth.stamps.tolist() == [10**9, 2 * 10**9, 3 * 10**9] and truth.dropped == 2 and len(truth.frames) == 3
    assert "1 repeat and 1 go back" in caplog.text
    back = truth_only(tmp_path / "back", [2 * 10**9, 10**9])
    with pytest.raises(EvaluationError, match=r"that of image 1, goes back by 1\.000000 s"):
        read(back)


def test_images_of_another_size_or_kind_are_refused(tmp_path: Path):
    path = truth_only(tmp_path / "sizes", [1, 2, 3], [ramp(), ramp(), ramp(48, 64)])
    with pytest.raises(EvaluationError, match=rf"{path}: {TRUTH_TOPIC}, image 2 is 64x48 px, the first one 128x96"):
        read(path)
    with BagWriter(tmp_path / "broken") as writer:
        writer.write(TRUTH_TOPIC, "sensor_msgs/msg/Image", START_NS, image(ramp(), 1)[:-100])
    with pytest.raises(EvaluationError, match=rf"{TRUTH_TOPIC}, image 0: "):
        read(tmp_path / "broken")


def test_truth_without_a_valid_pixel_is_refused(tmp_path: Path):
    unknown = truth_only(tmp_path / "unknown", [1, 2], [np.full((4, 4), np.nan, np.float32)] * 2)
    with pytest.raises(EvaluationError, match=r"none of 2 images, 0 to 1, has a valid pixel$"):
        read(unknown)
    wall = truth_only(tmp_path / "wall", [1], [np.full((4, 4), 5, np.float32)])
    with pytest.raises(EvaluationError, match=r"has a valid pixel; try --protocol none"):
        read(wall, protocol=protocols["mvsec"])
    assert read(wall).size == (4, 4)
    with BagWriter(tmp_path / "empty") as writer:
        writer.add_topic(TRUTH_TOPIC, "sensor_msgs/msg/Image")
        writer.write("/other", "sensor_msgs/msg/Image", 1, image(ramp(), 1))
    with pytest.raises(EvaluationError, match=rf"{TRUTH_TOPIC} has no images; record again, or choose another"):
        read(tmp_path / "empty")


def test_predictions_go_onto_a_grid_of_the_same_aspect_only():
    depth = np.arange(16.0).reshape(4, 4)
    assert onto(depth, (4, 4), "here") is depth
    np.testing.assert_array_equal(onto(depth, (8, 8), "here"), depth.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(onto(depth, (2, 2), "here"), [[5, 7], [13, 15]])  # pixel centres
    with pytest.raises(EvaluationError, match=r"bag: /t, image 0: the truth is 4x3 px, the sensor 4x4: .*"):
        onto(depth, (3, 4), "bag: /t")


def test_nearest_truth():
    stamps = np.array([100, 200, 300])
    assert [nearest(stamps, stamp, 30) for stamp in (69, 70, 130, 150, 229, 330, 331)] == [None, 0, 0, None, 1, 2, None]
    assert nearest(stamps, 150, 50) == 0, "the earlier one of two"


# --- windows before stamps --------------------------------------------------------------------------------------------


def stamped(packets: list[EventPacket], stamps: list[int], scale: float = 1.0) -> tuple[StampedWindows, dict]:
    found: dict[int, StampedWindow] = {}
    stream = StampedWindows(np.array(stamps), 50_000, 4, scale, lambda window: found.update({window.number: window}))
    for packet in packets:
        stream.push(packet)
    stream.finish()
    return stream, found


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_at_the_stamps_of_the_node_they_are_the_windows_of_the_node(packets: list[EventPacket], scale: float):
    windows: list[SpikeWindow] = []
    stream = EventStream(WindowConfig(50.0, 4, 20.0), lambda window: windows.append(window.detach()), scale)
    for packet in packets:
        stream.push(packet)
    cut, found = stamped(packets, [window.stamp_ns for window in windows], scale)
    assert len(found) == len(windows) >= 15 and (cut.before, cut.after, cut.lost, cut.restarts) == (0, 0, 0, 0)
    for number, window in enumerate(windows):
        assert found[number].events == window.events
        np.testing.assert_array_equal(found[number].spikes, window.spikes)


def test_memory_is_bounded_by_the_window(packets: list[EventPacket]):
    cut, _ = stamped(packets, stamps_20hz(1))
    rate = cut.events / 0.998  # per second; the pattern's is steady within a factor of two
    assert cut.events > 100_000 and cut.kept < 2 * rate * (0.05 + 0.1 + 0.05 + 0.01)


def test_stamps_without_events_are_counted(packets: list[EventPacket]):
    before = [START_NS - 10**9, START_NS, START_NS + 40_000_000]
    after = [START_NS + 5 * 10**9]
    cut, found = stamped(packets, [*before, START_NS + 500_000_000, *after])
    assert list(found) == [3] and (cut.before, cut.after) == (3, 1)


def test_lost_and_repeated_packets(packets: list[EventPacket]):
    stamps = stamps_20hz(1)
    packets = packets[1:]  # number 0 twice may be a driver that does not number at all
    whole, all_windows = stamped(packets, stamps)
    again, same = stamped([packet for packet in packets for _ in range(2)], stamps)
    assert again.events == whole.events and same.keys() == all_windows.keys()
    gap, _ = stamped(packets[:100] + packets[110:], stamps)
    assert gap.lost == 10 and gap.events < whole.events and gap.restarts == 0


def test_a_recording_that_starts_over_starts_the_clock_over(packets: list[EventPacket]):
    cut, found = stamped(packets[:300] + packets[100:], stamps_20hz(1))
    assert cut.restarts == 1 and found[max(found)].number == 18


def test_another_camera_is_refused(packets: list[EventPacket]):
    other = EventPacket(**{
        **{name: getattr(packets[0], name) for name in EventPacket.__slots__}, "width": 64, "height": 48,
    })  # fmt: skip
    with pytest.raises(ValueError, match="changes to evt3 of 64x48 px"):
        stamped([packets[0], other], stamps_20hz(1))
