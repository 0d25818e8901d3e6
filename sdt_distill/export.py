"""`sdt-distill export-card`: a run's best weights in half precision, with a card of what they can and cannot do.

What is measured is measured by `sdt-distill eval --json`, and only taken over here, so that every figure of a card has
a command. The digest in an evaluation tells whether it is of these very weights:

    sdt-distill export-card runs/small --out sdt_ros/weights/sdt_small --limits limits.txt
    sdt-distill eval --weights sdt_ros/weights/sdt_small.safetensors --root BANK --split test --json own.json
    sdt-distill export-card runs/small --out sdt_ros/weights/sdt_small --limits limits.txt --eval own.json
      ... --compare "ANN twin=twin.json" --compare "E2Depth=e2depth.json"
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdt_ros.arguments import checkpoint_files, wrong_outputs
from sdt_ros.evaluation.score import CONSTANT, MAP, PREDICTION
from sdt_ros.text_files import TextFileError, read_json

_MOST_BYTES = 64 << 20  # of figures: they hold every frame
_OF_HEAD = "uncertainty"
LIMIT_MB = 20.0  # of a file that goes into the repository
METRICS = ("abs_rel", "rmse_log", "silog", "rmse", "delta1", "mean_abs_error")
_SHORT = ("abs_rel", "rmse_log", "delta1")


def add_parser(subparsers: Any) -> None:
    """Add `export-card` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export-card",
        help="make a run's best weights what the node loads",
        description="Write a run's best weights (without held-out data its last) in half precision, and a card with "
        "their scores and limits.",
        epilog="exit codes: 0 written, 1 cannot be written, 2 wrong arguments",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a training run, or a checkpoint of it")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="where to, with or without .safetensors"
    )
    parser.add_argument(
        "--eval", type=Path, action="append", default=[], metavar="FILE", dest="evaluations",
        help="`sdt-distill eval --json` of these weights, exported or of the run; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--compare", action="append", default=[], metavar="NAME=FILE",
        help="the same of a peer on the same data; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--limits", default="", metavar="TEXT", help="what the weights cannot do: a text, or a file of it"
    )
    parser.add_argument("--licence", metavar="SPDX", help="of the weights (default: the run's)")
    parser.add_argument(
        "--max-mb", type=float, default=LIMIT_MB, metavar="MB", help=f"refuse larger weights (default: {LIMIT_MB:g})"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt-distill export-card`; returns the exit code."""
    from sdt_ros.network import CheckpointError

    for text in args.compare:
        if "=" not in text.strip("="):
            print(f"sdt-distill export-card: --compare {text!r}: expected NAME=FILE", file=sys.stderr)
            return 2
    if why := _refused(args):
        print(f"sdt-distill export-card: {why}", file=sys.stderr)
        return 2
    try:
        export(args)
    except (CheckpointError, ValueError, OSError) as error:
        print(f"sdt-distill export-card: {error}", file=sys.stderr)
        return 1
    return 0


def export(args: argparse.Namespace) -> Path:
    """Write weights and card as the arguments say; returns the weights' file.

    Raises:
        CheckpointError: the run has no weights, or they are damaged or a peer's.
        ValueError: an evaluation is of other weights, or the weights are too large.
        OSError: a file cannot be read or written.
    """
    import tempfile

    from sdt_ros.network import load_checkpoint, save_checkpoint

    source = _weights_of(args.run_folder)
    network, card = load_checkpoint(source)
    if not card.trained:
        raise ValueError(f"{source}: these weights are untrained")
    if not args.limits:
        print("sdt-distill export-card: no --limits: the card will not say what the weights cannot do", file=sys.stderr)
    card = dataclasses.replace(card, limits=_limits(args.limits), licence=args.licence or card.licence)
    target = _target(args.out)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
        # Written once to learn digest and size before anything in place is touched.
        written = save_checkpoint(Path(folder) / target.name, network, card, half=True)
        megabytes = (Path(folder) / target.name).stat().st_size / 1e6
    if megabytes > args.max_mb:
        raise ValueError(f"{target}: {megabytes:.1f} MB is above --max-mb {args.max_mb:g}; name a higher limit")
    own = {written.weights_sha256: "these weights", _digest(source): "the run's weights in single precision"}
    scores: dict[str, Any] = {"training": {name: each for name, each in card.scores.items() if name != _OF_HEAD}}
    if _OF_HEAD in card.scores:
        scores[_OF_HEAD] = card.scores[_OF_HEAD]
    evaluations = [_evaluation(path, own) for path in args.evaluations]
    evaluated = zip(args.evaluations, evaluations, strict=True)
    scores["evaluations"] = [_digested(path, content, own) for path, content in evaluated]
    compared = {}
    for text in args.compare:
        name, _, path = text.rpartition("=")
        content = _read(Path(path))
        _require_same_data(Path(path), content, evaluations)
        compared[name] = _digested(Path(path), content, {})
    if compared:
        scores["compared"] = compared
    save_checkpoint(target, network, dataclasses.replace(card, scores=scores), half=True)
    print(f"{target}: {megabytes:.1f} MB, step {card.steps}, {len(evaluations)} evaluations, {len(compared)} compared")
    return target


def _target(out: Path) -> Path:
    """The weights' file; its card is beside it."""
    return out if out.suffix == ".safetensors" else out.with_name(out.name + ".safetensors")


def _refused(args: argparse.Namespace) -> str:
    """Why nothing can be written to `--out`; empty where all can."""
    if args.out.is_dir():
        return f"--out {args.out} is a folder; name a file, in it or elsewhere"
    compared = [Path(text.rpartition("=")[2]) for text in args.compare]
    read = dict.fromkeys((*args.evaluations, *compared), "a file that it reads")
    if _is_file(args.limits):
        read[Path(args.limits)] = "the text of --limits"
    with contextlib.suppress(ValueError):  # what is no run is told later
        read |= checkpoint_files(_weights_of(args.run_folder))
    target = _target(args.out)
    return wrong_outputs({"--out": target, "--out: its card": target.with_suffix(".json")}, kept=read)


def digest_of(content: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
    """What a card keeps of an evaluation: scores beside floors, by group and by distance, probes, rates and energy.

    Args:
        content: of `sdt-distill eval --json`.
        own: digests of weights, and what to call them.
    """
    settings = content["settings"]
    kept: dict[str, Any] = {
        "on": settings["recording"],
        "network": settings["network"],
        "parameters": settings["parameters"],
        "steps": settings["steps"],
        "protocol": settings["protocol"]["name"],
        "frames": content["counts"]["frames_scored"],
        **_against_floors(content["metric"], METRICS),
        "groups": {name: _against_floors(group["metric"], _SHORT) for name, group in content["groups"].items()},
        "bands": [
            {
                "from_m": band["from_m"],
                "to_m": band["to_m"],
                "pixel_share": band["pixel_share"],
                **_against_floors(band, _SHORT),
            }
            for band in content["bands"]
        ],
        "probes": {name: _pick(probe["metric"], _SHORT) for name, probe in content["probes"].items()},
        "energy_mj": content["energy_mj"],
        "firing_rates": content["firing_rates"],
    }
    if (weights := own.get(settings["weights_sha256"])) is not None:
        kept["of"] = weights
    return rounded(kept)


def _digested(path: Path, content: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
    try:
        return digest_of(content, own)
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_written_by_eval(path, error) from error


def _not_written_by_eval(path: Path, error: Exception | None = None) -> ValueError:
    what = f" ({type(error).__name__} {error})" if error else ""
    return ValueError(f"{path}: not written by sdt-distill eval --json or sdt eval --json{what}")


def _against_floors(metric: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The network's metrics, those of the floors, and what part of the mean map's errors is left."""
    own, floor = metric[PREDICTION], metric[MAP]
    parts = {  # a floor without error is that of a truth which never changes
        name: own[name] / floor[name]
        for name in ("abs_rel", "rmse_log")
        if own[name] is not None and floor[name] is not None and floor[name] > 1e-6
    }
    floors = {guess: _pick(metric[guess], names) for guess in (CONSTANT, MAP) if guess in metric}
    return {"scores": _pick(own, names), "floors": floors, "ratio_to_mean_map": parts}


def _pick(metric: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: metric[name] for name in names}


def rounded(value: Any) -> Any:
    """Figures to five digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, _MOST_BYTES)
    except TextFileError as error:
        raise ValueError(f"{path}: {error}") from error
    settings = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or not {"weights_sha256", "steps"} <= settings.keys():
        raise _not_written_by_eval(path)
    return content


def _evaluation(path: Path, own: Mapping[str, str]) -> dict[str, Any]:
    content = _read(path)
    if content["settings"]["weights_sha256"] not in own:
        raise ValueError(
            f"{path}: an evaluation of other weights ({content['settings'].get('weights')}, step "
            f"{content['settings']['steps']}); run sdt-distill eval on this run's, or on the exported ones"
        )
    return content


def _weights_of(run: Path) -> Path:
    """The file, or a run's best weights; of a run without held-out data the last."""
    if run.suffix == ".safetensors":
        return run
    best, last = run / "best.safetensors", run / "last.safetensors"
    if run.is_dir() and not best.is_file() and not last.is_file():
        raise ValueError(f"{run} is no run: there is no {last.name} in it; name a run's folder or a checkpoint")
    return last if last.is_file() and not best.is_file() else best


def _require_same_data(path: Path, content: Mapping[str, Any], evaluations: list[dict[str, Any]]) -> None:
    def what(one: Mapping[str, Any]) -> tuple[Any, ...]:
        return one["settings"]["recording"], one["settings"]["protocol"], one["counts"]["frames_scored"]

    if evaluations and what(content) not in map(what, evaluations):
        raise ValueError(
            f"{path}: scored on {content['settings']['recording']}, {content['counts']['frames_scored']} frames, which "
            "none of the evaluations is; compare on the same data, protocol and samples"
        )


def _limits(text: str) -> str:
    return (Path(text).read_text(encoding="utf-8") if _is_file(text) else text).strip()


def _is_file(text: str) -> bool:
    with contextlib.suppress(OSError):  # a text too long to be a name
        return bool(text) and "\n" not in text and Path(text).is_file()
    return False


def _digest(path: Path) -> str:
    from sdt_ros.network import load_card

    return load_card(path).weights_sha256
