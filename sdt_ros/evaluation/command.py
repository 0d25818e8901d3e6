"""`sdt eval`: depth from a recording, offline, scored against the recording's own truth."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add `eval` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "eval",
        help="score depth from a recording against its truth",
        description="Run the network over a bag's events, offline, and score its depth against the bag's depth images.",
        epilog="Exit codes: 0 scored, 1 cannot be scored, 2 wrong arguments, 130 interrupted. "
        "Example: sdt eval recording.mcap --weights net.safetensors --report report.html",
    )
    parser.add_argument("bag", type=Path, help="bag folder, or one .db3 or .mcap file")
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--weights", type=Path, metavar="FILE", help="checkpoint; the packaged one by default")
    network.add_argument("--untrained", metavar="PRESET", help="random weights of this preset: the depth means nothing")
    parser.add_argument("--truth-topic", default="/depth/image_rect", metavar="TOPIC", help="(/depth/image_rect)")
    parser.add_argument("--events-topic", metavar="TOPIC", help="event packets; the first in the bag by default")
    parser.add_argument("--camera-info", metavar="TOPIC", help="calibration; camera_info beside the events by default")
    parser.add_argument(
        "--schedule", choices=("truth", "node"), default="truth",
        help="one window ends at each truth stamp (default), or the node's own windows against the nearest truth",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", choices=("mvsec", "dense", "none"), default="mvsec",
        help="cut at 80 m (default) or 1000 m and the farthest left out, as E2Depth does; or every known pixel",
    )  # fmt: skip
    parser.add_argument("--rows", type=int, metavar="N", help="only the upper N rows; E2Depth takes 260")
    parser.add_argument("--rate-hz", type=float, default=20.0, metavar="HZ", help="of --schedule node (20)")
    parser.add_argument("--min-events", type=int, default=100, metavar="N", help="no depth of windows with fewer (100)")
    parser.add_argument("--drop-bad-stamps", action="store_true", help="leave out truth whose stamps repeat or go back")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write depth and stamps there, one npz")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write one self-contained HTML page to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt eval`; returns the exit code."""
    from sdt_ros.bags import BagError
    from sdt_ros.network import CheckpointError
    from sdt_ros.runtime import DeviceError

    try:
        evaluate(args)
    except (BagError, CheckpointError, DeviceError, ValueError, OSError) as error:
        print(f"sdt eval: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate as the arguments say, print the table and write the files; returns the content of `--json`.

    Raises:
        BagError, CheckpointError, DeviceError, EvaluationError, ValueError, OSError: what cannot be used, and why.
    """
    import numpy as np

    from sdt_ros.bags import events_topic, open_bag
    from sdt_ros.evaluation.figures import figures
    from sdt_ros.evaluation.predict import Predictions, Predictor
    from sdt_ros.evaluation.protocol import protocols
    from sdt_ros.evaluation.rectify import Rectifier
    from sdt_ros.evaluation.score import score
    from sdt_ros.evaluation.spool import Spool
    from sdt_ros.evaluation.table import table
    from sdt_ros.evaluation.truth import read_truth
    from sdt_ros.events import WindowConfig

    protocol = replace(protocols[args.protocol], rows=args.rows)
    estimator = _estimator(args)
    windows = WindowConfig(estimator.window_ms, estimator.bins, args.rate_hz, args.min_events)
    with ExitStack() as stack:
        bag = stack.enter_context(open_bag(args.bag))
        topic = events_topic(bag, args.events_topic)
        frames, depth, spikes = (stack.enter_context(Spool()) for _ in range(3))
        rectifier = Rectifier.from_bag(bag, topic, args.camera_info)
        truth = read_truth(bag, args.truth_topic, frames, protocol, args.drop_bad_stamps)
        predictions = Predictions(depth, spikes)
        Predictor(bag, topic, truth, estimator, windows, rectifier, predictions).run(args.schedule)
        scores = score(predictions, truth, protocol, f"{args.bag}: {args.truth_topic}")
        settings = {
            "bag": str(args.bag),
            "events_topic": topic,
            "truth_topic": args.truth_topic,
            "schedule": args.schedule,
            "protocol": {"name": protocol.name, "far_m": protocol.far_m, "below_max": protocol.below_max}
            | {"rows": protocol.rows},
            "window_ms": windows.window_ms,
            "bins": windows.bins,
            "rate_hz": windows.rate_hz if args.schedule == "node" else None,
            "min_events": windows.min_events,
            "rectification": rectifier.text,
            "weights": str(args.weights or "packaged") if args.untrained is None else None,
            "recording_s": (bag.end_ns - bag.start_ns) / 1e9,
        }
        content = figures(settings, estimator, predictions, scores, truth)
        if args.save is not None:
            args.save.mkdir(parents=True, exist_ok=True)
            stamps = np.array([window.stamp_ns for window in predictions.windows], np.int64)
            np.savez(args.save / f"{args.bag.stem}.npz", depth=depth.stacked(), stamp=stamps)
        if args.json is not None:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if args.report is not None:
            from sdt_ros.evaluation.report import page

            args.report.parent.mkdir(parents=True, exist_ok=True)
            args.report.write_text(page(content, predictions, truth, scores, protocol), encoding="utf-8")
        print(table(content))
        if args.save is not None:
            print(f"depth: {args.save / f'{args.bag.stem}.npz'}")
    return content


def _estimator(args: argparse.Namespace) -> Any:
    from sdt_ros.runtime import DepthEstimator
    from sdt_ros.runtime.packaged import packaged_weights

    if args.untrained is not None:
        return DepthEstimator.untrained(args.untrained, args.device)
    weights = args.weights or packaged_weights()
    if weights is None:
        raise ValueError("there are no weights: name a checkpoint by --weights, or try without by --untrained sdt_tiny")
    return DepthEstimator.from_checkpoint(weights, args.device)
