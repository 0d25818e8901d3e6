"""What `sdt bench network` measures: windows in turn, stages, memory, parity, ceilings of the machine."""

from __future__ import annotations

import copy
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdt_ros.bench.measure import median_seconds
from sdt_ros.bench.training import use_spikingjelly
from sdt_ros.network import MLIF, Card, EnergyRecorder, SpikingDepthTransformer, synthetic_events
from sdt_ros.runtime import DepthEstimator

_WATCH_S = 0.002
COPY_BYTES = 1 << 28


@dataclass(frozen=True)
class NetworkResult:
    """Figures of one run; milliseconds are a window's.

    Attributes:
        preset: the network, or the checkpoint.
        size: WxH of the spikes.
        device: where ours ran.
        runtime: ours, in words, and why it was chosen.
        threads: torch's.
        median_ms: ours.
        least_ms: ours, of the fastest round.
        peer: its name.
        peer_median_ms: the peer's.
        ratio: the peer's median over ours.
        stages_ms: ours, of stem, attention, mlp and head: all, conv, LIF and the rest, by a run of its own with hooks.
        peak_mb: resident memory of ours above that before, at its highest.
        peer_peak_mb: of the peer.
        mean_rate: mean firing rate over layers, ours.
        peer_mean_rate: of the network as written.
        worst_rate_difference: of one layer.
        log_depth_difference: mean absolute difference of normalised log depth.
        gmac: multiply-accumulates of a window if nothing were sparse, 10^9.
        bytes_mb: what must be read and written at least: weights, inputs and outputs of all convolutions.
        peak_gmac_s: measured on this machine, by the convolution of this runtime on a shape that suits it.
        peak_gb_s: measured: a copy of 256 MB, read and written.
        floor_ms: the larger of both times.
    """

    preset: str
    size: str
    device: str
    runtime: str
    threads: int
    median_ms: float
    least_ms: float
    peer: str
    peer_median_ms: float
    ratio: float
    stages_ms: dict[str, dict[str, float]]
    peak_mb: float
    peer_peak_mb: float
    mean_rate: float
    peer_mean_rate: float
    worst_rate_difference: float
    log_depth_difference: float
    gmac: float
    bytes_mb: float
    peak_gmac_s: float
    peak_gb_s: float
    floor_ms: float


def measure(
    network: SpikingDepthTransformer,
    card: Card,
    name: str,
    size: tuple[int, int],
    device: str,
    runtime: str,
    against: str,
    rounds: int,
) -> NetworkResult:
    """Time a network in a runtime and in a peer.

    Args:
        network: with its weights, on the CPU; it is left as it is.
        card: the weights'.
        name: for the report.
        size: (height, width).
        device: as `DepthEstimator` takes it.
        runtime: as `DepthEstimator` takes it.
        against: "spikingjelly", "eager" or "compile".
        rounds: of which the median counts.

    Raises:
        ImportError: spikingjelly is missing.
        DeviceError: the device or runtime is not there.
    """
    spikes = synthetic_events(card.bins, *size, card.network.polarities)
    plain = network.eval().requires_grad_(False)
    estimator = DepthEstimator(copy.deepcopy(plain), card, device, runtime=runtime)
    ours = estimator._runtime
    where = ours(spikes[0]).device
    peer = _peer(copy.deepcopy(plain), against).to(where)
    on_device = spikes.to(where)

    def run_ours() -> None:
        ours(spikes[0]).cpu()

    def run_peer() -> None:
        with torch.inference_mode():
            peer(on_device).cpu()

    peak, peer_peak = (_peak_bytes(run, where) for run in (run_ours, run_peer))
    all_ours: list[float] = []
    medians = median_seconds({"ours": _timed(run_ours, all_ours), "peer": _timed(run_peer, [])}, rounds, "network")
    stages = _by_stage(ours._network, run_ours, max(3, rounds // 2))  # type: ignore[attr-defined]
    depth, report = ours.measured(spikes[0])
    with torch.inference_mode(), EnergyRecorder(plain) as recorder:
        expected = plain(spikes)
    exact = recorder.report()
    rates, exact_rates = report.firing_rates, exact.firing_rates
    macs = sum(row.macs * row.runs for row in exact.rows)
    moved = _bytes(plain, spikes)
    int8 = "int8" in estimator.describe()
    peak_gmac, peak_bandwidth = _peak_gmac_s(int8, where), _peak_gb_s(where)
    floor_s = max(macs / 1e9 / peak_gmac, moved / 1e9 / peak_bandwidth)
    return NetworkResult(
        preset=name, size=f"{size[1]}x{size[0]}", device=str(where), runtime=estimator.describe(),
        threads=torch.get_num_threads(), median_ms=1e3 * medians["ours"], least_ms=1e3 * min(all_ours), peer=against,
        peer_median_ms=1e3 * medians["peer"], ratio=medians["peer"] / medians["ours"], stages_ms=stages,
        peak_mb=peak / 1e6, peer_peak_mb=peer_peak / 1e6,
        mean_rate=float(np.mean(list(rates.values()))), peer_mean_rate=float(np.mean(list(exact_rates.values()))),
        worst_rate_difference=max(abs(rates[layer] - rate) for layer, rate in exact_rates.items()),
        log_depth_difference=float((depth.cpu() - expected).abs().mean()), gmac=macs / 1e9, bytes_mb=moved / 1e6,
        peak_gmac_s=peak_gmac, peak_gb_s=peak_bandwidth, floor_ms=1e3 * floor_s,
    )  # fmt: skip


def _peer(plain: SpikingDepthTransformer, against: str) -> nn.Module:
    """The network as written, in evaluation mode, made into the peer."""
    if against == "spikingjelly":
        return use_spikingjelly(plain).eval()
    if against == "compile":
        compiled: nn.Module = torch.compile(plain)  # type: ignore[assignment]
        return compiled
    return plain


def _timed(run: Callable[[], None], kept: list[float]) -> Callable[[], float]:
    """The run, which returns its seconds and keeps them."""

    def timed() -> float:
        began = time.perf_counter()
        run()
        kept.append(time.perf_counter() - began)
        return kept[-1]

    return timed


def _peak_bytes(run: Callable[[], None], device: torch.device) -> float:
    """Bytes above those of before, while it runs for the first time: on the device, on a CPU resident ones."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    run()  # compiled and packed things are not of the window
    before, highest, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(_WATCH_S):
            highest = max(highest, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(3):
            run()
    finally:
        done.set()
        watcher.join()
    return max(0, highest - before)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _by_stage(network: SpikingDepthTransformer, run: Callable[[], Any], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each stage: all of it, its convolutions, its neurons, and what is left.

    Where a pass does several things, as pools with their neurons, it counts as what is left. Hooks cost some
    microseconds each.
    """
    running: dict[tuple[str, str], float] = {}
    began: dict[nn.Module, float] = {}
    handles = []
    device = next(network.stem.parameters()).device

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(module: nn.Module, _: Any) -> None:
        began[module] = now()

    def watch(module: nn.Module, key: tuple[str, str]) -> None:
        def end(*_: Any) -> None:
            if module in began:  # else its hooks were told of a pass that was part of another
                running[key] = running.get(key, 0.0) + now() - began.pop(module)

        handles.append(module.register_forward_pre_hook(begin))
        handles.append(module.register_forward_hook(end))

    blocks: list[Any] = list(network.blocks)
    stages = [("stem", [network.stem]), ("attention", [block.attention for block in blocks])]
    stages += [("mlp", [block.mlp for block in blocks]), ("head", [network.head])]
    for stage, parts in stages:
        for part in parts:
            watch(part, (stage, "all"))
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    watch(module, (stage, "conv"))
                elif isinstance(module, MLIF):
                    watch(module, (stage, "LIF"))
    spent: dict[tuple[str, str], list[float]] = {}
    try:
        for _ in range(rounds):
            running.clear()
            run()
            for key, seconds in running.items():
                spent.setdefault(key, []).append(1e3 * seconds)
    finally:
        for handle in handles:
            handle.remove()
    table = {}
    for stage, _ in stages:
        kinds = {kind: statistics.median(spent.get((stage, kind), [0.0])) for kind in ("all", "conv", "LIF")}
        table[stage] = {**kinds, "rest": kinds["all"] - kinds["conv"] - kinds["LIF"]}
    return table


def _bytes(plain: SpikingDepthTransformer, spikes: Tensor) -> int:
    """Bytes that convolutions must move at least: spikes and weights as bytes, currents as bfloat16, each once."""
    total = 0

    def count(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += inputs[0].numel() + module.weight.numel() + 2 * output.numel()

    handles = [m.register_forward_hook(count) for m in plain.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.inference_mode():
            plain(spikes)
    finally:
        for handle in handles:
            handle.remove()
    return total


def _peak_gmac_s(int8: bool, device: torch.device) -> float:
    """10^9 multiply-accumulates a second of a convolution that suits the machine: 512 to 512 channels, 3x3."""
    from sdt_ros.runtime.spike_conv import Int8Conv2d

    conv = nn.Conv2d(512, 512, 3, padding=1).requires_grad_(False).to(device)
    spikes = (torch.rand(4, 512, 16, 32) < 0.2).contiguous(memory_format=torch.channels_last)
    run: nn.Module = Int8Conv2d(conv) if int8 else conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    given = spikes.to(torch.uint8) if int8 else spikes.float().to(device)
    least = _least_seconds(lambda: run(given), device)
    return float(4 * 16 * 32 * 512 * 512 * 9 / least / 1e9)


def _peak_gb_s(device: torch.device) -> float:
    """10^9 bytes a second, read and written, of a copy that fits no cache."""
    source = torch.ones(COPY_BYTES // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return float(2 * 4 * source.numel() / _least_seconds(lambda: target.copy_(source), device) / 1e9)


def _least_seconds(run: Callable[[], Any], device: torch.device) -> float:
    least = float("inf")
    with torch.inference_mode():
        run()
        for _ in range(7):
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            least = min(least, time.perf_counter() - began)
    return least
