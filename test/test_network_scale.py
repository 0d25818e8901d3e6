"""The head for scale: one factor for a whole picture, told by all of it."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdt_distill.networks import build, make_card, save_network, take_weights
from sdt_ros.network import (
    Card,
    CheckpointError,
    DepthRange,
    EnergyRecorder,
    NetworkConfig,
    SpikingDepthTransformer,
    build_network,
    load_checkpoint,
    presets,
    save_checkpoint,
    synthetic_events,
)
from sdt_ros.network.scale import ScaleHead
from sdt_ros.runtime import open_runtime

SHAPE = {"embed_dim": 32, "heads": 2, "depth": 1, "mlp_ratio": 2, "head_widths": [16, 8, 8, 8, 4]}
CONFIG = NetworkConfig.from_dict({**SHAPE, "scale_head": True})
PLAIN = dataclasses.replace(CONFIG, scale_head=False)


def scale_of(network: nn.Module) -> ScaleHead:
    assert isinstance(network, SpikingDepthTransformer)
    head = network.head.scale
    assert isinstance(head, ScaleHead)
    return head


def network(*, taught: bool = True) -> SpikingDepthTransformer:
    """A network whose head for scale moves pictures."""
    torch.manual_seed(0)
    some = build_network(CONFIG).eval()
    if taught:
        nn.init.normal_(scale_of(some).shift.weight, std=1.0)
        nn.init.constant_(scale_of(some).shift.bias, 0.2)
    return some


@torch.no_grad()
def depth_of(some: nn.Module, spikes: Tensor) -> Tensor:
    told: Tensor = some(spikes)
    return told


def without_scale(some: SpikingDepthTransformer) -> SpikingDepthTransformer:
    """The same weights, less the head."""
    plain = SpikingDepthTransformer(PLAIN).eval()
    plain.load_state_dict({name: x for name, x in some.state_dict().items() if not name.startswith("head.scale.")})
    return plain


def test_which_networks_have_it() -> None:
    assert [name for name, config in presets.items() if config.scale_head] == ["sdt", "sdt_small"]
    assert not dataclasses.replace(CONFIG, head="linear").scale_head
    assert not NetworkConfig().scale_head, "cards that were written before say nothing of it"
    with pytest.raises(ValueError, match="'scale_head' is 1, expected true or false"):
        NetworkConfig(scale_head=1)  # type: ignore[arg-type]


def test_it_begins_by_doing_nothing() -> None:
    fresh, spikes = network(taught=False), synthetic_events(4, 33, 47)
    assert torch.equal(depth_of(fresh, spikes), depth_of(without_scale(fresh), spikes))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47), (5, 7), (16, 100)])
def test_it_moves_a_whole_picture_by_one_number(height: int, width: int) -> None:
    some, spikes = network(), synthetic_events(4, height, width)
    moved = (depth_of(some, spikes) - depth_of(without_scale(some), spikes)).flatten()
    assert moved.abs().min() > 1e-3
    torch.testing.assert_close(moved, moved[:1].expand_as(moved), rtol=0, atol=1e-5)


def test_pictures_of_a_batch_do_not_see_each_other_and_differ() -> None:
    some = network()
    windows = [synthetic_events(4, 65, 90, seed=seed) for seed in (1, 2)]
    alone = torch.cat([depth_of(some, window) for window in windows])
    torch.testing.assert_close(depth_of(some, torch.cat(windows)), alone, rtol=0, atol=1e-4)
    moved = alone - torch.cat([depth_of(without_scale(some), window) for window in windows])
    assert abs(moved[0].mean() - moved[1].mean()) > 1e-3


@torch.no_grad()
def test_it_sees_where_things_are() -> None:
    head = scale_of(network())
    log_depth = torch.full((1, 1, 160, 160), 0.5)
    moved = []
    for row, column in ((2, 2), (2, 7), (7, 2)):  # far enough from the edges that only its place differs
        coarse = torch.zeros(1, 16, 10, 10)
        coarse[:, :, row, column] = 1
        moved.append(head(coarse, log_depth))
    assert moved[0].shape == (1, 1, 1, 1)
    assert abs(moved[0] - moved[1]) > 1e-4 and abs(moved[0] - moved[2]) > 1e-4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdt_ros.network.scale._places", lambda coarse: torch.zeros(1, 2, 10, 10))
        assert abs(head(coarse, log_depth) - head(coarse.roll(-5, 2), log_depth)) < 1e-6


def test_all_of_it_learns_and_the_features_that_it_reads_too() -> None:
    some = network()
    some(synthetic_events(4, 64, 64)).mean().backward()
    for name, parameter in scale_of(some).named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    coarse, log_depth = torch.rand(1, 16, 4, 4, requires_grad=True), torch.rand(1, 1, 64, 64, requires_grad=True)
    scale_of(some)(coarse, log_depth).sum().backward()
    assert coarse.grad is not None and coarse.grad.abs().sum() > 0
    assert log_depth.grad is not None and log_depth.grad.abs().sum() > 0


@pytest.mark.parametrize("runtime", ["eager", "cpu", "cpu_int8"])
def test_runtimes_move_pictures_as_the_network_does(runtime: str) -> None:
    some, spikes = network(), synthetic_events(4, 65, 90)
    expected, still = depth_of(some, spikes), depth_of(without_scale(some), spikes)
    try:
        run, _ = open_runtime(network(), runtime, torch.device("cpu"))
    except RuntimeError as error:
        pytest.skip(str(error))
    off = (run(spikes[0])[:, :1] - expected).abs().mean()
    assert off < (0.3 if runtime == "cpu_int8" else 0.01) * (still - expected).abs().mean()


def test_its_work_is_in_the_energy_table() -> None:
    some = network()
    with torch.no_grad(), EnergyRecorder(some) as recorder:
        some(synthetic_events(4, 64, 64))
    rows = {row.name: row for row in recorder.report().rows if row.name.startswith("head.scale.")}
    assert sum(row.parameters for row in rows.values()) == sum(p.numel() for p in scale_of(some).parameters())
    assert all(not row.spiking and row.runs == 1 and row.macs for row in rows.values())


@torch.no_grad()
def test_autocast_does_not_round_it() -> None:
    head = scale_of(network())
    coarse, log_depth = torch.rand(1, 16, 4, 4), torch.rand(1, 1, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(coarse, log_depth), head(coarse, log_depth).float())
        told = head(coarse, log_depth)
    assert torch.equal(told, head(coarse, log_depth))


def test_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    some, spikes = network(), synthetic_events(4, 40, 40)
    save_checkpoint(tmp_path / "x.safetensors", some, Card(CONFIG))
    assert torch.equal(depth_of(load_checkpoint(tmp_path / "x.safetensors")[0], spikes), depth_of(some, spikes))


def test_weights_from_before_it_are_read_under_their_preset_s_name(tmp_path: Path) -> None:
    """Cards of then have no such key."""
    old = build_network(dataclasses.replace(presets["sdt_small"], scale_head=False)).eval()
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, old, Card(old.config, preset="sdt_small"))
    text = path.with_suffix(".json").read_text()
    assert re.search(r'"scale_head": false,\s*', text)
    path.with_suffix(".json").write_text(re.sub(r'"scale_head": false,\s*', "", text))
    found, card = load_checkpoint(path)
    assert card.preset == "sdt_small"
    assert found.head.scale is None


def test_a_preset_s_other_keys_are_held_as_before() -> None:
    other = dataclasses.replace(presets["sdt_small"], heads=1, scale_head=False)
    with pytest.raises(CheckpointError, match=r"heads 1, not 8$"):
        Card(other, preset="sdt_small")


@pytest.mark.parametrize("name", ["sdt_tiny", "sdt_tiny_ann"])
def test_training_goes_on_from_weights_without_it(tmp_path: Path, name: str) -> None:
    spec = {"name": name, **SHAPE}
    old = build({**spec, "scale_head": False}).eval()
    path = tmp_path / "x.safetensors"
    save_network(path, old, make_card(old))
    taker = build({**spec, "scale_head": True}).eval()
    take_weights(taker, path, DepthRange())
    spikes = synthetic_events(4, 40, 40)
    assert torch.equal(depth_of(taker, spikes), depth_of(old, spikes))


def test_training_does_not_go_on_without_it_from_weights_that_have_it(tmp_path: Path) -> None:
    some = network()
    save_checkpoint(tmp_path / "x.safetensors", some, Card(CONFIG))
    with pytest.raises(CheckpointError, match="name a checkpoint of the same network"):
        take_weights(build_network(PLAIN), tmp_path / "x.safetensors", DepthRange())


@pytest.mark.parametrize("wanted", [DepthRange(0.5, 40.0), DepthRange(0.05, 200.0)])
def test_another_depth_range_says_the_same_metres(tmp_path: Path, wanted: DepthRange) -> None:
    some, spikes = network(), synthetic_events(4, 40, 40)
    save_checkpoint(tmp_path / "x.safetensors", some, Card(CONFIG))
    taker = build_network(CONFIG).eval()
    take_weights(taker, tmp_path / "x.safetensors", wanted)

    def ln_metres(told: Tensor, depth_range: DepthRange) -> Tensor:
        return depth_range.alpha * (told - 1) + torch.tensor(depth_range.max_m).log()

    was, now = depth_of(some, spikes), depth_of(taker, spikes)
    assert (was - depth_of(without_scale(some), spikes)).abs().mean() > 1e-3
    torch.testing.assert_close(ln_metres(now, wanted), ln_metres(was, DepthRange()), rtol=0, atol=1e-4)


def test_a_card_says_whether_a_network_has_it(tmp_path: Path) -> None:
    for config in (CONFIG, PLAIN):
        save_checkpoint(tmp_path / "x.safetensors", SpikingDepthTransformer(config), Card(config))
        assert json.loads((tmp_path / "x.json").read_text())["network"]["scale_head"] is config.scale_head
