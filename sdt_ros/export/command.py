"""The command `sdt export`: weights to an ONNX file, checked before anybody uses it."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Any

from sdt_ros.arguments import checkpoint_files, is_lack_of_memory, sensor_size, write_text, wrong_outputs
from sdt_ros.export.agreement import MOST_BLANK, MOST_MEDIAN, Agreement, RunError, compare
from sdt_ros.export.graph import EstimatorGraph
from sdt_ros.export.onnx_file import OPSETS, ExportError, describe_inputs, require_exporter, to_onnx, write
from sdt_ros.network import Card, load_checkpoint
from sdt_ros.runtime import DepthEstimator
from sdt_ros.weights import DEFAULT, weights_file


def add_parser(subparsers: Any) -> None:
    """Adds the command to the `sdt` parser."""
    parser = subparsers.add_parser(
        "export",
        help="write weights as an ONNX graph, from spikes to metres",
        description="Write weights as one ONNX graph for a sensor of one size: spikes of the whole sensor in, metres "
        "out, and how far they may be off. It is run by onnxruntime, where that is installed, and held against the "
        "network before it is kept.",
        epilog="exit codes: 0 written, 1 cannot be exported or written, or does not agree, 2 wrong arguments",
    )
    parser.add_argument(
        "--weights", type=weights_file, default=DEFAULT, metavar="FILE",
        help=f"checkpoint, or a packaged one's name ({DEFAULT})",
    )  # fmt: skip
    parser.add_argument("--size", type=sensor_size, required=True, metavar="WxH", help="of the sensor in pixels")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .onnx file to write")
    parser.add_argument(
        "--opset", type=int, choices=range(OPSETS[0], OPSETS[1] + 1), default=OPSETS[0], metavar="N",
        help=f"ONNX operators to use, {OPSETS[0]} to {OPSETS[1]} ({OPSETS[0]})",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the file; 0, or 1 or 2 with a message."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is half written must not stay behind
    kept = checkpoint_files(args.weights)
    wrong = wrong_outputs({"--out": args.out, "--json": args.json}, kept=kept)
    if not wrong and args.out.suffix != ".onnx":
        wrong = f"--out {args.out}: expected a name that ends with .onnx"
    if wrong:
        print(f"sdt export: {wrong}", file=sys.stderr)
        return 2
    width, height = args.size
    agreement: Agreement | None = None

    def check(file: Path) -> None:
        nonlocal agreement
        agreement = compare(file, estimator, graph.size, graph.usual_focal_px)
        if agreement is not None and not agreement.holds:
            raise ExportError(f"nothing was written: what was exported gives another depth; {_verdict(agreement)}")

    try:
        require_exporter()
        network, card = load_checkpoint(args.weights)
        estimator = DepthEstimator(copy.deepcopy(network), card, "cpu", runtime="eager")
        graph = EstimatorGraph(network, card, (height, width))
        print(
            f"exporting {card.preset or 'the network'} for {width}x{height} px, half a minute or more", file=sys.stderr
        )
        write(to_onnx(graph, card, args.opset), args.out, check)
    except (ExportError, RunError, ValueError, OSError) as error:
        print(f"sdt export: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        print(
            f"sdt export: {width}x{height} px need more memory than there is; choose a smaller --size", file=sys.stderr
        )
        return 1
    megabytes = args.out.stat().st_size / 1e6
    print(f"{args.out}: {megabytes:.1f} MB, opset {args.opset}, for a sensor of {width}x{height} px")
    print("\n".join([*describe_inputs(graph, card), _verdict(agreement)]))
    if not card.trained:
        print("UNTRAINED weights: the depth means nothing")
    if args.json:
        try:
            write_text(args.json, json.dumps(_figures(args, card, agreement), indent=2) + "\n")
        except OSError as error:
            print(f"sdt export: {args.out} is written, its figures are not: {error}", file=sys.stderr)
            return 1
    return 0


def _verdict(agreement: Agreement | None) -> str:
    if agreement is None:
        return "NOT CHECKED against the network: onnxruntime is not installed (pip install onnxruntime)"
    worst = f"the median pixel of the worst off by {max(agreement.medians):.2%}"
    return (
        f"{agreement.by} on the CPU, beside the network: {agreement.exact} of {len(agreement.medians)} windows of "
        f"synthetic events with the very same spikes, {worst} "
        f"({MOST_MEDIAN:.0%} may be); without events off by {agreement.blank:.1e} ({MOST_BLANK:.0e} may be)"
    )


def _figures(args: argparse.Namespace, card: Card, agreement: Agreement | None) -> dict[str, Any]:
    width, height = args.size
    return {
        "file": str(args.out),
        "weights_sha256": card.weights_sha256,
        "trained": card.trained,
        "width": width,
        "height": height,
        "opset": args.opset,
        "agreement": None if agreement is None else dataclasses.asdict(agreement) | {"exact": agreement.exact},
    }
