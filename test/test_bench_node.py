"""`sdt bench node`: the account of a run closes, and what it sends is what it says; no speed is asserted."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sdt_ros.bench.node_picture import draw, median_window, phases
from sdt_ros.bench.node_traffic import Traffic, packets
from sdt_ros.cli import main
from sdt_ros.events import EventStream, PacketDecoder, WindowConfig
from sdt_ros.simulation.recording import RecordingConfig, write_recording

SECONDS = 2.0
MS = 1_000_000
QUANTILES = {"p50", "p99", "max"}


@pytest.mark.ros
def test_the_account_of_a_run_closes(tmp_path):
    pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")
    file = tmp_path / "new" / "node.json"
    picture = tmp_path / "new" / "node.png"
    options = ("--size", "64x48", "--rate-mev", "0.2", "--seconds", str(SECONDS), "--json", str(file))
    options += ("--profile", str(picture))
    command = [sys.executable, "-m", "sdt_ros.cli", "bench", "node", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    accounted = figures["windows_published"] + figures["windows_skipped"] + figures["windows_empty"]
    assert figures["windows_due"] == accounted
    assert 0 < figures["windows_due"] <= 20 * SECONDS + 1
    assert figures["packets_sent"] == 100 * (SECONDS + 1)
    assert 0 <= figures["packets_lost"] <= figures["packets_sent"]
    assert figures["size"] == [64, 48]
    for name in ("overhead_ms", "latency_ms", "decode_ms", "pipeline_latency_ms"):
        assert figures[name].keys() == QUANTILES
        assert 0 < figures[name]["p50"] <= figures[name]["p99"] <= figures[name]["max"]
    assert figures["overhead_ms"]["p50"] < figures["latency_ms"]["p50"]
    assert all(values.keys() == QUANTILES for values in figures["stages_ms"].values())
    assert 50 < figures["rss_mb"] <= figures["rss_peak_mb"] < 10_000
    assert 0 < figures["cpu_s_per_s"] == pytest.approx(sum(figures["cpu_by_thread"].values()), abs=0.05)
    assert {"executor", "inference"} <= figures["cpu_by_thread"].keys()
    assert f"{figures['windows_due']} due" in done.stdout
    assert Image.open(picture).size[0] > 600
    start = figures["start_phases_s"]
    parts = [
        value for name, value in start.items() if name not in ("start to subscribed", "first packet to first depth")
    ]
    assert {"import torch", "load network", "warm up", "decoders"} <= start.keys()
    assert 0 < sum(parts) <= start["start to subscribed"] + 0.1


@pytest.mark.parametrize("encoding", ["evt3", "libcaer_cmp", "mono"])
def test_traffic_is_what_was_asked_for(encoding):
    traffic = Traffic("", "", "", 80, 60, encoding, rate_mev=0.5, packets_per_s=50, seconds=1.0)
    made = list(packets(traffic))
    assert [packet.seq for packet, _ in made] == list(range(1, 51))
    assert sum(count for _, count in made) == pytest.approx(500_000, rel=0.05)
    decoder = PacketDecoder()
    times = []
    for packet, count in made:
        events = decoder.decode(packet.encoding, packet.width, packet.height, packet.time_base, packet.payload, False)
        assert len(events) == count
        assert events["x"].max() < 80 and events["y"].max() < 60
        times.append(events["t"])
    every = np.concatenate(times)
    assert (np.diff(every) >= 0).all()
    assert every[-1] - every[0] == pytest.approx(1_000_000, rel=0.01)
    windows = []
    stream = EventStream(WindowConfig(), lambda window: windows.append(window.detach()))
    for packet, _ in made:
        stream.push(packet)
    assert stream.packets.lost == stream.windows.late == stream.windows.time_jumps == 0
    assert len(windows) in (18, 19)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--encoding", "evt9"), "evt21"),
        (("--rate-mev", "0"), "rate_mev"),
        (("--rate-mev", "500", "--seconds", "60"), "less long"),
    ],
)
def test_impossible_traffic_is_refused(options, words, capsys):
    assert main(["bench", "node", *options]) == 2
    assert words in capsys.readouterr().err


def test_a_missing_recording_is_named(tmp_path, capsys):
    pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")
    assert main(["bench", "node", "--bag", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


def test_odometry_is_a_recording_s(tmp_path, capsys):
    assert main(["bench", "node", "--odometry", "/odometry"]) == 2
    assert "--bag" in capsys.readouterr().err
    pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")
    write_recording(tmp_path / "drive", RecordingConfig("driving", 0.1, seed=5))
    assert main(["bench", "node", "--bag", str(tmp_path / "drive"), "--odometry", "/odom"]) == 1
    assert "has no topic /odom; there are: " in capsys.readouterr().err


@pytest.mark.ros
def test_what_odometry_costs_is_told(tmp_path):
    pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")
    write_recording(tmp_path / "drive", RecordingConfig("driving", 1.0, seed=5))
    options = ("--bag", str(tmp_path / "drive"), "--odometry", "/odometry", "--rate", "0.5", "--json")
    command = [sys.executable, "-m", "sdt_ros.cli", "bench", "node", *options, str(tmp_path / "node.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "node.json").read_text())
    assert 0 < figures["scale_ms"]["p50"] < figures["latency_ms"]["p50"]
    lines = [line.strip() for line in done.stdout.splitlines()]
    network = next(k for k, line in enumerate(lines) if line.startswith("network  "))
    assert lines[network + 1].startswith("of it scale by odometry")


def notes(latencies_ms):
    """What a node would note whose windows take so long, one every 50 ms, the network 1 ms less."""
    spans, windows = [("import torch", "MainThread", 0, 2 * MS), ("subscribe", "MainThread", 5 * MS, 6 * MS)], []
    for k, latency in enumerate(latencies_ms):
        received = (100 + 50 * k) * MS
        windows.append((k, received, received + MS // 2))
        spans += [
            ("callback", "executor", received, received + MS),
            ("network", "inference", received + MS // 2, received + int((latency - 0.5) * MS)),
            ("publish depth", "inference", received + int((latency - 0.5) * MS), received + int(latency * MS)),
        ]
    return {"began_ns": 0, "spans": spans, "windows": windows}


def test_the_picture_is_of_the_window_of_median_latency(tmp_path):
    made = notes([40, 10, 30, 20, 12])
    assert median_window(made, 0) == (3, 250 * MS, 250 * MS + MS // 2, 270 * MS)  # the first one is the lead
    made["spans"][0] = ("import torch", "MainThread", 0, 2000 * MS)
    assert phases(made)["import torch"] == 2.0
    assert phases(made)["first packet to first depth"] == 0.04
    made["spans"][1] = ("subscribe", "MainThread", 2500 * MS, 3000 * MS)
    assert phases(made)["start to subscribed"] == 3.0
    draw(made, tmp_path / "new" / "picture.png", "title", 0, 50.0)
    pixels = np.asarray(Image.open(tmp_path / "new" / "picture.png").convert("RGB")).reshape(-1, 3)
    for colour in ("fdae6b", "31a354"):  # network and publishing are to be seen
        assert (pixels == np.frombuffer(bytes.fromhex(colour), np.uint8)).all(1).sum() > 100


def test_no_picture_without_a_window():
    with pytest.raises(ValueError, match="no window"):
        median_window(notes([]), 0)
