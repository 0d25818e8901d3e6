"""`sdt-distill eval` and `export-card`: scored as the node's network is, and a card tells whose scores it has."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniatures import write_dense, write_dense_spike, write_mvsec
from torch import Tensor, nn

from sdt_distill.cli import main
from sdt_distill.evaluate import NetworkEstimator
from sdt_distill.export import _against_floors
from sdt_distill.networks import build, load_network, make_card, save_network
from sdt_ros.event_frame import event_frame
from sdt_ros.network import (
    Card,
    NetworkConfig,
    UncertaintyHead,
    build_network,
    load_card,
    load_checkpoint,
    save_checkpoint,
    synthetic_events,
)
from sdt_ros.runtime import DepthEstimator

SMALL = {"embed_dim": 32, "heads": 2, "depth": 1, "mlp_ratio": 1, "head_widths": [8, 8, 8, 4, 4]}
SPECS = {
    "sdt": {"name": "sdt_tiny", **SMALL},
    "twin": {"name": "sdt_tiny_ann", **SMALL},
    "e2depth": {"name": "e2depth_tiny", "widths": [4, 8, 8, 8]},
}
FACTS: dict[str, Any] = {"trained": True, "training_data": "nothing real", "steps": 5, "input_scale": 0.5}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dense")
    write_dense(root)
    return root


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for name, spec in SPECS.items():
        torch.manual_seed(1)
        network = build(spec)
        paths[name] = tmp_path / name / "best.safetensors"
        save_network(paths[name], network, make_card(network, **FACTS))
    return paths


def evaluated(weights: Path, root: Path, *more: str) -> dict[str, Any]:
    target = weights.with_name("eval.json")
    assert main(["eval", "--weights", str(weights), "--root", str(root), "--json", str(target), *more]) == 0
    found: dict[str, Any] = json.loads(target.read_text())
    return found


@pytest.mark.parametrize("kind", SPECS)
def test_every_network_is_scored_with_floors_probes_and_energy(
    weights: dict[str, Path], dense: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = evaluated(weights[kind], dense, "--samples", "2")
    assert content["settings"]["protocol"]["name"] == "dense"
    assert content["settings"]["steps"] == 5
    assert content["settings"]["input_scale"] == 0.5
    assert content["counts"]["frames_scored"] == 2
    assert set(content["metric"]) == {"network", "constant median", "mean map"}
    assert set(content["probes"]) == {"blank", "first_bin", "reversed"}
    assert list(content["groups"]) == ["train_sequence_00_town01"]
    assert content["energy_mj"] > 0
    assert content["parameters"] if "parameters" in content else content["settings"]["parameters"] > 1000
    printed = capsys.readouterr().out
    assert "mean map" in printed
    assert "UNTRAINED" not in printed


def test_two_runs_are_equal_to_the_bit(weights: dict[str, Path], dense: Path) -> None:
    one, two = (evaluated(weights["e2depth"], dense, "--samples", "2") for _ in range(2))
    one.pop("timing"), two.pop("timing")
    assert one == two


def test_other_data_sets_take_the_same_weights(weights: dict[str, Path], tmp_path: Path) -> None:
    write_mvsec(tmp_path / "mvsec")
    content = evaluated(weights["twin"], tmp_path / "mvsec", "--samples", "1", "--input-scale", "1")
    assert content["settings"]["protocol"]["name"] == "mvsec"
    assert content["settings"]["input_scale"] == 1


def test_the_estimator_of_a_spiking_network_is_the_nodes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig.from_dict({**SMALL, "head": "linear"}))
    save_checkpoint(tmp_path / "x.safetensors", network, Card(network.config))
    spikes = synthetic_events(4, 48, 64)[0].numpy()
    own = NetworkEstimator(*load_network(tmp_path / "x.safetensors"), "cpu")
    node = DepthEstimator.from_checkpoint(tmp_path / "x.safetensors", "cpu", runtime="cpu")
    # Folded norms move spikes at the threshold, so single pixels differ.
    assert np.median(np.abs(np.log(own(spikes) / node(spikes)))) < 0.05
    assert own(spikes, (96, 128)).shape == (96, 128)
    assert own.measured(spikes)[1].energy_mj == pytest.approx(node.measured(spikes)[1].energy_mj, rel=0.05)
    assert own.is_untrained


def test_a_spiking_camera_is_scored_and_drawn(tmp_path: Path) -> None:
    """It has one polarity."""
    write_dense_spike(tmp_path / "spikes")
    network = build({**SPECS["sdt"], "polarities": 1})
    save_network(tmp_path / "x.safetensors", network, make_card(network, **FACTS))
    evaluated(tmp_path / "x.safetensors", tmp_path / "spikes", "--samples", "2", "--report", str(tmp_path / "r.html"))
    assert (tmp_path / "r.html").read_text().count("<img") >= 4
    one = np.zeros((4, 1, 3, 5), np.uint8)
    one[:, 0, 1, 2] = 1
    np.testing.assert_array_equal(event_frame(one), event_frame(np.concatenate([np.zeros_like(one), one], 1)))


def test_depth_is_in_metres_of_the_card() -> None:
    seen: list[tuple[int, ...]] = []

    class Half(nn.Module):
        def forward(self, spikes: Tensor) -> Tensor:
            seen.append(tuple(spikes.shape[-2:]))
            return torch.full((1, 1, *spikes.shape[-2:]), 0.5)

    card = make_card(build(SPECS["e2depth"]))
    depth = NetworkEstimator(Half(), card, "cpu")(np.zeros((4, 2, 8, 9), np.uint8))
    np.testing.assert_allclose(depth, np.full((8, 9), (0.3 * 80) ** 0.5), rtol=1e-6)
    whole = NetworkEstimator(Half(), replace(card, input_scale=0.5), "cpu")
    assert whole(np.zeros((4, 2, 8, 9), np.uint8)).shape == (8, 9) and seen[-1] == (4, 4)
    assert whole(np.zeros((4, 2, 4, 4), np.uint8), (8, 9)).shape == (8, 9) and seen[-1] == (4, 4)
    with pytest.raises(ValueError, match="leave output_size out"):
        whole(np.zeros((4, 2, 8, 9), np.uint8), (8, 9))
    lens = NetworkEstimator(Half(), replace(card, focal_px=40.0), "cpu")
    np.testing.assert_allclose(lens(np.zeros((4, 2, 8, 9), np.uint8), (16, 18), 120.0), 1.5 * depth[0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, code, message",
    [(["--root", "nowhere"], 1, "nothing at nowhere"), (["--root", "."], 1, "no data set that is known"),
     (["--root", ".", "--input-scale", "2"], 2, "--input-scale is 2"),
     (["--root", ".", "--probe-every", "-1"], 2, "--probe-every is -1"),
     (["--root", ".", "--json", "."], 2, "--json . is a folder; name a file"),
     (["--root", ".", "--report", "."], 2, "--report . is a folder; name a file")],
)  # fmt: skip
def test_wrong_arguments_are_told(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int,
    message: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert main(["eval", "--weights", str(weights["sdt"]), *arguments]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--report"])
@pytest.mark.parametrize("suffix, what", [(".json", "the card of the weights"), (".safetensors", "the weights")])
def test_figures_never_replace_what_is_scored(
    weights: dict[str, Path], dense: Path, capsys: pytest.CaptureFixture[str], option: str, suffix: str, what: str
) -> None:
    target = weights["sdt"].with_suffix(suffix)
    before = target.read_bytes()
    there = target.parent / ".." / target.parent.name / target.name  # by another way
    assert main(["eval", "--weights", str(weights["sdt"]), "--root", str(dense), option, str(there)]) == 2
    assert f"{option} {there} is {what}, which it would overwrite; name another" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_an_export_replaces_nothing_that_it_reads(
    weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export, read = ["export-card", str(weights["sdt"].parent), "--out"], tmp_path / "ex.json"
    read.write_text("{}")
    for more in (["--eval", str(read)], ["--compare", f"a={read}"], ["--limits", str(read)]):
        assert main([*export, str(tmp_path / "ex"), *more]) == 2
        assert f"--out: its card {read} is " in capsys.readouterr().err
    assert read.read_text() == "{}"
    (tmp_path / "folder").mkdir()
    assert main([*export, str(tmp_path / "folder")]) == 2
    assert f"--out {tmp_path / 'folder'} is a folder; name a file" in capsys.readouterr().err
    assert not (tmp_path / "folder.safetensors").exists()
    assert main(["export-card", str(tmp_path / "folder"), "--out", str(tmp_path / "ex")]) == 1
    assert "folder is no run: there is no last.safetensors in it" in capsys.readouterr().err
    before = weights["sdt"].read_bytes()
    assert main([*export, str(weights["sdt"].with_suffix(""))]) == 2
    assert f"--out {weights['sdt']} is the weights, which it would overwrite" in capsys.readouterr().err
    assert weights["sdt"].read_bytes() == before


def test_a_head_for_uncertainty_is_exported_with_its_scores(weights: dict[str, Path], tmp_path: Path) -> None:
    network, card = load_checkpoint(weights["sdt"])
    network.uncertainty = UncertaintyHead(card.network)
    scores = {**card.scores, "uncertainty": {"bank": {"windows": 3}}}
    with_head = tmp_path / "head.safetensors"
    save_checkpoint(with_head, network, replace(card, scores=scores, uncertainty="3 windows of bank"))
    assert main(["export-card", str(with_head), "--out", str(tmp_path / "out"), "--limits", "many"]) == 0
    network, exported = load_checkpoint(tmp_path / "out.safetensors")
    assert network.uncertainty is not None and exported.uncertainty == "3 windows of bank"
    assert exported.scores["uncertainty"] == scores["uncertainty"] and "uncertainty" not in exported.scores["training"]


def test_export_takes_the_scores_of_these_weights_only(
    weights: dict[str, Path], dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, target = weights["sdt"].parent, tmp_path / "out" / "sdt_some"
    (tmp_path / "limits.txt").write_text("Sees nothing\nat night.\n")
    export = ["export-card", str(run), "--out", str(target), "--limits", str(tmp_path / "limits.txt")]
    assert main(export) == 0
    exported = target.with_suffix(".safetensors")
    half, single = exported.stat().st_size, weights["sdt"].stat().st_size
    assert half < 0.7 * single
    assert load_card(exported).limits == "Sees nothing\nat night."
    run_without_best = tmp_path / "run"
    run_without_best.mkdir()
    for ending in ("safetensors", "json"):
        shutil.copy(weights["sdt"].with_suffix(f".{ending}"), run_without_best / f"last.{ending}")
    words = "Sees nothing at night. " * 20
    other = str(tmp_path / "other")
    assert main(["export-card", str(run_without_best), "--out", other, "--limits", words]) == 0
    assert load_card(Path(f"{other}.safetensors")).limits == words.strip()
    own = evaluated(exported, dense, "--samples", "2")
    (tmp_path / "own.json").write_text(json.dumps(own))
    peer = evaluated(weights["e2depth"], dense, "--samples", "2")
    (tmp_path / "peer.json").write_text(json.dumps(peer))
    more = ["--eval", str(tmp_path / "own.json"), "--compare", f"E2Depth={tmp_path / 'peer.json'}"]
    assert main([*export, *more]) == 0
    card = load_card(exported)
    assert card.limits == "Sees nothing\nat night."
    assert (card.steps, card.trained, card.training_data, card.input_scale) == (5, True, "nothing real", 0.5)
    (kept,) = card.scores["evaluations"]
    assert kept["of"] == "these weights"
    assert kept["scores"]["abs_rel"] == pytest.approx(own["metric"]["network"]["abs_rel"], rel=1e-4)
    assert kept["ratio_to_mean_map"] == {}, "the truth of this data set is one picture, which is its own mean"
    assert set(kept["probes"]) == {"blank", "first_bin", "reversed"}
    assert list(kept["groups"]) == list(own["groups"])
    assert len(kept["bands"]) == len(own["bands"])
    assert kept["firing_rates"]
    assert card.scores["compared"]["E2Depth"]["network"] == "e2depth[4, 8, 8, 8]"
    estimator = DepthEstimator.from_checkpoint(exported, "cpu")  # the node takes it
    assert estimator(synthetic_events(4, 40, 40)[0]).shape == (40, 40)

    # Of the run's own weights it is said so; of other weights, or other data, nothing is taken.
    before = exported.with_suffix(".json").read_text()
    evaluated(weights["sdt"], dense, "--samples", "2")
    assert main([*export, "--eval", str(run / "eval.json")]) == 0
    assert load_card(exported).scores["evaluations"][0]["of"] == "the run's weights in single precision"
    capsys.readouterr()
    without_energy = {key: value for key, value in own.items() if key != "energy_mj"}
    for spoiled, named in ((without_energy, r".*KeyError 'energy_mj'"), ({"settings": None}, "")):
        (tmp_path / "spoiled.json").write_text(json.dumps(spoiled))
        assert main([*export, "--eval", str(tmp_path / "spoiled.json")]) == 1
        assert re.search(rf"spoiled.json: not written by sdt-distill eval{named}", capsys.readouterr().err)
    assert main([*export, "--eval", str(tmp_path / "peer.json")]) == 1
    assert "an evaluation of other weights" in capsys.readouterr().err
    evaluated(weights["e2depth"], dense, "--samples", "1")
    assert main([*export, *more[:2], "--compare", f"E2Depth={weights['e2depth'].parent / 'eval.json'}"]) == 1
    assert "compare on the same data" in capsys.readouterr().err
    assert json.loads(before)["weights_sha256"] == load_card(exported).weights_sha256


def test_scores_are_set_beside_the_floors() -> None:
    own = {"abs_rel": 0.3, "rmse_log": 0.4, "delta1": 0.5}
    metric = {"network": own, "constant median": {**own, "abs_rel": 0.9}, "mean map": {**own, "abs_rel": 0.6}}
    found = _against_floors(metric, ("abs_rel", "delta1"))
    assert found["scores"] == {"abs_rel": 0.3, "delta1": 0.5}
    assert {name: floor["abs_rel"] for name, floor in found["floors"].items()} == {
        "constant median": 0.9,
        "mean map": 0.6,
    }
    assert found["ratio_to_mean_map"] == {"abs_rel": 0.5, "rmse_log": 1.0}
    metric["network"] = {**own, "abs_rel": None}
    assert found["ratio_to_mean_map"].keys() - _against_floors(metric, ("abs_rel",))["ratio_to_mean_map"] == {"abs_rel"}


@pytest.mark.parametrize(
    "case, code, message",
    [("peer", 1, "a network to compare with"), ("large", 1, "is above --max-mb"), ("nothing", 1, "no such file"),
     ("untrained", 1, "these weights are untrained"), ("no json", 1, "not written by sdt-distill eval"),
     ("no name", 2, "expected NAME=FILE")],
)  # fmt: skip
def test_export_refuses(
    weights: dict[str, Path], tmp_path: Path, case: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.safetensors"
    run: Path = weights["e2depth" if case == "peer" else "sdt"].parent
    more: list[str] = []
    if case == "large":
        more = ["--max-mb", "0.01"]
    elif case == "nothing":
        run = tmp_path / "nowhere"
    elif case == "untrained":
        network = build(SPECS["sdt"])
        save_network(run / "best.safetensors", network, make_card(network))
    elif case == "no json":
        (tmp_path / "e.json").write_text("{}")
        more = ["--eval", str(tmp_path / "e.json")]
    elif case == "no name":
        more = ["--compare", "file.json"]
    assert main(["export-card", str(run), "--out", str(target), *more]) == code
    assert message in capsys.readouterr().err
    assert not target.exists()
