"""`sdt info`: the layers of a network, their operations, and the energy of a window from rates measured on an input."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from sdt_ros.arguments import checkpoint_files, is_lack_of_memory, sensor_size, write_text, wrong_outputs, wrong_seed
from sdt_ros.events.reduce import reduce_spikes, reduced_size
from sdt_ros.network import (
    Card,
    EnergyRecorder,
    EnergyReport,
    SpikingDepthTransformer,
    build_network,
    load_checkpoint,
    presets,
    synthetic_events,
)
from sdt_ros.network.energy import AC_PJ, MAC_PJ
from sdt_ros.weights import weights_file

RATE_HZ = 20.0  # of the windows taken from a recording
_SIZE = (346, 260)  # width and height where none is named [px]
_WINDOWS = 8


def add_parser(subparsers: Any) -> None:
    """Adds the command to the `sdt` parser."""
    parser = subparsers.add_parser("info", help="layers, parameters, operations and energy of a network")
    parser.add_argument("--preset", choices=list(presets), help="network of this name, untrained (default: sdt)")
    parser.add_argument("--weights", type=weights_file, metavar="FILE", help="checkpoint, or a packaged one's name")
    parser.add_argument(
        "--size", type=sensor_size, metavar="WxH",
        help="sensor resolution in pixels (default: 346x260); an .npz or a bag has its own",
    )  # fmt: skip
    parser.add_argument(
        "--input", metavar="SOURCE",
        help="what firing rates are measured on: an .npz with `spikes` [T,2,H,W] or [N,T,2,H,W] of the whole sensor, a "
        "bag, or noise:RATE"
        " (each pixel of each bin fires with probability RATE); without it there are no rates and no energy",
    )  # fmt: skip
    parser.add_argument("--windows", type=int, metavar="N", help=f"windows of --input to average over ({_WINDOWS})")
    parser.add_argument("--seed", type=int, default=0, help="of untrained weights and of noise (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table; 0, or 2 with a message where network or input cannot be used."""
    outputs = wrong_outputs({"--json": args.json}, kept=checkpoint_files(args.weights))
    if wrong := wrong_seed(args.seed) or outputs:
        print(f"sdt info: {wrong}", file=sys.stderr)
        return 2
    try:
        network, card = _network(args)
        limit = _limit(args)
        description, windows = _windows(args, card, limit)
        report = _measure(network, windows, limit)
        if args.input is None:
            report = report.without_rates()
        figures = _figures(report, network, card, description)
        if args.json:
            write_text(args.json, json.dumps(figures, indent=2) + "\n")
    except (ValueError, OSError) as error:
        print(f"sdt info: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        width, height = args.size or _SIZE
        why = f"{width}x{height} px need more memory than there is; choose a smaller --size"
        if _is_file(args.input):
            why = f"windows of {args.input} need more memory than there is; choose a smaller network"
        print(f"sdt info: {why}", file=sys.stderr)
        return 2
    print(_table(report, figures))
    return 0


def _is_file(source: str | None) -> bool:
    """Whether `--input` names a file, whose windows have a size."""
    return source is not None and not source.startswith("noise:")


def _network(args: argparse.Namespace) -> tuple[SpikingDepthTransformer, Card]:
    if args.weights is not None:
        network, card = load_checkpoint(args.weights, preset=args.preset)
        return network, card
    card = Card.of_preset(args.preset or "sdt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        return build_network(card.network).eval(), card


def _limit(args: argparse.Namespace) -> int:
    """How many windows are to be measured."""
    if args.input is None:
        if args.windows is not None:
            raise ValueError("--windows has no effect without --input, where rates are measured; leave --windows out")
        return 1
    if args.windows is not None and args.windows < 1:
        raise ValueError(f"--windows is {args.windows}, expected at least 1")
    return _WINDOWS if args.windows is None else int(args.windows)


def _windows(args: argparse.Namespace, card: Card, limit: int) -> tuple[str, Iterator[NDArray[np.uint8]]]:
    """The input in words, and its windows [T, 2, H, W]."""
    if args.size is not None and _is_file(args.input):
        raise ValueError(f"--size has no effect on {args.input}, which has its own; leave --size out")
    width, height = args.size or _SIZE
    height, width = reduced_size(height, width, card.input_scale)
    source: str | None = args.input
    if source is None:  # shapes alone are wanted, and which inputs are spikes
        probe = synthetic_events(card.bins, height, width, card.network.polarities, args.seed)
        return "none named", iter(probe.numpy())
    if source.startswith("noise:"):
        rate = _noise_rate(source)
        shape = (card.bins, card.network.polarities, height, width)
        generator = np.random.default_rng(args.seed)
        noise = ((generator.random(shape) < rate).astype(np.uint8) for _ in range(limit))
        return f"synthetic noise, each pixel of each bin fires with probability {rate:g}, seed {args.seed}", noise
    if not Path(source).exists():
        raise ValueError(f"--input {source}: no such file or bag; expected an .npz, a bag, or noise:RATE")
    if source.endswith(".npz"):
        return source, (_seen(spikes, card) for spikes in _npz_windows(Path(source), card))
    return f"{source}, {card.window_ms:g} ms windows at {RATE_HZ:g} Hz", _bag_windows(source, card)


def _bag_windows(source: str, card: Card) -> Iterator[NDArray[np.uint8]]:
    from sdt_ros.bags import BagError, spike_windows  # reading bags is only needed here

    try:
        for window in spike_windows(source, card.bins, card.window_ms, RATE_HZ, card.input_scale):
            yield window.spikes
    except BagError as error:
        raise ValueError(f"--input {source}: {error}") from error


def _seen(spikes: NDArray[np.uint8], card: Card) -> NDArray[np.uint8]:
    """What the network sees of a window of the whole sensor."""
    return reduce_spikes(spikes, *reduced_size(spikes.shape[-2], spikes.shape[-1], card.input_scale))


def _noise_rate(source: str) -> float:
    try:
        rate = float(source.removeprefix("noise:"))
    except ValueError:
        rate = float("nan")
    if not 0 <= rate <= 1:
        raise ValueError(f"--input {source}: expected noise:RATE with a rate from 0 to 1")
    return rate


def _npz_windows(path: Path, card: Card) -> NDArray[np.uint8]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            spikes = archive["spikes"]
    except (BadZipFile, KeyError, ValueError, EOFError) as error:
        raise ValueError(f"--input {path}: no readable .npz with an array `spikes`: {error}") from error
    if spikes.ndim == 4:
        spikes = spikes[None]
    bins, polarities = card.bins, card.network.polarities
    if spikes.ndim != 5 or spikes.shape[1:3] != (bins, polarities) or 0 in spikes.shape:
        expected = f"[{bins}, {polarities}, H, W] or [N, {bins}, {polarities}, H, W]"
        raise ValueError(f"--input {path}: spikes have shape {list(spikes.shape)}, expected {expected}")
    if not np.isin(spikes, (0, 1)).all():
        raise ValueError(f"--input {path}: spikes hold other values than 0 and 1")
    return spikes.astype(np.uint8)


def _measure(network: SpikingDepthTransformer, windows: Iterator[NDArray[np.uint8]], limit: int) -> EnergyReport:
    taken = tqdm(itertools.islice(windows, limit), desc="measuring", unit="window", total=limit, leave=False)
    with torch.inference_mode(), EnergyRecorder(network) as recorder:
        for spikes in taken:
            network(torch.from_numpy(np.ascontiguousarray(spikes))[None], with_uncertainty=True)
    if not recorder.windows:
        raise ValueError("the input holds no window")
    return recorder.report()


def _figures(report: EnergyReport, network: SpikingDepthTransformer, card: Card, source: str) -> dict[str, Any]:
    return {
        "preset": card.preset,
        "network": network.config.to_dict(),
        "trained": card.trained,
        "bins": card.bins,
        "input": source,
        "windows": report.windows,
        "parameters": report.parameters,
        "macs": report.macs,
        "energy_mj": report.energy_mj,
        "pj_per_mac": MAC_PJ,
        "pj_per_ac": AC_PJ,
        "memory_traffic_counted": False,
        "layers": [dataclasses.asdict(row) for row in report.rows],
    }


def _table(report: EnergyReport, figures: dict[str, Any]) -> str:
    width = max(len(row.name) for row in report.rows)
    head = f"{'layer':<{width}}  {'kind':<7}  {'input':>13}  {'parameters':>10}  {'MMAC':>8}  runs  {'rate':>6}  op  "
    lines = [head + f"{'mJ':>8}"]
    for row in report.rows:
        rate = "-" if row.rate is None else f"{row.rate:.4f}"
        energy = "-" if row.energy_mj is None else f"{row.energy_mj:.4f}"
        operation = "  " if not row.macs else "AC" if row.spiking else "MAC"
        shape = "x".join(map(str, row.input_shape))
        lines.append(
            f"{row.name:<{width}}  {row.kind:<7}  {shape:>13}  {row.parameters:>10,}  {row.macs / 1e6:>8.2f}  "
            f"{row.runs:>4}  {rate:>6}  {operation:<3} {energy:>8}"
        )
    total = report.energy_mj
    lines.append(
        f"{'total':<{width}}  {'':<7}  {'':>13}  {report.parameters:>10,}  {report.macs / 1e6:>8.2f}  "
        f"{'':>4}  {'':>6}  {'':<3} {'-' if total is None else f'{total:.4f}':>8}"
    )
    state = "trained" if figures["trained"] else "UNTRAINED: rates are those of random weights"
    lines += ["", f"network: {figures['preset'] or 'own config'}, {state}; T = {figures['bins']} bins"]
    if total is None:
        lines.append("input: none was named, so no rate was measured and no energy is given; name one with --input")
    else:
        lines.append(f"input: {figures['input']}; windows: {report.windows}, averaged")
        real = sum(row.energy_mj or 0 for row in report.rows if not row.spiking)
        lines.append(f"energy: {total:.3f} mJ a window, {real:.3f} of it in the layers with real input (MAC)")
    lines += [
        f"counted: {MAC_PJ} pJ a MAC, {AC_PJ} pJ an AC; AC = rate * runs * MACs of layers whose input is 0 or 1",
        "MMAC is one run: runs is T for layers in the time steps, 1 behind the mean over time",
        "not counted: memory traffic, neurons, norms, pools, interpolation",
    ]
    return "\n".join(lines)
