"""`sdt-distill data`: says what a folder is and what is broken in it, shows a sample, simulates banks of samples."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from sdt_ros.arguments import count, wrong_outputs

from .check import check
from .errors import DatasetError
from .picture import sample_picture
from .registry import FORMATS, LAYOUTS, detect, missing_recordings, select
from .sample import SampleConfig
from .simulate import add_simulate


def add_parser(subparsers: Any) -> None:
    """Add `data` and its commands to the command line."""
    parser = subparsers.add_parser("data", help="check data set folders, simulate banks of samples")
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)
    checker = commands.add_parser(
        "check",
        help="read everything in a folder, report what is missing or broken",
        description="Read everything in a folder and report what is missing or broken, file by file.",
        epilog=f"layouts:\n{LAYOUTS}\n\nexit codes: 0 sound, 1 broken, 2 wrong arguments",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    checker.add_argument("dir", type=Path, metavar="DIR", help="a data set, one recording of it, or a bag")
    checker.add_argument("--dataset", choices=FORMATS, help="its format (default: what the folder looks like)")
    checker.add_argument("--split", metavar="NAME", help="only the recordings of a published split")
    checker.add_argument("--samples", type=count, metavar="N", help="read N samples of each recording (default: all)")
    checker.add_argument(
        "--window-ms", type=float, metavar="MS", help="duration of windows (default: 50, or a simulation's own)"
    )
    checker.add_argument(
        "--bins", type=int, metavar="T", help="time bins of a window (default: 4, or a simulation's own)"
    )
    checker.add_argument("--picture", type=_picture, metavar="FILE.png", help="write a sample: events, frame, depth")
    checker.add_argument(
        "--sample", type=int, metavar="K", help="which one (default: the middle of the first recording)"
    )
    checker.add_argument("--json", type=Path, metavar="FILE", help="write the findings to this file too")
    checker.set_defaults(run=run_check)
    add_simulate(commands)


def run_check(args: argparse.Namespace) -> int:
    """Check a folder; 0 sound, 1 broken, 2 wrong arguments."""
    if why := wrong_outputs({"--json": args.json, "--picture": args.picture}):
        print(f"sdt-distill data check: {why}", file=sys.stderr)
        return 2
    try:
        config = None
        if args.window_ms is not None or args.bins is not None:
            plain = SampleConfig()
            config = SampleConfig(
                plain.window_ms if args.window_ms is None else args.window_ms,
                plain.bins if args.bins is None else args.bins,
            )
        if not args.dir.exists():
            raise ValueError(f"there is nothing at {args.dir}")
        name = args.dataset or detect(args.dir)
        if name is None:
            raise ValueError(f"{args.dir} is no data set that is known here; expected is\n{LAYOUTS}")
        readers = select(args.dir, name, config, args.split)
    except ValueError as error:
        print(f"sdt-distill data check: {error}", file=sys.stderr)
        return 2
    try:
        report = check(args.dir, name, readers, args.samples, progress=sys.stderr.isatty())
    except ImportError as error:
        print(f"sdt-distill data check: {error}", file=sys.stderr)
        return 2
    report = dataclasses.replace(report, missing=tuple(missing_recordings(name, args.split, (r.name for r in readers))))
    print(report.text())
    sound = report.sound
    try:
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
        if args.picture:
            sound = _write_picture(args, readers) and sound
    except OSError as error:
        print(f"sdt-distill data check: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0 if sound else 1


def _write_picture(args: argparse.Namespace, readers: list[Any]) -> bool:
    """Write the sample asked for, or the first that can be read; whether there is one."""
    reasons = []
    skip = args.sample
    for reader in readers:
        try:
            count = len(reader)
            if skip is not None and skip >= count:
                skip -= count
                continue
            sample = reader.read(int(reader.indices[count // 2 if skip is None else skip]))
        except (DatasetError, IndexError) as error:
            reasons.append(str(error))
            continue
        finally:
            reader.close()
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        sample_picture(sample).save(args.picture)
        print(f"{args.picture}: {sample.sequence}, index {sample.index}")
        return True
    why = reasons[0] if reasons else f"there is no sample {args.sample}"
    print(f"sdt-distill data check: no picture: {why}", file=sys.stderr)
    return False


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise argparse.ArgumentTypeError(f"{text} is no name of a picture; let it end in .png or .jpg")
    return path
