"""`sdt export`: the graph is the estimator, and a file that is not stays unwritten."""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdt_ros.events.reduce import reduce_spikes
from sdt_ros.export import command
from sdt_ros.export.graph import EstimatorGraph, _any, _GraphMLIF, _members
from sdt_ros.network import (
    MLIF,
    Card,
    DepthRange,
    NetworkConfig,
    UncertaintyHead,
    build_network,
    load_checkpoint,
    save_checkpoint,
    synthetic_events,
)
from sdt_ros.runtime import DepthEstimator
from sdt_ros.weights import weights_file

CONFIG = NetworkConfig(embed_dim=32, heads=2, depth=1, mlp_ratio=2, head_widths=(16, 8, 8, 8, 4))


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["export", *map(str, arguments)])
    return int(args.run(args))


def checkpoint(folder: Path, **facts: Any) -> Path:
    """Weights of a small network, which tell uncertainty."""
    torch.manual_seed(0)
    network = build_network(CONFIG)
    network.uncertainty = UncertaintyHead(CONFIG).eval()
    path = folder / "net.safetensors"
    save_checkpoint(path, network, Card(CONFIG, uncertainty="tests", **facts))
    return path


def test_neurons_are_the_networks_to_the_bit() -> None:
    currents = torch.randn(6, 3, 50, generator=torch.Generator().manual_seed(1)) * 3
    for tau, threshold in ((2.0, 1.0), (1.7, 0.4)):
        wanted = MLIF(tau, threshold)(currents)
        assert 0.1 < float(wanted.mean()) < 0.9
        assert torch.equal(_GraphMLIF(tau, threshold)(currents), wanted)


@pytest.mark.parametrize(("full", "size"), [(346, 173), (75, 38), (75, 30), (50, 50), (7, 1), (10, 9)])
def test_cells_are_those_that_the_node_bins_to(full: int, size: int) -> None:
    spikes = (np.random.default_rng(2).random((4, 2, full, 3)) < 0.2).astype(np.uint8)
    found = _any(torch.from_numpy(spikes).float(), -2, _members(full, size)).numpy()
    assert np.array_equal(found, reduce_spikes(spikes, size, 3))
    assert np.array_equal(found, [[[row.max(0) for row in cells(each, size)] for each in time] for time in spikes])


def cells(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """The rows of each cell, by the rule as it is written down."""
    cell = np.arange(len(rows)) * size // len(rows)
    return [rows[cell == each] for each in range(size)]


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({}, {}),
        ({}, {"input_scale": 0.5, "focal_px": 60.0}),
        ({}, {"input_scale": 0.4, "bins": 3, "depth_range": DepthRange(1.0, 9.0)}),
        ({"attention": "spike_driven"}, {"focal_px": 60.0}),
        ({"attention": "softmax", "head": "linear"}, {"bins": 1}),
        ({"head": "linear", "tau": 1.5, "threshold": 0.7}, {"input_scale": 0.5}),
    ],
)
def test_the_graph_is_the_estimator(changes: dict[str, Any], facts: dict[str, Any]) -> None:
    """In all that a network can be, at a size that nothing divides."""
    config = NetworkConfig(**{**{key: getattr(CONFIG, key) for key in CONFIG.__dataclass_fields__}, **changes})
    torch.manual_seed(3)
    network = build_network(config)
    if config.head == "fusion":
        network.uncertainty = UncertaintyHead(config).eval()
    card = Card(config, uncertainty="tests" if network.uncertainty is not None else "", **facts)
    graph = EstimatorGraph(copy.deepcopy(network), card, (51, 75))
    estimator = DepthEstimator(network, card, "cpu", runtime="eager")
    spikes = synthetic_events(card.bins, 51, 75)[0].numpy()
    assert graph.spikes_shape == (1, *spikes.shape)
    for focal_px in (50.0, 110.0) if card.focal_px else (None,):
        wanted = estimator.estimate(spikes, focal_px=focal_px)
        inputs = [torch.from_numpy(spikes)[None], *([torch.tensor([focal_px])] if focal_px else [])]
        depth, *rest = graph(*inputs)
        assert depth.shape == (1, 1, 51, 75)
        np.testing.assert_allclose(depth[0, 0].numpy(), wanted.depth, rtol=1e-5)
        deviation = wanted.deviation()
        assert (deviation is None) == (not rest)
        if deviation is not None:
            np.testing.assert_allclose(rest[0][0, 0].numpy(), deviation, rtol=1e-5)


def test_an_exported_file_gives_the_depth_of_the_packaged_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run by onnxruntime, with events as the command does not check with; and the file says what it is."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    out, figures = tmp_path / "new" / "net.onnx", tmp_path / "net.json"
    assert run("--weights", "sdt_tiny", "--size", "75x50", "--out", out, "--json", figures) == 0
    printed = capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    inputs = {each.name: each.shape for each in session.get_inputs()}
    assert inputs == {"spikes": [1, 4, 2, 50, 75], "focal_px": [1]}
    assert [each.name for each in session.get_outputs()] == ["depth", "deviation"]
    estimator = DepthEstimator.from_checkpoint("sdt_tiny", "cpu", runtime="eager")
    seen = []
    for density, focal_px in ((0.02, 40.0), (0.3, 90.0)):
        spikes = (np.random.default_rng(7).random((4, 2, 50, 75)) < density).astype(np.uint8)
        fed = {"spikes": spikes[None], "focal_px": np.array([focal_px], np.float32)}
        depth, deviation = session.run(None, fed)
        wanted = estimator.estimate(spikes, focal_px=focal_px)
        assert (np.abs(depth[0, 0] / wanted.depth - 1) > 0.01).mean() < 0.01
        told = wanted.deviation()
        assert told is not None and (np.abs(deviation[0, 0] / told - 1) > 0.01).mean() < 0.01
        seen.append(depth)
    assert np.ptp(seen[0]) > 0 and not np.allclose(*seen, rtol=0.01)

    model = onnx.load(out)
    facts = {each.key: each.value for each in model.metadata_props}
    card = json.loads(facts["sdt_ros.card"])
    assert card["weights_sha256"] == load_checkpoint(weights_file("sdt_tiny"))[1].weights_sha256
    assert json.loads(facts["sdt_ros.sensor"]) == {"height": 50, "width": 75}
    assert json.loads(facts["sdt_ros.window"]) == {"bins": 4, "window_ms": 50.0}
    assert json.loads(facts["sdt_ros.usual_focal_px"]) == pytest.approx(0.7 * 75)
    assert model.opset_import[0].version == 18
    assert str(Path(__file__).parents[1]).encode() not in out.read_bytes()  # no paths of this machine
    assert out.stat().st_size < 1.3 * 4 * estimator.parameters
    written = json.loads(figures.read_text())
    assert written["agreement"]["windows"] == 3 and written["agreement"]["off"] <= 0.01 and written["trained"]
    assert "0.000% of the pixels" in printed or f"{written['agreement']['off']:.3%}" in printed
    assert [each.name for each in out.parent.iterdir()] == ["net.onnx"]


def test_what_gives_another_depth_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch's older exporter would: it lost what neurons write into tensors."""
    numpy_helper = pytest.importorskip("onnx.numpy_helper")
    pytest.importorskip("onnxruntime")
    out = tmp_path / "net.onnx"
    out.write_bytes(b"before")
    to_onnx = command.to_onnx

    def spoilt(*arguments: Any) -> Any:
        model = to_onnx(*arguments)
        [weight] = [each for each in model.graph.initializer if each.name.endswith("head.depth.weight")]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
        return model

    monkeypatch.setattr(command, "to_onnx", spoilt)
    assert run("--weights", checkpoint(tmp_path), "--size", "40x32", "--out", out) == 1
    said = capsys.readouterr().err
    assert "another depth" in said and "off by more than 1%" in said
    assert out.read_bytes() == b"before"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["net.json", "net.onnx", "net.safetensors"]


def test_untrained_weights_and_no_onnxruntime_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = tmp_path / "net.onnx"
    assert run("--weights", checkpoint(tmp_path), "--size", "40x32", "--out", out, "--opset", "20") == 0
    said = capsys.readouterr().out
    assert "NOT CHECKED" in said and "UNTRAINED" in said and "focal_px" not in said
    assert out.is_file()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("--out", "net.pt"), "expected a name that ends with .onnx"),
        (("--out", "net.safetensors"), "is the weights"),
        (("--json", "net.onnx"), "is the file of --out"),
        (("--out", "net.safetensors/net.onnx"), "is a file, no folder"),
    ],
)
def test_wrong_outputs_are_refused_before_the_work(
    changed: tuple[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = checkpoint(tmp_path)
    options = {"--out": "net.onnx", **dict([changed])}
    listed = [each for key, name in options.items() for each in (key, tmp_path / name)]
    assert run("--weights", weights, "--size", "40x32", *listed) == 2
    assert words in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["net.json", "net.safetensors"]


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_what_is_not_installed_is_named(
    missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert run("--weights", checkpoint(tmp_path), "--size", "40x32", "--out", tmp_path / "net.onnx") == 1
    said = capsys.readouterr().err
    assert f"needs {missing}" in said and "pip install 'sdt_ros[export]'" in said


def test_weights_that_are_not_there_and_sizes_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--weights", tmp_path / "none.safetensors", "--size", "40x32", "--out", tmp_path / "net.onnx") == 1
    assert "none.safetensors" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run("--size", "40", "--out", tmp_path / "net.onnx")
    assert "expected WIDTHxHEIGHT" in capsys.readouterr().err
