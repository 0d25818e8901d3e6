"""The mean of several checkpoints' weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdt_distill.cli import main
from sdt_ros.network import Card, NetworkConfig, UncertaintyHead, build_network, load_checkpoint, save_checkpoint

SMALL = NetworkConfig(embed_dim=16, depth=1, heads=1, head_widths=(8, 8, 8, 8, 8))


def checkpoint(path: Path, seed: int, config: NetworkConfig = SMALL, **card: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    network = build_network(config)
    if card.get("uncertainty"):
        network.uncertainty = UncertaintyHead(config)
    save_checkpoint(path, network, Card(network=config, trained=True, steps=100, **{"training_data": "x"} | card))
    return network.state_dict()


def test_each_weight_is_the_mean_of_theirs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    one = checkpoint(tmp_path / "one.safetensors", 1, training_data="streets; halls", limits="no sky")
    two = checkpoint(tmp_path / "run" / "last.safetensors", 2, training_data="halls; tables")
    out = tmp_path / "mean.safetensors"
    assert main(["average", str(tmp_path / "one.safetensors"), str(tmp_path / "run"), "--out", str(out)]) == 0
    network, card = load_checkpoint(out)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, ((one[name].double() + two[name].double()) / 2).to(tensor.dtype))
    assert (card.steps, card.training_data, card.limits) == (200, "streets; halls; tables", "no sky")
    assert "mean of 2 checkpoints" in capsys.readouterr().out


@pytest.mark.parametrize("heads", [(True, True), (True, False), (False, True)])
def test_a_mean_has_no_head_for_uncertainty(tmp_path: Path, heads: tuple[bool, bool]) -> None:
    """Heads are fitted to the weights of each, not to their mean."""
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    one, two = (
        checkpoint(path, seed, uncertainty="tests" if has_head else "")
        for seed, (path, has_head) in enumerate(zip(files, heads, strict=True))
    )
    assert main(["average", *map(str, files), "--out", str(tmp_path / "mean.safetensors")]) == 0
    network, card = load_checkpoint(tmp_path / "mean.safetensors")
    assert network.uncertainty is None and card.uncertainty == ""
    name = "head.output.conv.weight"
    torch.testing.assert_close(network.state_dict()[name], ((one[name].double() + two[name].double()) / 2).float())


@pytest.mark.parametrize(
    ("card", "config", "named"),
    [({"focal_px": 120.0}, SMALL, "focal_px"), ({}, NetworkConfig(16, 2, 1, head_widths=(8, 8, 8, 8, 8)), "network")],
)
def test_checkpoints_of_different_kinds_have_no_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], card: dict, config: NetworkConfig, named: str
) -> None:
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    checkpoint(files[0], 1)
    checkpoint(files[1], 2, config, **card)
    assert main(["average", *map(str, files), "--out", str(tmp_path / "mean.safetensors")]) == 1
    error = capsys.readouterr().err
    assert "two.safetensors" in error
    assert named in error
    assert not (tmp_path / "mean.safetensors").exists()


def test_one_checkpoint_has_no_mean_and_a_missing_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path / "one.safetensors", 1)
    assert main(["average", str(tmp_path / "one.safetensors"), "--out", str(tmp_path / "m.safetensors")]) == 2
    names = [str(tmp_path / "one.safetensors"), str(tmp_path / "none")]
    assert main(["average", *names, "--out", str(tmp_path / "m.safetensors")]) == 1
    assert "none/last.safetensors: no such file" in capsys.readouterr().err


def test_a_run_named_twice_and_a_folder_that_is_no_run_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    checkpoint(tmp_path / "run" / "last.safetensors", 1)
    checkpoint(tmp_path / "two.safetensors", 2)
    run, two, out = str(tmp_path / "run"), str(tmp_path / "two.safetensors"), tmp_path / "mean.safetensors"
    for again in (run, f"{run}/last.safetensors"):
        assert main(["average", run, two, again, "--out", str(out)]) == 2
        assert f"{again} is named twice; name each run once" in capsys.readouterr().err
    assert main(["average", run, str(tmp_path), "--out", str(out)]) == 1
    assert f"{tmp_path} is no run: there is no last.safetensors in it" in capsys.readouterr().err
    assert not out.exists()


def test_a_mean_replaces_none_of_what_it_is_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    checkpoint(tmp_path / "run" / "last.safetensors", 1)
    checkpoint(tmp_path / "two.safetensors", 2)
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    run, two = tmp_path / "run", tmp_path / "two.safetensors"
    for out in (run / "last.safetensors", two):
        assert main(["average", str(run), str(two), "--out", str(out)]) == 2
        assert f"--out {out} is the weights, which it would overwrite" in capsys.readouterr().err
    assert (run / "last.safetensors").read_bytes() == before


def test_a_copy_of_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under another name, and with a head for uncertainty fitted to it: it would count twice."""
    files = [tmp_path / f"{name}.safetensors" for name in ("one", "two", "copy")]
    for path, seed, told in zip(files, (1, 2, 1), ("", "", "tests"), strict=True):
        checkpoint(path, seed, uncertainty=told)
    out = tmp_path / "mean.safetensors"
    assert main(["average", *map(str, files), "--out", str(out)]) == 1
    assert f"{files[2]} holds the same weights as {files[0]}" in capsys.readouterr().err
    assert not out.exists()
