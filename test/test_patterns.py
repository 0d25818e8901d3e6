"""The generated recording: the event model against exact answers, and the bag as a camera's driver would write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference_decoders import decode_reference

from sdt_ros.bags import BagError, deserialize, open_bag, parse_event_packet
from sdt_ros.events.encoder import ENCODINGS
from sdt_ros.simulation import patterns
from sdt_ros.simulation.patterns import EVENTS_TOPIC, INFO_TOPIC, EventModel, MovingPatterns, write_pattern_bag


def decode_bag(path: Path) -> np.ndarray:
    with open_bag(path) as bag:
        packets = [parse_event_packet(message.data) for message in bag.messages([EVENTS_TOPIC])]
    stream = [(packet.time_base, packet.payload.tobytes()) for packet in packets]
    events, counters = decode_reference(packets[0].encoding, packets[0].width, packets[0].height, stream)
    assert not any(counters.values())
    return events


def test_a_ramp_crosses_each_threshold_on_time() -> None:
    model = EventModel(np.zeros((1, 2), np.float32), 0, seed=3)
    ramp = np.array([[1.0, -1.5]], np.float32)
    events = np.concatenate([model.advance(ramp * t_us / 8000, t_us) for t_us in (1000, 3000, 8000)])
    for x, polarity, height in ((0, 1, 1.0), (1, 0, 1.5)):
        mine = events[events["x"] == x]
        threshold = float(model.thresholds[polarity, 0, x])
        crossings = np.arange(1, int(height / threshold) + 1) * threshold / height * 8000
        assert set(mine["p"].tolist()) == {polarity}
        np.testing.assert_allclose(mine["t"], crossings, atol=1.01)
    assert np.all(np.diff(events["t"]) >= 0)


def test_events_add_up_to_the_image() -> None:
    scene = MovingPatterns(80, 60, seed=1)
    first = scene.log_intensity(0)
    model = EventModel(first, 0, seed=1)
    level = first.astype(np.float64)
    for t_us in range(2500, 50_001, 2500):
        image = scene.log_intensity(t_us * 1e-6)
        events = model.advance(image, t_us)
        x, y, p = (events[field].astype(int) for field in "xyp")
        np.add.at(level, (y, x), np.where(p == 1, 1, -1) * model.thresholds[p, y, x])
        assert np.all(np.abs(level - image) < model.thresholds.max(0) + 1e-4)
        assert events["t"].min() > t_us - 2500 and events["t"].max() <= t_us


def test_nothing_moves_nothing_fires() -> None:
    scene = MovingPatterns(80, 60).log_intensity(0.3)
    model = EventModel(scene, 0)
    assert model.advance(scene, 1000).size == 0


def test_every_layer_slides_at_its_speed() -> None:
    tile = patterns._TILE
    scene = MovingPatterns(tile, tile, seed=2)
    t_s = 0.5  # by then each layer has moved by whole pixels
    expected = np.zeros((tile, tile))
    for brightness, cover, speed in zip(scene._brightness, scene._cover, patterns._SPEEDS_PX_S, strict=True):
        x, y = (int(v * t_s) for v in speed)
        shift = {"shift": (y, x), "axis": (0, 1)}
        share = np.roll(cover, **shift)
        expected += share * (np.roll(brightness, **shift) - expected)
    np.testing.assert_allclose(scene.log_intensity(t_s), expected, atol=1e-5)


@pytest.fixture(scope="module")
def bag_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("patterns") / "bag"
    write_pattern_bag(path, seconds=0.25)
    return path


def test_the_bag_is_what_a_driver_records(bag_path: Path) -> None:
    with open_bag(bag_path) as bag:
        assert {name: info.type.split("/")[-1] for name, info in bag.topics.items()} == {
            EVENTS_TOPIC: "EventPacket",
            INFO_TOPIC: "CameraInfo",
        }
        assert {name: info.offered_qos[0].reliability.name for name, info in bag.topics.items()} == {
            EVENTS_TOPIC: "BEST_EFFORT",
            INFO_TOPIC: "RELIABLE",
        }
        messages = list(bag.messages([EVENTS_TOPIC]))
        infos = [deserialize(message.type, message.data) for message in bag.messages([INFO_TOPIC])]
    packets = [parse_event_packet(message.data) for message in messages]
    assert [packet.seq for packet in packets] == list(range(125))
    assert np.all(np.diff([packet.stamp_ns for packet in packets]) == 2_000_000)
    assert [packet.stamp_ns for packet in packets] == [message.timestamp_ns for message in messages]
    assert {(packet.encoding, packet.width, packet.height) for packet in packets} == {("evt3", 346, 260)}
    assert len(infos) == 3
    info = infos[0]
    assert (info.width, info.height, info.header.frame_id) == (346, 260, packets[0].frame_id)
    assert (info.k[2], info.k[5], info.k[8]) == (172.5, 129.5, 1) and info.k[0] == info.k[4] == pytest.approx(311.4)
    np.testing.assert_array_equal(info.p.reshape(3, 4)[:, :3].ravel(), info.k)
    assert info.d.tolist() == [0] * 5 and info.distortion_model == "plumb_bob"


def test_the_events_are_plausible(bag_path: Path) -> None:
    events = decode_bag(bag_path)
    assert 0.5e6 < events.size / 0.25 < 3e6
    assert 0.4 < events["p"].mean() < 0.6
    assert np.all(np.diff(events["t"]) >= 0) and events["t"][-1] <= 250_000
    assert np.count_nonzero(np.bincount(events["y"], minlength=260)) == 260


def test_equal_arguments_give_equal_bags(tmp_path: Path) -> None:
    def messages(name: str, seed: int) -> list[bytes]:
        write_pattern_bag(tmp_path / name, seconds=0.01, width=64, height=48, seed=seed, storage="sqlite3")
        with open_bag(tmp_path / name) as bag:
            return [message.data for message in bag.messages()]

    first = messages("a", 0)
    assert first == messages("b", 0)
    assert first != messages("c", 1)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_holds_the_same_events(tmp_path: Path, encoding: str) -> None:
    plain = tmp_path / "plain"
    count = write_pattern_bag(plain, seconds=0.02, width=64, height=48, encoding="evt2")
    write_pattern_bag(tmp_path / "other", seconds=0.02, width=64, height=48, encoding=encoding)
    one, other = decode_bag(plain), decode_bag(tmp_path / "other")
    assert one.size == other.size == count > 0
    for field in "xyp":
        assert np.array_equal(one[field], other[field])
    assert np.array_equal(one["t"] - one["t"][0], other["t"] - other["t"][0])


def test_wrong_arguments_are_refused_before_a_bag_is_made(tmp_path: Path) -> None:
    for wrong, message in (
        ({"seconds": 0}, "must be positive, not 0 and 2"),
        ({"packet_ms": -1}, "must be positive"),
        ({"encoding": "evt9"}, "encoding 'evt9' is unknown"),
        ({"width": 4000}, "sensors of 1 to 2048"),
    ):
        with pytest.raises(ValueError, match=message):
            write_pattern_bag(tmp_path / "bag", **wrong)
    assert not (tmp_path / "bag").exists()
    with pytest.raises(BagError, match="exists already"):
        write_pattern_bag(tmp_path)
