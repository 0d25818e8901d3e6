"""`sdt bench node`: the depth node on a real graph at a given event rate: latency by stage, losses, processor, memory.

Camera and node are processes of their own, on a ROS domain and with topics of their own. The camera sends encoded
packets; the node is the one that `sdt node` runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdt_ros.arguments import sensor_size
from sdt_ros.bags import BagError, events_topic, open_bag
from sdt_ros.bench.measure import machine
from sdt_ros.demo.graph import LARGE_DATA, GraphError, Process
from sdt_ros.weights import weights_file

if TYPE_CHECKING:  # it is run as a module of its own, so that it must not be loaded with this one
    from sdt_ros.bench.node_traffic import Traffic

LEAD_S = 1.0
START_S = 120.0  # for the node to load and warm its network, at most
QUIET_S = 1.5  # after the last packet, for the last window to arrive
_NAME = "/bench/depth"
_EVENTS, _INFO = "/bench/events", "/bench/camera_info"


@dataclass(frozen=True)
class NodeResult:
    """Figures of one run; windows and times are those behind the lead.

    Attributes:
        runtime: weights and runtime of the node, in its own words.
        size: columns and rows of the sensor [px].
        source: what was sent.
        rate_in_mev_s: million events a second that the node was sent; in a replay, that it has received.
        rate_binned_mev_s: million events a second that fell into windows.
        rate_out_hz: windows published a second.
        windows_due: windows that ended.
        windows_published: windows for which depth was published.
        windows_skipped: windows that the network was too busy for, or failed on.
        windows_empty: windows with too few events.
        packets_sent: packets sent in all; null in a replay.
        packets_lost: packets that never arrived, by their numbers, in all.
        overhead_ms: last packet of a window received to depth published, less the network.
        latency_ms: last packet of a window received to depth published.
        stages_ms: latency by stage.
        scale_ms: what the scale by odometry took of the network's stage; null without odometry.
        decode_ms: decoding and binning of all packets of a window.
        pipeline_latency_ms: end of a window in ROS time to depth published, with the rest of the packet it ends in;
            null where stamps are of another time, as in a replay.
        rss_mb: resident memory of the node at the end.
        rss_peak_mb: the most that it ever was.
        cpu_s_per_s: processor seconds of the node a second.
        cpu_by_thread: the same by threads of one name.
        sent_late_ms: the most that a packet was sent after it was due; null in a replay.
        start_s: from the node's process started to subscribed.
        start_phases_s: the start by phase, where `--profile` or `--cold` asked for it.
        seconds: that the counted windows took.
        machine: the processor and its cores.
    """

    runtime: str
    size: tuple[int, int]
    source: str
    rate_in_mev_s: float
    rate_binned_mev_s: float
    rate_out_hz: float
    windows_due: int
    windows_published: int
    windows_skipped: int
    windows_empty: int
    packets_sent: int | None
    packets_lost: int
    overhead_ms: dict[str, float]
    latency_ms: dict[str, float]
    stages_ms: dict[str, dict[str, float]]
    scale_ms: dict[str, float] | None
    decode_ms: dict[str, float]
    pipeline_latency_ms: dict[str, float] | None
    rss_mb: float
    rss_peak_mb: float
    cpu_s_per_s: float
    cpu_by_thread: dict[str, float]
    sent_late_ms: float | None
    start_s: float
    start_phases_s: dict[str, float] | None
    seconds: float
    machine: str = field(default_factory=machine)


def add_parser(benchmarks: Any) -> None:
    """Add `bench node` to the command line."""
    parser: argparse.ArgumentParser = benchmarks.add_parser(
        "node",
        help="the depth node on a real graph: latency by stage, losses, processor time, memory",
        description="Runs the depth node as a process of its own, sends it packets from another one at a given event "
        "rate, and prints rates in and out, latency by stage, skipped windows, lost packets, processor time and "
        "memory. The ROS domain is chosen at random, and topics are in /bench: nobody else is disturbed.",
        epilog="Example: sdt bench node --rate-mev 20 --preset sdt_tiny --seconds 10 --json node.json",
    )
    parser.add_argument("--rate-mev", type=float, default=1.0, metavar="MEV", help="million events a second (1)")
    parser.add_argument("--packets-per-s", type=float, default=100.0, metavar="N", help="packets a second (100)")
    parser.add_argument("--encoding", default="evt3", help="byte format of the packets (evt3)")
    parser.add_argument(
        "--size", type=sensor_size, default="346x260", metavar="WxH", help="of the sensor [px] (346x260)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="how long to measure [s] (10)")
    parser.add_argument("--bag", type=Path, metavar="BAG", help="send this recording's packets instead")
    parser.add_argument("--rate", type=float, default=1.0, metavar="X", help="of the replay: bag seconds a second (1)")
    parser.add_argument("--odometry", metavar="TOPIC", help="of the recording, for the scale of depth")
    parser.add_argument("--preset", default="sdt_tiny", help="network with random weights (sdt_tiny)")
    parser.add_argument(
        "--weights", type=weights_file, metavar="FILE", help="checkpoint, or a packaged one's name, to run instead"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--rate-hz", type=float, default=20.0, metavar="HZ", help="windows a second (20)")
    parser.add_argument("-p", "--param", action="append", default=[], metavar="NAME:=VALUE", help="node parameter")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="draw the median window's way to FILE, a PNG")
    parser.add_argument("--cold", action="store_true", help="start without numba's caches; print the start by phase")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt bench node`; returns the exit code."""
    if args.odometry and not args.bag:
        print("sdt bench node: --odometry is a topic of a recording: name that by --bag", file=sys.stderr)
        return 2
    try:
        traffic = None if args.bag else _traffic(args)
    except ValueError as error:
        print(f"sdt bench node: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes must not stay behind
    try:
        result = measure(args, traffic)
    except ImportError as error:
        print(f"sdt bench node: {error.name} is missing: pip install 'sdt_ros[ros]'", file=sys.stderr)
        return 1
    except (BagError, GraphError, ValueError) as error:
        print(f"sdt bench node: {error}", file=sys.stderr)
        return 1
    print(table(result))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return 0


def _traffic(args: argparse.Namespace) -> Traffic:
    from sdt_ros.bench.node_traffic import Traffic

    width, height = args.size
    return Traffic(
        _EVENTS, _INFO, "", width, height, args.encoding, args.rate_mev, args.packets_per_s, LEAD_S + args.seconds
    )


@contextmanager
def own_domain() -> Iterator[None]:
    """Let this process and its children meet on a ROS domain that nobody else is on, and talk as a user's nodes do.

    Discovery is left as wide as the user has it: with LOCALHOST the transports have no effect, and best-effort packets
    above half a megabyte are lost.
    """
    wanted = {"ROS_DOMAIN_ID": str(random.randint(1, 100))}
    wanted |= {"FASTDDS_BUILTIN_TRANSPORTS": os.environ.get("FASTDDS_BUILTIN_TRANSPORTS", LARGE_DATA)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def measure(args: argparse.Namespace, traffic: Traffic | None) -> NodeResult:
    """Run node and camera and watch them.

    Raises:
        BagError: the recording cannot be used.
        GraphError: node or camera could not do their part, or no window came.
        ImportError: ROS is missing.
    """
    with tempfile.TemporaryDirectory(prefix="sdt_bench_") as folder, own_domain():
        return _measure(args, traffic, Path(folder))


def _measure(args: argparse.Namespace, traffic: Traffic | None, folder: Path) -> NodeResult:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from sdt_ros.bench.node_watch import Listener

    if traffic is None:
        topics = _recorded(args.bag, args.odometry)
        replay = ["replay", str(args.bag), "--rate", str(args.rate), "--wait-for-subscribers", "60", "--no-progress"]
        module, camera_arguments = "sdt_ros.cli", [*replay, "--topics", *topics.values()]
    else:
        topics = {"~/events": _EVENTS, "~/camera_info": _INFO}
        sending = asdict(traffic) | {"report": str(folder / "sent.json")}
        module, camera_arguments = "sdt_ros.bench.node_traffic", [json.dumps(sending)]

    context = rclpy.Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    processes: list[Process] = []
    try:
        watcher = rclpy.create_node("bench_watcher", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(watcher)
        began_s = time.monotonic()
        node = _start_node(args, topics, folder)
        processes.append(node)
        # Recordings may be short, and the node is warm; a camera's first second is left out.
        lead_s = LEAD_S if traffic else 0.0
        listener = Listener(watcher, _NAME, node.pid, lead_s)
        camera = Process("camera", camera_arguments, folder / "camera.log", module)
        processes.append(camera)
        start_s: float | None = None
        quiet_s = time.monotonic()
        last = None
        while camera.is_alive or time.monotonic() - quiet_s < QUIET_S:
            executor.spin_once(timeout_sec=0.1)
            camera.check()
            if not node.is_alive:
                raise node.failure("died" if start_s else "could not start")
            if start_s is None and watcher.count_subscribers(topics["~/events"]):
                start_s = time.monotonic() - began_s
            if start_s is None and time.monotonic() - began_s > START_S:
                raise node.failure(f"did not subscribe within {START_S:.0f} s")
            if camera.is_alive or listener.last is not last:
                last, quiet_s = listener.last, time.monotonic()
        if len(listener.counted) < 2:
            raise node.failure(f"published {listener.images} windows, fewer than two behind the first {lead_s:g} s")
        if node.stop() != 0:
            raise node.failure("did not end cleanly")
        sent = None if traffic is None else json.loads((folder / "sent.json").read_text())
        start_phases = _profile(args, folder / "trace.json", listener) if args.profile or args.cold else None
        return _result(args, traffic, listener, sent, start_s or 0.0, start_phases)
    finally:
        for process in processes:
            process.stop()
        context.try_shutdown()


def _recorded(path: Path, odometry: str | None) -> dict[str, str]:
    """The recording's topics, by those of the node that take them."""
    with open_bag(path) as bag:
        if odometry and odometry not in bag.topics:
            raise BagError(f"{path} has no topic {odometry}; there are: {', '.join(bag.topics)}")
        topics = {"~/events": events_topic(bag)}
        infos = [name for name, info in bag.topics.items() if info.type.endswith("/CameraInfo")]
    return topics | ({"~/camera_info": infos[0]} if infos else {}) | ({"~/odometry": odometry} if odometry else {})


def _start_node(args: argparse.Namespace, topics: dict[str, str], folder: Path) -> Process:
    """The node, with a stopwatch in it where its course is to be shown, and without numba's caches for a cold start."""
    arguments = _node_arguments(args, topics)
    if not (args.profile or args.cold):
        return Process("node", arguments, folder / "node.log")
    caches = os.environ.get("NUMBA_CACHE_DIR")
    if args.cold:
        os.environ["NUMBA_CACHE_DIR"] = str(folder / "caches")
    try:
        traced = [str(folder / "trace.json"), *arguments[1:]]
        return Process("node", traced, folder / "node.log", "sdt_ros.bench.node_trace")
    finally:
        if args.cold and caches is None:
            del os.environ["NUMBA_CACHE_DIR"]
        elif args.cold and caches is not None:
            os.environ["NUMBA_CACHE_DIR"] = caches


def _profile(args: argparse.Namespace, file: Path, listener: Any) -> dict[str, float]:
    """Draw what the stopwatch noted, where asked for; returns the start by phase."""
    from sdt_ros.bench import node_picture

    notes = json.loads(file.read_text())
    if args.profile:
        last = listener.last
        title = f"{last.runtime.partition(';')[0]}, {listener.size[0]}x{listener.size[1]}"
        node_picture.draw(notes, args.profile, title, round(listener.lead_s * 1e9), last.window_ms)
    return node_picture.phases(notes)


def _node_arguments(args: argparse.Namespace, topics: dict[str, str]) -> list[str]:
    parameters = [f"device:={args.device}", f"rate_hz:={args.rate_hz}"]
    if args.weights:
        parameters.append(f"weights:={args.weights.absolute()}")
    else:
        parameters += [f"preset:={args.preset}", "allow_untrained:=true"]
    parameters += args.param
    remaps = ["__ns:=/bench", *(f"{own}:={topic}" for own, topic in topics.items())]
    flagged = [("-p", parameter) for parameter in parameters] + [("-r", remap) for remap in remaps]
    return ["node", *(part for pair in flagged for part in pair)]


def _result(
    args: argparse.Namespace,
    traffic: Traffic | None,
    listener: Any,
    sent: Any,
    start_s: float,
    start_phases: dict[str, float] | None,
) -> NodeResult:
    from sdt_ros.bench.node_watch import quantiles, stages

    counted, first, last = listener.counted, listener.usage[0], listener.usage[-1]
    by_stage = stages(counted)
    before = counted[0].window - 1 if listener.before is None else listener.before.window
    sensor_s = (counted[-1].window - before) / args.rate_hz
    # A replay's speed is what it is: what its sensor's second took.
    seconds = sensor_s / (args.rate if traffic is None else 1.0)
    binned = listener.counted_since("events_received") / seconds / 1e6
    load = last.since(first) if last is not first else {}
    pipeline = [one.pipeline_latency_ms for one in counted]
    image = listener.size
    return NodeResult(
        runtime=counted[-1].runtime,
        size=image,
        source=str(args.bag) if traffic is None else f"{traffic.encoding}, {traffic.packets_per_s:g} packets/s",
        rate_in_mev_s=round(binned if sent is None else sent["events"] / sent["seconds"] / 1e6, 3),
        rate_binned_mev_s=round(binned, 3),
        rate_out_hz=round(listener.counted_since("windows_published") / seconds, 2),
        windows_due=listener.counted_since("windows_due"),
        windows_published=listener.counted_since("windows_published"),
        windows_skipped=listener.counted_since("windows_skipped"),
        windows_empty=listener.counted_since("windows_empty"),
        packets_sent=None if sent is None else sent["packets"],
        packets_lost=int(counted[-1].packets_lost),
        overhead_ms=quantiles([one.latency_ms - one.network_ms for one in counted]),
        latency_ms=quantiles([one.latency_ms for one in counted]),
        stages_ms={name: quantiles(values) for name, values in by_stage.items()},
        scale_ms=quantiles([one.scale_ms for one in counted]) if args.odometry else None,
        decode_ms=quantiles([one.decode_ms for one in counted]),
        pipeline_latency_ms=None if math.isnan(counted[-1].pipeline_latency_ms) else quantiles(pipeline),
        rss_mb=round(last.rss_mb, 1),
        rss_peak_mb=round(last.peak_mb, 1),
        cpu_s_per_s=round(sum(load.values()), 3),
        cpu_by_thread={name: round(value, 3) for name, value in load.items() if value >= 0.0005},
        sent_late_ms=None if sent is None else round(sent["late_ms"], 2),
        start_s=round(start_s, 2),
        start_phases_s=start_phases,
        seconds=round(seconds, 2),
    )


def table(result: NodeResult) -> str:
    """The figures for people."""

    def row(name: str, values: dict[str, float]) -> str:
        return f"  {name:<34}{values['p50']:>9.2f}{values['p99']:>9.2f}{values['max']:>9.2f}"

    stages = [row(name, values) for name, values in result.stages_ms.items()]
    if result.scale_ms:
        behind = list(result.stages_ms).index("network") + 1
        stages.insert(behind, row("  of it scale by odometry", result.scale_ms))
    sent = "" if result.packets_sent is None else f" of {result.packets_sent} sent"
    lead = "" if result.packets_sent is None else f", the first {LEAD_S:g} s not"
    lines = [
        f"{result.machine}; {result.runtime}",
        f"{result.size[0]}x{result.size[1]}, {result.source}; {result.seconds:g} s counted{lead}",
        f"  rate in   {result.rate_in_mev_s:8.2f} Mev/s, {result.rate_binned_mev_s:.2f} Mev/s binned",
        f"  rate out  {result.rate_out_hz:8.2f} windows/s",
        f"  windows   {result.windows_due} due: {result.windows_published} published, "
        f"{result.windows_skipped} skipped, {result.windows_empty} empty",
        f"  packets   {result.packets_lost} lost{sent}",
        f"  {'milliseconds':<34}{'p50':>9}{'p99':>9}{'max':>9}",
        *stages,
        row("latency, last packet to depth", result.latency_ms),
        row("overhead: latency less network", result.overhead_ms),
        *([row("window's end to depth", result.pipeline_latency_ms)] if result.pipeline_latency_ms else []),
        row("decoding, all packets of a window", result.decode_ms),
        f"  processor {result.cpu_s_per_s:.2f} s/s: "
        + ", ".join(f"{name} {value:.2f}" for name, value in result.cpu_by_thread.items() if value >= 0.005),
        f"  memory    {result.rss_mb:.0f} MB resident, {result.rss_peak_mb:.0f} MB at most; "
        f"subscribed {result.start_s:.1f} s after its start",
    ]
    if result.start_phases_s:
        lines.append(
            "  start     " + ", ".join(f"{name} {value:.2f} s" for name, value in result.start_phases_s.items())
        )
    return "\n".join(lines)
