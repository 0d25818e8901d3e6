"""`sdt-distill teach`: train the frame network that can then be a teacher."""

from __future__ import annotations

import argparse
import json
import logging
import math
import signal
import sys
from pathlib import Path
from typing import Any

from sdt_distill.stopping import stopping
from sdt_ros.arguments import minutes, write_text, wrong_outputs

EPILOG = """\
The same command goes on where an earlier one was stopped or killed. The folder is then a teacher:
  teacher: {kind: frame, weights: runs/frame}

Ctrl-C and SIGTERM save behind the step that is being done; a second Ctrl-C does not.

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
    parser.add_argument("--max-minutes", type=minutes, default=math.inf, metavar="M", help="save and stop after M")
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
        with stopping() as stop:
            found = teach(config, args.out, args.max_minutes, progress=sys.stderr.isatty(), stop=lambda: stop.asked)
        if args.json:
            write_text(args.json, json.dumps({"out": str(args.out), **found}, indent=2) + "\n")
    except (ConfigError, DeviceError) as error:
        print(f"sdt-distill teach: {error}", file=sys.stderr)
        return 2
    except (DatasetError, StateError, TeachError, TeacherError, OSError) as error:
        print(f"sdt-distill teach: {error}", file=sys.stderr)
        return 1
    except ValueError as error:  # of a part that does not fit another, such as a crop larger than the samples
        logging.getLogger(__name__).debug("refused", exc_info=True)
        print(f"sdt-distill teach: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: step {found['step']} of {found['steps']}, {found['samples_per_second']:.1f} samples/s")
    if found["validation"]:
        print(", ".join(f"{name} {value:.4g}" for name, value in found["validation"].items()))
    if not found["finished"]:
        print("The same command goes on from here.")
    return 128 + signal.SIGINT if stop.interrupted and not found["finished"] else 0
