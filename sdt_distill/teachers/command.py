"""`sdt-distill teach`: train the frame network that can then be a teacher."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

from sdt_ros.arguments import wrong_outputs

EPILOG = """\
The same command goes on where an earlier one was stopped or killed. The folder is then a teacher:
  teacher: {kind: frame, weights: runs/frame}

exit codes: 0 all steps done, or the time over; 1 failed; 2 wrong arguments or config; 130 interrupted
"""


def add_parser(subparsers: Any) -> None:
    """Add `teach` to the command line."""
    parser = subparsers.add_parser(
        "teach",
        help="train a frame network of the DINOv2 architecture, to be a teacher",
        description="Train a small frame network of the DINOv2 architecture on frames and exact depth.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a YAML file, see configs/")
    parser.add_argument("--out", type=Path, default=Path("runs/frame"), metavar="DIR", help="folder of the run")
    parser.add_argument("--max-minutes", type=float, default=math.inf, metavar="M", help="save and stop after M")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write how it ended to this file too")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that come before the config's")
    parser.set_defaults(run=run_teach)


def run_teach(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    from sdt_distill.datasets import DatasetError
    from sdt_distill.teachers.base import TeacherError
    from sdt_distill.teachers.teach import TeachError, load_teach_config, teach
    from sdt_distill.training.config import ConfigError
    from sdt_distill.training.state import StateError
    from sdt_ros.runtime.device import DeviceError

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if why := wrong_outputs({"--json": args.json}, kept={args.config: "the config"}):
        print(f"sdt-distill teach: {why}", file=sys.stderr)
        return 2
    try:
        config = load_teach_config(args.config, args.settings)
        found = teach(config, args.out, args.max_minutes, progress=sys.stderr.isatty())
    except (ConfigError, DeviceError) as error:
        print(f"sdt-distill teach: {error}", file=sys.stderr)
        return 2
    except (DatasetError, StateError, TeachError, TeacherError, OSError) as error:
        print(f"sdt-distill teach: {error}", file=sys.stderr)
        return 1
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"out": str(args.out), **found}, indent=2) + "\n", encoding="utf-8")
    print(f"{args.out}: step {found['step']} of {found['steps']}, {found['samples_per_second']:.1f} samples/s")
    if found["validation"]:
        print(", ".join(f"{name} {value:.4g}" for name, value in found["validation"].items()))
    if found["step"] < found["steps"]:
        print("The same command goes on from here.")
    return 0
