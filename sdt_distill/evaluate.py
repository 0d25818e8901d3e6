"""`sdt-distill eval`: any network of ours or a peer over any data set, scored as `sdt eval` scores the node's.

Across data sets: train on one, then name another here; the card's window, bins and depth range go with the weights.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sdt_distill.networks import AnyCard, load_network, network_name
from sdt_ros.arguments import checkpoint_files, count, wrong_outputs
from sdt_ros.evaluation.figures import figures
from sdt_ros.evaluation.protocol import Protocol
from sdt_ros.evaluation.run import EstimatorNetwork
from sdt_ros.evaluation.run import evaluate as run_windows
from sdt_ros.evaluation.score import Scorer, Scores
from sdt_ros.evaluation.source import Source
from sdt_ros.events.reduce import reduce_spikes, reduced_size, require_reduced
from sdt_ros.lens import depth_factor
from sdt_ros.network import EnergyRecorder, EnergyReport, SpikingDepthTransformer
from sdt_ros.runtime import DepthEstimator, Estimate
from sdt_ros.runtime.device import resolve_device
from sdt_ros.weights import weights_file


class NetworkEstimator:
    """Any network as the evaluation wants it: what `DepthEstimator` is to the node, for peers too.

    The network runs as it was trained, in float32, nothing folded.

    Args:
        network: built or loaded by `sdt_distill.networks`; it is moved.
        card: what it is.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: the GPU asked for is not there.
    """

    def __init__(self, network: nn.Module, card: AnyCard, device: str = "auto") -> None:
        self._device, self._why = resolve_device(device)
        self._network = network.eval().to(self._device)
        self.card = card

    @property
    def bins(self) -> int:
        """Time bins T of a window."""
        return self.card.bins

    @property
    def window_ms(self) -> float:
        """Length of a window in milliseconds."""
        return self.card.window_ms

    @property
    def is_untrained(self) -> bool:
        """Whether the weights are random."""
        return not self.card.trained

    @property
    def parameters(self) -> int:
        """How many weights and biases there are."""
        return sum(p.numel() for p in self._network.parameters())

    def __call__(
        self, spikes: np.ndarray, output_size: tuple[int, int] | None = None, focal_px: float | None = None
    ) -> np.ndarray:
        """Depth float32 [H, W] metres of a window; arguments as those of `DepthEstimator`, spikes in numpy.

        Raises:
            ValueError: the network does not take spikes of this shape, or they are those of a whole sensor and
                `output_size` says that they are reduced.
        """
        if output_size is None:
            output_size = (spikes.shape[-2], spikes.shape[-1])
            spikes = reduce_spikes(spikes, *reduced_size(*output_size, self.card.input_scale))
        require_reduced((spikes.shape[-2], spikes.shape[-1]), output_size, self.card.input_scale)
        with torch.inference_mode():
            window = torch.from_numpy(np.ascontiguousarray(spikes))[None].to(self._device)
            if isinstance(self._network, SpikingDepthTransformer):  # its head costs what it costs
                log_depth = self._network(window, with_uncertainty=True)[:, :1]
            else:
                log_depth = self._network(window)
            height, width = log_depth.shape[-2:]
            factor = depth_factor(self.card.focal_px, focal_px, (height, width), output_size)
            if tuple(output_size) != (height, width):
                log_depth = functional.interpolate(log_depth, size=output_size, mode="bilinear", align_corners=False)
            metres: np.ndarray = self.card.depth_range.to_metres(log_depth)[0, 0].cpu().numpy()
        return metres * np.float32(factor)

    def measured(
        self, spikes: np.ndarray, output_size: tuple[int, int] | None = None, focal_px: float | None = None
    ) -> tuple[np.ndarray, EnergyReport]:
        """The same, and what the window cost."""
        with EnergyRecorder(self._network) as recorder:
            depth = self(spikes, output_size, focal_px)
        return depth, recorder.report()

    def estimate(
        self,
        spikes: np.ndarray,
        output_size: tuple[int, int] | None = None,
        focal_px: float | None = None,
        *,
        measure: bool = False,
    ) -> Estimate:
        """The same as `DepthEstimator.estimate`, with nothing told of uncertainty."""
        if not measure:
            return Estimate(self(spikes, output_size, focal_px))
        depth, report = self.measured(spikes, output_size, focal_px)
        return Estimate(depth, report=report)

    def describe(self) -> str:
        """Network, training and device in one line."""
        state = "UNTRAINED" if self.is_untrained else f"trained on {self.card.training_data}"
        return f"{network_name(self.card)}, {self.parameters / 1e6:.2f} M parameters, {state}; eager on {self._device}"


def score_network(
    estimator: NetworkEstimator,
    source: Source,
    protocol: Protocol,
    settings: dict[str, Any],
    probe_every: int = 0,
    scorer: Scorer | None = None,
) -> tuple[dict[str, Any], Scores]:
    """Score a network on all windows of a source.

    Args:
        estimator: the network.
        source: windows and truth.
        protocol: which pixels count.
        settings: what to say about the source, as `sdt eval --json` has it: `recording`, `truth`, `schedule`.
        probe_every: spoil one in so many windows too; 0 for none.
        scorer: that keeps depth or pictures; a plain one by default.

    Returns:
        The figures that `sdt eval --json` writes, and the scores they are made of.

    Raises:
        EvaluationError: nothing can be scored.
    """
    with ExitStack() as stack:
        if scorer is None:
            scorer = stack.enter_context(Scorer(protocol, source.where))
        network = EstimatorNetwork(cast(DepthEstimator, estimator))
        work = run_windows(source, network, scorer, probe_every, network.measured)
        scores = scorer.finish()
        settings = {
            "recording_s": work.windows * estimator.window_ms / 1000,  # what the windows cover; they may lie far apart
            **settings,
            "protocol": {name: getattr(protocol, name) for name in ("name", "far_m", "below_max", "rows")},
            "window_ms": estimator.window_ms,
            "bins": estimator.bins,
            "probe_every": probe_every or None,
            "network": network_name(estimator.card),
            "parameters": estimator.parameters,
            "steps": estimator.card.steps,
            "weights_sha256": estimator.card.weights_sha256,
            **source.notes(),
        }
        content = figures(settings, estimator.describe(), not estimator.is_untrained, source.counts(), scores, work)
    return content, scores


def add_parser(subparsers: Any) -> None:
    """Add `eval` to the command line."""
    from sdt_distill.datasets.registry import FORMATS, LAYOUTS

    parser: argparse.ArgumentParser = subparsers.add_parser(
        "eval",
        help="score any trained network, peers too, on any data set",
        description="Run a network over the windows of a data set and score its depth against the truth, by sequence "
        "or scene family and by distance, beside trivial guesses and with spoilt input.",
        epilog=f"layouts:\n{LAYOUTS}\n\nexit codes: 0 scored, 1 cannot be scored, 2 wrong arguments, 130 interrupted\n"
        "Across data sets: sdt-distill eval --weights runs/trained_on_dsec/best.safetensors --root MVSEC --json x.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights", type=weights_file, required=True, metavar="FILE", help="checkpoint, or a packaged one's name"
    )
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of the data set, or a bag")
    parser.add_argument("--dataset", choices=FORMATS, help="its format (default: what the folder looks like)")
    parser.add_argument("--split", metavar="NAME", help="a published split of it (default: all recordings)")
    parser.add_argument("--samples", type=count, metavar="N", help="only N samples, spread evenly")
    parser.add_argument("--min-events", type=int, default=0, metavar="N", help="leave out windows with fewer spikes")
    parser.add_argument(
        "--protocol", choices=("mvsec", "dense", "dsec", "none"), help="which pixels count (default: the data set's)"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="only the upper N rows; E2Depth takes 260")
    parser.add_argument(
        "--input-scale", type=float, metavar="X",
        help="resolution for the network as a fraction of the samples'; 1 for samples made at the network's "
        "(default: the card's)",
    )  # fmt: skip
    parser.add_argument("--probe-every", type=int, default=1, metavar="N", help="spoil one in N windows; 0: none (1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write one self-contained HTML page to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt-distill eval`; returns the exit code."""
    from sdt_distill.datasets import DatasetError
    from sdt_ros.network import CheckpointError
    from sdt_ros.runtime import DeviceError

    if args.input_scale is not None and not 0 < args.input_scale <= 1:
        print(f"sdt-distill eval: --input-scale is {args.input_scale}, expected above 0 and at most 1", file=sys.stderr)
        return 2
    if args.probe_every < 0:
        print(f"sdt-distill eval: --probe-every is {args.probe_every}, expected 0 or more", file=sys.stderr)
        return 2
    if why := wrong_outputs({"--json": args.json, "--report": args.report}, kept=checkpoint_files(args.weights)):
        print(f"sdt-distill eval: {why}", file=sys.stderr)
        return 2
    try:
        evaluate(args)
    except (CheckpointError, DatasetError, DeviceError, ValueError, OSError, ImportError) as error:
        print(f"sdt-distill eval: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate as the arguments say, print the table and write the files; returns the content of `--json`.

    Raises:
        CheckpointError, DatasetError, DeviceError, EvaluationError, ValueError, OSError: what cannot be used, and why.
    """
    from sdt_distill.datasets import DatasetError, SampleConfig, open_dataset
    from sdt_distill.datasets.registry import LAYOUTS, detect
    from sdt_ros.evaluation.command import split_of, write
    from sdt_ros.evaluation.protocol import OF_DATASET, protocols
    from sdt_ros.evaluation.source import DatasetSource

    network, card = load_network(args.weights)
    if args.input_scale is not None:
        card = replace(card, input_scale=args.input_scale)
    estimator = NetworkEstimator(network, card, args.device)
    if not args.root.exists():
        raise DatasetError(f"there is nothing at {args.root}")
    kind = args.dataset or detect(args.root)
    if kind is None:
        raise DatasetError(f"{args.root} is no data set that is known here; expected is\n{LAYOUTS}")
    dataset = open_dataset(args.root, kind, SampleConfig(card.window_ms, card.bins, frames=False), args.split)
    protocol = replace(protocols[args.protocol or OF_DATASET[kind]], rows=args.rows)
    source = DatasetSource(dataset, f"{kind} {args.root}", args.samples, args.min_events)
    settings = {
        "recording": f"{kind} {args.root}" + split_of(kind, args.split, dataset.sequences),
        "truth": "depth at the end of each window",
        "schedule": "truth",
        "sequences": ", ".join(dict.fromkeys(dataset.sequences)),
        "samples": len(source),
        "min_events": args.min_events,
        "input_scale": card.input_scale,
        "weights": str(args.weights),
    }
    with Scorer(protocol, source.where, False, args.report is not None) as scorer:
        content, scores = score_network(estimator, source, protocol, settings, args.probe_every, scorer)
        write(args, content, scorer, scores)
    return content
