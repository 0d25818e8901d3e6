"""`sdt replay`: publishes a bag's messages as they were recorded, without rosbag2; also the ROS node `replay`.

rclpy is imported on running only, so that `sdt --help` works without ROS.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdt_ros.arguments import write_text, wrong_outputs
from sdt_ros.bags import BagError, open_bag
from sdt_ros.cli import needs_ros
from sdt_ros.player import Player, ReplayConfig, ReplayError, ReplayReport
from sdt_ros.stopping import stop_on_signal

if TYPE_CHECKING:
    from rclpy.node import Node

_OF_BAGS = (".mcap", ".db3", ".yaml", ".zstd")
_RULES = "--remap takes FROM:=TO, such as /camera/events:=/events"


@contextmanager
def _spinning(node: Node) -> Iterator[None]:
    """Answer the node's services (parameters, logger levels) from a thread of their own."""
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            return

    thread = threading.Thread(target=spin, name="services", daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join()


def add_parser(subparsers: Any) -> None:
    """Add `replay` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replay",
        help="publish a recording's messages on the ROS graph",
        description="Publish a bag's messages (sqlite3 or MCAP) with their recorded QoS and timing, without rosbag2.",
        epilog="Exit codes: 0 played, 1 cannot play, 2 wrong arguments, 130 interrupted.",
    )
    parser.add_argument("bag", type=Path, help="bag folder, or one .db3 or .mcap file")
    parser.add_argument("--rate", type=float, default=1.0, help="bag seconds in a second (default 1)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--loop", action="store_true", help="begin again at the end, until Ctrl-C")
    again.add_argument("--once", dest="loop", action="store_false", help="stop at the end (default)")
    parser.add_argument("--topics", nargs="+", default=[], metavar="TOPIC", help="play only these")
    parser.add_argument("--clock", type=float, default=0.0, metavar="HZ", help="publish /clock, at least so often")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="begin S seconds into the bag")
    parser.add_argument("--duration", type=float, default=math.inf, metavar="S", help="play S seconds of the bag")
    parser.add_argument("--remap", nargs="+", default=[], metavar="FROM:=TO", help="publish topic FROM as TO")
    parser.add_argument(
        "--wait-for-subscribers", type=float, default=0.0, metavar="S", help="first wait for them, S seconds at most"
    )
    parser.add_argument("--wait-for", nargs="+", default=[], metavar="TOPIC", help="wait for those of these topics")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt replay`; returns the exit code."""
    stop = stop_on_signal()
    try:
        config = ReplayConfig(
            bag=args.bag,
            rate=args.rate,
            loop=args.loop,
            topics=tuple(args.topics),
            clock_hz=args.clock,
            start_s=args.start,
            duration_s=args.duration,
            wait_for_subscribers_s=args.wait_for_subscribers,
            wait_for=tuple(args.wait_for),
            progress=not args.no_progress,
        )
        _check(args)
    except ReplayError as error:
        print(f"sdt replay: {error}", file=sys.stderr)
        return 2
    try:
        report = _play(config, args.remap, stop)
    except (BagError, ReplayError) as error:
        print(f"sdt replay: {error}", file=sys.stderr)
        return 1
    print(report)
    if args.json is not None:
        try:
            write_text(args.json, json.dumps(asdict(report), indent=1) + "\n")
        except OSError as error:
            print(f"sdt replay: {error}", file=sys.stderr)
            return 1
    return 128 + signal.SIGINT if report.interrupted else 0


def _check(args: argparse.Namespace) -> None:
    if args.wait_for and not args.wait_for_subscribers:
        raise ReplayError("--wait-for has no effect without --wait-for-subscribers S; add it, or leave --wait-for out")
    if odd := [rule for rule in args.remap if not all(rule.partition(":=")[::2])]:
        raise ReplayError(f"{_RULES}, not {', '.join(map(repr, odd))}")
    folder = args.bag if args.bag.is_dir() else args.bag.parent
    bag_files = [path for path in folder.glob("*") if path.suffix in _OF_BAGS]
    if why := wrong_outputs({"--json": args.json}, kept=dict.fromkeys(bag_files, "a file of the bag")):
        raise ReplayError(why)


def _check_remapped(config: ReplayConfig, remap: Sequence[str]) -> None:
    """Refuse rules for topics that are not played: they would change nothing."""
    names = [rule.partition(":=")[0].rpartition(":")[2] for rule in remap]  # of one node only: NODE:FROM:=TO
    topics = [name if name[0] in "/~" else f"/{name}" for name in names if not name.startswith("__")]
    topics = [topic for topic in topics if topic != "/clock" or not config.clock_hz]
    with open_bag(config.bag) as bag:
        bag.messages(topics)
    if left := [topic for topic in topics if config.topics and topic not in config.topics]:
        raise ReplayError(f"--remap names {', '.join(left)}, which --topics leaves out; add it there")


def _play(config: ReplayConfig, remap: Sequence[str], stop: threading.Event) -> ReplayReport:
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions
    except ImportError as error:
        raise ReplayError(f"replay {needs_ros(error)}") from None
    _check_remapped(config, remap)
    rules = [part for rule in remap for part in ("-r", rule)]
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        try:
            node = rclpy.create_node("replay", cli_args=["--ros-args", *rules] if rules else None)
        except RuntimeError as error:
            why = f"{_RULES}: ROS refuses {' '.join(remap)}" if remap else f"the node cannot start: {error}"
            raise ReplayError(why) from None
        player = Player(node, config, stop)
        with _spinning(node):
            return player.run()
    finally:
        rclpy.try_shutdown()


def _declare_parameters(node: Node) -> ReplayConfig:
    from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor

    def declare(name: str, default: Any, description: str, most: float | None = None) -> Any:
        descriptor = ParameterDescriptor(name=name, description=description, read_only=True)
        if most is not None:
            descriptor.floating_point_range = [FloatingPointRange(from_value=0.0, to_value=most)]
        return node.declare_parameter(name, default, descriptor).value

    bag = declare("bag", "", "bag folder, or one .db3 or .mcap file")
    if not bag:
        raise ReplayError("parameter bag is empty; set it to a bag folder or file: --ros-args -p bag:=PATH")
    duration_s = declare("duration", 0.0, "how much of the bag to play [s]; 0 for all", 1e9)
    topics = declare("topics", [""], "topics to play, by their recorded names; empty for all")
    wait_for = declare("wait_for", [""], "topics whose subscribers to wait for, by their recorded names; empty for all")
    return ReplayConfig(
        bag=Path(bag).expanduser(),
        rate=declare("rate", 1.0, "bag seconds in a real second", 1e3),
        loop=declare("loop", False, "begin again at the end"),
        topics=tuple(filter(None, topics)),
        clock_hz=declare("clock", 0.0, "how often to publish /clock [Hz]; 0 for no /clock", 1e4),
        start_s=declare("start", 0.0, "how much to leave out at the beginning [s]", 1e9),
        duration_s=duration_s or math.inf,
        wait_for_subscribers_s=declare("wait_for_subscribers", 0.0, "wait for subscribers, at most so long [s]", 1e9),
        wait_for=tuple(filter(None, wait_for)),
        progress=declare("progress", False, "show a progress bar if there is a terminal"),
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node `replay`; returns the exit code: 0 at the end of the bag or when stopped, 1 if it cannot play."""
    import rclpy
    from rclpy.exceptions import ParameterException
    from rclpy.signals import SignalHandlerOptions

    stop = stop_on_signal()
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
        node = rclpy.create_node("replay")
    except (RuntimeError, ValueError) as error:  # of arguments that ROS cannot read
        rclpy.logging.get_logger("replay").fatal(f"cannot start: {error}")
        rclpy.try_shutdown()
        return 1
    try:
        try:
            player = Player(node, _declare_parameters(node), stop)
            with _spinning(node):
                node.get_logger().info(str(player.run()))
        except (BagError, ReplayError, ParameterException) as error:
            node.get_logger().fatal(str(error))
            return 1
        return 0
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
