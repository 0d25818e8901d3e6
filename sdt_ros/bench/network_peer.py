"""The peer of `sdt bench network`, in a process of its own, as its users run it.

How our runtime has memory kept (sdt_ros/memory.py) holds for a whole process and would make a peer in it faster, and
the memory of both could not be told apart. The parent writes the weights to a file and asks for one round after the
other; nothing runs here in between. Each answer is a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from sdt_ros.network import Card, SpikingDepthTransformer

PEERS = ("spikingjelly", "eager", "compile")


class PeerError(RuntimeError):
    """The peer's process gave up; the message says what it said last."""


class Peer:
    """A peer at work.

    Attributes:
        peak_bytes: memory of a window, as `made_and_run` has it.
    """

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process, self._errors = process, errors
        self.peak_bytes = float(self._answer()["peak_bytes"])

    def run(self) -> float:
        """One window; returns its seconds, as the peer's process took them."""
        return float(self._ask("run")["seconds"])

    def neurons(self) -> str:
        """Which code computes its neurons, as far as it has run."""
        return str(self._ask("neurons")["neurons"])

    def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; what it said last says why
            print(what, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        if "missing" in answer:
            raise ImportError(f"No module named {answer['missing']!r}", name=answer["missing"])
        if not answer:
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            raise PeerError(f"the peer's process ended: {said[-1] if said else 'it said nothing'}")
        return answer


@contextmanager
def started(
    network: SpikingDepthTransformer, card: Card, against: str, size: tuple[int, int], device: str, threads: int
) -> Iterator[Peer]:
    """Start a peer with the weights of a network.

    Args:
        network: as written, on the CPU.
        card: the weights'.
        against: one of PEERS.
        size: (height, width) of `synthetic_events`, its input.
        device: "cpu" or "cuda:N".
        threads: torch's.

    Raises:
        ImportError: what the peer needs is not installed.
        PeerError: it could not be started.
    """
    from sdt_ros.network import save_checkpoint

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        weights = Path(folder) / "peer.safetensors"
        save_checkpoint(weights, network, card)
        told = {
            "weights": str(weights), "against": against, "size": list(size), "device": device, "threads": threads,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(told)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        try:
            yield Peer(process, errors)
        finally:
            process.kill()
            process.communicate()


def _made(network: SpikingDepthTransformer, against: str) -> nn.Module:
    """The network as written, in evaluation mode, made into the peer."""
    import torch

    from sdt_ros.bench.training import use_spikingjelly

    if against == "spikingjelly":
        return use_spikingjelly(network).eval()
    if against == "compile":
        compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
        return compiled
    return network


def _neurons(against: str, on_gpu: bool) -> str:
    """Which code computes a peer's neurons: spikingjelly takes the best of what it finds on a GPU, else torch's."""
    if against != "spikingjelly":
        return "those of the network as written" + (", compiled by torch" if against == "compile" else "")
    if not on_gpu:
        return "spikingjelly's, by torch"
    selection = getattr(sys.modules.get("spikingjelly._ops.lif"), "_selection", None)
    chosen = getattr(selection, "_selections", {}).values()  # None stands for its torch reference
    names = sorted({getattr(made, "name", "torch") for made in chosen})
    return f"spikingjelly's, by {' and '.join(names) or 'code that it does not name'}"


def _serve(told: dict[str, Any]) -> None:
    """Make the peer, run it a few times, then answer what stdin asks."""
    import torch

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

    def run(peer: nn.Module) -> None:
        with torch.inference_mode():
            peer(spikes).cpu()

    try:
        peer, peak = made_and_run(lambda: _made(network, told["against"]).to(device), run, device)
    except ImportError as error:
        _say(missing=error.name)
        return
    _say(peak_bytes=peak)
    for line in sys.stdin:
        if line.strip() == "run":
            began = time.perf_counter()
            run(peer)
            _say(seconds=time.perf_counter() - began)
        else:
            _say(neurons=_neurons(told["against"], device.type == "cuda"))


def _say(**answer: object) -> None:
    print(json.dumps(answer), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    sys.stdout = sys.stderr  # answers only go to the parent
    _serve(json.loads(sys.argv[1]))
