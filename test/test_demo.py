"""The demo: real processes on a real graph, judged by what it writes and by how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

from PIL import Image
from sdt_ros.msg import Stats
from std_msgs.msg import Header

from sdt_ros.bags import EVENT_PACKET_TYPE, QOS_BEST_EFFORT, BagWriter, serialize_event_packet
from sdt_ros.cli import main
from sdt_ros.demo.graph import uninterrupted
from sdt_ros.demo.pictures import LINE, MARGIN, colour_range, panel
from sdt_ros.demo.verdict import summarize
from sdt_ros.evaluation.expected import expect
from sdt_ros.evaluation.published import Received
from sdt_ros.event_frame import event_frame
from sdt_ros.events import EventPacket, WindowConfig
from sdt_ros.simulation.patterns import FRAME_ID, write_pattern_bag

HEIGHT, WIDTH = 96, 128
WINDOWS = WindowConfig(50.0, 4, 20.0, 100)


def demo(*arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run `sdt demo` and everything that it starts; nothing of it outlives the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sdt_ros.cli", "demo", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # it ends its own processes
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "patterns"
    write_pattern_bag(path, seconds=1, width=WIDTH, height=HEIGHT)
    return path


@pytest.mark.ros
def test_demo_writes_figures_and_pictures_of_what_arrived(bag: Path, tmp_path: Path) -> None:
    for name in ("report.html", "depth_99.png", "summary.json"):  # of an earlier run
        (tmp_path / name).write_text("old")
    done = demo("--bag", str(bag), "--out", str(tmp_path), "--rate", "0.25")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "report.html").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    expected = expect(bag, WINDOWS, 1.0)
    assert summary["problems"] == []
    assert summary["windows_due"] == expected.due == len(expected.windows) >= 15
    assert summary["windows_received"] >= 0.98 * expected.due
    assert summary["windows_received"] + summary["windows_skipped"] + summary["windows_empty"] == expected.due
    assert summary["packets_lost"] == 0
    assert summary["rate_hz"] == pytest.approx(20 * 0.25, rel=0.1)
    assert summary["event_rate_mev_s"] == pytest.approx(expected.events / expected.seconds / 1e6, abs=1e-3)
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"] < 5000
    assert "sdt_small" in summary["runtime"] and summary["trained"] is True
    assert summary["sensor"] == {"height": HEIGHT, "width": WIDTH} and summary["nan_share"] == 0
    assert "UNTRAINED" not in done.stdout
    stills = sorted(tmp_path.glob("depth_*.png"))
    assert [still.name for still in stills] + ["animation.gif"] == summary["pictures"] and len(stills) == 6
    for still in stills:
        pixels = np.asarray(Image.open(still).convert("RGB")).astype(int)
        assert pixels.shape[0] > HEIGHT and pixels.shape[1] > 2 * WIDTH
        left, right = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
        assert left.std() > 5 and right.std() > 5, "neither half is blank"
    with Image.open(tmp_path / "animation.gif") as animation:
        frames = []
        for index in range(animation.n_frames):
            animation.seek(index)
            frames.append(np.asarray(animation.convert("RGB")))
    assert len(frames) == summary["windows_received"]
    assert all((one != other).any() for one, other in pairwise(frames)), "it moves"


def bag_without_events(folder: Path) -> Path:
    """A bag that has the topic, and packets with nothing in them."""
    packet = EventPacket(10**18, FRAME_ID, HEIGHT, WIDTH, 0, 0, "evt3", False, np.empty(0, np.uint8))
    with BagWriter(folder / "empty") as writer:
        writer.add_topic("/events", EVENT_PACKET_TYPE, QOS_BEST_EFFORT)
        for seq in range(20):
            stamped = replace(packet, seq=seq, stamp_ns=packet.stamp_ns + seq * 10**7)
            writer.write("/events", EVENT_PACKET_TYPE, stamped.stamp_ns, serialize_event_packet(stamped))
    return folder / "empty"


@pytest.mark.parametrize("case", ["missing", "no events", "no such topic", "rate"])
def test_what_cannot_be_shown_is_one_clear_message(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, code, text = {
        "missing": (["--bag", str(tmp_path / "nowhere")], 1, "nowhere"),
        "no events": (["--bag", str(bag_without_events(tmp_path))], 1, "no window of 50 ms with 100 events"),
        "no such topic": (["--bag", str(bag), "--topic", "/other"], 1, "no topic /other"),
        "rate": (["--bag", str(bag), "--rate", "-1"], 2, "--rate"),
    }[case]
    earlier = tmp_path / "out" / "depth_0000.png"
    earlier.parent.mkdir()
    earlier.write_text("of an earlier run")
    assert main(["demo", *arguments, "--out", str(tmp_path / "out")]) == code
    said = capsys.readouterr().err
    assert said.startswith("sdt demo: ") and said.count("\n") == 1 and text in said
    assert not (tmp_path / "out" / "summary.json").exists()
    assert earlier.exists(), "what was asked for wrongly costs no results"


@pytest.mark.ros
def test_a_stopped_demo_leaves_no_process_behind(bag: Path, tmp_path: Path) -> None:
    """And the results of the one before, which it has nothing to put in the place of."""
    earlier = [tmp_path / name for name in ("report.html", "depth_00.png", "animation.gif", "summary.json")]
    for file in earlier:
        file.write_text("old")
    process = subprocess.Popen(
        [sys.executable, "-m", "sdt_ros.cli", "demo", "--bag", str(bag), "--out", str(tmp_path), "--rate", "0.05"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not ((tmp_path / "node.log").exists() and "waiting for events" in (tmp_path / "node.log").read_text()):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert children
        process.terminate()
        assert process.wait(20) == 130
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
        assert all(file.read_text() == "old" for file in earlier)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_a_process_is_listed(number: int) -> None:
    """A process that was started and not yet listed would stay behind."""
    before, done = signal.getsignal(number), []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        done.append("listed")
    assert done == ["listed"] and signal.getsignal(number) == before
    with uninterrupted():
        done.append("no interrupt")
    assert len(done) == 2


# --- the verdict, on what could have arrived --------------------------------------------------------------------------


def received_all(expected: Any) -> Received:
    """Everything arrived as it should."""
    received = Received(sizes={(HEIGHT, WIDTH)}, info_sizes={(HEIGHT, WIDTH)}, encodings={"32FC1"})
    for number, window in enumerate(expected.windows):
        received.times.append(number * 0.05)
        received.samples.append(np.full(10, 3.0, np.float32))
        received.image_headers.append((window.stamp_ns, FRAME_ID))
        received.info_headers.append((window.stamp_ns, FRAME_ID))
        stats = Stats(header=Header(), windows_due=number + 1, windows_published=number + 1, latency_ms=float(number))
        received.stats.append(stats)
    return received


def test_the_verdict_finds_what_is_wrong(bag: Path) -> None:
    expected = expect(bag, WINDOWS, 1.0)
    assert summarize(received_all(expected), expected, 1.0)["problems"] == []

    def found(change: Any) -> str:
        received = received_all(expected)
        change(received)
        (problem,) = summarize(received, expected, 1.0)["problems"]
        return problem

    assert "no depth image arrived" in found(lambda r: (r.image_headers.clear(), r.samples.clear(), r.times.clear()))
    assert "1 depth images have no camera_info" in found(lambda r: r.info_headers.pop(3))
    assert "1 camera_info have no depth image" in found(lambda r: r.image_headers.pop(3))
    assert "16UC1" in found(lambda r: r.encodings.add("16UC1"))
    assert "depth images have the sizes" in found(lambda r: r.sizes.add((10, 10)))
    assert "camera_info have the sizes" in found(lambda r: r.info_sizes.add((10, 10)))
    assert "know no depth" in found(lambda r: r.samples[2].fill(np.nan))
    assert "is not due" in found(lambda r: setattr(r.stats[4], "windows_skipped", 2))
    assert "went back" in found(lambda r: (r.image_headers.reverse(), r.info_headers.reverse()))
    assert "share their stamp" in found(lambda r: r.image_headers.insert(0, r.image_headers[0]))
    stray = (expected.windows[-1].stamp_ns + 1, FRAME_ID)
    assert "no window's end" in found(lambda r: (r.image_headers.append(stray), r.info_headers.append(stray)))


def test_long_recordings_keep_only_what_is_drawn(bag: Path) -> None:
    everything, first = expect(bag, WINDOWS, 1.0), expect(bag, WINDOWS, 1.0, shown=3)
    assert everything.shown == len(everything.windows) == len(first.windows) and first.shown == 3
    assert [window.stamp_ns for window in first.windows] == [window.stamp_ns for window in everything.windows]
    for one, other in zip(first.windows[:3], everything.windows, strict=False):
        np.testing.assert_array_equal(one.spikes, other.spikes)
    assert not any(window.spikes.size for window in first.windows[3:])


def test_event_frames_show_where_and_which(bag: Path) -> None:
    spikes = np.zeros((4, 2, 3, 5), np.uint8)
    spikes[:, 1, 0, 0] = 1  # ON in all bins
    spikes[:1, 0, 2, 4] = 1  # OFF in one
    frame = event_frame(spikes).astype(int)
    assert (frame[1] == 255).all(), "nothing happened there"
    assert frame[0, 0, 0] > frame[0, 0, 2] + 50 and frame[2, 4, 2] > frame[2, 4, 0] + 20
    assert frame[0, 0].sum() < frame[2, 4].sum(), "more spikes are darker"
    depth = np.full((3, 5), np.nan, np.float32)
    drawn = np.asarray(panel(spikes, depth, 0.5, 80.0, "title", "alarm"))
    plain = np.asarray(panel(spikes, depth, 0.5, 80.0, "title", ""))
    assert drawn.shape[0] > plain.shape[0], "the alarm has its line"
    near, far = np.full((3, 5), 0.5, np.float32), np.full((6, 10), 80.0, np.float32)  # a truth of another size
    beside = np.asarray(panel(spikes, near, 0.5, 80.0, "title", "", far)).astype(int)
    third = beside.shape[1] // 3
    assert third > plain.shape[1] // 3, "the truth has its place"
    row = beside[MARGIN + LINE + 1]
    assert np.abs(row[-MARGIN - 2] - row[MARGIN + 5 + MARGIN + 2]).sum() > 100, "near and far differ in colour"


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ([np.linspace(0.6, 1.9, 100)], (0.5, 2)),
        ([np.array([[3.0, np.nan]]), np.array([np.inf, -1.0, 40.0])], (2, 50)),
        ([np.full(4, 5.0)], (5, 10)),
        ([np.full(4, np.nan)], (0.01, 5000)),
        ([], (0.01, 5000)),
        ([np.repeat([1e-4, 1e5], 50)], (0.01, 5000)),
    ],
)
def test_colours_reach_from_the_nearest_to_the_farthest_of_a_recording(depths: list, expected: tuple) -> None:
    assert colour_range(depths) == expected
