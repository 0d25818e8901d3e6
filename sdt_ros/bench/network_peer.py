"""The peer of `sdt bench network`, in a process of its own, with weights from a file."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdt_ros.bench.other_process import Answers, OtherProcess, other_process, serve

if TYPE_CHECKING:
    from torch import nn

    from sdt_ros.network import Card, SpikingDepthTransformer

PEERS = ("spikingjelly", "onnxruntime", "eager", "compile")
INSTALL = {
    "spikingjelly": "pip install --no-deps spikingjelly",
    "onnxruntime": "pip install onnx onnxscript onnxruntime",
}
"""What a peer is that need not be there, and how it comes."""


@contextmanager
def peer_process(
    network: SpikingDepthTransformer, card: Card, against: str, size: tuple[int, int], device: str, threads: int
) -> Iterator[OtherProcess]:
    """A peer with the weights of a network; ask it for "run", "peak" and "neurons".

    Args:
        network: as written, on the CPU.
        card: the weights'.
        against: one of PEERS.
        size: (height, width) of `synthetic_events`, its input.
        device: "cpu" or "cuda:N".
        threads: torch's.

    Raises:
        ImportError: what the peer needs is not installed.
        OtherProcessError: it could not be started.
    """
    from sdt_ros.network import save_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "peer.safetensors"
        save_checkpoint(weights, network, card)
        told = {
            "weights": str(weights), "against": against, "size": list(size), "device": device, "threads": threads,
        }  # fmt: skip
        with other_process("the peer", __name__, told) as process:
            yield process


def _made(network: SpikingDepthTransformer, card: Card, against: str, size: tuple[int, int]) -> nn.Module:
    """The network as written, in evaluation mode, made into the peer."""
    import torch

    from sdt_ros.bench.onnx_peer import in_onnxruntime
    from sdt_ros.bench.spikingjelly_neurons import use_spikingjelly

    if against == "spikingjelly":
        return use_spikingjelly(network).eval()
    if against == "onnxruntime":
        return in_onnxruntime(network, card, size)
    if against == "compile":
        compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
        return compiled
    return network


def _neurons(against: str, on_gpu: bool) -> str:
    """Which code computes a peer's neurons: spikingjelly takes the best of what it finds on a GPU, else torch's."""
    if against == "onnxruntime":
        return "unrolled over the bins, by onnxruntime; depth in metres, and its uncertainty where it is told"
    if against != "spikingjelly":
        return "those of the network as written" + (", compiled by torch" if against == "compile" else "")
    if not on_gpu:
        return "spikingjelly's, by torch"
    selection = getattr(sys.modules.get("spikingjelly._ops.lif"), "_selection", None)
    chosen = getattr(selection, "_selections", {}).values()  # None stands for its torch reference
    names = sorted({getattr(made, "name", "torch") for made in chosen})
    return f"spikingjelly's, by {' and '.join(names) or 'code that it does not name'}"


def _prepare(told: dict[str, Any]) -> Answers:
    import torch

    from sdt_ros.bench.measure import turn_seconds
    from sdt_ros.bench.peak_memory import made_and_run
    from sdt_ros.network import load_checkpoint, synthetic_events

    torch.set_num_threads(told["threads"])
    height, width = told["size"]
    device = torch.device(told["device"])
    network, card = load_checkpoint(told["weights"])
    network = network.eval().requires_grad_(False)
    spikes = synthetic_events(card.bins, height, width, card.network.polarities).to(device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True

    def show(peer: nn.Module) -> None:
        with torch.inference_mode():
            peer(spikes).cpu()

    peer, peak = made_and_run(lambda: _made(network, card, told["against"], (height, width)).to(device), show, device)

    def run() -> dict[str, float]:
        return {"seconds": turn_seconds(lambda: show(peer))}

    return {
        "run": run,
        "peak": lambda: {"bytes": peak},
        "neurons": lambda: {"text": _neurons(told["against"], device.type == "cuda")},
    }


if __name__ == "__main__":
    serve(_prepare)
