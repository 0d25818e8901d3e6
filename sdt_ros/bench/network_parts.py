"""What `sdt bench network` measures: windows in turn, stages, memory, parity, ceilings of the machine."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdt_ros.bench.measure import median_seconds, turn_seconds
from sdt_ros.bench.network_peer import peer_process
from sdt_ros.bench.peak_memory import made_and_run
from sdt_ros.network import MLIF, Card, EnergyRecorder, SpikingDepthTransformer, synthetic_events
from sdt_ros.runtime import CudaRuntime, DepthEstimator, resolve_device
from sdt_ros.runtime.gpu.accelerator import to_host

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
        peer_neurons: which code computes the peer's neurons.
        peer_median_ms: the peer's.
        ratio: the peer's median over ours.
        stages_ms: ours, of stem, attention, mlp and head: all, conv, LIF and the rest, by a run of its own with hooks;
            on a GPU without the graph.
        peak_mb: memory of ours above that before, at its highest: resident while windows run, or on a GPU allocated
            since before the runtime was made.
        peer_peak_mb: of the peer.
        mean_rate: mean firing rate over layers, ours.
        peer_mean_rate: of the network as written.
        worst_rate_difference: of one layer.
        log_depth_difference: mean absolute difference of normalised log depth.
        gmac: multiply-accumulates of a window if nothing were sparse, 10^9.
        gadditions: those of them whose input fires, 10^9.
        bytes_mb: what must be read at least: weights and inputs of all convolutions, a byte each.
        peak_gmac_s: measured on this machine, by the convolution of this runtime on a shape that suits it.
        peak_gadditions_s: likewise, where this runtime adds weights rather than to multiply by 0; else 0.
        peak_gb_s: measured: a copy of 256 MB, read and written.
        floor_ms: the time of the sums, each layer's in the way that is faster, or that of the bytes if it is longer.
    """

    preset: str
    size: str
    device: str
    runtime: str
    threads: int
    median_ms: float
    least_ms: float
    peer: str
    peer_neurons: str
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
    gadditions: float
    bytes_mb: float
    peak_gmac_s: float
    peak_gadditions_s: float
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
        against: one of `network_peer.PEERS`.
        rounds: of which the median counts.

    Raises:
        ImportError: spikingjelly is missing.
        OtherProcessError: the peer's process gave up.
        DeviceError: the device or runtime is not there.
    """
    spikes = synthetic_events(card.bins, *size, card.network.polarities)
    plain = network.eval().requires_grad_(False)
    where = resolve_device(device)[0]
    on_device = spikes.to(where)
    if where.type == "cuda":
        torch.backends.cudnn.benchmark = True  # for the peer too

    def show(made: DepthEstimator) -> None:
        to_host(made._runtime(spikes[0]))

    def run_ours() -> None:
        show(estimator)

    all_ours: list[float] = []
    with peer_process(plain, card, against, size, str(where), torch.get_num_threads()) as peer:
        estimator, peak = made_and_run(
            lambda: DepthEstimator(copy.deepcopy(plain), card, device, runtime=runtime), show, where
        )
        ours = estimator._runtime
        medians = median_seconds({"ours": _timed(run_ours, all_ours), "peer": peer.seconds}, rounds, "network")
        peer_neurons, peer_peak = peer.ask("neurons")["text"], peer.ask("peak")["bytes"]
    # Hooks do not see what a graph replays.
    stepwise = (lambda: ours.uncaptured(on_device[0])) if isinstance(ours, CudaRuntime) else run_ours
    stages = _by_stage(ours._network, stepwise, max(3, rounds // 2))  # type: ignore[attr-defined]
    depth, report = ours.measured(spikes[0])
    with torch.inference_mode(), EnergyRecorder(plain) as recorder:
        expected = plain(spikes, with_uncertainty=True)[:, :1]
    exact = recorder.report()
    rates, exact_rates = report.firing_rates, exact.firing_rates
    macs = {row.name: row.macs * row.runs / 1e9 for row in exact.rows}
    additions = {name: macs[name] * rate for name, rate in exact_rates.items()}
    moved = _bytes(plain, spikes)
    dtype = torch.int8 if "int8" in estimator.describe() else torch.float32
    if isinstance(ours, CudaRuntime):
        dtype = ours.dtype
    peak_gmac, peak_bandwidth = _peak_gmac_s(dtype, where, rate=0.5), _peak_gb_s(where)
    peak_additions = 0.16 * _peak_gmac_s(dtype, where, rate=0.16) if dtype == torch.int8 else 0.0
    dense = {name: count / peak_gmac for name, count in macs.items()}
    sparse = {name: count / peak_additions for name, count in additions.items()} if peak_additions else {}
    floor_s = max(sum(min(took, sparse.get(name, took)) for name, took in dense.items()), moved / 1e9 / peak_bandwidth)
    return NetworkResult(
        preset=name, size=f"{size[1]}x{size[0]}", device=str(where), runtime=estimator.describe(),
        threads=torch.get_num_threads(), median_ms=1e3 * medians["ours"], least_ms=1e3 * min(all_ours), peer=against,
        peer_neurons=peer_neurons, peer_median_ms=1e3 * medians["peer"],
        ratio=medians["peer"] / medians["ours"], stages_ms=stages,
        peak_mb=peak / 1e6, peer_peak_mb=peer_peak / 1e6,
        mean_rate=float(np.mean(list(rates.values()))), peer_mean_rate=float(np.mean(list(exact_rates.values()))),
        worst_rate_difference=max(abs(rates[layer] - rate) for layer, rate in exact_rates.items()),
        log_depth_difference=float((depth[:, :1].cpu() - expected).abs().mean()), gmac=sum(macs.values()),
        gadditions=sum(additions.values()), bytes_mb=moved / 1e6,
        peak_gmac_s=peak_gmac, peak_gadditions_s=peak_additions, peak_gb_s=peak_bandwidth, floor_ms=1e3 * floor_s,
    )  # fmt: skip


def _timed(run: Callable[[], None], kept: list[float]) -> Callable[[], float]:
    """A turn of the run, which returns its seconds and keeps them."""

    def timed() -> float:
        kept.append(turn_seconds(run))
        return kept[-1]

    return timed


def _by_stage(network: SpikingDepthTransformer, run: Callable[[], Any], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each stage: all of it, its convolutions, its neurons, and what is left.

    Where a convolution's pass does more, as the pool and the neurons behind it, all of it counts as the convolution's;
    other passes of several things count as what is left, also those that a convolution has no single part in. Hooks
    cost some microseconds each.
    """
    passes: list[tuple[tuple[str, str], Any, Any]] = []
    began: dict[nn.Module, Any] = {}
    handles = []
    now, seconds = _clock(next(network.stem.parameters()).device)

    def begin(module: nn.Module, _: Any) -> None:
        began[module] = now()

    def watch(module: nn.Module, key: tuple[str, str]) -> None:
        def end(*_: Any) -> None:
            passes.append((key, began.pop(module), now()))

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
            passes.clear()
            run()
            running: dict[tuple[str, str], float] = {}
            for key, start, end in passes:
                running[key] = running.get(key, 0.0) + seconds(start, end)
            for key, took in running.items():
                spent.setdefault(key, []).append(1e3 * took)
    finally:
        for handle in handles:
            handle.remove()
    table = {}
    for stage, _ in stages:
        kinds = {kind: statistics.median(spent.get((stage, kind), [0.0])) for kind in ("all", "conv", "LIF")}
        table[stage] = {**kinds, "rest": kinds["all"] - kinds["conv"] - kinds["LIF"]}
    return table


def _bytes(plain: SpikingDepthTransformer, spikes: Tensor) -> int:
    """Bytes that convolutions must read at least: spikes and weights as bytes, each once."""
    total = 0

    def count(module: nn.Conv2d, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        nonlocal total
        total += inputs[0].numel() + module.weight.numel()

    handles = [m.register_forward_hook(count) for m in plain.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.inference_mode():
            plain(spikes)
    finally:
        for handle in handles:
            handle.remove()
    return total


def _peak_gmac_s(dtype: torch.dtype, device: torch.device, rate: float) -> float:
    """10^9 multiply-accumulates a second of a convolution that suits the machine: 512 to 512 channels, 3x3.

    Of its inputs a share of `rate` fires; products of the others count too, whether they are made or not.
    """
    from sdt_ros.runtime.spike_conv import Int8Conv2d

    images = 4 if device.type == "cpu" else 64
    conv = nn.Conv2d(512, 512, 3, padding=1).requires_grad_(False)
    spikes = (torch.rand(images, 512, 16, 32) < rate).contiguous(memory_format=torch.channels_last)
    if dtype == torch.int8:
        run: nn.Module = Int8Conv2d(conv)
        given = spikes.to(torch.uint8)
    else:
        run = conv.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        given = spikes.to(device, dtype)
    least = _least_seconds(lambda: run(given), device)
    return float(images * 16 * 32 * 512 * 512 * 9 / least / 1e9)


def _peak_gb_s(device: torch.device) -> float:
    """10^9 bytes a second, read and written, of a copy that fits no cache."""
    source = torch.ones(COPY_BYTES // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return float(2 * 4 * source.numel() / _least_seconds(lambda: target.copy_(source), device) / 1e9)


def _least_seconds(run: Callable[[], Any], device: torch.device) -> float:
    now, seconds = _clock(device)
    least = float("inf")
    with torch.inference_mode():
        run()
        for _ in range(7):
            began = now()
            run()
            least = min(least, seconds(began, now()))
    return least


def _clock(device: torch.device) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """A point in time, and the seconds between two; of a GPU those of its own work, which the clock waits for."""
    if device.type != "cuda":
        return time.perf_counter, lambda began, ended: ended - began

    def now() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    def seconds(began: torch.cuda.Event, ended: torch.cuda.Event) -> float:
        ended.synchronize()
        return began.elapsed_time(ended) / 1e3

    return now, seconds
