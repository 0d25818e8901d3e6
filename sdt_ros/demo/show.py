"""The course of the demo: time the network, play the bag through the graph, judge and draw what arrived."""

from __future__ import annotations

import argparse
import math
import signal
import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sdt_ros.bags import BagError, open_bag
from sdt_ros.demo import graph, pictures, scoring
from sdt_ros.evaluation.errors import EvaluationError
from sdt_ros.evaluation.expected import Expected, expect
from sdt_ros.evaluation.table import table
from sdt_ros.events import WindowConfig
from sdt_ros.runtime import DepthEstimator
from sdt_ros.weights import default_weights

RATE_HZ = 20.0
MIN_EVENTS = 100
BUSY = 0.5  # share of the time that the network may be at work: replay and transport need some of the cores too
COMPLETE = 0.98  # share of the windows that must arrive for a rate of our own choice to have been right
TRIES = 3  # other work on the machine may have changed its mind since the network was timed
TRY_AGAIN_S = 60.0  # a replay that lasts longer is not repeated
START_S = 90.0  # for the node to load and warm its network, at most
SETTLE_S = 5.0  # for the last depth image to arrive, at most
STILLS = 6
SIMULATED_S = 2.0


def show(args: argparse.Namespace) -> dict[str, Any]:
    """Run the demo; returns the content of `summary.json`.

    Raises:
        BagError, CheckpointError, DeviceError, GraphError, ValueError: what cannot be used, and why.
    """
    weights = args.weights or default_weights()
    if weights is None:
        estimator = DepthEstimator.untrained(args.preset, args.device)
    else:
        estimator = DepthEstimator.from_checkpoint(weights, args.device)
    bag = args.bag or _simulated(args.out.parent / "recordings" / "simulated_tabletop_346x260")
    motion = _motion(bag, args)
    windows = WindowConfig(estimator.window_ms, estimator.bins, RATE_HZ, MIN_EVENTS)
    expected = expect(bag, windows, estimator.card.input_scale, args.topic)
    if not expected.windows:
        raise BagError(f"{bag} has no window of {windows.window_ms:g} ms with {MIN_EVENTS} events or more")
    untrained, network_ms = estimator.is_untrained, _network_ms(estimator, expected)
    rate = args.rate or min(1.0, max(0.01, round(BUSY * 1000 / RATE_HZ / network_ms, 2)))
    print(f"{bag}: {len(expected.windows)} windows; the network takes {network_ms:.0f} ms each")

    node = {
        "device": args.device, "preset": args.preset, "allow_untrained": str(untrained).lower(),
        "rate_hz": RATE_HZ, "min_events": MIN_EVENTS,
    }  # fmt: skip
    if weights is not None:
        node["weights"] = weights
    incomplete: list[dict[str, float]] = []
    while True:
        print(f"replay at {rate:g}x")
        received = _play(bag, rate, expected, motion, node, args.out)
        arrived = len(received.times) / len(expected.windows)
        last_try = args.rate is not None or len(incomplete) == TRIES - 1 or expected.seconds / rate > TRY_AGAIN_S
        if arrived >= COMPLETE or last_try:
            break
        print(f"{1 - arrived:.0%} of the windows were skipped: the machine is too busy for that")
        incomplete.append({"replay_rate": rate, "windows_received": len(received.times)})
        rate = max(0.01, round(rate / 2, 2))
    # Not before there is something new: a misspelt bag, or a demo that is stopped, shall cost no results.
    for name in ("summary.json", "report.html", "animation.gif", "depth_*.png"):  # of an earlier run
        for old in args.out.glob(name):
            old.unlink()
    from sdt_ros.demo.verdict import summarize

    summary: dict[str, Any] = {
        "recording": str(bag),
        "odometry": motion[0] if motion else None,
        "network_ms_alone": round(network_ms, 2),
    }
    summary |= summarize(received, expected, rate) | {"faster_replays_with_skips": incomplete}
    if motion and not any(math.isfinite(stats.depth_factor_deviation) for stats in received.stats):
        summary["problems"].append(f"the odometry on {motion[0]} told no window's scale; see {args.out / 'node.log'}")
    truths: dict[int, np.ndarray] = {}
    if scoring.has_truth(bag) and received.depth:
        try:
            scored = scoring.score_and_draw(bag, received, expected, windows)
        except EvaluationError as error:  # what arrived is worth a look all the same
            summary["not_scored"] = str(error)
            print(f"the recording's depth cannot be compared with: {error}", file=sys.stderr)
        else:
            summary["errors"] = {name: scored.content["metric"][name] for name in scored.content["metric"]}
            (args.out / "report.html").write_text(scored.page, encoding="utf-8")
            print(table(scored.content))
            truths = scored.truths
    colours_m = pictures.colour_range([*received.samples, *truths.values()])
    panels = []
    for window in tqdm(expected.windows[: expected.shown], desc="pictures", unit="picture", leave=False, disable=None):
        if window.stamp_ns in received.depth:
            title = f"{bag.name}, {window.t_end_us / 1e6:.3f} s of the sensor's clock, {window.events} events"
            alarm = "UNTRAINED WEIGHTS: what is shown on the right is not depth" if untrained else ""
            depth, truth = received.depth[window.stamp_ns], truths.get(window.stamp_ns)
            panels.append(pictures.panel(window.spikes, depth, *colours_m, title, alarm, truth))
    if panels:
        summary["pictures"] = [file.name for file in pictures.save(panels, args.out, STILLS, 1000 / RATE_HZ)]
    return summary


def _simulated(path: Path) -> Path:
    """A simulated recording with exact depth, made once and kept."""
    if not path.exists():
        from sdt_ros.simulation.recording import RecordingConfig, write_recording

        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"simulating {path}, once", flush=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # an interrupted one must not be taken for whole
            config = RecordingConfig("tabletop", SIMULATED_S, seed=1)
            write_recording(Path(folder, path.name), config, progress=sys.stderr.isatty())
            Path(folder, path.name).rename(path)
    return path


def _network_ms(estimator: DepthEstimator, expected: Expected) -> float:
    """Median time of a window through the network, alone on the machine [ms]."""
    windows = expected.windows[:6]
    seconds = []
    for window in windows:
        began = time.perf_counter()
        estimator(window.spikes, expected.sensor_size)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:] or seconds) * 1000


def _motion(bag: Path, args: argparse.Namespace) -> list[str]:
    """The topics of the odometry that is to be used and of how the camera is mounted; empty for none."""
    from sdt_ros.simulation.recording import ODOMETRY_TOPIC

    with open_bag(bag) as reader:
        if args.odometry and args.odometry not in reader.topics:
            raise BagError(f"{bag} has no topic {args.odometry}; there are: {', '.join(reader.topics)}")
        # A recording of ours that an older version made has none.
        ours = args.bag is None and ODOMETRY_TOPIC in reader.topics
        mounting = ["/tf_static"] if "/tf_static" in reader.topics and find_spec("tf2_msgs") else []
    topic: str = args.odometry if args.odometry is not None else ODOMETRY_TOPIC if ours else ""
    if not topic:
        return []
    print(f"the scale of depth is asked of the odometry on {topic}; --odometry '' leaves it to the network")
    return [topic, *mounting]


def _play(bag: Path, rate: float, expected: Expected, motion: list[str], node: dict[str, Any], out: Path) -> Any:
    """Run node and replay as processes, watch the node's output; returns what was received."""
    graph.prepare_environment()
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from sdt_ros.evaluation.watch import Watcher

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes must not stay behind
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    processes: list[graph.Process] = []
    try:
        watcher = Watcher("demo_watcher", keep_samples=True)
        executor = SingleThreadedExecutor()
        executor.add_node(watcher)
        names = ["-r", f"~/events:={expected.topic}"]
        if expected.info_topic:
            names += ["-r", f"~/camera_info:={expected.info_topic}"]
        if motion:
            names += ["-r", f"~/odometry:={motion[0]}"]
        settings = [part for name, value in node.items() for part in ("-p", f"{name}:={value}")]
        with graph.uninterrupted():
            depth = graph.Process("node", ["node", *names, *settings], out / "node.log")
            processes.append(depth)
        _wait_for_node(watcher, executor, depth, expected.topic)
        topics = [topic for topic in (expected.topic, expected.info_topic, *motion) if topic]
        playing = ["replay", str(bag), "--rate", str(rate), "--wait-for-subscribers", "20", "--topics", *topics]
        with graph.uninterrupted():
            replay = graph.Process("replay", playing, out / "replay.log")
            processes.append(replay)
        _watch(watcher, executor, depth, replay, len(expected.windows))
        if depth.stop() != 0:
            raise depth.failure("did not end cleanly")
        return watcher.received
    finally:
        for process in processes:
            process.stop()
        rclpy.try_shutdown()


def _wait_for_node(watcher: Any, executor: Any, depth: graph.Process, topic: str) -> None:
    deadline = time.monotonic() + START_S
    while not watcher.count_subscribers(topic):
        executor.spin_once(timeout_sec=0.1)
        if not depth.is_alive:
            raise depth.failure("could not start")
        if time.monotonic() > deadline:
            raise depth.failure(f"did not subscribe to {topic} within {START_S:.0f} s")


def _watch(watcher: Any, executor: Any, depth: graph.Process, replay: graph.Process, windows: int) -> None:
    """Receive until the replay is over and all has arrived, or nothing more does."""
    last_change, count = time.monotonic(), 0
    with tqdm(total=windows, desc="depth images", unit="image", leave=False, disable=None) as bar:
        while True:
            executor.spin_once(timeout_sec=0.1)
            replay.check()
            if not depth.is_alive:
                raise depth.failure("died")
            if watcher.count > count:
                bar.update(watcher.count - count)
                count, last_change = watcher.count, time.monotonic()
            if replay.is_alive:
                last_change = time.monotonic()
            elif time.monotonic() - last_change > (0.5 if count >= windows else SETTLE_S):
                return
