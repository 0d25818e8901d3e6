"""`sdt bench training`: all sides compute the same step, its figures are complete, bad arguments are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from sdt_ros.bench.spikingjelly_neurons import use_spikingjelly
from sdt_ros.cli import main
from sdt_ros.network import MLIF, build_network
from sdt_ros.network.config import NetworkConfig

spikingjelly = pytest.importorskip("spikingjelly", reason="spikingjelly is not installed")


def test_figures_are_of_all_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new/bench.json"
    arguments = ["--size", "32x16", "--batch", "2", "--rounds", "1", "--cpu-time", "--json", str(file)]
    assert main(["bench", "training", *arguments]) == 0
    figures = json.loads(file.read_text())
    assert (figures["width"], figures["height"], figures["batch"]) == (32, 16, 2)
    assert figures["cpu_time"] is True
    assert figures["ratio"] == pytest.approx(figures["samples_s"] / figures["peer_samples_s"])
    assert figures["eager_ratio"] == pytest.approx(figures["samples_s"] / figures["eager_samples_s"])
    assert 0 < figures["kept_mb"] < figures["eager_kept_mb"] < figures["peer_kept_mb"]
    assert figures["device"] == "cpu" and figures["peak_mb"] is None
    assert "ratio to spikingjelly's" in capsys.readouterr().out


def test_the_peer_is_the_same_network() -> None:
    torch.manual_seed(0)
    ours = build_network(NetworkConfig(embed_dim=32, depth=1, heads=2, mlp_ratio=2)).eval()
    peer = use_spikingjelly(copy.deepcopy(ours))
    assert not any(isinstance(module, MLIF) for module in peer.modules())
    spikes = (torch.rand(2, 4, 2, 32, 32) < 0.1).float()
    with torch.no_grad():
        for _ in range(2):  # the second call starts at rest too
            assert torch.equal(peer(spikes), ours(spikes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "--batch and --rounds from 1"),
        (["--rounds", "0"], "--batch and --rounds from 1"),
        (["--preset", "huge"], "presets: sdt, sdt_small, sdt_tiny"),
        (["--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_senseless_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "training", *arguments]) == 2
    assert message in capsys.readouterr().err
