"""`sdt-distill uncertainty`: give trained weights a head that tells how far their depth may be off."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdt_distill.export import rounded
from sdt_distill.uncertainty.fit import FitConfig, fit
from sdt_ros.arguments import checkpoint_files, count, write_text, wrong_outputs, wrong_seed
from sdt_ros.weights import weights_file

if TYPE_CHECKING:
    from sdt_distill.datasets import Sample, SequenceDataset
    from sdt_distill.uncertainty.mistakes import Comparer, Mistakes
    from sdt_ros.network import Card, UncertaintyHead
    from sdt_ros.runtime import DepthEstimator


_LOOKED_AT = 64  # windows of a data set, for pictures


def add_parser(subparsers: Any) -> None:
    """Add `uncertainty` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "uncertainty",
        help="give trained weights a head that tells how far their depth may be off",
        description="Fit a head for uncertainty to what a trained network is off by, and score it on other data. Depth "
        "stays as it is. Fit on data that the network was not trained on, and as varied as the world that it will see. "
        "Weights that are trained further, or averaged, lose their head.",
        epilog="Without --data, a head that the weights have is scored.\n"
        "exit codes: 0 written or scored, 1 cannot be, 2 wrong arguments, 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights", type=weights_file, required=True, metavar="FILE", help="checkpoint, or a packaged one's name"
    )
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="DIR", help="data sets to fit it to")
    parser.add_argument("--held-out", type=Path, nargs="+", default=[], metavar="DIR", help="data sets to score it on")
    parser.add_argument("--samples", type=count, metavar="N", help="only N of each data set, spread evenly")
    parser.add_argument("--out", type=Path, metavar="FILE", help="checkpoint to write (.safetensors)")
    parser.add_argument("--epochs", type=count, metavar="N", help=f"with --data ({FitConfig.epochs})")
    parser.add_argument("--seed", type=int, metavar="N", help=f"with --data ({FitConfig.seed})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw one window of each sequence or family held out, as PNG"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt-distill uncertainty`; returns the exit code."""
    from sdt_distill.datasets import DatasetError
    from sdt_ros.network import CheckpointError
    from sdt_ros.runtime import DeviceError

    if why := _refused(args):
        print(f"sdt-distill uncertainty: {why}", file=sys.stderr)
        return 2
    try:
        _work(args)
    except (CheckpointError, DatasetError, DeviceError, FloatingPointError, ValueError, OSError) as error:
        print(f"sdt-distill uncertainty: {error}", file=sys.stderr)
        return 1
    return 0


def _refused(args: argparse.Namespace) -> str:
    """What is wrong with the arguments; empty if nothing."""
    if bool(args.data) != (args.out is not None):
        return "--data and --out go together: the one to fit a head to, the other to write it to"
    for option, number in (("--epochs", args.epochs), ("--seed", args.seed)):
        if number is not None and not args.data:
            return f"{option} has no effect without --data; add it, or leave {option} out"
    if args.picture is not None and not args.held_out:
        return "--picture draws what is held out; name data by --held-out"
    if not args.data and not args.held_out:
        return "nothing to do; name --data and --out to fit a head, --held-out to score one"
    if twice := {path.resolve() for path in args.data} & {path.resolve() for path in args.held_out}:
        return f"{sorted(twice)[0]} is in --data and in --held-out; score on data that the head was not fitted to"
    for option, paths in (("--data", args.data), ("--held-out", args.held_out)):
        names = [_said(path) for path in paths]
        if alike := [name for name in names if names.count(name) > 1]:
            return f"{option} names two data sets called {alike[0]}: scores are told by the folder's name"
    if args.picture is not None and args.picture.suffix.lower() != ".png":
        return f"--picture {args.picture} is no .png file; name one"
    if args.out is not None and args.out.suffix != ".safetensors":
        return f"--out {args.out} is no .safetensors file; name one"
    outputs = {"--out": args.out, "--out: its card": args.out and args.out.with_suffix(".json"), "--json": args.json,
               "--picture": args.picture}  # fmt: skip
    return wrong_seed(args.seed or 0) or wrong_outputs(outputs, kept=checkpoint_files(args.weights))


def _work(args: argparse.Namespace) -> None:
    import json

    from sdt_distill.uncertainty.mistakes import Comparer
    from sdt_ros.network import load_checkpoint, save_checkpoint
    from sdt_ros.runtime import DepthEstimator, resolve_device

    network, card = load_checkpoint(args.weights)
    if not card.trained:
        raise ValueError(f"{args.weights}: these weights are untrained")
    head = network.uncertainty
    if head is None and not args.data:
        raise ValueError(f"{args.weights} has no head for uncertainty; fit one with --data and --out")
    compare = Comparer(copy.deepcopy(network), card, resolve_device(args.device)[0])  # which keeps what it is given
    if args.data:
        parts = [_mistakes(compare, card, path, args.samples) for path in args.data]
        given = {"epochs": args.epochs, "seed": args.seed}
        config = FitConfig(**{key: number for key, number in given.items() if number is not None})
        head = fit(card.network, parts, config)
        windows = sum(map(len, parts))
        card = dataclasses.replace(card, uncertainty=f"{windows} windows of {', '.join(map(_said, args.data))}")
    assert head is not None
    scores = _scores(head, compare, card, args)
    if args.out is not None:
        network.uncertainty = head
        card = dataclasses.replace(card, scores={**card.scores, "uncertainty": scores})
        written = save_checkpoint(args.out, network, card, half=_is_half(args.weights))
        print(f"{args.out}: {written.uncertainty}")
    if args.json is not None:
        write_text(args.json, json.dumps(scores, indent=2) + "\n")
    if args.picture is not None:
        network.uncertainty = head
        _draw(args, DepthEstimator(network, card, args.device))


def _scores(head: UncertaintyHead, compare: Comparer, card: Card, args: argparse.Namespace) -> dict[str, Any]:
    """What the head is worth on each data set that is held out; printed too."""
    from sdt_distill.uncertainty.score import score
    from sdt_ros.evaluation.uncertainty import describe

    scores: dict[str, Any] = {}
    for path in args.held_out:
        found = score(head, _mistakes(compare, card, path, args.samples))
        scores[_said(path)] = rounded(found)
        print(f"{_said(path)}: {describe(found)}")
    return scores


def _draw(args: argparse.Namespace, estimator: DepthEstimator) -> None:
    from sdt_distill.uncertainty.picture import picture
    from sdt_ros.evaluation.spread import spread_evenly

    samples: list[Sample] = []
    for path in args.held_out:
        dataset = _dataset(path, estimator.card)
        some = (dataset[index] for index in spread_evenly(len(dataset), min(len(dataset), args.samples or _LOOKED_AT)))
        found: dict[str, Sample] = {}
        for sample in some:
            found.setdefault(sample.sequence, sample)
        samples += found.values()
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    picture(estimator, samples).quantize(256).save(args.picture, "PNG", optimize=True)


def _mistakes(compare: Comparer, card: Card, path: Path, samples: int | None) -> Mistakes:
    return compare(_dataset(path, card), str(path), samples)


def _dataset(path: Path, card: Card) -> SequenceDataset:
    from sdt_distill.datasets import SampleConfig, open_dataset

    return open_dataset(path, config=SampleConfig(card.window_ms, card.bins, frames=False))


def _is_half(weights: Path) -> bool:
    """Whether a file holds its layers in half precision: depth shall stay as it is."""
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        return any(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118  it is no dict


def _said(path: Path) -> str:
    """A data set as cards call it: by its folder's name."""
    return path.resolve().name
