"""`sdt bench`: measures speed as a ratio against named peers, in one run on the same input."""

from __future__ import annotations

import argparse
from typing import Any

from sdt_ros.bench import datasets, events, network, node, simulation, soak, training

BENCHMARKS = (events, network, node, soak, datasets, simulation, training)


def add_parser(subparsers: Any) -> None:
    """Add `bench` and its benchmarks to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="measure speed against named peers",
        description="Measure speed as a ratio against named peers, in one run on the same input: medians of several. "
        "node and soak have no peer: they run the depth node on a real graph.",
    )
    benchmarks = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)
    for benchmark in BENCHMARKS:
        benchmark.add_parser(benchmarks)
