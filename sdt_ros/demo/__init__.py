"""`sdt demo`: a recording through the node on a real ROS graph, judged as a subscriber sees it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sdt_ros.cli import needs_ros
from sdt_ros.weights import weights_file


def add_parser(subparsers: Any) -> None:
    """Add `demo` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="play a recording through the node, write pictures and figures",
        description="Start replay and node as processes of their own over DDS, watch the output as a subscriber would, "
        "and write depth beside event frames (PNG), an animation, and summary.json.",
        epilog="Exit codes: 0 depth arrived as it should, 1 it did not, 2 wrong arguments, 130 interrupted.",
    )
    parser.add_argument("--bag", type=Path, help="recording; a simulated one with exact depth by default")
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"),
        help="folder to write to; the simulated recording is kept in recordings/ beside it (out/demo)",
    )  # fmt: skip
    parser.add_argument("--weights", type=weights_file, help="checkpoint, or a packaged one's name (sdt_small)")
    parser.add_argument("--preset", default="sdt_tiny", help="network while there are no weights (sdt_tiny)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--rate", type=float, help="speed of the replay; by default real time, or what the network keeps up with"
    )
    parser.add_argument("--topic", help="topic of the event packets; the first in the bag by default")
    parser.add_argument(
        "--odometry", metavar="TOPIC",
        help="nav_msgs/Odometry of the recording, for the scale of depth; empty: none. By default that of the "
        "simulated recording, and none of yours",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt demo`; returns the exit code."""
    from sdt_ros.bags import BagError
    from sdt_ros.demo.graph import GraphError
    from sdt_ros.demo.show import show
    from sdt_ros.network import CheckpointError
    from sdt_ros.runtime import DeviceError

    if args.rate is not None and args.rate <= 0:
        print(f"sdt demo: --rate takes a number above 0, not {args.rate}", file=sys.stderr)
        return 2
    try:
        import rclpy  # noqa: F401  told now, not behind the simulation
    except ImportError as error:
        print(f"sdt demo: {needs_ros(error)}", file=sys.stderr)
        return 1
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        summary = show(args)
        (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    except (BagError, CheckpointError, DeviceError, GraphError, ValueError, OSError) as error:
        print(f"sdt demo: {error}", file=sys.stderr)
        return 1
    _report(summary, args.out)
    return 0 if summary["windows_received"] and not summary["problems"] else 1


def _report(summary: dict[str, Any], out: Path) -> None:
    due = summary["windows_due"] - summary["windows_empty"]
    latency = summary["latency_ms"] or {"p50": float("nan"), "p99": float("nan")}
    print(
        f"{summary['windows_received']} of {due} depth images arrived, {summary['rate_hz']:.1f} a second; "
        f"{summary['windows_skipped']} windows skipped, {summary['packets_lost']} packets lost\n"
        f"latency from last packet to depth: {latency['p50']:.1f} ms median, {latency['p99']:.1f} ms p99\n"
        f"runtime: {summary['runtime']}"
    )
    for problem in summary["problems"]:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    if not summary["trained"]:
        print("the network is UNTRAINED: what the pictures show is not depth")
    print(f"figures: {out / 'summary.json'}; pictures: {out}/depth_*.png, {out / 'animation.gif'}")
