"""`sdt bench network`: its figures, its file, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from sdt_ros.bench import network_parts, other_process
from sdt_ros.cli import main
from sdt_ros.network import Card, NetworkConfig, build_network, save_checkpoint
from sdt_ros.runtime import choose

CONFIG = NetworkConfig(embed_dim=32, heads=2, depth=2, mlp_ratio=2, head_widths=(16, 8, 8, 8, 4))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, build_network(CONFIG), Card(CONFIG))
    return path


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_parts, "COPY_BYTES", 1 << 22)


@pytest.mark.parametrize("peer", ["eager", "spikingjelly", "onnxruntime"])
def test_figures(weights: Path, tmp_path: Path, peer: str, capsys: pytest.CaptureFixture[str]) -> None:
    if peer == "spikingjelly":
        pytest.importorskip("spikingjelly", reason="pip install --no-deps spikingjelly")
    if peer == "onnxruntime":
        pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
    path = tmp_path / "out" / "network.json"
    options = ("--size", "64x48", "--against", peer, "--runtime", "cpu", "--rounds", "3", "--json", str(path))
    assert main(["bench", "network", "--weights", str(weights), *options]) == 0
    told = json.loads(path.read_text())
    assert {"preset", "size", "device", "runtime", "median_ms", "peer", "peer_median_ms", "ratio"} <= told.keys()
    assert (told["size"], told["device"], told["peer"]) == ("64x48", "cpu", peer)
    assert "float32" in told["runtime"] and told["preset"] == str(weights)
    assert told["ratio"] == pytest.approx(told["peer_median_ms"] / told["median_ms"])
    assert 0 < told["least_ms"] <= told["median_ms"]
    assert told["mean_rate"] == pytest.approx(told["peer_mean_rate"], abs=1e-3) and told["mean_rate"] > 0.05
    assert told["log_depth_difference"] < 0.01
    for stage in ("stem", "attention", "mlp", "head"):
        spent = told["stages_ms"][stage]
        assert 0 < spent["conv"] < spent["all"]
        assert spent["rest"] == pytest.approx(spent["all"] - spent["conv"] - spent["LIF"])
    assert told["floor_ms"] > 0 and told["gmac"] > 0
    assert f"ratio {told['ratio']:.2f}" in capsys.readouterr().out


@pytest.mark.skipif(choose.cpu_flags().isdisjoint(choose.INT8_PAYS), reason="the CPU has no fast int8 products")
def test_a_network_that_adds_is_held_against_additions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, path = tmp_path / "wide.safetensors", tmp_path / "network.json"
    config = dataclasses.replace(CONFIG, embed_dim=64, depth=1)
    save_checkpoint(weights, build_network(config), Card(config, bins=2))
    options = ("--size", "64x48", "--against", "eager", "--runtime", "cpu_int8", "--rounds", "1", "--json", str(path))
    assert main(["bench", "network", "--weights", str(weights), *options]) == 0
    told = json.loads(path.read_text())
    assert 0 < told["gadditions"] < told["gmac"]
    assert told["peak_gadditions_s"] > 0 and told["peak_gmac_s"] > 0
    by_products = 1e3 * told["gmac"] / told["peak_gmac_s"]
    by_reading = told["bytes_mb"] / told["peak_gb_s"]
    assert by_reading <= told["floor_ms"] <= max(by_products, by_reading)
    assert "input fires as additions" in capsys.readouterr().out
    assert all(told["stages_ms"][stage]["conv"] > 0 for stage in ("stem", "attention", "mlp", "head"))


def test_the_peer_can_be_what_torch_compiles(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, depth=1, mlp_ratio=1, head="linear")  # fewer loops to compile
    weights, path = tmp_path / "least.safetensors", tmp_path / "network.json"
    save_checkpoint(weights, build_network(config), Card(config, bins=2))
    options = ("--size", "16x16", "--against", "compile", "--runtime", "cpu", "--rounds", "1", "--json", str(path))
    assert main(["bench", "network", "--weights", str(weights), *options]) == 0
    told = json.loads(path.read_text())
    assert told["peer_neurons"] == "those of the network as written, compiled by torch"
    assert told["ratio"] == pytest.approx(told["peer_median_ms"] / told["median_ms"])


def test_eager_can_be_timed_against_itself(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    options = ("--size", "32x32", "--against", "eager", "--runtime", "eager", "--rounds", "1", "--json", str(path))
    assert main(["bench", "network", "--weights", str(weights), *options]) == 0
    assert "eager float32" in json.loads(path.read_text())["runtime"]


@pytest.mark.parametrize(
    "options, message",
    [
        (("--rounds", "0"), "--rounds from 1"),
        (("--preset", "sdt_huge"), "sdt_huge"),
        (("--runtime", "warp"), "unknown runtime 'warp'"),
        (("--against", "onnxruntime", "--device", "warp"), "warp"),
        (("--weights", "nowhere.safetensors"), "nowhere.safetensors"),
    ],
)
def test_what_is_refused(options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "network", *(() if "--preset" in options else ("--preset", "sdt_tiny")), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("peer", "module", "cure"),
    [
        ("spikingjelly", "spikingjelly", "pip install --no-deps spikingjelly"),
        ("onnxruntime", "onnxscript", "pip install onnx onnxscript onnxruntime"),
    ],
)
def test_a_missing_peer_is_named(
    peer: str, module: str, cure: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text(
        f"raise ImportError(\"No module named '{module}'\", name='{module}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert main(["bench", "network", "--preset", "sdt_tiny", "--size", "32x32", "--against", peer]) == 1
    assert f"{module} is missing: {cure}" in capsys.readouterr().err


def test_a_peer_that_gives_up_says_why(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(other_process.sys, "executable", "/bin/false")
    assert main(["bench", "network", "--weights", str(weights), "--size", "32x32"]) == 2
    assert "the peer's process ended: it said nothing" in capsys.readouterr().err
