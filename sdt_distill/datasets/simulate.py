"""`sdt-distill data simulate`: simulates samples and keeps them on disk as a bank."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from sdt_ros.arguments import wrong_outputs


def add_simulate(commands: Any) -> None:
    """Add `simulate` to the commands of `data`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "simulate",
        help="simulate samples and keep them on disk, so that training can read them many times",
        description="Simulate samples and keep them as a bank. Run again after a stop, it goes on; with more "
        "--samples, the bank grows. Splits share neither seeds nor textures nor photographs.",
        epilog="exit codes: 0 the bank is finished or this part of it is, 1 it could not be written, 2 wrong arguments",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder of the bank")
    add("--samples", type=int, default=20_000, metavar="N", help="samples that it shall have (20000)")
    add(
        "--family",
        default="mixed",
        help="of scenes: driving, hallway, tabletop, flying, clutter, or mixed, "
        "which is the first four in turn (mixed)",
    )
    add(
        "--camera",
        default="172x130",
        metavar="CAMERA",
        help="WxH (the sensor of nearest shape at that size), a sensor (davis346, gen3_vga, gen4_hd), a part of one "
        "(davis346/2) or one at a size (gen3_vga@172x130); default 172x130, davis346 at half resolution",
    )
    add("--seed", type=int, default=0, help="of everything random (0)")
    add("--split", default="train", help="train, validation or test (train)")
    add(
        "--photographs", type=Path, nargs="+", default=[], metavar="DIR",
        help="folders of photographs to take textures from too; files are shared out among the splits",
    )  # fmt: skip
    add("--randomise", action="store_true", help="draw lens, sensor, light, textures and pace anew for each sample")
    add(
        "--range", action="append", default=[], metavar="KEY=LOW:HIGH",
        help="--randomise, but draw KEY from this range: pace=1:1 leaves the usual speed; may be given several times",
    )  # fmt: skip
    add(
        "--renderer",
        default="sdt",
        help="sdt, the project's own, or mujoco: the same scenes by another renderer and a plain event model (ESIM), "
        "to see what a network learnt of ours besides (sdt)",
    )
    add("--bins", type=int, default=4, metavar="T", help="time bins of a window (4)")
    add("--window-ms", type=float, default=50.0, metavar="MS", help="duration of a window (50)")
    add("--texture-sets", type=int, default=1000, metavar="N", help="different sets of textures, at most (1000)")
    add("--texture-block", type=int, default=1024, metavar="N", help="samples in a row that share one (1024)")
    add("--shard", type=int, metavar="N", help="samples of a shard (256, fewer for large cameras)")
    add(
        "--part",
        default="0/1",
        metavar="K/N",
        help="write each Nth shard only, from K = 0 on, so that N processes share (0/1)",
    )
    add("--workers", type=int, default=1, metavar="N", help="processes of this one (1)")
    add("--device", default="cpu", help="where to simulate: cpu or cuda (cpu)")
    add("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.set_defaults(run=run_simulate)


def run_simulate(args: argparse.Namespace) -> int:
    """Write a bank; 0 done, 1 the disk or the photographs fail, 2 wrong arguments."""
    from .bank import write_bank
    from .errors import DatasetError
    from .simulated_config import Randomisation, SimulatedConfig, parse_camera

    if why := wrong_outputs({"--json": args.json}):
        print(f"sdt-distill data simulate: {why}", file=sys.stderr)
        return 2
    try:
        part, parts = (int(text) for text in args.part.split("/"))
    except ValueError:
        print(f"sdt-distill data simulate: --part {args.part} is not K/N, as 0/2", file=sys.stderr)
        return 2
    try:
        config = SimulatedConfig(
            family=args.family,
            camera=parse_camera(args.camera),
            seed=args.seed,
            samples=args.samples,
            split=args.split,
            photographs=tuple(args.photographs),
            randomisation=Randomisation(**_ranges(args.range)) if args.randomise or args.range else None,
            bins=args.bins,
            window_ms=args.window_ms,
            texture_sets=args.texture_sets,
            texture_block=args.texture_block,
            renderer=args.renderer,
        )
        config.photograph_files()
        _device(args.device)
        summary = write_bank(
            args.out, config, shard=args.shard, part=part, parts=parts, device=args.device, workers=args.workers,
            progress=True,
        )  # fmt: skip
    except DatasetError as error:
        print(f"sdt-distill data simulate: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"sdt-distill data simulate: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"sdt-distill data simulate: {error}; shards that are there are kept, run it again", file=sys.stderr)
        return 1
    state = "finished" if summary.finished else "not finished: other parts are missing"
    print(
        f"{args.out}: {summary.present} samples, {summary.bytes / 1e6:.1f} MB, {state}\n"
        f"wrote {summary.written} in {summary.seconds:.1f} s, {summary.samples_s:.1f} samples/s; "
        f"kept depths are within {summary.depth_error:.3%}"
    )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"bank": str(args.out), "config": config.to_dict(), **dataclasses.asdict(summary)}
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def _ranges(texts: list[str]) -> dict[str, tuple[float, float]]:
    """What `--range` asks for, by the fields of `Randomisation`."""
    from .simulated_config import Randomisation

    known = [field.name for field in dataclasses.fields(Randomisation)]
    ranges = {}
    for text in texts:
        key, _, bounds = text.partition("=")
        if key not in known:
            raise ValueError(f"--range {text}: unknown key {key!r}; known are {', '.join(known)}")
        try:
            low, high = (float(bound) for bound in bounds.split(":"))
        except ValueError:
            raise ValueError(f"--range {text} is not KEY=LOW:HIGH, as pace=0.5:2") from None
        ranges[key] = low, high
    return ranges


def _device(name: str) -> None:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); try cpu") from None
