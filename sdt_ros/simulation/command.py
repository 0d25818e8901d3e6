"""`sdt simulate`: a simulated recording with exact depth, as a ROS 2 bag."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from sdt_ros.arguments import write_text, wrong_outputs, wrong_seed
from sdt_ros.bags import BagError
from sdt_ros.events.encoder import ENCODINGS
from sdt_ros.simulation.camera import CAMERAS
from sdt_ros.simulation.families import FAMILIES
from sdt_ros.simulation.recording import RecordingConfig, RecordingSummary, write_recording


def add_parser(subparsers: Any) -> None:
    """Add the command to the `sdt` parser."""
    parser = subparsers.add_parser(
        "simulate",
        help="write a simulated recording with exact depth",
        description="Write a simulated recording as a ROS 2 bag: events, exact depth, grey images and poses.",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT.mcap", help="the bag folder to make")
    add("--family", choices=list(FAMILIES), default="driving", help="kind of scene (default: driving)")
    add("--seconds", type=float, default=5.0, help="length [s] (default: 5)")
    add("--seed", type=int, default=0, help="of everything random: equal arguments give equal bags (default: 0)")
    add("--encoding", default="evt3", help=f"of the packets: {', '.join(ENCODINGS)} (default: evt3)")
    add("--camera", choices=list(CAMERAS), default="davis346", help="sensor and lens (default: davis346)")
    add("--textures", type=Path, metavar="DIR", help="folder of photographs to take textures from too")
    add("--rate-hz", type=float, default=20.0, help="depth and grey images a second (default: 20)")
    add("--storage", choices=["mcap", "sqlite3"], default="mcap", help="of the bag (default: mcap)")
    add("--device", default="cpu", help="where to compute: cpu or cuda (default: cpu)")
    add("--force", action="store_true", help="replace a bag that is there")
    add("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the bag; 0, or 2 with a message where something cannot be used."""
    started = time.perf_counter()
    outputs = wrong_outputs({"--json": args.json}, kept={args.out: "the recording"})
    if wrong := wrong_seed(args.seed) or outputs:
        print(f"sdt simulate: {wrong}", file=sys.stderr)
        return 2
    try:
        config = RecordingConfig(
            family=args.family,
            seconds=args.seconds,
            seed=args.seed,
            camera=args.camera,
            encoding=args.encoding,
            rate_hz=args.rate_hz,
            photographs=args.textures,
            storage=args.storage,
            device=_device(args.device),
        )
        summary = write_recording(args.out, config, force=args.force, progress=sys.stderr.isatty())
        took_s = time.perf_counter() - started
        if args.json:
            write_text(args.json, json.dumps(_figures(args.out, config, summary, took_s), indent=2) + "\n")
    except (ValueError, BagError, OSError) as error:
        print(f"sdt simulate: {error}", file=sys.stderr)
        return 2
    near, middle, far = summary.depth_quantiles_m
    print(
        f"{args.out}: {summary.events:,} events in {summary.duration_s:.2f} s "
        f"({summary.events / summary.duration_s / 1e6:.2f} Mev/s), {summary.depths} depth images\n"
        f"depth: 5 % below {near:.2f} m, half below {middle:.2f} m, 95 % below {far:.2f} m\n"
        f"took {took_s:.1f} s, {summary.frames / took_s:.0f} frames/s"
    )
    return 0


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); try cpu") from None
    return name


def _figures(path: Path, config: RecordingConfig, summary: RecordingSummary, took_s: float) -> dict[str, Any]:
    return {
        "path": str(path),
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        **dataclasses.asdict(summary),
        "took_s": took_s,
    }
