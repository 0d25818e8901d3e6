"""`sdt export`: the graph is the estimator, and a file that is not stays unwritten."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import errno
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdt_ros.events.reduce import reduce_spikes
from sdt_ros.export import command
from sdt_ros.export.agreement import MOST_BLANK, MOST_MEDIAN, RunError, compare
from sdt_ros.export.graph import EstimatorGraph, _any, _GraphMLIF, _members
from sdt_ros.export.onnx_file import ExportError, to_onnx, write
from sdt_ros.network import (
    MLIF,
    Card,
    DepthRange,
    NetworkConfig,
    SpikingDepthTransformer,
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
    currents[0, 0] = 2.0  # brings a membrane exactly to the threshold of the first
    for tau, threshold in ((2.0, 1.0), (1.7, 0.4)):
        wanted = MLIF(tau, threshold)(currents)
        assert 0.1 < float(wanted.mean()) < 0.9 and (threshold != 1 or bool(wanted[0, 0].all()))
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


KINDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({}, {"input_scale": 0.5, "focal_px": 60.0}),
    ({}, {"input_scale": 0.4, "bins": 3, "depth_range": DepthRange(1.0, 9.0)}),
    ({"attention": "spike_driven"}, {"focal_px": 60.0}),
    ({"attention": "softmax", "head": "linear"}, {"bins": 1}),
    ({"head": "linear", "tau": 1.5, "threshold": 0.7}, {"input_scale": 0.5}),
]


def made(changes: dict[str, Any], facts: dict[str, Any]) -> tuple[EstimatorGraph, DepthEstimator]:
    """A network's graph for 75x51 px, a size that nothing divides, and its estimator; neither knows of the other."""
    config = dataclasses.replace(CONFIG, **changes)
    torch.manual_seed(3)
    network = build_network(config)
    if config.head == "fusion":
        network.uncertainty = UncertaintyHead(config).eval()
    card = Card(config, uncertainty="tests" if network.uncertainty is not None else "", **facts)
    graph = EstimatorGraph(copy.deepcopy(network), card, (51, 75))
    return graph, DepthEstimator(network, card, "cpu", runtime="eager")


@pytest.mark.parametrize(("changes", "facts"), KINDS)
def test_the_graph_is_the_estimator(changes: dict[str, Any], facts: dict[str, Any]) -> None:
    """In all that a network can be; and counts of spikes are taken for spikes."""
    graph, estimator = made(changes, facts)
    card = estimator.card
    spikes = synthetic_events(card.bins, 51, 75)[0].numpy()
    assert graph.spikes_shape == (1, *spikes.shape)
    for focal_px in (50.0, 110.0) if card.focal_px else (None,):
        wanted = estimator.estimate(spikes, focal_px=focal_px)
        inputs = [torch.from_numpy(spikes)[None], *([torch.tensor([focal_px])] if focal_px else [])]
        depth, *rest = graph(*inputs)
        assert torch.equal(graph(5 * inputs[0], *inputs[1:])[0], depth)
        assert depth.shape == (1, 1, 51, 75)
        np.testing.assert_allclose(depth[0, 0].numpy(), wanted.depth, rtol=1e-5)
        deviation = wanted.deviation()
        assert (deviation is None) == (not rest)
        if deviation is not None:
            np.testing.assert_allclose(rest[0][0, 0].numpy(), deviation, rtol=1e-5)


@pytest.mark.parametrize(("changes", "facts"), [KINDS[2], KINDS[3], KINDS[4]])
def test_every_kind_can_be_exported(changes: dict[str, Any], facts: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
    graph, estimator = made(changes, facts)
    path = tmp_path / "net.onnx"
    path.write_bytes(to_onnx(graph, estimator.card).SerializeToString())
    agreement = compare(path, estimator, graph.size, graph.usual_focal_px)
    assert agreement is not None and agreement.holds and agreement.exact >= 3


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the second kind."""
    pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
    graph, estimator = made(*KINDS[1])
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    path.write_bytes(to_onnx(graph, estimator.card).SerializeToString())
    return path


def _farther(network: Any) -> None:
    network.head.depth.bias += 0.01


def _surer(network: Any) -> None:
    network.uncertainty.scale[-1].bias -= 0.2


def _blind(network: Any) -> None:
    network.stem.downs[0].conv_bn.conv.weight *= -1


def _broken(network: Any) -> None:
    network.head.depth.weight[:] = float("nan")


@pytest.mark.parametrize(
    ("spoil", "blank_agrees", "events_agree"),
    [
        (None, True, True),
        (_farther, False, None),
        (_surer, False, None),
        (_blind, True, False),
        (_broken, False, False),
    ],
)
def test_the_check_finds_what_is_off(
    spoil: Callable[[Any], None] | None, blank_agrees: bool | None, events_agree: bool | None, exported: Path
) -> None:
    """Depth, deviation, NaN, and what is wrong where there are events alone."""
    graph, estimator = made(*KINDS[1])
    if spoil is not None:
        network = copy.deepcopy(estimator._runtime._network)  # type: ignore[attr-defined]
        with torch.no_grad():
            spoil(network)
        estimator = DepthEstimator(network, estimator.card, "cpu", runtime="eager")
    agreement = compare(exported, estimator, graph.size, 40.0)
    assert agreement is not None
    assert agreement.holds == (spoil is None)
    if blank_agrees is not None:
        assert (agreement.blank <= MOST_BLANK) == blank_agrees
    if events_agree is not None:
        assert all((median <= MOST_MEDIAN) == events_agree for median in agreement.medians)


def test_what_cannot_be_opened_or_run_is_told(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, estimator = made(*KINDS[1])
    other = tmp_path / "other.onnx"
    other.write_bytes(b"no graph")
    with pytest.raises(RunError, match="cannot open"):
        compare(other, estimator, graph.size, 40.0)
    with pytest.raises(RunError, match="cannot run"):
        compare(exported, estimator, (48, 64), 40.0)
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libonnx.so is of another machine')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(RunError, match=r"does not load: libonnx\.so"):
        compare(exported, estimator, graph.size, 40.0)


def test_the_exporters_reason_is_told_and_an_interrupt_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    graph, estimator = made(*KINDS[0])

    def failing(cause: BaseException) -> Any:
        def export(*_: Any, **__: Any) -> None:
            try:
                raise cause
            except BaseException as error:
                raise RuntimeError("\x1b[96mstep 3/3\x1b[0m failed\nNext steps:") from error

        return export

    monkeypatch.setattr(torch.onnx, "export", failing(ValueError("no \x1b[1msuch\x1b[0m operator\nat line 3")))
    with pytest.raises(ExportError, match="to opset 21: no such operator; another --opset"):
        to_onnx(graph, estimator.card, 21)
    monkeypatch.setattr(torch.onnx, "export", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        to_onnx(graph, estimator.card)


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
    assert written["agreement"]["exact"] >= 3 and written["agreement"]["blank"] < 1e-5 and written["trained"]
    assert f"{written['agreement']['exact']} of 4 windows" in printed
    assert [each.name for each in out.parent.iterdir()] == ["net.onnx"]


def test_what_gives_another_depth_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch's older exporter would: it lost what neurons write into tensors."""
    pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
    out = tmp_path / "net.onnx"
    out.write_bytes(b"before")

    def spoilt(network: SpikingDepthTransformer, *arguments: Any) -> EstimatorGraph:
        """In place: what is compared with must not be the same object."""
        graph = EstimatorGraph(network, *arguments)
        with torch.no_grad():
            _farther(network)
        return graph

    monkeypatch.setattr(command, "EstimatorGraph", spoilt)
    assert run("--weights", checkpoint(tmp_path), "--size", "40x32", "--out", out) == 1
    said = capsys.readouterr().err
    assert "another depth" in said and "without events off by" in said
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
    if Path("/dev/full").exists():  # the graph is there, and said to be
        options = ("--size", "40x32", "--out", out, "--json", "/dev/full")
        assert run("--weights", tmp_path / "net.safetensors", *options) == 1
        told = capsys.readouterr()
        assert f"{out} is written, its figures are not" in told.err and f"{out}: " in told.out


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
    assert (
        "needs onnx and onnxscript" in said
        and f"import of {missing} halted" in said
        and "pip install onnx onnxscript onnxruntime" in said
    )


def test_what_was_there_survives_a_full_disk_and_a_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    model, link = onnx.ModelProto(ir_version=8), tmp_path / "link.onnx"
    (tmp_path / "kept").mkdir()
    target = tmp_path / "kept" / "net.onnx"
    link.symlink_to(target)
    write(model, link, lambda part: None)
    assert link.is_symlink() and onnx.load(target).ir_version == 8
    before = target.read_bytes()

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=f"cannot write {link}: No space left on device; name a file elsewhere"):
        write(model, link, lambda part: None)
    assert target.read_bytes() == before
    assert [each.name for each in target.parent.iterdir()] == ["net.onnx"]


def test_weights_that_are_not_there_and_sizes_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--weights", tmp_path / "none.safetensors", "--size", "40x32", "--out", tmp_path / "net.onnx") == 1
    assert "none.safetensors" in capsys.readouterr().err
    refused = {"40": "expected WIDTHxHEIGHT", "9000x2": "8192 px a side", "4096x4096": "larger than any"}
    for size, words in refused.items():
        with pytest.raises(SystemExit, match="2"):
            run("--size", size, "--out", tmp_path / "net.onnx")
        assert words in capsys.readouterr().err


def test_sigterm_while_exporting_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = checkpoint(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def told_to_stop(file: Path, *_: object) -> None:
        assert file.is_file() and file.parent.parent == tmp_path
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(command, "compare", told_to_stop)
    try:
        with pytest.raises(KeyboardInterrupt):  # of which `sdt` makes exit code 130
            run("--weights", weights, "--size", "40x32", "--out", tmp_path / "net.onnx")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
