"""`sdt bench events`: what it measures is complete and consistent; no speed is asserted."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from sdt_ros.bags import (
    EVENT_PACKET_TYPE,
    QOS_BEST_EFFORT,
    BagWriter,
    open_bag,
    parse_event_packet,
    serialize_event_packet,
)
from sdt_ros.bench import events as bench
from sdt_ros.bench.measure import median_seconds, one_core
from sdt_ros.cli import main
from sdt_ros.events import EventPacket, PacketDecoder
from sdt_ros.events.encoder import ENCODINGS
from sdt_ros.simulation.patterns import EVENTS_TOPIC, write_pattern_bag


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    return folder, write_pattern_bag(folder, seconds=0.1, width=64, height=48)


def recorded(folder):
    with open_bag(folder) as bag:
        return [parse_event_packet(message.data) for message in bag.messages([EVENTS_TOPIC])]


def test_figures_of_all_encodings_are_printed_and_written(tiny, tmp_path, capsys):
    folder, count = tiny
    file = tmp_path / "new" / "figures.json"
    assert main(["bench", "events", str(folder), "--rounds", "1", "--events", "1000", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert sorted(entry["encoding"] for entry in figures) == sorted(ENCODINGS)
    out = capsys.readouterr().out
    for entry in figures:
        assert {"encoding", "mev_s", "peer", "peer_mev_s", "ratio"} <= entry.keys()
        assert entry["recording"] == "tiny"
        assert entry["transcoded"] == (entry["encoding"] != "evt3")
        assert entry["events"] == -(-1000 // count) * count >= 1000
        assert entry["mev_s"] > 0
        assert entry["mev_s_as_recorded"] > 0
        if entry["peers"]:
            assert entry["peer_mev_s"] == max(entry["peers"].values()) == entry["peers"][entry["peer"]]
            assert entry["ratio"] == pytest.approx(entry["mev_s"] / entry["peer_mev_s"])
        else:
            assert entry["peer"] is entry["peer_mev_s"] is entry["ratio"] is None
        assert f"{entry['encoding']:<12} {entry['mev_s']:>7.1f}" in out
    if bench._optional("evt3"):
        (evt3,) = (entry for entry in figures if entry["encoding"] == "evt3")
        assert {"evt3 wheel + np.add.at", "evt3 wheel + np.bincount"} <= evt3["peers"].keys()


def test_what_is_timed_decodes_and_bins_every_event(tiny):
    folder, count = tiny
    packets = recorded(folder)
    for encoding in ENCODINGS:
        made = packets if encoding == "evt3" else bench._transcode(packets, encoding)
        decoder = PacketDecoder()
        decoded = np.concatenate([bench._decode(decoder, p) for p in made])
        original = np.concatenate([bench._decode(PacketDecoder(), p) for p in packets])
        np.testing.assert_array_equal(decoded[["x", "y", "p"]], original[["x", "y", "p"]])
        np.testing.assert_array_equal(np.diff(decoded["t"]), np.diff(original["t"]))
        joined = bench._joined(made)
        decoder = PacketDecoder()
        np.testing.assert_array_equal(np.concatenate([bench._decode(decoder, p) for p in joined]), decoded)
        assert encoding not in ("evt2", "evt21", "evt3") or len(joined) == 1
    assert count == decoded.size


@pytest.mark.parametrize("limit", [1, 3000, 1 << 20])
def test_packets_are_joined_up_to_a_size_with_nothing_lost(tiny, monkeypatch, limit):
    packets = recorded(tiny[0])
    monkeypatch.setattr(bench, "BUSY_BYTES", limit)
    joined = bench._joined(packets)
    assert b"".join(p.payload.tobytes() for p in joined) == b"".join(p.payload.tobytes() for p in packets)
    assert [p.seq for p in joined] == list(range(1, len(joined) + 1))
    largest = max(p.payload.size for p in packets)
    assert all(p.payload.size <= max(limit, largest) for p in joined)
    if limit == 3000:
        assert 1 < len(joined) < len(packets)


def test_both_ways_of_numpy_count_the_same():
    random = np.random.default_rng(0)
    places = tuple(random.integers(0, side, 1000).astype(np.uint16) for side in (4, 2, 9, 7))
    counts = [np.zeros((4, 2, 9, 7), np.uint16) for _ in range(2)]
    bench._by_add_at(places, counts[0])
    bench._by_bincount(places, counts[1])
    np.testing.assert_array_equal(counts[0], counts[1])
    assert counts[0].sum() == 1000


def test_every_candidate_runs_once_to_warm_up_and_once_a_round():
    calls = []
    times = {"a": iter([99.0, 3.0, 1.0, 2.0]), "b": iter([99.0, 6.0, 4.0, 9.0])}

    def candidate(name):
        def run():
            calls.append(name)
            return next(times[name])

        return run

    assert median_seconds({name: candidate(name) for name in times}, 3, "test") == {"a": 2.0, "b": 6.0}
    assert calls == ["a", "b"] * 4


def test_one_core_is_given_back():
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyError), one_core():
        assert len(os.sched_getaffinity(0)) == 1
        raise KeyError
    assert os.sched_getaffinity(0) == before


def bag_without(what, folder):
    with BagWriter(folder, "mcap") as bag:
        if what != "topics":
            bag.add_topic(EVENTS_TOPIC, EVENT_PACKET_TYPE, QOS_BEST_EFFORT)
        if what == "events":
            nothing = EventPacket(1, "camera", 48, 64, 1, 0, "evt3", False, np.empty(0, np.uint8))
            bag.write(EVENTS_TOPIC, EVENT_PACKET_TYPE, 1, serialize_event_packet(nothing))
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("topics", "has no topic of event_camera_msgs/msg/EventPacket"),
        ("packets", f"has no events on {EVENTS_TOPIC}"),
        ("events", f"has no events on {EVENTS_TOPIC}"),
    ],
)
def test_a_bag_without_events_is_refused(tmp_path, capsys, what, message):
    folder = bag_without(what, tmp_path / what)
    assert main(["bench", "events", str(folder), "--rounds", "1", "--events", "1"]) == 1
    assert f"sdt bench events: {folder} {message}" in capsys.readouterr().err


def test_a_bag_that_is_not_there_is_refused(tmp_path, capsys):
    assert main(["bench", "events", str(tmp_path / "nothing")]) == 1
    assert str(tmp_path / "nothing") in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--events", "0"], ["--events", "nan"], ["--events", "inf"]])
def test_senseless_numbers_are_refused(tiny, capsys, wrong):
    assert main(["bench", "events", str(tiny[0]), *wrong]) == 2
    assert "--rounds and --events take" in capsys.readouterr().err
