"""`sdt info`: the table and its JSON."""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from sdt_ros import info
from sdt_ros.network import (
    Card,
    NetworkConfig,
    UncertaintyHead,
    build_network,
    save_checkpoint,
    synthetic_events,
)
from sdt_ros.weights import weights_file


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    info.add_parser(parser.add_subparsers())
    args = parser.parse_args(["info", *arguments])
    return int(args.run(args))


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "windows.npz"
    windows = [synthetic_events(4, 60, 80, seed=seed)[0].numpy() for seed in range(3)]
    np.savez_compressed(path, spikes=np.stack(windows))
    return path


def test_the_table_and_the_json_say_the_same(npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "info.json"
    assert run("--preset", "sdt_tiny", "--input", str(npz), "--json", str(out)) == 0
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())
    layers = figures["layers"]
    assert figures["windows"] == 3
    assert figures["parameters"] == sum(layer["parameters"] for layer in layers)
    assert figures["parameters"] == sum(p.numel() for p in build_network("sdt_tiny").parameters())
    assert figures["macs"] == sum(layer["macs"] for layer in layers)
    assert figures["energy_mj"] == pytest.approx(sum(layer["energy_mj"] for layer in layers))
    for layer in layers:
        price = 0.9 * layer["rate"] if layer["rate"] is not None else 4.6
        assert layer["energy_mj"] == pytest.approx(price * layer["runs"] * layer["macs"] * 1e-9)
        assert layer["name"] in printed
    spikes = np.load(npz)["spikes"]
    assert layers[0]["rate"] == pytest.approx(spikes.sum() / (3 * 4 * 2 * 64 * 80))
    assert f"{figures['parameters']:,}" in printed
    assert f"{figures['energy_mj']:.4f}" in printed
    assert str(npz) in printed
    assert "UNTRAINED" in printed
    assert "not counted: memory traffic" in printed


def test_printed_rows_add_up_to_the_printed_total(npz: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--preset", "sdt_tiny", "--input", str(npz), "--windows", "1") == 0
    table = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    *rows, total = (line.split() for line in table[1:])
    assert total[0] == "total"
    assert sum(float(row[-1]) for row in rows) == pytest.approx(float(total[-1]), abs=5e-5 * len(rows))


def test_without_an_input_no_energy_is_invented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "info.json"
    assert run("--preset", "sdt_tiny", "--size", "128x96", "--json", str(out)) == 0
    figures = json.loads(out.read_text())
    assert figures["energy_mj"] is None
    assert figures["macs"] > 0
    assert all(layer["rate"] is None and layer["energy_mj"] is None for layer in figures["layers"])
    assert {layer["spiking"] for layer in figures["layers"]} == {True, False}
    assert figures["layers"][0]["input_shape"] == [2, 96, 128]
    assert "no energy is given" in capsys.readouterr().out


def test_sdt_has_its_size_by_default(tmp_path: Path) -> None:
    out = tmp_path / "info.json"
    assert run("--size", "64x64", "--json", str(out)) == 0
    figures = json.loads(out.read_text())
    assert figures["preset"] == "sdt"
    assert figures["parameters"] / 20.5e6 == pytest.approx(1, abs=0.01)


def test_noise_is_called_synthetic_and_has_its_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for number in ("1", "2"):
        out = tmp_path / number
        command = ["--preset", "sdt_tiny", "--size", "160x128", "--input", "noise:0.1", "--windows", "2"]
        assert run(*command, "--json", str(out)) == 0
        results.append(json.loads(out.read_text()))
    assert results[0] == results[1]
    assert results[0]["layers"][0]["rate"] == pytest.approx(0.1, abs=0.005)
    assert "synthetic noise" in capsys.readouterr().out


def test_weights_bring_their_own_network_and_resolution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = NetworkConfig(embed_dim=32, heads=2, depth=1, mlp_ratio=2, head_widths=(16, 8, 8, 8, 4))
    weights, out = tmp_path / "x.safetensors", tmp_path / "info.json"
    card = Card(config, bins=3, input_scale=0.5, trained=True, training_data="tests")
    save_checkpoint(weights, build_network(config), card)
    assert run("--weights", str(weights), "--size", "128x64", "--input", "noise:0.05", "--json", str(out)) == 0
    figures = json.loads(out.read_text())
    assert (figures["bins"], figures["trained"], figures["preset"]) == (3, True, None)
    assert figures["layers"][0]["input_shape"] == [2, 32, 64]
    assert "UNTRAINED" not in capsys.readouterr().out


def test_a_head_for_uncertainty_has_rows_of_its_own(tmp_path: Path) -> None:
    config = NetworkConfig(embed_dim=32, heads=2, depth=1, mlp_ratio=2, head_widths=(16, 8, 8, 8, 4))
    network, out = build_network(config), tmp_path / "info.json"
    card = Card(config, trained=True, training_data="tests")
    save_checkpoint(tmp_path / "plain.safetensors", network, card)
    network.uncertainty = UncertaintyHead(config)
    save_checkpoint(tmp_path / "head.safetensors", network, dataclasses.replace(card, uncertainty="tests"))
    found = {}
    for name in ("plain", "head"):
        command = ["--weights", str(tmp_path / f"{name}.safetensors"), "--size", "64x48", "--input", "noise:0.05"]
        assert run(*command, "--json", str(out)) == 0
        found[name] = {layer["name"]: layer for layer in json.loads(out.read_text())["layers"]}
    own = {name: layer for name, layer in found["head"].items() if name.startswith("uncertainty.")}
    assert set(found["head"]) - set(own) == set(found["plain"]) and len(own) == 4
    assert sum(layer["parameters"] for layer in own.values()) == sum(
        p.numel() for p in network.uncertainty.parameters()
    )
    assert all(layer["macs"] > 0 for layer in own.values())


def test_windows_of_the_whole_sensor_are_reduced_as_the_node_reduces_them(npz: Path, tmp_path: Path) -> None:
    out = tmp_path / "info.json"
    assert run("--weights", str(weights_file("sdt_tiny")), "--input", str(npz), "--json", str(out)) == 0
    seen = json.loads(out.read_text())["layers"][0]["input_shape"]
    assert seen == [2, 32, 48], "30x40, padded to whole patches"


def test_bad_input_is_named_and_the_exit_code_is_2(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: tmp_path / f"{name}.npz" for name in ("empty", "other", "shape", "values")}
    paths["empty"].write_bytes(b"")
    np.savez(paths["other"], events=np.zeros(3))
    np.savez(paths["shape"], spikes=np.zeros((3, 2, 60, 80), np.uint8))
    np.savez(paths["values"], spikes=np.full((4, 2, 60, 80), 2, np.uint8))
    cases = {
        "/no/such/bag": "no such file or bag",
        "noise:2": "a rate from 0 to 1",
        "noise:much": "a rate from 0 to 1",
        str(paths["empty"]): "no readable .npz",
        str(paths["other"]): "no readable .npz with an array `spikes`",
        str(paths["shape"]): "expected [4, 2, H, W]",
        str(paths["values"]): "other values than 0 and 1",
    }
    for source, message in cases.items():
        assert run("--preset", "sdt_tiny", "--input", source) == 2
        error = capsys.readouterr().err
        assert message in error
        assert source in error
    assert run("--preset", "sdt_tiny", "--input", str(npz), "--windows", "0") == 2
    assert run("--weights", str(tmp_path / "none.safetensors")) == 2
    assert "none.safetensors: no such file" in capsys.readouterr().err


def test_options_that_cannot_be_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "g.json").write_text("mine")
    cases = {
        ("--seed", "-1"): "--seed is -1, expected 0 to 9223372036854775807",
        ("--seed", "99999999999999999999"): "--seed is 99999999999999999999, expected 0 to",
        ("--json", str(tmp_path)): f"--json {tmp_path} is a folder; name a file",
        ("--preset", "sdt_tiny", "--windows", "3"): "--windows has no effect without --input",
        ("--preset", "sdt_tiny", "--input", "noise:0.1", "--windows", "0"): "--windows is 0, expected at least 1",
        ("--weights", f"{tmp_path}/g.safetensors", "--json", f"{tmp_path}/g.json"): "is the card of the weights",
    }
    for options, message in cases.items():
        assert run(*options) == 2
        error = capsys.readouterr().err
        assert error.startswith("sdt info: ") and message in error and error.count("\n") == 1
    assert (tmp_path / "g.json").read_text() == "mine"
    np.savez(tmp_path / "w.npz", spikes=np.zeros((4, 2, 32, 48), np.uint8))
    assert run("--preset", "sdt_tiny", "--size", "64x64", "--input", str(tmp_path / "w.npz")) == 2
    assert "w.npz, which has its own; leave --size out" in capsys.readouterr().err
    small = ("--preset", "sdt_tiny", "--size", "64x64")
    if Path("/dev/full").exists():
        assert run(*small, "--json", "/dev/full") == 2
        assert "cannot write /dev/full: No space left on device" in capsys.readouterr().err

    def too_much(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to\nallocate")

    monkeypatch.setattr(info, "_measure", too_much)
    assert run(*small) == 2
    assert "sdt info: 64x64 px need more memory than there is; choose a smaller --size\n" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["346", "0x5", "axb", "346x", "-3x4"])
def test_sizes_that_are_none_are_refused(size: str) -> None:
    with pytest.raises(SystemExit):
        run(f"--size={size}")
