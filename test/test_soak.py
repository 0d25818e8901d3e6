"""`sdt bench soak`: a short one closes its ledger, the schedule is that of its seed, and a ledger can fail to close."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from sdt_ros.bench.node_traffic import Traffic
from sdt_ros.bench.soak_faults import CAMERA_FAULTS, KINDS, schedule
from sdt_ros.cli import main

KEYS = {
    "faults", "kinds", "recovered", "max_recovery_s", "windows_due", "windows_published", "windows_skipped",
    "windows_empty", "rss_mb_start", "rss_mb_end", "closes",
}  # fmt: skip
SHORT = "gap,reordered,duplicates,cut_packets,random_bytes,unreadable,time_back,bag_loops,camera_restarts,node_stalled"


@pytest.mark.ros
def test_a_short_soak_closes(tmp_path):
    pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")
    file = tmp_path / "new" / "soak.json"
    options = ("--minutes", "0.3", "--seed", "3", "--kinds", SHORT, "--pause", "0.3", "--size", "96x64")
    options += ("--json", str(file), "--logs", str(tmp_path / "logs"))
    command = [sys.executable, "-m", "sdt_ros.cli", "bench", "soak", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    ledger = json.loads(file.read_text())
    assert ledger.keys() == KEYS
    assert ledger["closes"] is True and ledger["recovered"] == ledger["faults"] >= 5
    assert sum(ledger["kinds"].values()) == ledger["faults"] and set(ledger["kinds"]) <= set(SHORT.split(","))
    accounted = ledger["windows_published"] + ledger["windows_skipped"] + ledger["windows_empty"]
    assert accounted == ledger["windows_due"] and ledger["windows_published"] >= 10
    assert 0 < ledger["max_recovery_s"] < 30 and 50 < ledger["rss_mb_start"] < 10_000
    assert "the ledger closes" in done.stdout
    assert any("started over" in log.read_text() for log in (tmp_path / "logs").glob("*node.log")), "faults were real"


def test_the_schedule_is_that_of_its_seed_and_meets_all_kinds_first():
    first = list(itertools.islice(schedule(1, tuple(KINDS), 2.0), 3 * len(KINDS)))
    assert first == list(itertools.islice(schedule(1, tuple(KINDS), 2.0), 3 * len(KINDS)))
    assert first != list(itertools.islice(schedule(2, tuple(KINDS), 2.0), 3 * len(KINDS)))
    assert {fault.kind for fault in first[: len(KINDS)]} == set(KINDS) and len(KINDS) >= 12
    for fault in first:
        shortest, longest = KINDS[fault.kind]
        assert shortest <= fault.seconds <= longest and 1.0 <= fault.pause_s <= 3.0
    mean_s = sum(fault.seconds + fault.pause_s for fault in first) / len(first)
    assert 3600 / (mean_s + 5.0) > 200, "an hour has time for 200, with five seconds of recovery each"


@pytest.mark.parametrize("options", [("--kinds", "gap,flood"), ("--minutes", "0")])
def test_what_cannot_be_is_refused(options, capsys):
    assert main(["bench", "soak", *options]) == 2
    assert options[1].rpartition(",")[2] in capsys.readouterr().err


# --- the ledger ------------------------------------------------------------------------------------------------------


class Listening:
    def create_subscription(self, *arguments):
        pass


def message(window, due, published, skipped=0, empty=0, resets=0):
    counts = {"windows_due": due, "windows_published": published, "windows_skipped": skipped, "windows_empty": empty}
    return SimpleNamespace(window=window, stream_resets=resets, time_jumps=0, **counts)


@pytest.fixture
def watch():
    pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")
    import os

    from sdt_ros.bench.soak_ledger import Watch

    made = Watch(Listening(), "/depth", os.getpid())
    made.compare_numbers(True)
    return made


def test_counts_are_added_up_from_activation_to_activation(watch):
    for one in (message(100, 1, 1), message(103, 4, 2, 2), message(200, 2, 1, 0, 1), message(201, 3, 2, 0, 1)):
        watch._on_stats(one)
    assert watch.totals == {"windows_due": 7, "windows_published": 4, "windows_skipped": 2, "windows_empty": 1}
    assert not watch.complaints


def test_counts_that_do_not_add_up_are_a_complaint(watch):
    watch._on_stats(message(100, 3, 1, 1))
    assert len(watch.complaints) == 1 and "window 100" in watch.complaints[0]


def test_windows_that_nobody_counts_are_a_complaint(watch):
    watch._on_stats(message(100, 1, 1))
    watch._on_stats(message(160, 2, 2))
    assert len(watch.complaints) == 1 and "60 windows have passed" in watch.complaints[0]
    watch._on_stats(message(900, 3, 3, resets=1))
    assert len(watch.complaints) == 1, "a stream that starts over gives windows up"


def test_only_depth_of_good_data_is_a_recovery(watch):
    good, size, ms = {"stamp_ns": 1000 * 10**9, "at_s": 50.0}, (96, 64), 10**6
    begin = good["stamp_ns"]
    spoilt = [
        (49.9, begin + 60 * ms, size),  # before the good packet was sent
        (50.1, begin + 40 * ms, size),  # of a window with older packets in it
        (50.1, begin + 60 * ms, (80, 48)),  # of another camera
        (50.1, begin + 20_000 * ms, size),  # of another time
    ]
    watch.images = deque(spoilt)
    assert watch.recovered_s(good, 50.0, size) is None
    watch.images.append((50.2, begin + 110 * ms, size))
    assert watch.recovered_s(good, 50.0, size) == pytest.approx(0.2)


# --- the camera ------------------------------------------------------------------------------------------------------


TRAFFIC = Traffic("/e", "/i", "", 96, 64, "evt3", rate_mev=0.1, packets_per_s=100.0)


@pytest.fixture(scope="module")
def scene():
    from sdt_ros.bench.soak_camera import Scene

    return Scene(TRAFFIC)


def sent(camera, packets):
    return [packet for _ in range(packets) for packet in camera.next()]


@pytest.mark.parametrize("kind", CAMERA_FAULTS)
def test_each_fault_of_the_camera_spoils_something_and_ends(scene, kind):
    from sdt_ros.bench.soak_camera import Camera
    from sdt_ros.events import EventStream, WindowConfig

    camera = Camera(TRAFFIC, scene)
    before = sent(camera, 20)
    camera.orders.put({"id": 7, "kind": kind, "seconds": 0.2, "factor": 3.0})
    during = sent(camera, 60 if kind == "burst" else 20)
    assert camera.begun == 7
    after = sent(camera, 40)
    assert camera.fault == "" and camera.speed == 1.0
    report = camera.report()
    assert report is not None and report["id"] == 7 and camera.report() is None
    assert any(packet.stamp_ns == report["stamp_ns"] for packet in during + after)

    windows = []
    stream = EventStream(WindowConfig(), lambda window: windows.append(window.detach()))
    for packet in before + during:
        try:
            stream.push(packet)
        except ValueError:
            continue
    count = len(windows)
    for packet in after:
        stream.push(packet)
    assert len(windows) > count, "good packets give windows again"
    counted, decoding = stream.packets, stream.decoding
    damage = decoding.unknown + decoding.outside + decoding.truncated + stream.windows.time_jumps
    odd = {
        "gap": counted.lost, "reordered": counted.reordered, "duplicates": counted.duplicates,
        "random_bytes": damage + counted.rejected, "cut_packets": decoding.truncated,
        "unreadable": counted.rejected, "silence": not during, "second_camera": not camera.fault,
        "static": any(packet.payload.size == 0 for packet in during),
        "storm": max(window.spikes.mean() for window in windows) > 2 * windows[0].spikes.mean(),
        "hot_pixels": any(window.spikes[:, :, 5, 3].any() for window in windows),
        "burst": len(during) == 60, "sensor_clock_leaps": stream.windows.empty, "time_forward": stream.windows.empty,
    }  # fmt: skip
    assert odd.get(kind, counted.restarts), kind
    assert np.all(np.diff([window.index for window in windows[count:]]) >= 1) or counted.restarts
