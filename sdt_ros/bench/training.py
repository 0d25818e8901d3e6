"""`sdt bench training`: samples a second of whole training steps, against the same network with spikingjelly's neurons.

Three copies of one network with the same weights take turns, each in a process of its own, on batches of one kind:
compiled layers as `sdt-distill train` uses them (on a GPU in a step replayed as one CUDA graph, as there), the plain
modules, and the plain modules with spikingjelly's multi-step neurons of the same constants. A step is forward,
scale-invariant loss, backward, clipping and AdamW.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdt_ros.arguments import network_size
from sdt_ros.bench.measure import machine, median_seconds
from sdt_ros.bench.other_process import OtherProcessError, other_process

if TYPE_CHECKING:
    import torch

PRECISIONS = ("bfloat16", "float32")


@dataclass(frozen=True)
class TrainingResult:
    """Figures of one run.

    Attributes:
        preset: the network.
        height: of the spikes, pixels.
        width: of the spikes, pixels.
        batch: samples a step.
        precision: of the convolutions.
        cpu_time: whether seconds are processor time on one thread.
        samples_s: ours, samples a second.
        eager_samples_s: of the plain modules.
        peer_samples_s: of the plain modules with spikingjelly's neurons.
        ratio: ours over the peer's.
        eager_ratio: ours over the plain modules'.
        kept_mb: megabytes a sample that our forward pass keeps for the backward pass.
        eager_kept_mb: the same of the plain modules.
        peer_kept_mb: the same with spikingjelly's neurons.
        device: where all ran.
        peak_mb: megabytes a sample that a step of ours takes of the GPU at most, beside weights; None on a CPU.
        eager_peak_mb: the same of the plain modules.
        peer_peak_mb: the same with spikingjelly's neurons.
    """

    preset: str
    height: int
    width: int
    batch: int
    precision: str
    cpu_time: bool
    samples_s: float
    eager_samples_s: float
    peer_samples_s: float
    ratio: float
    eager_ratio: float
    kept_mb: float
    eager_kept_mb: float
    peer_kept_mb: float
    device: str
    peak_mb: float | None
    eager_peak_mb: float | None
    peer_peak_mb: float | None


def add_parser(benchmarks: Any) -> None:
    """Add `bench training` to the command line."""
    parser: argparse.ArgumentParser = benchmarks.add_parser(
        "training",
        help="samples a second of the training step",
        description="Samples a second of whole training steps (forward, loss, backward, clipping, AdamW), "
        "beside the same network with spikingjelly's neurons and beside the plain modules, and the memory that each "
        "keeps for its backward pass.",
    )
    parser.add_argument("--preset", default="sdt_tiny", help="network (sdt_tiny)")
    parser.add_argument(
        "--size", type=network_size, default="172x130", metavar="WxH", help="pixels of the spikes (172x130)"
    )
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="samples a step (8)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="steps of each, the median counts (7)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto (cpu)")
    parser.add_argument("--precision", choices=PRECISIONS, default="bfloat16", help="bfloat16 is autocast (default)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor time on one thread: for a machine that others use too"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt bench training`; returns the exit code."""
    from sdt_ros.bench.training_side import BINS
    from sdt_ros.network.config import presets
    from sdt_ros.runtime import DeviceError, resolve_device

    if args.batch < 1 or args.rounds < 1:
        print("sdt bench training: --batch and --rounds from 1", file=sys.stderr)
        return 2
    if args.preset not in presets:
        print(f"sdt bench training: unknown preset {args.preset!r}; presets: {', '.join(presets)}", file=sys.stderr)
        return 2
    try:
        device = resolve_device(args.device)[0]
    except DeviceError as error:
        print(f"sdt bench training: {error}", file=sys.stderr)
        return 2
    if args.cpu_time and device.type != "cpu":
        print("sdt bench training: --cpu-time counts no work of a GPU: leave it out", file=sys.stderr)
        return 2
    width, height = args.size
    try:
        result = measure(args.preset, height, width, args.batch, args.rounds, args.precision, args.cpu_time, device)
    except OtherProcessError as error:
        print(f"sdt bench training: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"sdt bench training: {error.name} is missing: pip install --no-deps spikingjelly", file=sys.stderr)
        return 1
    clock = "processor time of one thread" if args.cpu_time else "wall clock"
    print(f"{machine()}; {result.device}; median of {args.rounds} rounds, {clock}")
    print(f"{result.preset}, {width}x{height}, T = {BINS}, batch {result.batch}, {result.precision}; kept for backward")
    for name, speed, kept, peak in (
        ("compiled layers", result.samples_s, result.kept_mb, result.peak_mb),
        ("plain modules", result.eager_samples_s, result.eager_kept_mb, result.eager_peak_mb),
        ("spikingjelly's neurons", result.peer_samples_s, result.peer_kept_mb, result.peer_peak_mb),
    ):
        most = "" if peak is None else f"  {peak:8.1f} MB/sample of the GPU at most"
        print(f"  {name:<24}{speed:8.1f} samples/s  {kept:8.1f} MB/sample{most}")
    print(f"  ratio to spikingjelly's {result.ratio:.2f}, to the plain modules {result.eager_ratio:.2f}")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return 0


def measure(
    preset: str,
    height: int,
    width: int,
    batch: int,
    rounds: int,
    precision: str,
    cpu_time: bool,
    device: torch.device,
) -> TrainingResult:
    """Time training steps.

    Args:
        preset: name of the network.
        height: of the spikes.
        width: of the spikes.
        batch: samples a step.
        rounds: steps of each candidate, of which the median counts.
        precision: one of `PRECISIONS`.
        cpu_time: count processor time on one thread instead of the wall clock on torch's threads.
        device: where; on a GPU the clock waits for its work.

    Raises:
        ImportError: spikingjelly is missing.
        OtherProcessError: a side's process gave up.
    """
    import torch

    from sdt_ros.bench.training_side import SIDES

    told = {
        "preset": preset, "batch": batch, "height": height, "width": width, "precision": precision,
        "device": str(device), "threads": 1 if cpu_time else torch.get_num_threads(), "cpu_time": cpu_time,
    }  # fmt: skip
    with ExitStack() as stack:
        sides = {
            side: stack.enter_context(other_process(side, "sdt_ros.bench.training_side", {**told, "side": side}))
            for side in SIDES
        }
        kept = {side: process.ask("kept")["bytes"] / batch / 1e6 for side, process in sides.items()}
        peak = {side: process.ask("peak")["bytes"] for side, process in sides.items()}
        spent = median_seconds({side: process.seconds for side, process in sides.items()}, rounds, "training")
    speed = {side: batch / seconds for side, seconds in spent.items()}
    peak_mb = {side: None if most is None else most / batch / 1e6 for side, most in peak.items()}
    return TrainingResult(
        preset, height, width, batch, precision, cpu_time,
        samples_s=speed["compiled"], eager_samples_s=speed["plain"], peer_samples_s=speed["spikingjelly"],
        ratio=speed["compiled"] / speed["spikingjelly"], eager_ratio=speed["compiled"] / speed["plain"],
        kept_mb=kept["compiled"], eager_kept_mb=kept["plain"], peer_kept_mb=kept["spikingjelly"], device=str(device),
        peak_mb=peak_mb["compiled"], eager_peak_mb=peak_mb["plain"], peer_peak_mb=peak_mb["spikingjelly"],
    )  # fmt: skip
