"""`sdt bench network`: milliseconds a window of one network, by the runtime of this machine and by a named peer.

Runtime and peer take turns on the same windows and have the same weights. The peer, in a process of its own, is the
network as written with spikingjelly's neurons, or with our plain ones ("eager"), or that compiled by torch ("compile").
What the sums of the network cost at least is told by a roofline: its operations and bytes against what this machine was
measured to do.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdt_ros.arguments import network_size
from sdt_ros.bench.measure import machine
from sdt_ros.bench.network_peer import INSTALL, PEERS
from sdt_ros.bench.other_process import OtherProcessError
from sdt_ros.weights import weights_file

if TYPE_CHECKING:
    from sdt_ros.bench.network_parts import NetworkResult


def add_parser(benchmarks: Any) -> None:
    """Add `bench network` to the command line."""
    parser: argparse.ArgumentParser = benchmarks.add_parser(
        "network",
        help="milliseconds a window of the network",
        description="Milliseconds a window of the network in the runtime of this machine, and of a peer with the same "
        "weights on the same windows: medians of rounds in turn, time by stage, memory, firing rates and depth of both "
        "(untrained weights without --weights; on a CPU in int8 speed follows firing rates), and the roofline.",
    )
    parser.add_argument("--preset", default="sdt", help="network (sdt)")
    parser.add_argument(
        "--weights", type=weights_file, metavar="FILE", help="checkpoint, or a packaged one's name, to run instead"
    )
    parser.add_argument(
        "--size", type=network_size, default="346x260", metavar="WxH", help="pixels of the spikes (346x260)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto (cpu)")
    parser.add_argument("--runtime", default="auto", help="auto, eager, cpu, cpu_int8, cuda or cuda_torch (auto)")
    parser.add_argument("--against", choices=PEERS, default="spikingjelly", help="the peer (spikingjelly)")
    parser.add_argument(
        "--rounds", type=int, default=11, metavar="N", help="turns of three windows each, the median counts (11)"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="torch's threads (its own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt bench network`; returns the exit code."""
    import torch

    from sdt_ros.bench.network_parts import measure
    from sdt_ros.network import Card, CheckpointError, build_network, load_checkpoint
    from sdt_ros.runtime import DeviceError, resolve_device

    if args.rounds < 1 or args.threads < 0:
        return _refuse("--rounds from 1, --threads from 0")
    logging.getLogger("torch").setLevel(logging.ERROR)
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads or before)
    try:
        if args.against == "onnxruntime" and resolve_device(args.device)[0].type != "cpu":
            raise ValueError("--against onnxruntime is a peer on the CPU: leave --device out")
        if args.weights is not None:
            network, card = load_checkpoint(args.weights)
        else:
            card = Card.of_preset(args.preset)
            torch.manual_seed(0)
            network = build_network(card.network)
        result = measure(
            copy.deepcopy(network.eval()), card, args.preset if args.weights is None else str(args.weights),
            args.size[::-1], args.device, args.runtime, args.against, args.rounds,
        )  # fmt: skip
    except (CheckpointError, DeviceError, OtherProcessError, ValueError) as error:
        return _refuse(str(error))
    except ImportError as error:
        print(f"sdt bench network: {error.name} is missing: {INSTALL[args.against]}", file=sys.stderr)
        return 1
    finally:
        torch.set_num_threads(before)
    _show(result, args.rounds)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return 0


def _refuse(message: str) -> int:
    print(f"sdt bench network: {message}", file=sys.stderr)
    return 2


def _show(result: NetworkResult, rounds: int) -> None:
    print(f"{machine()}; {result.device}, {result.threads} threads; median of {rounds} rounds in turn")
    print(f"{result.preset}, {result.size}: {result.runtime}")
    print(f"  {'ours':<16}{result.median_ms:9.1f} ms   (least {result.least_ms:.1f})")
    print(f"  {result.peer:<16}{result.peer_median_ms:9.1f} ms   ratio {result.ratio:.2f}")
    print(f"  the peer's neurons: {result.peer_neurons}")
    if result.device != "cpu":
        print("  ours takes its window from the host's memory and brings depth back; the peer's is on the GPU")
        print("  stages: launched kernel by kernel, not replayed as one graph, so that they take longer")
    print(f"  {'stage':<12}{'all':>8}{'conv':>8}{'LIF':>8}{'rest':>8}  ms")
    for stage, spent in result.stages_ms.items():
        print(f"  {stage:<12}" + "".join(f"{spent[kind]:8.1f}" for kind in ("all", "conv", "LIF", "rest")))
    what = "of the GPU, weights included," if result.device != "cpu" else "at its peak"
    print(f"  memory {what} {result.peak_mb:.0f} MB more than before, the peer {result.peer_peak_mb:.0f} MB")
    print(
        f"  firing rates {result.mean_rate:.4f}, the peer {result.peer_mean_rate:.4f}, a layer differs by "
        f"{result.worst_rate_difference:.4f} at most; log depth by {result.log_depth_difference:.4f} in the mean"
    )
    sums = f"{result.gmac:.1f} GMAC at {result.peak_gmac_s:.0f} GMAC/s"
    if result.peak_gadditions_s > 0:
        fast = f"{result.peak_gadditions_s:.0f} G/s"
        sums += f", or those {result.gadditions:.1f} G whose input fires as additions at {fast}, layer by layer,"
    print(
        f"  roofline: {sums} and {result.bytes_mb:.0f} MB at {result.peak_gb_s:.1f} GB/s make {result.floor_ms:.1f} ms "
        f"at least; reached {100 * result.floor_ms / result.median_ms:.0f} %"
    )
