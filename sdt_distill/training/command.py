"""`sdt-distill train`: train a network, or go on with a run."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sdt_ros.threads  # noqa: F401  before torch is loaded
from sdt_distill.stopping import stopping
from sdt_ros.arguments import minutes, write_text, wrong_outputs

if TYPE_CHECKING:
    from .config import TrainingConfig
    from .engine import Outcome

EPILOG = """\
Settings are dotted keys of the config with YAML values: optimiser.lr=1e-3 data.sources.0.path=/data/DSEC
The same command goes on where an earlier one was stopped or killed. Several processes or machines:
  torchrun --nproc-per-node 8 -m sdt_distill.cli train --config configs/sdt.yaml --out runs/sdt

Ctrl-C and SIGTERM save behind the step that is being done; a second Ctrl-C does not.

exit codes: 0 all steps done, or the time over; 1 failed; 2 wrong arguments or config; 130 interrupted
"""


def add_parser(subparsers: Any) -> None:
    """Add `train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a network, or go on with a run",
        description="Train a network, or go on with a run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a YAML file, see configs/")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/NAME of the config)")
    parser.add_argument("--max-minutes", type=minutes, default=math.inf, metavar="M", help="save and stop after M")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write how it ended to this file too")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that come before the config's")
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    from sdt_distill.datasets import DatasetError
    from sdt_distill.teachers import TeacherError
    from sdt_ros.network import CheckpointError
    from sdt_ros.runtime.device import DeviceError

    from .config import ConfigError, load_config
    from .distributed import join, leave
    from .engine import Trainer, TrainingError
    from .state import StateError

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if int(os.environ.get("RANK", "0")):
        logging.getLogger().setLevel(logging.ERROR)
    if why := wrong_outputs({"--json": args.json}, kept={args.config: "the config"}):
        print(f"sdt-distill train: {why}", file=sys.stderr)
        return 2
    try:
        config = load_config(args.config, args.settings)
    except ConfigError as error:
        print(f"sdt-distill train: {error}", file=sys.stderr)
        return 2
    out = args.out or Path("runs") / args.config.stem
    group = None
    try:
        group = join(_device_type(config.run.device))
        trainer = Trainer(config, out, group)
        begun = trainer.step
        with stopping(trainer.stop) as stop:
            outcome = trainer.run(args.max_minutes, progress=sys.stderr.isatty())
        if args.json and group.is_first:
            write_text(args.json, json.dumps(_figures(out, config, outcome), indent=2) + "\n")
    except (ConfigError, DeviceError) as error:
        print(f"sdt-distill train: {error}", file=sys.stderr)
        return 2
    except (DatasetError, StateError, TeacherError, TrainingError, CheckpointError, OSError) as error:
        print(f"sdt-distill train: {error}", file=sys.stderr)
        return 1
    except ValueError as error:  # of a part that does not fit another, such as a crop larger than the samples
        logging.getLogger(__name__).debug("refused", exc_info=True)
        print(f"sdt-distill train: {error}", file=sys.stderr)
        return 2
    finally:
        if group is not None:
            leave(group)
    if not group.is_first:
        return 0
    if outcome.finished and outcome.step == begun:
        asked = f"{config.run.minutes:g} minutes" if config.run.minutes else f"{config.run.steps} steps"
        print(f"{out}: nothing to do: the run is at step {begun}, {asked} were asked for")
        return 0
    of = f"{config.run.minutes:g} minutes" if config.run.minutes else f"{config.run.steps}"
    print(f"{out}: step {outcome.step} of {of}, {outcome.samples_per_second:.1f} samples/s")
    if not outcome.finished:
        print("The same command goes on from here.")
    return 128 + signal.SIGINT if stop.interrupted and not outcome.finished else 0


def _figures(out: Path, config: TrainingConfig, outcome: Outcome) -> dict[str, Any]:
    return {
        "out": str(out), "step": outcome.step, "steps": config.run.steps, "finished": outcome.finished,
        "samples_per_second": outcome.samples_per_second,
        "validation": None if outcome.scores is None else outcome.scores.mean,
    }  # fmt: skip


def _device_type(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name.partition(":")[0]
