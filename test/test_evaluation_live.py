"""Scores of what a node published: counted by hand, and on a real graph with frames that are made to miss."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from evaluation_bag import HEIGHT, TRUTH_TOPIC, WIDTH, ramp, stamps_20hz, write_bag

from sdt_ros.bags import BagWriter, open_bag, parse_event_packet, serialize_event_packet, spike_windows
from sdt_ros.cli import main
from sdt_ros.demo.scoring import score_and_draw
from sdt_ros.evaluation import EvaluationError, frame_metrics, protocols
from sdt_ros.evaluation.expected import expect
from sdt_ros.evaluation.live import LiveConfig
from sdt_ros.evaluation.published import Live, Received, activity_of, score_published
from sdt_ros.evaluation.recording import RecordingSource
from sdt_ros.evaluation.rectify import Rectifier
from sdt_ros.evaluation.score import Scorer, Scores
from sdt_ros.evaluation.spool import Spool
from sdt_ros.evaluation.table import table
from sdt_ros.evaluation.truth import read_truth
from sdt_ros.events import WindowConfig
from sdt_ros.simulation.patterns import EVENTS_TOPIC, INFO_TOPIC, START_NS

ROOT = Path(__file__).parents[1]
PERIOD_NS = 50_000_000
GAP_NS = (START_NS + 395_000_000, START_NS + 510_000_000)  # a window of 50 ms lies in it, whatever the clock says


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "ramp")


def stats(stamp_ns: int, latency_ms: float, **others: object) -> SimpleNamespace:
    """What the statistics of a depth image say, as far as it matters here."""
    stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    known = {"windows_published": 1, "windows_skipped": 0, "packets_lost": 0, "window_packets_lost": 0}
    known |= {"firing_layers": [], "firing_rates": [], "energy_mj": np.nan}
    known |= {"runtime": "sdt_tiny on paper", "trained": False}
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), latency_ms=latency_ms, **(known | others))


def received(stamps: list[int], latencies_ms: list[float], pace: float = 1.0) -> Received:
    """Depth of 5 m at some stamps; a window is due at its stamp times the pace, and arrives by its latency later."""
    made = Received()
    for stamp, latency in zip(stamps, latencies_ms, strict=True):
        made.depth.put(stamp, np.full((HEIGHT, WIDTH), 5.0, np.float32))
        made.image_headers.append((stamp, "camera"))
        made.times.append(100 + (stamp - START_NS) / 1e9 * pace + latency / 1000)
        made.stats.append(stats(stamp, latency))
    return made


def judged(bag: Path, arrived: Received, late_ms: float | None = None) -> tuple[Live, dict[str, int], Scores]:
    with ExitStack() as stack:
        reader = stack.enter_context(open_bag(bag))
        truth = read_truth(reader, TRUTH_TOPIC, stack.enter_context(Spool()), protocols["mvsec"])
        windows = WindowConfig(50.0, 4, 20.0, 100)
        source = RecordingSource(reader, EVENTS_TOPIC, truth, windows, Rectifier(None, ""), "node")
        scorer = stack.enter_context(Scorer(protocols["mvsec"], source.where))
        live, counts = score_published(source, arrived, scorer, PERIOD_NS, late_ms)
        return live, counts, scorer.finish()


def test_all_that_arrived_in_time_is_complete(bag: Path):
    due = [window.stamp_ns for window in spike_windows(bag, min_events=100)]
    live, counts, scores = judged(bag, received(due, [10.0] * len(due), pace=4.0))
    assert (live.due, live.arrived, live.missing, live.late, live.unexpected) == (len(due), len(due), 0, 0, 0)
    assert live.complete and live.pace == pytest.approx(4.0) and live.late_ms == pytest.approx(200)
    assert live.latency_ms == {"p50": 10.0, "p99": 10.0, "max": 10.0}
    assert counts["depth_images"] == len(due)
    assert scores.total.frames == counts["truth_images"] - counts["truth_unmatched"]
    first = scores.scored[0]
    chosen = protocols["mvsec"].select(
        np.full((HEIGHT, WIDTH), 5.0), ramp(t_s=(first.truth_ns - START_NS) / 1e9)
    )  # fmt: skip
    assert first.metric == frame_metrics(chosen.prediction, chosen.truth)


def test_late_and_missing_and_odd_frames_are_counted(bag: Path):
    due = [window.stamp_ns for window in spike_windows(bag, min_events=100)]
    kept = due[:3] + due[5:]  # two never come
    latencies = [10.0] * len(kept)
    latencies[4], latencies[6] = 49.0, 51.0  # the next window is due after 50 ms
    stray = received([*kept, due[0] - PERIOD_NS * 3], [*latencies, 10.0])
    stray.stats.pop()
    live, counts, scores = judged(bag, stray)
    assert (live.due, live.arrived, live.missing, live.late) == (len(due), len(due) - 2, 2, 1)
    assert not live.complete and live.unexpected == 1 and live.pace == pytest.approx(1.0)
    assert scores.total.frames == counts["depth_images"] - counts["depth_unmatched"] == len(due) - 2
    assert judged(bag, received(kept, latencies), late_ms=9.0)[0].late == len(kept)
    silent = received(kept, latencies)
    del silent.stats[2]
    assert judged(bag, silent)[0].without_stats == 1
    moved = received([stamp + 20_000_000 for stamp in kept], latencies)  # as after packets that were lost
    assert judged(bag, moved)[0].arrived == len(kept)


def test_what_a_node_counted_before_is_left_out(bag: Path):
    due = [window.stamp_ns for window in spike_windows(bag, min_events=100)]

    def counted(published: int, before: tuple[int, int], after: tuple[int, int], in_all: int = 30) -> tuple[int, int]:
        """Windows skipped and packets lost, of a node with these counts at its first depth image here and its last."""
        arrived = received(due, [10.0] * len(due))
        first, last = arrived.stats[0], arrived.stats[-1]
        first.windows_published, first.window_packets_lost, last.windows_published = published, 2, in_all
        (first.windows_skipped, first.packets_lost), (last.windows_skipped, last.packets_lost) = before, after
        live = judged(bag, arrived)[0]
        return live.skipped, live.packets_lost

    assert counted(8, (5, 134), (6, 137)) == (1, 5), "two of its losses are those of the first window here"
    assert counted(1, (5, 134), (6, 137)) == (6, 137), "the node has seen nothing else"
    assert counted(8, (5, 134), (3, 4), in_all=7) == (3, 4), "it was activated anew"


def test_no_depth_at_all_is_refused(bag: Path):
    with pytest.raises(EvaluationError, match=rf"{bag}: {TRUTH_TOPIC}: no depth arrived for any of \d\d windows"):
        judged(bag, received([START_NS + 10**10], [1.0]))
    due = [window.stamp_ns for window in spike_windows(bag, min_events=100)]
    far = write_bag(bag.with_name("far"), stamps=[START_NS + 10**12], depth=lambda t_s: ramp())
    with pytest.raises(EvaluationError, match="none of 1 depth images has a truth within half a period"):
        judged(far, received(due[:1], [1.0]))


def test_rates_are_those_measured_last():
    assert activity_of([]).windows == 0 and activity_of([stats(1, 1.0)]).windows == 0
    measured = [
        stats(1, 1.0, firing_layers=["a"], firing_rates=[0.25], energy_mj=2.0), stats(2, 1.0)
    ]  # fmt: skip
    assert activity_of(measured).firing_rates == {"a": 0.25} and activity_of(measured).energy_mj == 2.0


def test_the_demo_scores_by_the_same_mechanism(bag: Path):
    windows = WindowConfig(50.0, 4, 20.0, 100)
    expected = expect(bag, windows, 1.0)
    stamps = [window.stamp_ns for window in expected.windows][1:]
    scored = score_and_draw(bag, received(stamps, [10.0] * len(stamps)), expected, windows)
    content, page = scored.content, scored.page
    live, _, scores = judged(bag, received(stamps, [10.0] * len(stamps)))
    assert content["live"] == live.as_dict() and content["live"]["missing"] == 1
    assert content["metric"]["network"]["abs_rel"] == scores.total.metric["network"]["abs_rel"].mean
    assert "1 missing" in table(content) and "1 missing" in page and "UNTRAINED" in page
    shown = {window.stamp_ns for window in expected.windows[: expected.shown]}
    assert scored.truths and set(scored.truths) <= shown
    assert all(truth.shape == ramp().shape and np.isfinite(truth).any() for truth in scored.truths.values())


# --- on a real graph --------------------------------------------------------------------------------------------------

START_S, REPLAY_S, STOP_S = 90.0, 60.0, 15.0


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"depth_node": "bad name"}, "depth_node is 'bad name', expected the full name of a node, such as /depth"),
        ({"depth_node": "/a__b"}, "depth_node is '/a__b'"),
        ({"late_ms": -1.0}, "late_ms is -1, expected a finite number above 0"),
        ({"start_s": math.nan}, "start is nan, expected a finite number of at least 0"),
        ({"start_s": -1.0}, "start is -1"),
    ],
)
def test_the_node_refuses_what_cannot_be(wrong: dict[str, Any], text: str):
    assert LiveConfig(Path("bag"), "ns/depth", late_ms=5.0, start_s=0.0)
    with pytest.raises(ValueError, match=re.escape(text)):
        LiveConfig(Path("bag"), **wrong)


@contextmanager
def process(log: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """A process beside the test, that ends with the block whatever happens."""
    with log.open("wb") as stream:
        started = subprocess.Popen(
            [sys.executable, *arguments], stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        yield started
    finally:
        started.send_signal(signal.SIGINT)
        try:
            started.wait(STOP_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def with_a_gap(bag: Path, path: Path) -> Path:
    """The same recording as a camera gave it that saw nothing for a while."""
    with open_bag(bag) as source, BagWriter(path) as target:
        for message in source.messages([EVENTS_TOPIC, INFO_TOPIC]):
            data = message.data
            if message.topic == EVENTS_TOPIC:
                packet = parse_event_packet(data)
                if GAP_NS[0] <= packet.stamp_ns < GAP_NS[1]:
                    data = serialize_event_packet(replace(packet, payload=packet.payload[:0]))
            target.write(message.topic, message.type, message.timestamp_ns, data)
    return path


@pytest.mark.ros
def test_frames_that_a_real_node_owes_are_missed(bag: Path, tmp_path: Path):
    pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")
    played = with_a_gap(bag, tmp_path / "gap")
    due = {window.stamp_ns for window in spike_windows(bag, min_events=100)}
    left = {window.stamp_ns for window in spike_windows(played, min_events=100)}
    assert len(due) - len(left) in (1, 2) and left < due, "the gap takes one window or two and moves no other"
    cli = ("-m", "sdt_ros.cli")
    parameters = ("allow_untrained:=true", "preset:=sdt_tiny", "device:=cpu", "rates_every:=5", "smoothing_s:=0.0")
    settings = [part for parameter in parameters for part in ("-p", parameter)]
    names = ("-r", f"~/events:={EVENTS_TOPIC}", "-r", f"~/camera_info:={INFO_TOPIC}")
    of_node = {"bag": bag, "json": tmp_path / "node.json", "report": tmp_path / "node.html", "late_ms": 0.001}
    declared = [part for name, value in of_node.items() for part in ("-p", f"{name}:={value}")]
    replay = ("replay", str(played), "--rate", "0.25", "--wait-for-subscribers", "20", "--no-progress")
    with ExitStack() as stack:
        node = stack.enter_context(process(tmp_path / "node.log", *cli, "node", *names, *settings))
        live = stack.enter_context(
            process(tmp_path / "live.log", *cli, "eval", str(bag), "--live", "--json", str(tmp_path / "live.json"))
        )
        script = stack.enter_context(
            process(tmp_path / "script.log", str(ROOT / "scripts/eval_node"), "--ros-args", *declared)
        )
        logs = [tmp_path / name for name in ("node.log", "live.log", "script.log")]
        wanted = ("waiting for events", "to be played", "to be played")

        def said() -> str:
            return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in logs)

        deadline = time.monotonic() + START_S
        while not all(text in log.read_text() for text, log in zip(wanted, logs, strict=True)):
            assert time.monotonic() < deadline and node.poll() is live.poll() is script.poll() is None, said()
            time.sleep(0.1)
        done = subprocess.run(
            [sys.executable, *cli, *replay], capture_output=True, text=True, timeout=REPLAY_S, check=False, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        # They end by themselves: scored, and something was missing.
        assert live.wait(REPLAY_S) == 3 and script.wait(REPLAY_S) == 3, said()
    content, late = (json.loads((tmp_path / name).read_text()) for name in ("live.json", "node.json"))
    seen = content["live"]
    assert seen["due"] == len(due) and seen["unexpected"] == 0
    assert seen["missing"] == len(due - left) + seen["skipped"] and seen["arrived"] == len(due) - seen["missing"]
    assert seen["skipped"] <= 0.2 * len(due), "an overloaded machine: nothing can be judged"
    assert seen["pace"] == pytest.approx(4.0, rel=0.2) and seen["late_ms"] == pytest.approx(200, rel=0.2)
    assert content["counts"]["frames_scored"] == len(content["frames"]) <= seen["arrived"]
    assert not content["trained"] and "sdt_tiny" in content["network"] and content["energy_mj"] > 0
    assert late["live"]["late"] == late["live"]["arrived"] == seen["arrived"], "nothing is as fast as a microsecond"
    assert late["metric"] == content["metric"], "both saw the same"
    printed = (tmp_path / "live.log").read_text()
    assert f"{seen['missing']} missing" in printed and "UNTRAINED" in printed
    page = (tmp_path / "node.html").read_text()
    assert "On the graph" in page and f"{seen['missing']} missing" in page and f"{seen['arrived']} late" in page
    check_depth(bag, tmp_path, content)


def check_depth(bag: Path, folder: Path, content: dict) -> None:
    """Offline, the same windows have the same scores: what was scored is what the node published."""
    options = ("--untrained", "sdt_tiny", "--device", "cpu", "--schedule", "node", "--smoothing-s", "0")
    assert main(["eval", str(bag), *options, "--json", str(folder / "offline.json")]) == 0
    offline = {frame["stamp_ns"]: frame for frame in json.loads((folder / "offline.json").read_text())["frames"]}
    untouched = [one for one in content["frames"] if not GAP_NS[0] < one["stamp_ns"] < GAP_NS[1] + 60_000_000]
    assert len(untouched) >= 10
    for frame in untouched:
        assert frame["truth_stamp_ns"] == offline[frame["stamp_ns"]]["truth_stamp_ns"] in stamps_20hz(1)
        assert frame["abs_rel"] == offline[frame["stamp_ns"]]["abs_rel"]


@pytest.mark.ros
@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--live", "--start-s", "0.5"), 1, "nobody has published /event_camera/events within 0.5 s"),
        (("--live", "--truth-topic", "/truth"), 1, "has no topic /truth"),
        (("--live", "--probes"), 2, "--probes is not for it"),
        (("--live", "--late-ms", "-1"), 2, "--late-ms is -1, expected a finite number above 0"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    bag: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, text: str
):
    pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")
    assert main(["eval", str(bag), *arguments]) == code
    assert text in capsys.readouterr().err
