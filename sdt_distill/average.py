"""`sdt-distill average`: one checkpoint from several, each weight the mean of theirs.

Runs that began with the same weights and saw other samples, in another order, end close enough together for their mean
to be better than either (model soups: Wortsman et al., ICML 2022). Whether it is must be measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdt_ros.arguments import checkpoint_files, wrong_outputs

if TYPE_CHECKING:
    from torch import Tensor

    from sdt_ros.network import Card

_SAME = ("network", "bins", "window_ms", "depth_range", "input_scale", "focal_px")


def add_parser(subparsers: Any) -> None:
    """Add `average` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "average",
        help="one checkpoint from several of one network: the mean of their weights",
        description="Write the mean of several checkpoints' weights. They must be of one network, and should be of "
        "runs that began with the same weights.",
        epilog="exit codes: 0 written, 1 cannot be written, 2 wrong arguments",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folder of a training run, for its last weights, or a file"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="checkpoint to write (.safetensors)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt-distill average`; returns the exit code."""
    from sdt_ros.network import CheckpointError

    if len(args.runs) < 2:
        print(f"sdt-distill average: {args.runs[0]} alone has no mean; name two runs or more", file=sys.stderr)
        return 2
    files = [_weights_of(path).resolve() for path in args.runs]
    for k, path in enumerate(args.runs):
        if files[k] in files[:k]:
            print(f"sdt-distill average: {path} is named twice; name each run once", file=sys.stderr)
            return 2
    kept = {path: what for file in files for path, what in checkpoint_files(file).items()}
    if why := wrong_outputs({"--out": args.out, "--out: its card": args.out.with_suffix(".json")}, kept=kept):
        print(f"sdt-distill average: {why}", file=sys.stderr)
        return 2
    try:
        card = average(args.runs, args.out)
    except (CheckpointError, ValueError, OSError) as error:
        print(f"sdt-distill average: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: the mean of {len(args.runs)} checkpoints, {card.steps} steps in all")
    return 0


def average(runs: Sequence[Path], out: Path) -> Card:
    """Write the mean of several checkpoints.

    Args:
        runs: folders of runs, whose last weights are taken, or `.safetensors` files.
        out: the file to write.

    Returns:
        The card as written: the first one's, with the steps of all, no scores and no head for uncertainty.

    Raises:
        CheckpointError: one is missing or damaged.
        ValueError: they are of different networks, or made for different windows or metres.
    """
    import torch

    from sdt_ros.network import load_checkpoint, save_checkpoint

    files = [_weights_of(path) for path in runs]
    for path, file in zip(runs, files, strict=True):
        if path.is_dir() and not file.is_file():
            raise ValueError(f"{path} is no run: there is no {file.name} in it; name a run's folder or a checkpoint")
    loaded = [load_checkpoint(path) for path in files]
    network, first = loaded[0]
    for path, (_, card) in zip(files, loaded, strict=True):
        for name in _SAME:
            if getattr(card, name) != getattr(first, name):
                raise ValueError(
                    f"{path}: {name} is {getattr(card, name)}, that of {files[0]} {getattr(first, name)}; "
                    "only checkpoints of one kind have a mean"
                )
    for other, _ in loaded:
        other.uncertainty = None  # fitted to other weights than their mean
    states = [other.state_dict() for other, _ in loaded]
    for k, state in enumerate(states):
        if (twin := next((j for j in range(k) if _equal(states[j], state)), None)) is not None:
            raise ValueError(f"{files[k]} holds the same weights as {files[twin]}: a copy; name each run once")
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }
    network.load_state_dict(mean)
    seen = dict.fromkeys(part for _, card in loaded for part in card.training_data.split("; "))
    steps = sum(card.steps for _, card in loaded)
    return save_checkpoint(
        out, network, dataclasses.replace(first, steps=steps, scores={}, uncertainty="", training_data="; ".join(seen))
    )


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(bool((tensor == other[name]).all()) for name, tensor in one.items())


def _weights_of(run: Path) -> Path:
    """The file, or a run's last weights."""
    return run if run.suffix == ".safetensors" else run / "last.safetensors"
