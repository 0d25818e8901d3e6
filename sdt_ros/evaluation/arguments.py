"""What is wrong with the arguments of `sdt eval`, told before any work is done."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

from sdt_ros.arguments import checkpoint_files, wrong_outputs
from sdt_ros.smoothing import USUAL_SMOOTHING_S
from sdt_ros.weights import default_weights

_NODE = re.compile(r"(?!.*__)/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*/?")


def wrong_arguments(args: argparse.Namespace) -> str:
    """What is wrong with the arguments; empty if nothing."""
    checks = (_what, _live, _values, _without_effect, _network, _outputs)
    return next((wrong for check in checks if (wrong := check(args))), "")


def smoothing_s(args: argparse.Namespace) -> float:
    """Time constant with which depth is averaged [s]."""
    if args.smoothing_s is not None:
        return float(args.smoothing_s)
    return USUAL_SMOOTHING_S if args.schedule == "node" else 0.0


def wrong_watch(node: str, late_ms: float | None, start_s: float, names: tuple[str, str, str]) -> str:
    """What is wrong with the node to watch and with the times for it; empty if nothing.

    Args:
        node: full name of the depth node.
        late_ms: a latency above is late [ms]; None for the replay's period.
        start_s: wait so long for the replay [s].
        names: what the three are called where they were given.
    """
    if not _NODE.fullmatch(node) or len(node) > 200:
        return f"{names[0]} is {node!r}, expected the full name of a node, such as /depth"
    if late_ms is not None and not 0 < late_ms < math.inf:
        return f"{names[1]} is {late_ms:g}, expected a finite number above 0"
    if not 0 <= start_s < math.inf:
        return f"{names[2]} is {start_s:g}, expected a finite number of at least 0"
    return ""


def _what(args: argparse.Namespace) -> str:
    if (args.bag is None) == (args.dataset is None):
        return "name either a bag, or a data set by --dataset and --root"
    if args.dataset is not None and args.root is None:
        return f"--dataset {args.dataset} needs --root DIR"
    of_bags = {
        "--schedule node": args.schedule == "node", "--live": args.live, "--smoothing-s": bool(args.smoothing_s),
        "--odometry": bool(args.odometry), "--no-hold-scale": not args.hold_scale,
        "--events-topic": args.events_topic is not None, "--camera-info": args.camera_info is not None,
    }  # fmt: skip
    of_datasets = {
        "--root": args.root is not None, "--split": args.split is not None, "--samples": args.samples is not None
    }  # fmt: skip
    for name in [name for name, given in (of_bags if args.dataset else of_datasets).items() if given]:
        return f"{name} is for {'a bag' if args.dataset else 'data sets'} only"
    return ""


def _live(args: argparse.Namespace) -> str:
    of_network = {
        "--probes": args.probes, "--save": args.save, "--weights": args.weights, "--untrained": args.untrained,
        "--smoothing-s": args.smoothing_s is not None, "--runtime": args.runtime != "auto",
        "--device": args.device != "auto", "--odometry": args.odometry, "--no-hold-scale": not args.hold_scale,
        "--camera-info": args.camera_info, "--min-events": args.min_events is not None,
        "--schedule node": args.schedule == "node",
    }  # fmt: skip
    for name in [name for name, given in of_network.items() if given and args.live]:
        return f"--live scores what the node publishes: {name} is not for it"
    return ""


def _values(args: argparse.Namespace) -> str:
    if args.smoothing_s is not None and not 0 <= args.smoothing_s < math.inf:
        return f"--smoothing-s is {args.smoothing_s:g}, expected a finite number of at least 0"
    if args.rows is not None and args.rows < 1:
        return f"--rows is {args.rows}, expected at least 1"
    if args.min_events is not None and args.min_events < 0:
        return f"--min-events is {args.min_events}, expected at least 0"
    if args.rate_hz is not None and not 0.1 <= args.rate_hz <= 1000:
        return f"--rate-hz is {args.rate_hz:g}, expected 0.1 to 1000 Hz"
    node = "/depth" if args.node is None else args.node
    start_s = 0.0 if args.start_s is None else args.start_s
    return wrong_watch(node, args.late_ms, start_s, ("--node", "--late-ms", "--start-s"))


def _without_effect(args: argparse.Namespace) -> str:
    smoothed = smoothing_s(args) > 0
    for name, given, needed, has in (
        ("--probe-every", args.probe_every is not None, "--probes", args.probes),
        ("--rate-hz", args.rate_hz is not None, "--schedule node", args.schedule == "node"),
        ("--node", args.node is not None, "--live", args.live),
        ("--late-ms", args.late_ms is not None, "--live", args.live),
        ("--start-s", args.start_s is not None, "--live", args.live),
        ("--no-hold-scale", not args.hold_scale, "a --smoothing-s above 0 or --schedule node", smoothed),
    ):
        if given and not has:
            return f"{name} has no effect without {needed}; add it, or leave {name} out"
    return ""


def _network(args: argparse.Namespace) -> str:
    from sdt_ros.network import presets
    from sdt_ros.runtime.choose import check_runtime
    from sdt_ros.runtime.device import DeviceError, resolve_device

    try:
        check_runtime(args.runtime, resolve_device(args.device)[0])
    except DeviceError as error:
        return str(error)
    if args.untrained is not None and args.untrained not in presets:
        return f"--untrained is {args.untrained!r}, expected one of {', '.join(presets)}"
    return ""


def _outputs(args: argparse.Namespace) -> str:
    kept = checkpoint_files(args.weights or default_weights())
    recording: Path | None = args.bag
    if recording is not None:
        files = recording.iterdir() if recording.is_dir() else [recording]
        kept |= {file: "part of the recording" for file in files if file.is_file()}
    return wrong_outputs({"--json": args.json, "--report": args.report}, {"--save": args.save}, kept)
