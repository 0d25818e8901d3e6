"""Training of the frame network: it learns, goes on exactly where it stopped, and is a teacher afterwards."""

import json

import pytest
import yaml

pytest.importorskip("transformers", reason="needs the extra distill")

import torch
from miniatures import write_bag
from safetensors.torch import load_file

from sdt_distill.cli import main
from sdt_distill.datasets import DatasetError
from sdt_distill.teachers import TeacherConfig, open_teacher
from sdt_distill.teachers import teach as teach_module
from sdt_distill.teachers.teach import TeachConfig, TeachError, load_teach_config
from sdt_distill.training.config import ConfigError

OPTIONS = {"family": "driving", "camera": "davis346@64x48", "samples": 16, "seed": 3, "texture_sets": 1}
CONFIG = {
    "frame": {"embed_dim": 32, "depth": 2, "heads": 2, "patch": 8, "widths": [16, 12, 8]},
    "data": {
        "sources": [{"kind": "simulated", "split": "train", "options": OPTIONS}],
        "validation": [{"kind": "simulated", "split": "validation", "options": {**OPTIONS, "samples": 8}}],
    },
    "optimiser": {"lr": 2e-3, "warmup_steps": 4},
    "steps": 24,
    "batch": 4,
    "log_every": 4,
    "device": "cpu",
    "precision": "float32",
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def losses(text):
    return [float(line.rpartition(" ")[2]) for line in text.splitlines() if ": loss " in line]


def test_it_learns_and_teaches(tmp_path, config, caplog):
    caplog.set_level("INFO")
    out = tmp_path / "frame"
    assert main(["teach", "--config", str(config), "--out", str(out), "--json", str(tmp_path / "end.json")]) == 0
    found = json.loads((tmp_path / "end.json").read_text())
    assert found["step"] == 24
    assert found["validation"]["frames"] == 8
    told = losses(caplog.text)
    assert len(told) == 6
    assert told[-1] < 0.7 * told[0]
    teacher = open_teacher(TeacherConfig(kind="frame", weights=str(out), layers=("layer.1", "last"), patch=8))
    output = teacher(torch.rand(1, 1, 48, 64))
    assert output.depth.shape == (1, 1, 48, 64)
    assert output.features["last"].shape == (1, 32, 6, 8)
    card = json.loads((out / "frame.json").read_text())
    assert card["steps"] == 24
    assert card["scores"] == found["validation"]
    assert "simulat" in card["training_data"]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, config):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    settings = ["steps=4", "data.validation=[]"]
    assert main(["teach", "--config", str(config), "--out", str(whole), *settings]) == 0
    for step in (1, 2):  # each call makes one step before it looks at the time
        assert main(["teach", "--config", str(config), "--out", str(halves), "--max-minutes", "1e-9", *settings]) == 0
        assert json.loads((halves / "frame.json").read_text())["steps"] == step
    assert main(["teach", "--config", str(config), "--out", str(halves), *settings]) == 0
    first, second = load_file(whole / "model.safetensors"), load_file(halves / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_cannot_be_trained_is_refused(tmp_path, config, capsys):
    def call(*settings):
        code = main(["teach", "--config", str(config), "--out", str(tmp_path / "out"), *settings])
        return code, capsys.readouterr().err

    code, message = call("stepz=3")
    assert code == 2
    assert "stepz" in message
    code, message = call("data.sources=[]")
    assert code == 2
    assert "data.sources" in message
    code, message = call("loss.proxy=1")
    assert code == 2
    assert "feature, similarity, proxy and rate must be 0" in message
    code, message = call("data.sources=[{path: /nowhere}]")
    assert code == 1
    assert "/nowhere" in message
    assert call("steps=1", "data.validation=[]")[0] == 0
    code, message = call("steps=1", "data.validation=[]", "optimiser.lr=1e-5")
    assert code == 1
    assert "its optimiser differs" in message
    with pytest.raises(ConfigError, match="cannot be read"):
        load_teach_config(tmp_path / "none.yaml")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, config, capsys):
    settings = ["optimiser.lr=1e30", "optimiser.warmup_steps=0", "log_every=1"]
    assert main(["teach", "--config", str(config), "--out", str(tmp_path / "out"), *settings]) == 1
    message = capsys.readouterr().err
    assert "the loss is nan" in message
    assert "no state was saved yet" in message
    assert "simulated-3-train-" in message
    assert not (tmp_path / "out/model.safetensors").exists()


def test_nothing_is_saved_that_was_not_looked_at(tmp_path, config, monkeypatch):
    """Between two lines of the log a loss may turn into NaN, and the state with it."""
    settings = ["log_every=100", "save_every=2", "data.validation=[]", "steps=9"]
    real, steps = teach_module._step, iter(range(100))

    def poisoned(network, *arguments):
        cost = real(network, *arguments)
        if next(steps) == 2:
            with torch.no_grad():
                next(network.parameters()).fill_(torch.nan)
            return torch.stack([cost[0], torch.tensor(torch.nan)])
        return cost

    monkeypatch.setattr(teach_module, "_step", poisoned)
    out = tmp_path / "out"
    with pytest.raises(TeachError, match=r"step 4: the loss is nan.*the state in .* is kept"):
        teach_module.teach(load_teach_config(config, settings), out)
    assert all(torch.isfinite(tensor).all() for tensor in load_file(out / "state.safetensors").values())
    steps = iter([2])
    with pytest.raises(TeachError, match="its gradient's norm nan"):
        teach_module.teach(load_teach_config(config, settings), tmp_path / "two", max_minutes=0)
    assert not (tmp_path / "two/model.safetensors").exists()


def test_held_out_data_without_frames_are_told_before_the_first_step(tmp_path, config):
    write_bag(tmp_path / "bag", drop=("frames",))
    settings = [f"data.validation=[{{kind: bag, path: {tmp_path / 'bag'}}}]", "steps=1"]
    with pytest.raises(DatasetError, match="samples without a frame"):
        teach_module.teach(load_teach_config(config, settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_is_written_before_it_is_scored(tmp_path, config, monkeypatch):
    def fail(*arguments):
        raise DatasetError("no frame")

    monkeypatch.setattr(teach_module, "_score", fail)
    with pytest.raises(DatasetError, match="no frame"):
        teach_module.teach(load_teach_config(config, ["steps=1"]), tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_file()


def test_defaults_make_a_config():
    assert TeachConfig().loss.depth > 0
