"""`sdt bench simulation`: samples a second (spikes, depth, frame), beside MuJoCo with a compiled event model.

Both sides get the same scenes, camera paths, resolution and windows on the same cores. The peer renders whole pictures
at the times between which the fastest point of the image moves by half a pixel. Our engine keeps that bound too, but
renders each part of the image only as often as that part needs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from sdt_ros.arguments import sensor_size
from sdt_ros.bench.measure import machine

if TYPE_CHECKING:
    from sdt_ros.simulation.camera import Camera

_SEED, _BINS = 3, 4


@dataclass(frozen=True)
class FamilyResult:
    """One family's figures; the peer's are None where it cannot run.

    Attributes:
        family: of scenes.
        frames: ours, mean number of rendered frames of a sample; of its parts, where they differ.
        samples_s: ours, samples a second on the CPU.
        gpu_samples_s: ours on the GPU, None without one.
        peer_frames: the peer's frames of a sample.
        peer_samples_s: its samples a second, with scenes made ready beforehand.
        peer_render_ms: its time for pictures and depth of a sample [ms].
        peer_events_ms: its time for the event model [ms].
        peer_setup_ms: its time to make a scene ready, not counted [ms].
        peer_depth_error: median relative difference of its depth from ours: it shows the same scenes.
        ratio: ours on the CPU over the peer's.
    """

    family: str
    frames: float
    samples_s: float
    gpu_samples_s: float | None
    peer_frames: float | None = None
    peer_samples_s: float | None = None
    peer_render_ms: float | None = None
    peer_events_ms: float | None = None
    peer_setup_ms: float | None = None
    peer_depth_error: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class SimulationResult:
    """Figures of one run.

    Attributes:
        machine: processor and cores that were used.
        gpu: its name, None without one.
        width: [px].
        height: [px].
        samples: in a round, of each family.
        rounds: of which the median counts.
        peer: how the peer renders, None where it cannot.
        why_no_peer: the reason.
        samples_s: ours over all families, samples a second.
        gpu_samples_s: the same on the GPU.
        peer_samples_s: the peer's.
        ratio: ours over the peer's.
        families: each family's.
    """

    machine: str
    gpu: str | None
    width: int
    height: int
    samples: int
    rounds: int
    peer: str | None
    why_no_peer: str | None
    samples_s: float
    gpu_samples_s: float | None
    peer_samples_s: float | None
    ratio: float | None
    families: list[FamilyResult]


def add_parser(benchmarks: Any) -> None:
    """Add `bench simulation` to the command line."""
    parser: argparse.ArgumentParser = benchmarks.add_parser(
        "simulation",
        help="simulated samples a second on two cores, beside MuJoCo with a compiled event model",
        description="Simulated samples a second (spikes, depth, frame) on two cores and, where there is one, on the "
        "GPU, beside MuJoCo rendering the same scenes by EGL or OSMesa with a numba event model (ESIM).",
    )
    parser.add_argument(
        "--size", type=partial(sensor_size, least=8), default="172x130", metavar="WxH",
        help="resolution, with davis346's lens (172x130)",
    )  # fmt: skip
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="samples of each family in a round (8)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds, of which the median counts (5)")
    parser.add_argument("--cores", type=int, default=2, metavar="N", help="processor cores to use (2)")
    parser.add_argument("--no-peer", action="store_true", help="measure the project's side only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt bench simulation`; returns the exit code: 0 also where the peer cannot run, which is said."""
    if args.rounds < 1 or args.samples < 1 or args.cores < 1:
        print("sdt bench simulation: --rounds, --samples and --cores take numbers of 1 or more", file=sys.stderr)
        return 2
    with some_cores(args.cores):
        result = measure(args.size, args.samples, args.rounds, peer=not args.no_peer)
    print(text(result))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return 0


def text(result: SimulationResult) -> str:
    """The figures for people."""
    lines = [
        f"{result.machine}; median of {result.rounds} rounds of {result.samples} samples a family, "
        f"{result.width}x{result.height}, 50 ms windows in {_BINS} bins",
        f"{'family':<10} {'ours/s':>8} {'frames':>7} {'GPU/s':>8} {'peer/s':>8} {'frames':>7} {'render ms':>10} "
        f"{'events ms':>10} {'set-up ms':>10} {'ratio':>6}",
    ]
    for f in result.families:
        cells = (
            f"{f.family:<10}", f"{f.samples_s:8.2f}", f"{f.frames:7.1f}", _cell(f.gpu_samples_s, 8, 1),
            _cell(f.peer_samples_s, 8, 2), _cell(f.peer_frames, 7, 1), _cell(f.peer_render_ms, 10, 1),
            _cell(f.peer_events_ms, 10, 1), _cell(f.peer_setup_ms, 10, 0), _cell(f.ratio, 6, 2),
        )  # fmt: skip
        lines.append(" ".join(cells))
    gpu, peer = _cell(result.gpu_samples_s, 8, 1), _cell(result.peer_samples_s, 8, 2)
    rest = f"{'':7} {'':10} {'':10} {'':10} {_cell(result.ratio, 6, 2)}"
    lines.append(f"{'all':<10} {result.samples_s:8.2f} {'':7} {gpu} {peer} {rest}")
    lines.append(f"GPU: {result.gpu or 'none here'}")
    lines.append(
        f"peer: MuJoCo by {result.peer}, set-up not counted" if result.peer else f"no peer: {result.why_no_peer}"
    )
    return "\n".join(lines)


def measure(size: tuple[int, int], samples: int, rounds: int, peer: bool = True) -> SimulationResult:
    """Time both sides.

    Args:
        size: width and height [px].
        samples: of each family in a round.
        rounds: of which the median counts; each has scenes of its own, the same for both sides.
        peer: whether to run the peer.

    Raises:
        AssertionError: the peer shows other scenes.
    """
    import torch

    from sdt_ros.simulation.families import MIXED

    camera = lens(*size)
    platform, why = (None, "not asked for")
    if peer:
        from sdt_ros.bench.mujoco_peer import find_platform

        platform, why = find_platform()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    families = []
    with tqdm(total=len(MIXED) * (rounds + 1), desc="simulation", unit="round", leave=False, disable=None) as bar:
        for family in MIXED:
            families.append(_measure_family(family, camera, samples, rounds, platform, gpu is not None, bar))
    peers = [f.peer_samples_s for f in families if f.peer_samples_s]
    ours, theirs = _overall([f.samples_s for f in families]), _overall(peers) if platform else None
    return SimulationResult(
        machine=machine(),
        gpu=gpu,
        width=camera.width,
        height=camera.height,
        samples=samples,
        rounds=rounds,
        peer=platform,
        why_no_peer=why or None,
        samples_s=ours,
        gpu_samples_s=_overall([f.gpu_samples_s for f in families if f.gpu_samples_s]) if gpu else None,
        peer_samples_s=theirs,
        ratio=ours / theirs if theirs else None,
        families=families,
    )


def _measure_family(
    family: str, camera: Camera, samples: int, rounds: int, platform: str | None, gpu: bool, bar: Any
) -> FamilyResult:
    from sdt_ros.simulation.simulator import Simulator, SimulatorConfig

    config = SimulatorConfig(family=family, camera=camera, bins=_BINS)
    simulator = Simulator(config, _SEED)
    on_gpu = Simulator(config, _SEED, "cuda") if gpu else None
    ours, gpu_s, theirs, frames = [], [], [], []
    for number in range(rounds + 1):  # the first is a warm-up
        began = time.perf_counter()
        made = simulator.sample(samples, number)
        spent = time.perf_counter() - began
        if on_gpu is not None:
            began = time.perf_counter()
            on_gpu.sample(samples, number).spikes.sum().item()  # waits for the device
            gpu_spent = time.perf_counter() - began
        peer = _peer_round(platform, config, simulator, samples, number, made.depth) if platform else None
        if number:
            ours.append(spent)
            frames.append(statistics.mean(made.frames))
            if on_gpu is not None:
                gpu_s.append(gpu_spent)
            if peer is not None:
                theirs.append(peer)
        bar.update()
    result = FamilyResult(
        family=family,
        frames=statistics.mean(frames),
        samples_s=samples / statistics.median(ours),
        gpu_samples_s=samples / statistics.median(gpu_s) if gpu_s else None,
    )
    if not theirs:
        return result
    render, events, setup, peer_frames, error = (statistics.median(column) for column in zip(*theirs, strict=True))
    peer_s = samples / statistics.median(row[0] + row[1] for row in theirs)
    return FamilyResult(
        family=family,
        frames=result.frames,
        samples_s=result.samples_s,
        gpu_samples_s=result.gpu_samples_s,
        peer_frames=peer_frames,
        peer_samples_s=peer_s,
        peer_render_ms=1000 * render / samples,
        peer_events_ms=1000 * events / samples,
        peer_setup_ms=1000 * setup / samples,
        peer_depth_error=error,
        ratio=result.samples_s / peer_s,
    )


def _peer_round(
    platform: str, config: Any, simulator: Any, samples: int, number: int, depth: Any
) -> tuple[float, float, float, float, float]:
    """Seconds for rendering, events and set-up of a round, frames of a sample, and the error of depth."""
    import torch

    from sdt_ros.bench.mujoco_peer import MujocoPeer
    from sdt_ros.simulation.simulator import Clockwork

    settle_us, window_us = round(config.settle_ms * 1000), round(config.window_ms * 1000)
    end_us = settle_us + window_us
    (scene,) = simulator.draw(samples, number).scenes
    start = torch.zeros(samples, dtype=torch.int64)
    times = Clockwork(config.camera).frame_times(scene, start, start + end_us)
    render = events = setup = 0.0
    errors = []
    for b in range(samples):
        times_us = np.concatenate([[0], times[b].numpy()])
        peer = MujocoPeer(platform, scene, b, config.camera, simulator.atlas, times_us, settle_us, config.bins)
        seen = peer.sample(config.sensor)
        peer.close()
        render, events, setup = render + seen.render_s, events + seen.events_s, setup + peer.setup_s
        mine = depth[b, 0].numpy()
        near = mine < 60  # [m]; NaN is not. Farther away the depth buffer is too coarse to compare
        errors.append(float(np.median(np.abs(seen.depth[near] / mine[near] - 1))) if near.any() else 0.0)
    error = statistics.median(errors)
    if error > 0.02:
        raise AssertionError(f"the peer's {config.family} scenes differ: median depth error {error:.1%}")
    return render, events, setup, statistics.mean(len(each) for each in times), error


def lens(width: int, height: int) -> Camera:
    """davis346's lens at a size, as MuJoCo's cameras can have it."""
    from sdt_ros.bench.mujoco_peer import centred
    from sdt_ros.simulation.camera import CAMERAS

    return centred(CAMERAS["davis346"].scaled(width, height))


@contextmanager
def some_cores(count: int) -> Iterator[None]:
    """Keep this process, and the threads that it starts, on so many cores."""
    import numba
    import torch

    before, threads, numba_threads = os.sched_getaffinity(0), torch.get_num_threads(), numba.get_num_threads()
    chosen = sorted(before)[:count]
    os.sched_setaffinity(0, chosen)
    torch.set_num_threads(len(chosen))
    numba.set_num_threads(min(len(chosen), numba_threads))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        torch.set_num_threads(threads)
        numba.set_num_threads(numba_threads)


def _overall(speeds: list[float]) -> float:
    """Samples a second where every family has as many."""
    return len(speeds) / sum(1 / speed for speed in speeds)


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"
