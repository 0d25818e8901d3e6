"""Scores what a depth node really publishes while a bag plays: `sdt eval BAG --live`, and the ROS node `eval`.

rclpy is imported on running only.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdt_ros.bags import BagError, BagReader, events_topic, open_bag
from sdt_ros.cli import needs_ros
from sdt_ros.evaluation.arguments import wrong_watch
from sdt_ros.evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from sdt_ros.evaluation.watch import Watcher

SETTLE_S = 2.0  # no more depth for so long after the recording is over: all has arrived
ASK_AGAIN_S = 2.0  # for the node's parameters
ANSWER_S = 10.0  # behind the end of the recording
GONE_S = 1.0  # without a publisher for so long: the recording is over
INCOMPLETE = 3  # exit code: scored, but frames were late or missing
NAMES = ("rate_hz", "min_events", "window_ms", "bins")


@dataclass(frozen=True)
class LiveConfig:
    """What to watch and how to score it.

    Attributes:
        bag: the recording that is played elsewhere; its truth is read from the file.
        depth_node: full name of the depth node.
        events_topic: of the packets; the first in the bag if None.
        truth_topic: of the depth images in the bag.
        protocol: name of one.
        rows: only the upper rows count; all if None.
        drop_bad_stamps: leave out truth whose stamps repeat or go back.
        late_ms: a latency above is late [ms]; the period of the replay if None.
        start_s: wait so long for the replay to begin [s].
        json: where to write the figures.
        report: where to write the page.
    """

    bag: Path
    depth_node: str = "/depth"
    events_topic: str | None = None
    truth_topic: str = "/depth/image_rect"
    protocol: str = "mvsec"
    rows: int | None = None
    drop_bad_stamps: bool = False
    late_ms: float | None = None
    start_s: float = 120.0
    json: Path | None = None
    report: Path | None = None

    def __post_init__(self) -> None:
        names = ("depth_node", "late_ms", "start")
        if wrong := wrong_watch(self.depth_node, self.late_ms, self.start_s, names):
            raise ValueError(wrong)


def evaluate_live(args: argparse.Namespace) -> int:
    """Run `sdt eval --live`; returns the exit code.

    Raises:
        BagError, EvaluationError, ValueError, OSError: what cannot be scored, and why.
    """
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions

        from sdt_ros.evaluation.watch import Watcher
    except ImportError as error:
        raise ValueError(f"--live {needs_ros(error)}") from None
    config = LiveConfig(
        args.bag, args.node or LiveConfig.depth_node, args.events_topic, args.truth_topic, args.protocol or "mvsec",
        args.rows, args.drop_bad_stamps, args.late_ms, LiveConfig.start_s if args.start_s is None else args.start_s,
        args.json, args.report,
    )  # fmt: skip
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        return _watch_and_score(Watcher("eval", None), config)
    finally:
        rclpy.try_shutdown()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node `eval`; returns the exit code: 0 scored, 1 not, 3 with late or missing frames, 130 interrupted."""
    import rclpy
    from rclpy.exceptions import ParameterException
    from rclpy.signals import SignalHandlerOptions

    from sdt_ros.evaluation.watch import Watcher

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
        watcher = Watcher("eval", None)
    except (RuntimeError, ValueError) as error:  # of arguments that ROS cannot read
        rclpy.logging.get_logger("eval").fatal(f"cannot start: {error}")
        rclpy.try_shutdown()
        return 1
    try:
        try:
            return _watch_and_score(watcher, _declare_parameters(watcher))
        except (BagError, ValueError, OSError, ParameterException) as error:
            watcher.get_logger().fatal(str(error))
            return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        rclpy.try_shutdown()


def _declare_parameters(node: Watcher) -> LiveConfig:
    from rcl_interfaces.msg import ParameterDescriptor

    def declare(name: str, default: Any, description: str) -> Any:
        return node.declare_parameter(
            name, default, ParameterDescriptor(name=name, description=description, read_only=True)
        ).value  # fmt: skip

    bag = declare("bag", "", "bag that is played: folder, or one .db3 or .mcap file; its truth is read from there")
    if not bag:
        raise ValueError("parameter bag is empty; set it to a bag folder or file: --ros-args -p bag:=PATH")
    json = declare("json", "", "file to write the figures to; empty for none")
    report = declare("report", "", "file to write the page to; empty for none")
    return LiveConfig(
        bag=Path(bag).expanduser(),
        depth_node=declare("depth_node", "/depth", "full name of the depth node"),
        events_topic=declare("events", "", "topic of the event packets; empty for the first in the bag") or None,
        truth_topic=declare("truth", "/depth/image_rect", "topic of the true depth in the bag"),
        protocol=declare("protocol", "mvsec", "mvsec, dense, dsec or none"),
        late_ms=declare("late_ms", 0.0, "a latency above is late [ms]; 0 for the replay's period") or None,
        start_s=declare("start", 120.0, "wait so long for the replay to begin [s]"),
        json=Path(json).expanduser() if json else None,
        report=Path(report).expanduser() if report else None,
    )


def _watch_and_score(watcher: Watcher, config: LiveConfig) -> int:
    """Watch until the recording is over, score, print and write; returns the exit code."""
    from sdt_ros.evaluation.command import write
    from sdt_ros.evaluation.figures import figures
    from sdt_ros.evaluation.protocol import protocols
    from sdt_ros.evaluation.published import activity_of, score_published
    from sdt_ros.evaluation.recording import RecordingSource
    from sdt_ros.evaluation.rectify import Rectifier
    from sdt_ros.evaluation.run import Work
    from sdt_ros.evaluation.score import Scorer
    from sdt_ros.evaluation.spool import Spool
    from sdt_ros.evaluation.truth import read_truth
    from sdt_ros.events import WindowConfig

    if config.protocol not in protocols:
        raise ValueError(f"there is no protocol {config.protocol!r}; known are {', '.join(protocols)}")
    protocol = replace(protocols[config.protocol], rows=config.rows)
    with ExitStack() as stack:
        bag = stack.enter_context(open_bag(config.bag))
        topic = events_topic(bag, config.events_topic)
        truth = read_truth(bag, config.truth_topic, stack.enter_context(Spool()), protocol, config.drop_bad_stamps)
        parameters = _watch(watcher, config, topic, bag)
        received = watcher.received
        if not received.stats:
            raise EvaluationError(
                f"{config.depth_node} published no depth while {config.bag} played; look at its log and its diagnostics"
            )
        last = received.stats[-1]
        windows = WindowConfig(
            float(last.window_ms), parameters["bins"] or 4, parameters["rate_hz"], parameters["min_events"]
        )
        source = RecordingSource(bag, topic, truth, windows, Rectifier(None, topic), "node")
        scorer = stack.enter_context(Scorer(protocol, source.where, False, config.report is not None))
        live, counts = score_published(source, received, scorer, round(float(windows.period_us) * 1000), config.late_ms)
        scores = scorer.finish()
        settings = {
            "recording": str(config.bag),
            "events": topic,
            "truth": config.truth_topic,
            "schedule": "node",
            "rate_hz": windows.rate_hz,
            "min_events": windows.min_events,
            "window_ms": windows.window_ms,
            "protocol": {name: getattr(protocol, name) for name in ("name", "far_m", "below_max", "rows")},
            "depth_node": config.depth_node,
            "rectification": "as the node published it",
            "recording_s": (bag.end_ns - bag.start_ns) / 1e9,
        }
        work = Work(activity=activity_of(received.stats))
        content = figures(settings, last.runtime, bool(last.trained), counts, scores, work, live.as_dict())
        write(argparse.Namespace(json=config.json, report=config.report), content, scorer, scores)
    return 0 if live.complete else INCOMPLETE


def _watch(watcher: Watcher, config: LiveConfig, topic: str, bag: BagReader) -> dict[str, Any]:
    """Receive until the recording is over and nothing more comes; returns the depth node's parameters."""
    from rcl_interfaces.srv import GetParameters
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import parameter_value_to_python

    node = "/" + config.depth_node.strip("/")
    watcher.watch(node)
    client: Any = watcher.create_client(GetParameters, f"{node}/get_parameters")
    executor = SingleThreadedExecutor()
    executor.add_node(watcher)
    length_s = (bag.end_ns - bag.start_ns) / 1e9
    watcher.get_logger().info(f"waiting for {topic} to be played, {length_s:.1f} s of {bag.path.name}")
    answers: list[Any] = []  # one lost is asked for anew: bench/service_calls.py says how it gets lost
    asked_s = -math.inf
    give_up = time.monotonic() + config.start_s
    seen_s: float | None = None  # when a publisher of packets was last there
    count, changed_s = 0, time.monotonic()
    try:
        while True:
            executor.spin_once(timeout_sec=0.05)
            now = time.monotonic()
            answer = next((one for one in answers if one.done()), None)
            if answer is None and now - asked_s > ASK_AGAIN_S and client.service_is_ready():
                answers.append(client.call_async(GetParameters.Request(names=list(NAMES))))
                asked_s = now
            if watcher.count_publishers(topic):
                seen_s, give_up = now, now + ANSWER_S
            if watcher.count > count:
                count, changed_s = watcher.count, now
            if seen_s is None:
                if now > give_up:
                    raise EvaluationError(f"nobody has published {topic} within {config.start_s:g} s; play {bag.path}")
            elif now - seen_s > GONE_S and now - changed_s > SETTLE_S and (answer or not answers or now > give_up):
                break
        if answer is None:
            raise EvaluationError(f"there is no depth node {node} on the graph; name another")
        values = [parameter_value_to_python(value) for value in answer.result().values]
        return dict(zip(NAMES, values, strict=True))
    finally:
        executor.shutdown()


if __name__ == "__main__":
    sys.exit(main())
