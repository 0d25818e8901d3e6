"""Checkpoints: what goes in comes out, and what does not fit is refused by name."""

import dataclasses
import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdt_ros.network import (
    Card,
    CheckpointError,
    DepthRange,
    NetworkConfig,
    SpikingDepthTransformer,
    UncertaintyHead,
    build_network,
    load_card,
    load_checkpoint,
    save_checkpoint,
    synthetic_events,
)

CONFIG = NetworkConfig(embed_dim=32, heads=2, depth=1, mlp_ratio=2, head_widths=(16, 8, 8, 8, 4))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "weights" / "small.safetensors"
    save_checkpoint(path, build_network(CONFIG), Card(CONFIG, scores={"abs_rel on test": 0.5}))
    return path


def with_head() -> SpikingDepthTransformer:
    network = build_network(CONFIG)
    network.uncertainty = UncertaintyHead(CONFIG)
    return network


def edit_card(path: Path, change: Callable[[dict], object]) -> None:
    card = path.with_suffix(".json")
    values = json.loads(card.read_text())
    change(values)
    card.write_text(json.dumps(values))


def edit_tensors(path: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_round_trip(tmp_path: Path) -> None:
    network = build_network(CONFIG).to(memory_format=torch.channels_last)
    card = Card(
        CONFIG, bins=5, window_ms=30.0, depth_range=DepthRange(1.0, 20.0), input_scale=0.5, trained=True,
        training_data="tests", steps=7, scores={"abs_rel": 0.3}, licence="MIT", created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    written = save_checkpoint(tmp_path / "x.safetensors", network, card)
    loaded, read = load_checkpoint(
        tmp_path / "x.safetensors", bins=5, window_ms=30.0, depth_range=DepthRange(1.0, 20.0)
    )
    assert read == written == dataclasses.replace(card, weights_sha256=written.weights_sha256)
    assert load_card(tmp_path / "x.safetensors") == read
    assert not loaded.training
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.json", "x.safetensors"]


def test_saving_again_replaces_both_files(checkpoint: Path) -> None:
    save_checkpoint(checkpoint, build_network(CONFIG), Card(CONFIG, steps=9))
    assert load_checkpoint(checkpoint)[1].steps == 9


def test_a_failed_save_leaves_the_old_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Card) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(Card, "to_json", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(checkpoint, build_network(CONFIG), Card(CONFIG, steps=9))
    monkeypatch.undo()
    assert load_checkpoint(checkpoint)[1].steps == 0
    assert len(list(checkpoint.parent.iterdir())) == 2


def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(checkpoint: Path) -> None:
    """Commands and the trainer expect those: a run goes on without the checkpoint."""
    before = {path: path.read_bytes() for path in checkpoint.parent.iterdir()}
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        with pytest.raises(OSError, match=f"cannot write {checkpoint}: File too large; what was there is kept"):
            save_checkpoint(checkpoint, build_network(CONFIG), Card(CONFIG, steps=9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
        signal.signal(signal.SIGXFSZ, handler)
    assert {path: path.read_bytes() for path in checkpoint.parent.iterdir()} == before


def test_files_are_as_readable_as_others(checkpoint: Path) -> None:
    """A node of another user loads what somebody has trained."""
    (checkpoint.parent / "plain").touch()
    modes = {path.stat().st_mode for path in checkpoint.parent.iterdir()}
    assert len(modes) == 1


def test_a_crash_between_the_two_files_is_noticed(checkpoint: Path) -> None:
    old_card = checkpoint.with_suffix(".json").read_text()
    save_checkpoint(checkpoint, build_network(CONFIG), Card(CONFIG))
    checkpoint.with_suffix(".json").write_text(old_card)
    with pytest.raises(CheckpointError, match=r"not the weights that small\.json"):
        load_checkpoint(checkpoint)


def test_one_flipped_bit_is_noticed(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[-3] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_other_files_are_refused(checkpoint: Path, content: bytes) -> None:
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or no safetensors"):
        load_checkpoint(checkpoint)


def test_truncated_weights_are_refused(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or no safetensors"):
        load_checkpoint(checkpoint)


def test_missing_files_are_named(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"other\.safetensors: no such file"):
        load_checkpoint(checkpoint.with_name("other.safetensors"))
    checkpoint.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"its card small\.json is missing"):
        load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match=r"named by its \.safetensors file"):
        load_checkpoint(checkpoint.with_suffix(".pt"))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda card: card.pop("format_version"), "format_version is None"),
        (lambda card: card.update(format_version=99), "format_version is 99"),
        (lambda card: card.update(preset="sdt_huge"), "unknown preset 'sdt_huge'"),
        (lambda card: card.update(preset="sdt"), "not preset 'sdt': embed_dim 32, not 512"),
        (lambda card: card.update(colour="red"), "unknown card key 'colour'"),
        (lambda card: card.pop("bins"), "lacks 'bins'"),
        (lambda card: card.update(bins=0), "'bins' is 0"),
        (lambda card: card.update(bins=4.0), "'bins' is 4.0"),
        (lambda card: card.update(window_ms="fifty"), "'window_ms' is 'fifty'"),
        (lambda card: card.update(input_scale=2), "'input_scale' is 2"),
        (lambda card: card.update(trained=1), "'trained' is 1"),
        (lambda card: card.update(uncertainty=True), "'uncertainty' is True"),
        (lambda card: card.update(uncertainty=None), "'uncertainty' is None"),
        (lambda card: card.update(trained=True), "'training_data' is empty"),
        (lambda card: card["network"].update(embd=1), "unknown network key 'embd'"),
        (lambda card: card["network"].update(heads=5), "'heads' is 5"),
        (lambda card: card.update(network=3), "int"),
        (lambda card: card["depth_range"].update(min_m=90.0), "depth range 90.0"),
        (lambda card: card["depth_range"].update(min_m=None), "depth range None"),
        (lambda card: card["depth_range"].update(far=1.0), "far"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(
    checkpoint: Path, change: Callable[[dict], object], message: str
) -> None:
    edit_card(checkpoint, change)
    with pytest.raises(CheckpointError, match=message) as refusal:
        load_checkpoint(checkpoint)
    assert "small.json" in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udce4"])
def test_a_card_that_is_no_json_object_is_refused(checkpoint: Path, text: str) -> None:
    checkpoint.with_suffix(".json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"small\.json"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors: tensors.pop("head.depth.bias"), "lacks 'head.depth.bias'"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "has 'extra'"),
        (
            lambda tensors: tensors.update({"head.depth.bias": torch.zeros(2)}),
            r"'head.depth.bias' is \[2\].*needs \[1\]",
        ),
        (lambda tensors: tensors.update({"head.depth.bias": torch.zeros(1).half()}), "float16.*float32"),
        (lambda tensors: tensors["head.depth.bias"].fill_(torch.nan), "NaN or infinite values in 'head.depth.bias'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(checkpoint: Path, change: Callable[[dict], object], message: str) -> None:
    edit_tensors(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "needed, message",
    [
        ({"bins": 8}, "bins 4, asked for 8"),
        ({"window_ms": 20.0}, "window_ms 50.0, asked for 20.0"),
        ({"depth_range": DepthRange(1, 2)}, "depth_range"),
        ({"preset": "sdt"}, "preset None, asked for sdt"),
    ],
)
def test_what_the_caller_cannot_use_is_refused(checkpoint: Path, needed: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(checkpoint, **needed)


def test_what_does_not_fit_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="the card describes"):
        save_checkpoint(path, build_network(CONFIG), Card.of_preset("sdt_tiny"))
    network = build_network(CONFIG)
    with torch.no_grad():
        network.head.depth.bias.fill_(torch.inf)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        save_checkpoint(path, network, Card(CONFIG))
    assert not list(tmp_path.iterdir())


def test_cards_from_before_limits_are_read(checkpoint: Path) -> None:
    edit_card(checkpoint, lambda card: card.pop("limits"))
    assert load_checkpoint(checkpoint)[1].limits == ""


@pytest.mark.parametrize("half", [False, True])
def test_a_head_for_uncertainty_comes_back(tmp_path: Path, half: bool) -> None:
    path, network = tmp_path / "x.safetensors", with_head()
    written = save_checkpoint(path, network, Card(CONFIG, uncertainty="tests"), half=half)
    loaded, card = load_checkpoint(path)
    assert card == written and card.uncertainty == "tests"
    assert loaded.uncertainty is not None and not loaded.uncertainty.training
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    tolerance = {"rtol": 1e-3, "atol": 1e-6} if half else {"rtol": 0, "atol": 0}
    for name in before:
        assert after[name].dtype == before[name].dtype
        torch.testing.assert_close(after[name], before[name], **tolerance)
    halved = {name for name, tensor in load_file(path).items() if tensor.dtype == torch.float16}
    assert ("uncertainty.place.0.weight" in halved) == half
    with torch.no_grad():
        assert loaded(synthetic_events(4, 33, 47), with_uncertainty=True).shape == (1, 3, 33, 47)


def test_a_head_and_a_card_that_does_not_name_it_are_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match=r"x\.safetensors: the network has a head for uncertainty.* says ''"):
        save_checkpoint(path, with_head(), Card(CONFIG))
    with pytest.raises(CheckpointError, match=r"x\.safetensors: the network has no head for uncertainty.* 'tests'"):
        save_checkpoint(path, build_network(CONFIG), Card(CONFIG, uncertainty="tests"))
    assert not list(tmp_path.iterdir())


def test_cards_from_before_uncertainty_are_read(checkpoint: Path) -> None:
    edit_card(checkpoint, lambda card: card.pop("uncertainty"))
    network, card = load_checkpoint(checkpoint)
    assert card.uncertainty == "" and network.uncertainty is None


def test_a_card_and_weights_that_differ_in_the_head_are_refused(checkpoint: Path) -> None:
    edit_card(checkpoint, lambda card: card.update(uncertainty="tests"))
    with pytest.raises(CheckpointError, match=r"small\.safetensors: lacks 'uncertainty\.scale\.0\.weight'"):
        load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, with_head(), Card(CONFIG, uncertainty="tests"))
    for change in (lambda card: card.update(uncertainty=""), lambda card: card.pop("uncertainty")):
        edit_card(checkpoint, change)
        with pytest.raises(CheckpointError, match=r"small\.safetensors: has 'uncertainty\.place\.0\.bias'"):
            load_checkpoint(checkpoint)


def test_a_linear_network_has_no_head_for_uncertainty(checkpoint: Path) -> None:
    linear = dataclasses.replace(CONFIG, head="linear")
    save_checkpoint(checkpoint, build_network(linear), Card(linear))
    edit_card(checkpoint, lambda card: card.update(uncertainty="tests"))
    with pytest.raises(CheckpointError, match=r"small\.safetensors: .* the head 'linear' has no features"):
        load_checkpoint(checkpoint)
    network = build_network(linear)
    network.uncertainty = UncertaintyHead(CONFIG)
    with pytest.raises(CheckpointError, match=r"small\.safetensors: .* the head 'linear' has no features"):
        save_checkpoint(checkpoint, network, Card(linear, uncertainty="tests"))
