"""`sdt bench training`: samples a second of whole training steps, against the same network with spikingjelly's neurons.

Three copies of one network with the same weights take turns on the same batch: compiled layers as `sdt-distill train`
uses them, the plain modules, and the plain modules with spikingjelly's multi-step neurons of the same constants. A step
is forward, scale-invariant loss, backward, gradient clipping and AdamW.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdt_ros.bench.measure import machine, median_seconds

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_BINS, _EVENT_RATE = 4, 0.08
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
    parser.add_argument("--size", default="172x130", metavar="WxH", help="pixels of the spikes (172x130)")
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
    from sdt_ros.network.config import presets
    from sdt_ros.runtime import DeviceError, resolve_device

    width, _, height = args.size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 16):
        print(f"sdt bench training: --size {args.size!r} is not WIDTHxHEIGHT of at least 16x16", file=sys.stderr)
        return 2
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
    try:
        result = measure(
            args.preset, int(height), int(width), args.batch, args.rounds, args.precision, args.cpu_time, device
        )
    except ImportError as error:
        print(f"sdt bench training: {error.name} is missing: pip install --no-deps spikingjelly", file=sys.stderr)
        return 1
    clock = "processor time of one thread" if args.cpu_time else "wall clock"
    print(f"{machine()}; {result.device}; median of {args.rounds} rounds, {clock}")
    print(f"{result.preset}, {args.size}, T = {_BINS}, batch {result.batch}, {result.precision}; kept for backward")
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
    """
    import torch

    from sdt_distill.kernels import use_fused_layers
    from sdt_ros.network import build_network

    torch.manual_seed(0)
    plain = build_network(preset)
    networks: dict[str, nn.Module] = {
        "ours": use_fused_layers(copy.deepcopy(plain)),
        "peer": use_spikingjelly(copy.deepcopy(plain)),
        "eager": plain,
    }
    for network in networks.values():
        network.to(device)
    spikes = (torch.rand(batch, _BINS, 2, height, width) < _EVENT_RATE).float().to(device)
    depth_m = (torch.rand(batch, 1, height, width) * 20 + 1).to(device)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.process_time() if cpu_time else time.perf_counter()

    steps = {name: _step(network, spikes, depth_m, precision, clock) for name, network in networks.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if cpu_time else threads)
    try:
        kept = {name: _kept_bytes(networks[name], step) / batch / 1e6 for name, step in steps.items()}
        peak = {name: _peak_bytes(step, device) for name, step in steps.items()}
        spent = median_seconds(steps, rounds, "training")
    finally:
        torch.set_num_threads(threads)
    speed = {name: batch / seconds for name, seconds in spent.items()}
    peak_mb = {name: None if most is None else most / batch / 1e6 for name, most in peak.items()}
    return TrainingResult(
        preset, height, width, batch, precision, cpu_time,
        samples_s=speed["ours"], eager_samples_s=speed["eager"], peer_samples_s=speed["peer"],
        ratio=speed["ours"] / speed["peer"], eager_ratio=speed["ours"] / speed["eager"],
        kept_mb=kept["ours"], eager_kept_mb=kept["eager"], peer_kept_mb=kept["peer"], device=str(device),
        peak_mb=peak_mb["ours"], eager_peak_mb=peak_mb["eager"], peer_peak_mb=peak_mb["peer"],
    )  # fmt: skip


def use_spikingjelly(network: nn.Module) -> nn.Module:
    """Put spikingjelly's multi-step `LIFNode` (ATan surrogate, detached reset) for every MLIF, in place.

    On a CPU spikingjelly computes it by torch, on a GPU by the best of its own kernels that it finds there.

    Raises:
        ImportError: spikingjelly is missing.
    """
    from spikingjelly.activation_based import neuron, surrogate
    from torch import nn

    from sdt_ros.network import MLIF

    class Resting(nn.Module):
        """spikingjelly's neurons keep their membranes between calls; these start at rest."""

        def __init__(self, plain: MLIF) -> None:
            super().__init__()
            self.neurons = neuron.LIFNode(
                tau=plain.tau, v_threshold=plain.threshold, v_reset=0.0, detach_reset=True, step_mode="m",
                surrogate_function=surrogate.ATan(plain.alpha),
            )  # fmt: skip

        def forward(self, current: Tensor) -> Tensor:
            self.neurons.reset()
            spikes: Tensor = self.neurons(current)
            return spikes

    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MLIF):
                setattr(parent, name, Resting(child))
    return network


def _step(
    network: nn.Module, spikes: Tensor, depth_m: Tensor, precision: str, clock: Callable[[], float]
) -> Callable[[], float]:
    """One training step, which returns its seconds."""
    import torch

    from sdt_distill.losses.depth import log_residual, scale_invariant
    from sdt_ros.network import DepthRange

    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    depth_range = DepthRange(0.5, 80.0)

    def step() -> float:
        began = clock()
        with torch.autocast(spikes.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            log_depth = network(spikes)
        residual, valid = log_residual(log_depth.float(), depth_m, depth_range)
        loss = scale_invariant(residual, valid.float(), 0.85)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        return clock() - began

    return step


def _peak_bytes(step: Callable[[], float], device: torch.device) -> int | None:
    """Bytes of a GPU that a step takes at most above those of before; None on a CPU."""
    import torch

    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before


def _kept_bytes(network: nn.Module, step: Callable[[], float]) -> int:
    """Bytes of distinct storages that autograd keeps during a step, parameters aside."""
    import torch

    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Any] = {}  # holding the storages, so that no address is given out twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in kept.values())
