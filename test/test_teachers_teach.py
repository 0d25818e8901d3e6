"""Training of the frame network: it learns, goes on exactly where it stopped, and is a teacher afterwards."""

import json
import multiprocessing
import os
import signal

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
from sdt_distill.training.state import load_state, save_state

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


def test_worker_processes_end_with_the_run(tmp_path, config):
    settings = ["steps=2", "data.validation=[]", "data.workers=1"]
    assert main(["teach", "--config", str(config), "--out", str(tmp_path / "out"), *settings]) == 0
    assert not multiprocessing.active_children()


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
    assert "another run: its optimiser is" in message
    with pytest.raises(ConfigError, match="cannot be read"):
        load_teach_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "settings, message",
    [(["augment.crop=[200,200]"], "augment.crop [200, 200] is larger than the samples, [48, 64]"),
     (["optimiser.betas=[2,3]"], "config key 'optimiser.betas' is (2.0, 3.0), expected two numbers in [0, 1)"),
     (["seed=-1"], "config key 'seed' is -1, expected 0 to"),
     (["threads=-1"], "config key 'threads' is -1, expected 0 or more"),
     (["precision=bfloat61"], "config key 'precision' is 'bfloat61', expected auto or bfloat16 or float32")],
)  # fmt: skip
def test_wrong_values_are_told_in_one_line(tmp_path, config, capsys, settings, message):
    assert main(["teach", "--config", str(config), "--out", str(tmp_path / "out"), *settings]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sdt-distill teach: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("minutes", ["-1", "nan", "0"])
def test_a_time_that_is_none_is_refused(config, capsys, minutes):
    with pytest.raises(SystemExit, match="2"):
        main(["teach", "--config", str(config), f"--max-minutes={minutes}"])
    assert f"argument --max-minutes: {minutes} is not above 0" in capsys.readouterr().err


def test_weights_are_not_read_as_other_metres(tmp_path, config, capsys):
    """The weights stay what they were: another range beside them gives wrong depth."""
    out = tmp_path / "out"
    command = ["teach", "--config", str(config), "--out", str(out), "steps=1", "data.validation=[]"]
    assert main(command) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for key, value, default in [("min_m", 1.0, 0.3), ("max_m", 1000.0, 80.0), ("input_scale", 0.5, 1.0),
                                ("focal_px", 100.0, None)]:  # fmt: skip
        capsys.readouterr()
        assert main([*command, f"data.{key}={value}"]) == 1
        assert f"another run: its data.{key} is {default}, the config's is {value}." in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_state_of_an_earlier_version_goes_on(tmp_path, config):
    out = tmp_path / "out"
    command = ["teach", "--config", str(config), "--out", str(out), "steps=2", "data.validation=[]"]
    assert main([*command, "--max-minutes", "1e-9"]) == 0
    tensors, values = load_state(out / "state.safetensors")
    identity = {key: value for key, value in values["identity"].items() if not key.startswith("data.")}
    identity["optimiser"] = {key: value for key, value in identity["optimiser"].items() if key != "hold_norms"}
    save_state(out / "state.safetensors", tensors, {"step": values["step"], "identity": identity})
    assert main(command) == 0
    assert load_state(out / "state.safetensors")[1]["step"] == 2


def signalled(monkeypatch, *numbers):
    """Signals come during the third step."""
    real, steps = teach_module._step, iter(range(100))

    def step(*arguments):
        if next(steps) == 2:
            for number in numbers:
                os.kill(os.getpid(), number)
        return real(*arguments)

    monkeypatch.setattr(teach_module, "_step", step)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_behind_the_step_and_stops(tmp_path, config, monkeypatch, capfd, number, code):
    out, end = tmp_path / "out", tmp_path / "end.json"
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    command = ["teach", "--config", str(config), "--out", str(out), "--json", str(end), "steps=4"]
    with monkeypatch.context() as patched:
        signalled(patched, number)
        assert main(command) == code
    printed = capfd.readouterr()
    assert ("saving behind this step; Ctrl-C again to stop without" in printed.err) == (number == signal.SIGINT)
    assert "step 3 of 4" in printed.out and "The same command goes on from here." in printed.out
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    found = json.loads(end.read_text())
    assert (found["step"], found["finished"], found["validation"]) == (3, False, None)
    assert load_state(out / "state.safetensors")[1]["step"] == 3
    assert main(command) == 0
    assert main([*command[:4], str(tmp_path / "whole"), "steps=4"]) == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads(end.read_text())["finished"]


def test_a_second_ctrl_c_stops_without_saving(tmp_path, config, monkeypatch):
    signalled(monkeypatch, signal.SIGINT, signal.SIGINT)
    assert main(["teach", "--config", str(config), "--out", str(tmp_path / "out"), "steps=4"]) == 130
    assert not (tmp_path / "out").exists()


def test_scoring_that_is_interrupted_is_done_by_the_next_call(tmp_path, config, monkeypatch, capsys):
    real = teach_module._score

    def score(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    command = ["teach", "--config", str(config), "--out", str(tmp_path / "out"), "steps=1"]
    with monkeypatch.context() as patched:
        patched.setattr(teach_module, "_score", score)
        assert main(command) == 130
    assert "The same command goes on from here." in capsys.readouterr().out
    assert json.loads((tmp_path / "out/frame.json").read_text())["scores"] is None
    assert main(command) == 0
    assert json.loads((tmp_path / "out/frame.json").read_text())["scores"]["frames"] == 8


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_figures_that_cannot_be_written_are_told(tmp_path, config, capsys):
    command = ["teach", "--config", str(config), "--out", str(tmp_path / "out"), "--json", "/dev/full", "steps=1"]
    assert main([*command, "data.validation=[]"]) == 1
    assert "sdt-distill teach: cannot write /dev/full: No space left" in capsys.readouterr().err
    assert (tmp_path / "out/model.safetensors").is_file()


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
