"""`sdt-distill ablate`: train the arms of a question, and say what the difference did."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

import sdt_ros.threads  # noqa: F401  before torch is loaded
from sdt_ros.arguments import count, minutes, write_text, wrong_outputs

EPILOG = """\
Arms differ from the config in what is asked and in nothing else: equal data, steps and seeds. The same command goes on
where an earlier one was stopped; finished arms are not trained again.

exit codes: 0 all arms done, 1 failed, 2 wrong arguments or config, 3 time over, some arms are left, 130 interrupted
"""

NAMES = {
    "attention": "SSA, spike-driven attention, softmax attention of real numbers",
    "distillation": "without and with the teacher of the config",
    "head": "fusion head against a linear one",
    "neuron": "the spiking network against its ANN twin",
    "peer": "both, and E2Depth's recurrent UNet of equal size",
}


def add_parser(subparsers: Any) -> None:
    """Add `ablate` and its questions to the command line."""
    text = "train networks that differ in one thing, and compare them"
    usual: dict[str, Any] = {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser: argparse.ArgumentParser = subparsers.add_parser("ablate", help=text, description=f"{text}.", **usual)
    # Each question is a command of its own: argparse takes no settings behind options and another positional.
    questions = parser.add_subparsers(dest="question", metavar="QUESTION", required=True)
    for name, arms in NAMES.items():
        _add_options(questions.add_parser(name, help=arms, description=f"{text}: {arms}.", **usual))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="what all arms start from")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the trials and tables")
    parser.add_argument("--steps", type=count, metavar="N", help="optimiser steps of each arm (default: the config's)")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="seeds of each arm (default: 3)")
    parser.add_argument("--samples", type=int, default=400, metavar="N", help="held-out samples; 0: all (default: 400)")
    parser.add_argument("--max-minutes", type=minutes, default=math.inf, metavar="M", help="save and stop after M")
    parser.add_argument("--doc", type=Path, metavar="FILE.md", help="rewrite the question's section of this page too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that come before the config's")
    parser.set_defaults(run=run_ablate)


def run_ablate(args: argparse.Namespace) -> int:
    """Run an ablation; returns the exit code."""
    from sdt_distill.datasets import DatasetError
    from sdt_distill.training.config import ConfigError, load_config
    from sdt_distill.training.state import StateError
    from sdt_ros.network import CheckpointError
    from sdt_ros.runtime.device import DeviceError

    from .questions import QUESTIONS
    from .runner import AblationError, plan, run_trials

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if args.samples < 0:
        print(f"sdt-distill ablate: --samples is {args.samples}, expected 0 or more", file=sys.stderr)
        return 2
    if why := wrong_outputs({"--json": args.json, "--doc": args.doc}, kept={args.config: "the config"}):
        print(f"sdt-distill ablate: {why}", file=sys.stderr)
        return 2
    question = QUESTIONS[args.question]
    try:
        base = load_config(args.config, args.settings)
        trials = plan(question, base, args.steps, args.seeds, args.out)
        results = run_trials(trials, args.max_minutes, args.samples, progress=sys.stderr.isatty())
        write(args, question.title, question.fairness, results)
    except (ConfigError, AblationError, DeviceError) as error:
        print(f"sdt-distill ablate: {error}", file=sys.stderr)
        return 2
    except (DatasetError, StateError, CheckpointError, ValueError, OSError) as error:
        print(f"sdt-distill ablate: {error}", file=sys.stderr)
        return 1
    if left := len(trials) - len(results):
        print(f"{left} of {len(trials)} trials are left; the same command goes on from here.")
        return 3
    return 0


def write(args: argparse.Namespace, title: str, fairness: str, results: list[dict[str, Any]]) -> None:
    """Print the tables and write the files."""
    from .document import put_section, section
    from .plot import plot
    from .table import markdown, summarise

    if not results:
        print("no trial is finished yet")
        return
    summary = summarise(results)
    text = markdown(summary)
    write_text(args.out / f"{args.question}.md", text)
    picture = args.out / f"{args.question}.png"
    plot(summary, title, picture)
    content = {"question": args.question, **summary, "trials": results}
    for path in (args.out / f"{args.question}.json", args.json):
        if path is not None:
            write_text(path, json.dumps(content, indent=1) + "\n")
    print(text, end="")
    if args.doc is not None:
        shown = args.doc.parent / "images" / f"ablation_{args.question}.png"
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_bytes(picture.read_bytes())
        link = Path(os.path.relpath(shown, args.doc.parent)).as_posix()
        put_section(args.doc, args.question, section(args, title, fairness, summary, text, link))
