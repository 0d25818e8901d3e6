"""`sdt eval`: depth from a recording or a data set, offline, scored against its truth; or live from the node."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sdt_ros.arguments import count
from sdt_ros.evaluation.arguments import smoothing_s, wrong_arguments
from sdt_ros.lens import LENS_UNKNOWN
from sdt_ros.smoothing import USUAL_SMOOTHING_S, DepthSmoother
from sdt_ros.weights import default_weights, weights_file

_log = logging.getLogger(__name__)

DATASETS = ("dsec", "mvsec", "dense", "dense-spike", "bag", "simulation")
MIN_EVENTS = 100  # of a window of a bag, as the node has it
RATE_HZ = 20.0  # of --schedule node


def add_parser(subparsers: Any) -> None:
    """Add `eval` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "eval",
        help="score depth from a recording or a data set against its truth",
        description="Run the network over a bag's events or a data set's windows, offline, and score its depth against "
        "the truth. With --live, score what a running depth node publishes while the bag plays.",
        epilog="Exit codes: 0 scored, 1 cannot be scored, 2 wrong arguments, 3 scored, but live frames were late or "
        "missing, 130 interrupted. Examples: sdt eval recording.mcap --weights net.safetensors --report report.html; "
        "sdt eval --dataset mvsec --root MVSEC --split test_day",
    )
    what = parser.add_argument_group("what is scored")
    what.add_argument("bag", type=Path, nargs="?", help="bag folder, or one .db3 or .mcap file")
    what.add_argument("--dataset", choices=DATASETS, help="instead of a bag: a data set in this format")
    what.add_argument("--root", type=Path, metavar="DIR", help="folder of the data set")
    what.add_argument("--split", metavar="NAME", help="a published split of the data set (all recordings)")
    what.add_argument("--samples", type=count, metavar="N", help="only N samples of the data set, spread evenly")
    what.add_argument("--live", action="store_true", help="score what a node publishes while the bag plays elsewhere")
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--weights", type=weights_file, metavar="FILE", help="checkpoint, or a packaged one's name (sdt_small)"
    )
    network.add_argument("--untrained", metavar="PRESET", help="random weights of this preset: the depth means nothing")
    parser.add_argument("--truth-topic", default="/depth/image_rect", metavar="TOPIC", help="(/depth/image_rect)")
    parser.add_argument("--events-topic", metavar="TOPIC", help="event packets; the first in the bag by default")
    parser.add_argument(
        "--camera-info", metavar="TOPIC",
        help="calibration; by default camera_info beside the events, or else the only one of their frame",
    )  # fmt: skip
    parser.add_argument(
        "--odometry", metavar="TOPIC",
        help="bring depth to the scale that this odometry of the bag asks for, as the node does by ~/odometry",
    )  # fmt: skip
    parser.add_argument(
        "--schedule", choices=("truth", "node"), default="truth",
        help="one window ends at each truth stamp (default), or the node's own windows against the nearest truth",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", choices=("mvsec", "dense", "dsec", "none"),
        help="cut at 80 m (mvsec, dsec) or 1000 m (dense) and the farthest left out, as E2Depth does; or every known "
        "pixel; the data set's own by default, for bags and simulation mvsec",
    )  # fmt: skip
    parser.add_argument("--rows", type=int, metavar="N", help="only the upper N rows; E2Depth takes 260")
    parser.add_argument("--rate-hz", type=float, metavar="HZ", help=f"of --schedule node ({RATE_HZ:g})")
    parser.add_argument(
        "--min-events", type=int, metavar="N", help=f"no depth of windows with fewer (bags {MIN_EVENTS}, data sets 0)"
    )
    parser.add_argument("--drop-bad-stamps", action="store_true", help="leave out truth whose stamps repeat or go back")
    parser.add_argument(
        "--probes", action="store_true", help="score spoilt input too: blank, first time bin only, time reversed"
    )
    parser.add_argument("--probe-every", type=count, metavar="N", help="of --probes: one in N windows only (1)")
    parser.add_argument(
        "--smoothing-s", type=float, metavar="S",
        help="average depth over time as the node does by smoothing_s (0; with --schedule node the node's default, "
        f"{USUAL_SMOOTHING_S:g})",
    )  # fmt: skip
    parser.add_argument(
        "--no-hold-scale", dest="hold_scale", action="store_false",
        help="where depth is averaged over time, do not hold its scale as the node does by hold_scale",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--runtime", default="auto", help="auto, eager, cpu, cpu_int8, cuda or cuda_torch (auto)")
    live = parser.add_argument_group("of --live")
    live.add_argument("--node", metavar="NAME", help="full name of the depth node (/depth)")
    live.add_argument("--late-ms", type=float, metavar="MS", help="a latency above is late (the replay's period)")
    live.add_argument("--start-s", type=float, metavar="S", help="wait so long for the replay (120)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write depth and stamps there, one npz a recording")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write one self-contained HTML page to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt eval`; returns the exit code."""
    from sdt_ros.bags import BagError
    from sdt_ros.network import CheckpointError
    from sdt_ros.runtime import DeviceError

    try:
        if wrong := wrong_arguments(args):
            print(f"sdt eval: {wrong}", file=sys.stderr)
            return 2
        if args.live:
            from sdt_ros.evaluation.live import evaluate_live

            return evaluate_live(args)
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
    from sdt_ros.evaluation.figures import figures
    from sdt_ros.evaluation.protocol import OF_DATASET, protocols
    from sdt_ros.evaluation.run import EstimatorNetwork
    from sdt_ros.evaluation.run import evaluate as run_windows
    from sdt_ros.evaluation.score import Scorer
    from sdt_ros.evaluation.uncertainty import ReliabilityOfWindows

    protocol = replace(protocols[args.protocol or OF_DATASET[args.dataset or "bag"]], rows=args.rows)
    estimator = estimator_of(args)
    with ExitStack() as stack:
        source, settings, motion = (_of_dataset if args.dataset else _of_bag)(args, estimator, protocol, stack)
        pictures = args.report is not None
        scorer = stack.enter_context(Scorer(protocol, source.where, args.save is not None, pictures))
        network = EstimatorNetwork(estimator)
        probe_every = (args.probe_every or 1) if args.probes else 0
        smooth = DepthSmoother(smoothing_s(args), estimator.window_ms / 1e3 if args.hold_scale else None)
        doubt = None
        if estimator.tells_uncertainty:
            doubt = ReliabilityOfWindows(protocol, source.where, lambda: deviation_of(network.last, motion))

        def hold(depth: np.ndarray, end_ns: int, focal_px: float | None) -> np.ndarray:
            assert network.last is not None
            told = network.last.deviation() if smooth.time_constant_s else None
            return smooth(depth, end_ns, focal_px, told)

        work = run_windows(source, network, scorer, probe_every, network.measured, hold, motion, doubt)
        if motion is not None and motion.problem:
            print(f"sdt eval: {motion.problem}", file=sys.stderr)
        scores = scorer.finish()
        settings = {
            **settings,
            **source.notes(),
            "protocol": protocol_settings(protocol),
            "window_ms": estimator.window_ms,
            "bins": estimator.bins,
            "network": estimator.card.preset or "own network",
            "parameters": estimator.parameters,
            "steps": estimator.card.steps,
            "weights_sha256": estimator.card.weights_sha256,
            "smoothing_s": smooth.time_constant_s,
            "hold_scale": bool(args.hold_scale and smooth.time_constant_s),
            "odometry": args.odometry,
            "probe_every": probe_every or None,
            "weights": str(args.weights or "packaged") if args.untrained is None else None,
        }
        if settings["recording_s"] is None:  # what the windows cover; they may lie far apart
            settings["recording_s"] = work.windows * estimator.window_ms / 1000
        counts = source.counts() | ({} if motion is None else motion.counts)
        uncertainty = None if doubt is None else doubt.reliability.figures()
        content = figures(
            settings, estimator.describe(), not estimator.is_untrained, counts, scores, work, uncertainty=uncertainty
        )
        write(args, content, scorer, scores)
    return content


def deviation_of(estimate: Any, motion: Any) -> Any:
    """How far the depth of a window may be off, as the node tells it: with the scale by odometry where there is one."""
    told = estimate.scale_deviation
    return estimate.deviation(told if motion is None else motion.deviation_beside(told))


def _of_bag(
    args: argparse.Namespace, estimator: Any, protocol: Any, stack: ExitStack
) -> tuple[Any, dict[str, Any], Any]:
    from sdt_ros.bags import event_topics, events_topic, open_bag
    from sdt_ros.evaluation.motion import RecordedMotion
    from sdt_ros.evaluation.recording import RecordingSource
    from sdt_ros.evaluation.rectify import Rectifier
    from sdt_ros.evaluation.spool import Spool
    from sdt_ros.evaluation.truth import read_truth
    from sdt_ros.events import WindowConfig

    min_events = MIN_EVENTS if args.min_events is None else args.min_events
    rate_hz = RATE_HZ if args.rate_hz is None else args.rate_hz
    windows = WindowConfig(estimator.window_ms, estimator.bins, rate_hz, min_events)
    bag = stack.enter_context(open_bag(args.bag))
    topic = events_topic(bag, args.events_topic)
    if args.events_topic is None and len(others := event_topics(bag)) > 1:
        _log.warning("%s has events on %s: %s is taken, choose by --events-topic", bag.path, ", ".join(others), topic)
    rectifier = Rectifier.from_bag(bag, topic, args.camera_info)
    if rectifier.calibration is None and estimator.card.focal_px is not None:
        _log.warning("%s: %s; name its topic by --camera-info", bag.path, LENS_UNKNOWN)
    truth = read_truth(bag, args.truth_topic, stack.enter_context(Spool()), protocol, args.drop_bad_stamps)
    settings = {
        "recording": str(args.bag),
        "events": topic,
        "truth": args.truth_topic,
        "schedule": args.schedule,
        "rate_hz": windows.rate_hz if args.schedule == "node" else None,
        "min_events": windows.min_events,
        "recording_s": (bag.end_ns - bag.start_ns) / 1e9,
    }
    motion = None
    if args.odometry:
        motion = RecordedMotion(
            bag, args.odometry, topic, rectifier.calibration, estimator.card.input_scale, windows.window_ms / 1e3
        )
    return RecordingSource(bag, topic, truth, windows, rectifier, args.schedule), settings, motion


def _of_dataset(
    args: argparse.Namespace, estimator: Any, protocol: Any, stack: ExitStack
) -> tuple[Any, dict[str, Any], None]:
    from sdt_ros.evaluation.source import DatasetSource

    try:
        from sdt_distill.datasets import SampleConfig, open_dataset
    except ImportError as error:
        raise ValueError(f"--dataset needs the trainer's packages ({error}): pip install 'sdt_ros[datasets]'") from None
    config = SampleConfig(estimator.window_ms, estimator.bins, frames=False)
    try:
        dataset = open_dataset(args.root, args.dataset, config, args.split)
    except ImportError as error:
        raise ValueError(f"{args.dataset} needs {error.name}: pip install 'sdt_ros[datasets]'") from None
    min_events = args.min_events or 0
    source = DatasetSource(dataset, f"{args.dataset} {args.root}", args.samples, min_events)
    settings = {
        "recording": f"{args.dataset} {args.root}" + split_of(args.dataset, args.split, dataset.sequences),
        "truth": "depth at the end of each window",
        "schedule": "truth",
        "sequences": ", ".join(dict.fromkeys(dataset.sequences)),
        "samples": len(source),
        "min_events": min_events,
        "recording_s": None,
    }
    return source, settings, None


def split_of(dataset: str, split: str | None, sequences: Sequence[str]) -> str:
    """The split that scores are of, in words; one that is not there whole is no published one."""
    from sdt_distill.datasets.registry import missing_recordings

    if not split:
        return ""
    missing = missing_recordings(dataset, split, sequences)
    return f", split {split}" + (f" without {len(missing)} of its recordings" if missing else "")


def protocol_settings(protocol: Any) -> dict[str, Any]:
    """A protocol as plain data."""
    return {name: getattr(protocol, name) for name in ("name", "far_m", "below_max", "rows")}


def save(folder: Path, scorer: Any) -> list[Path]:
    """Write the depth of each group: `depth` float32 [N, H, W] metres, `stamp` int64 [N] ns; returns the files.

    Raises:
        OSError: they cannot be written.
    """
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for group in scorer.groups.values():
        path = folder / f"{group.name.replace('/', '_')}.npz"
        stamps = np.array([frame.stamp_ns for frame in group.frames], np.int64)
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as stream:
                np.savez(stream, depth=group.depth.stacked(), stamp=stamps)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)  # half a file looks like a whole one to whoever finds it
            raise OSError(f"cannot write {path}: {error.strerror}; let --save name a folder with room") from error
        files.append(path)
    return files


def write(args: argparse.Namespace, content: dict[str, Any], scorer: Any, scores: Any) -> None:
    """Print the table, and write what `--json`, `--report` and `--save` ask for, each whole or not at all.

    Raises:
        OSError: files cannot be written; the others are.
    """
    from sdt_ros.evaluation.report import page
    from sdt_ros.evaluation.table import table

    print(table(content), flush=True)  # hours of work: they are told before anything can fail
    failures = []
    for path, text in (
        (args.json, lambda: json.dumps(content, indent=1) + "\n"),
        (args.report, lambda: page(content, scorer, scores)),
    ):
        try:
            if path is not None:
                _write_whole(path, text())
        except OSError as error:
            failures.append(f"cannot write {path}: {error.strerror}; name a file elsewhere")
    try:
        for path in save(args.save, scorer) if getattr(args, "save", None) is not None else ():
            print(f"depth: {path}")
    except OSError as error:
        failures.append(str(error))
    if failures:
        raise OSError("; ".join(failures))


def _write_whole(path: Path, text: str) -> None:
    """Write a file, or leave the one that was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():  # a device or a pipe is written to, never replaced
        path.write_text(text, encoding="utf-8")
        return
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def estimator_of(args: argparse.Namespace) -> Any:
    """The network that the arguments name.

    Raises:
        ValueError: there are no weights.
        CheckpointError, DeviceError: they cannot be used.
    """
    from sdt_ros.runtime import DepthEstimator

    if args.untrained is not None:
        return DepthEstimator.untrained(args.untrained, args.device, runtime=args.runtime)
    weights = args.weights or default_weights()
    if weights is None:
        raise ValueError("there are no weights: name a checkpoint by --weights, or try without by --untrained sdt_tiny")
    return DepthEstimator.from_checkpoint(weights, args.device, runtime=args.runtime)
