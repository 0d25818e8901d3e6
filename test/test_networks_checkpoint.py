"""Checkpoints of all networks: what goes in comes out; the node refuses peers; half precision."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sdt_distill.networks import (
    PeerCard,
    TwinConfig,
    build,
    config_of,
    load_network,
    make_card,
    read_card,
    save_network,
    take_weights,
)
from sdt_ros.network import (
    Card,
    CheckpointError,
    DepthRange,
    NetworkConfig,
    UncertaintyHead,
    build_network,
    load_checkpoint,
    save_checkpoint,
    synthetic_events,
)
from sdt_ros.runtime import DepthEstimator

SMALL = {"embed_dim": 32, "heads": 2, "depth": 1, "mlp_ratio": 2, "head_widths": [16, 16, 8, 8, 4]}
SPECS = {
    "sdt": {"name": "sdt_tiny", **SMALL, "attention": "softmax"},
    "ann_twin": {"name": "sdt_tiny_ann", **SMALL},
    "e2depth": {"name": "e2depth_tiny", "widths": [4, 8, 12, 16]},
}
PEERS = ["ann_twin", "e2depth"]


def saved(folder: Path, kind: str, **facts: object) -> tuple[Path, nn.Module]:
    network = build(SPECS[kind])
    path = folder / f"{kind}.safetensors"
    save_network(path, network, make_card(network, **facts))
    return path, network


@pytest.mark.parametrize("kind", SPECS)
def test_round_trip(tmp_path: Path, kind: str) -> None:
    facts = {"window_ms": 30.0, "depth_range": DepthRange(1.0, 20.0), "trained": True, "training_data": "tests"}
    path, network = saved(tmp_path, kind, **facts, steps=7, scores={"abs_rel": 0.3})
    loaded, card = load_network(path)
    assert card == read_card(path)
    assert (card.window_ms, card.depth_range, card.steps, card.trained) == (30.0, DepthRange(1.0, 20.0), 7, True)
    assert config_of(loaded) == config_of(network) == card.network
    assert not loaded.training
    spikes = synthetic_events(4, 40, 40)
    with torch.no_grad():
        assert torch.equal(loaded(spikes), network.eval()(spikes))
    assert isinstance(card, Card if kind == "sdt" else PeerCard)


def test_presets_are_named_in_their_cards() -> None:
    assert make_card(build("sdt_tiny")).preset == "sdt_tiny"  # type: ignore[union-attr]
    assert make_card(build(SPECS["sdt"])).preset is None  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", PEERS)
def test_the_node_refuses_peers(tmp_path: Path, kind: str) -> None:
    path, _ = saved(tmp_path, kind)
    with pytest.raises(CheckpointError, match=rf"{kind}\.json: these are weights of {kind}.*`sdt-distill eval`"):
        DepthEstimator.from_checkpoint(path, "cpu")
    with pytest.raises(CheckpointError, match="a network to compare with"):
        load_checkpoint(path)


def test_a_twin_is_not_saved_as_a_spiking_network(tmp_path: Path) -> None:
    twin = build(SPECS["ann_twin"])
    card = Card(twin.config)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="AnnTwin cannot be saved for the node"):
        save_checkpoint(tmp_path / "x.safetensors", twin, card)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="the network is none"):
        save_network(tmp_path / "x.safetensors", twin, card)
    with pytest.raises(CheckpointError, match="the card describes"):
        save_network(tmp_path / "x.safetensors", twin, make_card(build(SPECS["e2depth"])))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peer": "sdt"}, "'peer' is 'sdt'"),
        ({"peer": "e2depth"}, "unknown network key"),
        ({"colour": 1}, "unknown card key 'colour'"),
        ({"format_version": 9}, "format_version is 9"),
        ({"bins": 5}, "'bins' is 5, the network takes 4"),
        ({"steps": -1}, "'steps' is -1"),
        ({"network": {"bins": 4}}, "a twin has the keys"),
        ({"network": 3}, "int"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path, _ = saved(tmp_path, "ann_twin")
    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    with pytest.raises(CheckpointError, match=message) as refusal:
        load_network(path)
    assert "ann_twin.json" in str(refusal.value)


@pytest.mark.parametrize("kind", PEERS)
def test_damaged_weights_are_refused(tmp_path: Path, kind: str) -> None:
    path, _ = saved(tmp_path, kind)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_network(path)
    path.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match="damaged or no safetensors"):
        load_network(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load_network(path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    network = build(SPECS["e2depth"])
    nn.init.constant_(network.depth.weight, float("nan"))  # type: ignore[union-attr,arg-type]
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in 'depth\.weight'"):
        save_network(tmp_path / "x.safetensors", network, make_card(network))


@pytest.mark.parametrize("kind", SPECS)
def test_half_precision_halves_the_file_and_little_else(tmp_path: Path, kind: str) -> None:
    network = build(SPECS[kind])
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_network(whole, network, make_card(network))
    save_network(half, network, make_card(network), half=True)
    tensors = load_file(half)
    assert {t.dtype for t in tensors.values() if t.ndim > 1} == {torch.float16}
    assert {t.dtype for t in tensors.values() if t.ndim == 1} == {torch.float32}, "variances leave float16's range"
    loaded, _ = load_network(half)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    assert half.stat().st_size < whole.stat().st_size * 0.65


def test_the_node_takes_half_precision(tmp_path: Path) -> None:
    network = build_network(NetworkConfig.from_dict(SMALL))
    save_checkpoint(tmp_path / "x.safetensors", network, Card(network.config), half=True)
    depth = DepthEstimator.from_checkpoint(tmp_path / "x.safetensors", "cpu")(synthetic_events(4, 40, 40)[0])
    assert depth.shape == (40, 40)


def test_half_precision_refuses_what_does_not_fit_into_it(tmp_path: Path) -> None:
    network = build(SPECS["e2depth"])
    nn.init.constant_(network.depth.weight, 1e6)  # type: ignore[union-attr,arg-type]
    with pytest.raises(CheckpointError, match="infinite"):
        save_network(tmp_path / "x.safetensors", network, make_card(network), half=True)


def test_a_twin_card_keeps_its_bins() -> None:
    card = make_card(build(SPECS["ann_twin"], bins=3), bins=3)
    assert isinstance(card.network, TwinConfig)
    with pytest.raises(CheckpointError, match="'bins' is 4, the network takes 3"):
        make_card(build(SPECS["ann_twin"], bins=3))


@pytest.mark.parametrize("far", [80.0, 20.0])
def test_weights_are_taken_without_their_head_for_uncertainty(tmp_path: Path, far: float) -> None:
    """A head is fitted to the weights as they were, in whatever metres the network is to go on."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig.from_dict(SMALL)).eval()
    spikes = synthetic_events(4, 40, 40)
    with torch.no_grad():
        expected = DepthRange().to_metres(network(spikes))
    network.uncertainty = UncertaintyHead(network.config)
    save_checkpoint(tmp_path / "x.safetensors", network, Card(network.config, steps=7, uncertainty="tests"))
    taker = build_network(network.config).eval()
    wanted = DepthRange(DepthRange().min_m, far)
    assert take_weights(taker, tmp_path / "x.safetensors", wanted).steps == 7
    assert taker.uncertainty is None
    with torch.no_grad():
        depth = wanted.to_metres(taker(spikes))
    kept = expected < 0.99 * far
    assert kept.float().mean() > 0.1
    torch.testing.assert_close(depth[kept], expected[kept], rtol=1e-3, atol=0)
