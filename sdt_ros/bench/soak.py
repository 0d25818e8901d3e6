"""`sdt bench soak`: the whole graph under a random schedule of faults, or under overload, and a ledger that must close.

Camera and node are processes of their own, on a ROS domain and with topics of their own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from sdt_ros.arguments import sensor_size
from sdt_ros.bench.measure import machine
from sdt_ros.bench.node import own_domain
from sdt_ros.bench.soak_faults import KINDS, Fault, schedule
from sdt_ros.demo.graph import GraphError
from sdt_ros.weights import weights_file

if TYPE_CHECKING:  # both need ROS
    from sdt_ros.bench.soak_graph import SoakGraph
    from sdt_ros.bench.soak_ledger import Ledger

RECOVER_S = 30.0  # a fault behind which no depth comes for so long is not recovered from
_SETTLED_S = 300.0  # memory is compared with what it is after this time, or after a tenth of the run


def add_parser(benchmarks: Any) -> None:
    """Add `bench soak` to the command line."""
    parser: argparse.ArgumentParser = benchmarks.add_parser(
        "soak",
        help="the depth node on a real graph under a random schedule of faults, or under overload",
        description="Runs the depth node and a camera as processes of their own, injects faults of "
        f"{len(KINDS)} kinds as chance has it, and prints a ledger: faults, recoveries, windows, memory. Exit code 1 "
        "when the ledger does not close. With --overload: three times what the machine carries instead.",
        epilog="Example: sdt bench soak --minutes 60 --seed 1 --json soak.json. Kinds: " + ", ".join(KINDS),
    )
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="how long [min] (5)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the schedule (0)")
    parser.add_argument("--kinds", metavar="A,B", help="only these kinds of faults")
    parser.add_argument(
        "--pause", type=float, default=3.0, metavar="S", help="mean of the good time between faults (3)"
    )
    parser.add_argument("--overload", action="store_true", help="three times what the machine carries, then its usual")
    parser.add_argument("--preset", default="sdt_tiny", help="network with random weights (sdt_tiny)")
    parser.add_argument(
        "--weights", type=weights_file, metavar="FILE", help="checkpoint, or a packaged one's name, to run instead"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--size", type=sensor_size, default="240x180", metavar="WxH", help="of the sensor [px] (240x180)"
    )
    parser.add_argument("--rate-mev", type=float, default=0.3, metavar="MEV", help="million events a second (0.3)")
    parser.add_argument("--packets-per-s", type=float, default=100.0, metavar="N", help="packets a second (100)")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep what the processes print")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ledger to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt bench soak`; returns the exit code: 1 when the ledger does not close."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes must not stay behind
    try:
        if not 0 < args.minutes < math.inf:
            raise ValueError(f"--minutes is {args.minutes:g}, expected a finite number above 0")
        if not 0 <= args.pause < math.inf:
            raise ValueError(f"--pause is {args.pause:g}, expected a finite number of at least 0")
        faults = schedule(args.seed, tuple(args.kinds.split(",")) if args.kinds else tuple(KINDS), args.pause)
        next(faults)  # complains of unknown kinds
        faults = schedule(args.seed, tuple(args.kinds.split(",")) if args.kinds else tuple(KINDS), args.pause)
    except ValueError as error:
        print(f"sdt bench soak: {error}", file=sys.stderr)
        return 2
    # With LARGE_DATA Fast DDS keeps 4 MB for each participant that ever came (docs/reliability.md).
    os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT")
    width, height = args.size
    try:
        with _folder(args.logs) as folder, own_domain():
            from sdt_ros.bench.soak_graph import SoakGraph, node_arguments, traffic_of

            traffic = traffic_of(width, height, args.rate_mev, args.packets_per_s)
            graph = SoakGraph(Path(folder), node_arguments(traffic, _network(args)), traffic)
            try:
                if args.overload:
                    from sdt_ros.bench.soak_overload import overload

                    return overload(graph, args)
                ledger, complaints = soak(graph, args, faults, (width, height))
            finally:
                graph.close()
    except ImportError as error:
        print(f"sdt bench soak: {error.name} is missing: pip install 'sdt_ros[ros]'", file=sys.stderr)
        return 1
    except (GraphError, ValueError) as error:
        print(f"sdt bench soak: {error}", file=sys.stderr)
        return 1
    print(table(ledger, complaints))
    write(args.json, asdict(ledger))
    return 0 if ledger.closes else 1


def soak(graph: SoakGraph, args: argparse.Namespace, faults: Any, size: tuple[int, int]) -> tuple[Ledger, list[str]]:
    """Inject faults until the time is over; returns the ledger, and what does not add up in words.

    Raises:
        GraphError: node or camera ended, or did not do what was asked of them.
    """
    from sdt_ros.bench.soak_graph import WINDOW_MS
    from sdt_ros.bench.soak_ledger import Ledger, traceback_in

    watch = graph.watch
    began_s, total_s = time.monotonic(), args.minutes * 60
    kinds: Counter[str] = Counter()
    recoveries: list[tuple[float, Fault]] = []
    with tqdm(total=round(total_s), desc="soak", unit="s", leave=False, disable=None) as bar:
        while (passed_s := time.monotonic() - began_s) < total_s:
            bar.update(round(passed_s) - bar.n)
            fault = next(faults)
            bar.set_postfix_str(fault.kind)
            kinds[fault.kind] += 1
            watch.compare_numbers(False)
            good = graph.inject(fault)
            took_s = _recovery(graph, good, WINDOW_MS, size)
            if took_s is None:
                watch.complaints.append(f"{fault.kind} ({fault.seconds:.2f} s): no depth within {RECOVER_S:g} s")
            else:
                recoveries.append((took_s, fault))
            watch.compare_numbers(True)
            graph.spin(min(fault.pause_s, max(0.0, total_s - (time.monotonic() - began_s))))
    graph.spin(1.0)
    ended_s = time.monotonic()
    watch.sample(ended_s)
    settled_s = began_s + min(_SETTLED_S, total_s / 10)
    span_s = max(5.0, total_s / 20)
    rss_mb = [watch.memory(settled_s, settled_s + span_s), watch.memory(ended_s - span_s, ended_s)]
    if args.logs is not None:
        write(args.logs / "memory.json", {"seconds_and_mb": [(at_s - began_s, mb) for at_s, mb in watch.rss_mb]})
    code = graph.end()
    if code != 0:
        watch.complaints.append(f"the node ended with exit code {code}")
    if traceback_in(graph.depth_node.log):
        watch.complaints.append("the node has printed a traceback")
    worst = sorted(recoveries, key=lambda one: -one[0])[:5]
    print("slowest recoveries: " + ", ".join(f"{fault.kind} {took_s:.2f} s" for took_s, fault in worst))
    count = sum(kinds.values())
    ledger = Ledger(
        faults=count,
        kinds=dict(sorted(kinds.items())),
        recovered=len(recoveries),
        max_recovery_s=round(worst[0][0], 3) if worst else 0.0,
        **watch.totals,
        rss_mb_start=round(rss_mb[0], 1),
        rss_mb_end=round(rss_mb[1], 1),
        closes=not watch.complaints and len(recoveries) == count > 0,
    )
    return ledger, watch.complaints


def _recovery(graph: SoakGraph, good: dict[str, Any], window_ms: float, size: tuple[int, int]) -> float | None:
    end_s = time.monotonic() + RECOVER_S
    while (took_s := graph.watch.recovered_s(good, window_ms, size)) is None and time.monotonic() < end_s:
        graph.spin(0.02)
    return took_s


@contextmanager
def _folder(wanted: Path | None) -> Iterator[str]:
    """A folder for the processes' logs: the one asked for, or one that does not stay."""
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="sdt_soak_") as folder:
            yield folder
    else:
        wanted.mkdir(parents=True, exist_ok=True)
        yield str(wanted)


def _network(args: argparse.Namespace) -> list[str]:
    if args.weights:
        return [f"device:={args.device}", f"weights:={args.weights.absolute()}"]
    return [f"device:={args.device}", f"preset:={args.preset}", "allow_untrained:=true"]


def write(path: Path | None, content: dict[str, Any]) -> None:
    """Write figures as JSON where asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def table(ledger: Ledger, complaints: list[str]) -> str:
    """The ledger for people."""
    growth = 100 * (ledger.rss_mb_end / ledger.rss_mb_start - 1) if ledger.rss_mb_start else 0.0
    lines = [
        machine(),
        f"  faults    {ledger.faults} of {len(ledger.kinds)} kinds: "
        + ", ".join(f"{kind} {count}" for kind, count in ledger.kinds.items()),
        f"  recovered {ledger.recovered}, the slowest {ledger.max_recovery_s:.2f} s after the first good packet",
        f"  windows   {ledger.windows_due} due: {ledger.windows_published} published, "
        f"{ledger.windows_skipped} skipped, {ledger.windows_empty} empty",
        f"  memory    {ledger.rss_mb_start:.0f} MB, {ledger.rss_mb_end:.0f} MB at the end ({growth:+.1f} %)",
        f"  the ledger {'closes' if ledger.closes else 'DOES NOT CLOSE'}",
        *(f"    {complaint}" for complaint in complaints[:20]),
    ]
    return "\n".join(lines)
