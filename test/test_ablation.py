"""Ablations: arms differ in one thing only; what is finished stays; tables, plot and page say what came out."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from miniatures import write_dense
from PIL import Image

from sdt_distill.ablation import runner
from sdt_distill.ablation.document import put_section
from sdt_distill.ablation.questions import QUESTIONS
from sdt_distill.ablation.runner import AblationError, HeldOut, folder_of, plan, run_trials
from sdt_distill.ablation.table import markdown, summarise
from sdt_distill.cli import main
from sdt_distill.losses import LossConfig
from sdt_distill.networks import AnnTwin, E2Depth, build
from sdt_distill.training.config import TrainingConfig, load_config
from sdt_distill.training.data import open_source
from sdt_distill.training.engine import Trainer
from sdt_distill.training.state import StateError
from sdt_distill.training.tree import from_plain, to_plain, without_defaults

CONFIG = """\
network: {{name: sdt_tiny, embed_dim: 16, heads: 2, depth: 1, mlp_ratio: 1, head_widths: [8, 8, 8, 4, 4]}}
data:
  sources: [{{kind: dense, path: {root}}}]
  validation: [{{kind: dense, path: {root}}}]
  size: [32, 48]
run: {{steps: 2, batch: 2, log_every: 1, pictures_every: 0, precision: float32, fused: 'off', seed: 5}}
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    write_dense(folder / "dense")
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(root=folder / "dense"))
    return path


@pytest.fixture(scope="module")
def base(config_file: Path) -> TrainingConfig:
    return load_config(config_file)


def differing(one: object, other: object, where: str = "") -> set[str]:
    """Dotted keys in which two plain configs differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = set(one) | set(other)
        return set().union(*(differing(one.get(k), other.get(k), f"{where}.{k}".strip(".")) for k in keys))
    return set() if one == other else {where}


@pytest.mark.parametrize("name, key", [("attention", "attention"), ("head", "head"), ("neuron", "neuron")])
def test_arms_differ_in_what_is_asked_and_nothing_else(base: TrainingConfig, name: str, key: str) -> None:
    trials = plan(QUESTIONS[name], base, 7, 2, Path("out"))
    first = to_plain(trials[0].config)
    arms = len(QUESTIONS[name].arms)
    assert [t.seed for t in trials] == [5] * arms + [6] * arms
    assert len({t.folder for t in trials}) == len(trials)
    for trial in trials:
        plain = to_plain(trial.config)
        assert plain["run"]["steps"] == 7
        assert differing(plain, first) <= {f"network.{key}", "run.seed"}
    values = [to_plain(t.config)["network"][key] for t in trials[:arms]]
    assert len(set(values)) == arms
    assert values[0] == to_plain(base)["network"].get(key, values[0]), "the first arm is the config itself"


def test_peers_are_what_their_arms_say(base: TrainingConfig, config_file: Path) -> None:
    with pytest.raises(AblationError, match=r"'e2depth': there is a peer of equal size for presets only"):
        plan(QUESTIONS["peer"], base, None, 1, Path("out"))
    tiny = load_config(config_file, ["network=sdt_tiny"])
    trials = plan(QUESTIONS["peer"], tiny, None, 1, Path("out"))
    networks = [build(trial.config.network, trial.config.data.bins) for trial in trials]
    assert [isinstance(network, AnnTwin) for network in networks] == [False, True, False]
    assert isinstance(networks[2], E2Depth)
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert max(sizes) < 1.01 * min(sizes)
    assert trials[0].config.run.steps == 2


def test_distillation_takes_the_teacher_away_and_leaves_the_depth_losses(
    base: TrainingConfig, config_file: Path
) -> None:
    with pytest.raises(AblationError, match=r"no distillation to leave out.*loss\.feature"):
        plan(QUESTIONS["distillation"], base, None, 1, Path("out"))
    plain = to_plain(base)
    plain["loss"] |= {"feature": 0.5, "pairs": [["blocks.0", "layer"]]}
    without, taught = (arm.change(copy.deepcopy(plain)) for arm in QUESTIONS["distillation"].arms)
    assert taught == plain
    unused = {"loss.pairs", "loss.feature_mask", "loss.min_events", "loss.similarity_patches"}
    assert differing(without, plain) <= {"loss.feature", "teacher", *unused}
    assert without["loss"]["feature"] == 0
    assert without["loss"]["depth"] == plain["loss"]["depth"] > 0


def test_what_cannot_be_ablated_is_refused(config_file: Path) -> None:
    for settings, message in [
        (["network=e2depth_tiny"], r"'network' is 'e2depth_tiny'.*start from a spiking network"),
        (["data.validation=[]"], "'data.validation' is empty"),
    ]:
        with pytest.raises(AblationError, match=message):
            plan(QUESTIONS["head"], load_config(config_file, settings), None, 1, Path("out"))


def test_two_arms_two_seeds_end_to_end(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, page = tmp_path / "out", tmp_path / "docs" / "ablations.md"
    page.parent.mkdir()
    page.write_text("# Ours\n\nkept\n")
    command = ["ablate", "neuron", "--config", str(config_file), "--out", str(out), "--seeds", "2", "--samples", "2"]
    command += ["--doc", str(page), "--json", str(tmp_path / "x.json")]
    threads = torch.get_num_threads()
    assert main(command) == 0
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "x.json").read_text())
    assert content == json.loads((out / "neuron.json").read_text())
    assert list(content["arms"]) == ["mlif", "relu"]
    assert [(t["arm"], t["seed"]) for t in content["trials"]] == [("mlif", 5), ("relu", 5), ("mlif", 6), ("relu", 6)]
    for arm in content["arms"].values():
        assert arm["seeds"] == [5, 6]
        assert (arm["steps"], arm["samples"]) == (2, 4)
        figure = arm["figures"]["rmse_log"]
        assert figure["mean"] == pytest.approx(sum(figure["seeds"]) / 2)
        assert figure["std"] == pytest.approx(abs(figure["seeds"][0] - figure["seeds"][1]) / math.sqrt(2))
        assert figure["std"] > 0, "seeds that change nothing are no seeds"
        assert arm["figures"]["samples_per_second"]["mean"] > 0
        assert arm["figures"]["reversed.rmse_log"]["mean"] > 0
    energy = [arm["figures"]["energy_mj"]["mean"] for arm in content["arms"].values()]
    assert 0 < energy[0] < energy[1], "the twin multiplies"
    assert content["arms"]["mlif"]["figures"]["firing_rate"]["mean"] > 0
    assert (
        "firing_rate" not in content["arms"]["relu"]["figures"]
        or not content["arms"]["relu"]["figures"]["firing_rate"]["seeds"]
    )
    assert "| mlif | 2 |" in printed
    assert "*floor: mean map*" in printed
    assert Image.open(out / "neuron.png").size[0] > 300
    text = page.read_text()
    assert text.startswith("# Ours\n\nkept\n")
    assert "sdt-distill ablate neuron --config" in text
    assert (page.parent / "images/ablation_neuron.png").is_file()
    assert "Not finished" not in text

    # The same again trains nothing, and gives the same.
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a finished trial was trained again")

    monkeypatch.setattr("sdt_distill.ablation.runner.Trainer", refuse)
    assert main(command) == 0
    assert json.loads((tmp_path / "x.json").read_text()) == content
    assert page.read_text() == text
    capsys.readouterr()
    assert main([*command, "run.log_every=2"]) == 0, "how often it is logged makes no other experiment"
    with pytest.raises(AssertionError, match="trained again"):
        main([*command, "optimiser.lr=1e-4"])


def test_arms_that_are_the_same_training_are_trained_once(base: TrainingConfig) -> None:
    def folders(question: str, base: TrainingConfig) -> list[Path]:
        return [trial.folder for trial in plan(QUESTIONS[question], base, None, 1, Path("out"))]

    first = folders("attention", base)[0]
    assert folders("head", base)[0] == folders("neuron", base)[0] == first
    taught = to_plain(base)
    taught["loss"] |= {"feature": 0.5, "pairs": [["blocks.0", "layer"]]}
    taught["teacher"] = {"kind": "frame", "weights": "there"}
    assert folders("distillation", from_plain(TrainingConfig, taught))[0] == first
    assert len({*folders("attention", base), *folders("head", base), *folders("neuron", base)}) == 5


def test_a_key_of_a_later_version_makes_no_other_trial(base: TrainingConfig) -> None:
    """Finished arms are found by the name of their folder."""

    @dataclasses.dataclass(frozen=True)
    class Later(LossConfig):
        new: float = 0.0

    later = dataclasses.replace(base, loss=Later(**dataclasses.asdict(base.loss)))
    assert without_defaults(later) == without_defaults(base)
    assert without_defaults(later)["run"]["steps"] == 2, "what is decided is told"
    loss = dataclasses.replace(base.loss, depth=3.25)
    assert folder_of(dataclasses.replace(base, loss=loss)) != folder_of(base)


def test_results_of_one_table_are_scored_on_the_same_samples(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, trained = runner.Trainer, []

    def trainer(config: TrainingConfig, folder: Path) -> Trainer:
        trained.append(config.run.seed)
        return real(config, folder)

    monkeypatch.setattr(runner, "Trainer", trainer)
    command = ["ablate", "head", "--config", str(config_file), "--out", str(tmp_path)]
    assert main([*command, "--seeds", "1", "--samples", "1"]) == 0
    more = [*command, "--seeds", "2", "--samples", "2"]
    capsys.readouterr()
    assert main([*more, "--max-minutes", "1e-9"]) == 3
    assert "4 of 4 trials are left" in capsys.readouterr().out, "what is scored otherwise is not in the table"
    assert main(more) == 0
    assert trained == [5, 5, 6, 6], "weights that are there are scored again, not trained again"
    trials = json.loads((tmp_path / "head.json").read_text())["trials"]
    assert [(t["seed"], t["scored_on"], t["scores"]["counts"]["samples"]) for t in trials] == [
        (5, 2, 2), (5, 2, 2), (6, 2, 2), (6, 2, 2),
    ]  # fmt: skip


def test_a_result_of_an_earlier_version_counts_by_the_samples_that_it_has(
    base: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = plan(QUESTIONS["head"], base, 1, 1, tmp_path)[0]
    path = trial.folder / "result.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"seed": 5, "failed": None, "scores": {"counts": {"samples": 2}}}))
    scored = []
    monkeypatch.setattr(runner, "score_trial", lambda trial, samples: scored.append(samples) or {"failed": "no"})
    assert [result["seed"] for result in run_trials([trial], 60.0, 2, progress=False)] == [5]
    with pytest.raises(StateError, match=rf"{path}: scored on another .* than 3, and .*last\.safetensors is gone"):
        run_trials([trial], 60.0, 3, progress=False)
    assert not scored
    (trial.folder / "last.safetensors").touch()
    run_trials([trial], 60.0, 3, progress=False)
    assert scored == [3]


@pytest.mark.parametrize(
    "text, message",
    [("{", "cannot be read: no JSON"), ("[]", "no result of a trial"), ('{"failed": null}', "no result of a trial")],
)
def test_a_broken_result_is_named(
    config_file: Path, base: TrainingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = plan(QUESTIONS["head"], base, None, 1, tmp_path)[0].folder / "result.json"
    path.parent.mkdir()
    path.write_text(text)
    assert main(["ablate", "head", "--config", str(config_file), "--out", str(tmp_path), "--seeds", "1"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"sdt-distill ablate: {path}: {message}")
    assert line.endswith("; delete it, and the trial is scored again")


def test_a_teacher_that_is_not_there_is_told_before_any_arm_is_trained(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("an arm was trained")

    monkeypatch.setattr(runner, "Trainer", refuse)
    command = ["ablate", "distillation", "--config", str(config_file), "--out", str(tmp_path), "--seeds", "1"]
    command += ["loss.proxy=1", "teacher.kind=onnx", "teacher.pixels=byte"]
    assert main([*command, f"teacher.weights={tmp_path / 'nothere.onnx'}"]) == 1
    assert f"teacher weights {tmp_path / 'nothere.onnx'}: no such file" in capsys.readouterr().err


def test_a_disk_that_is_full_is_no_result(
    base: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, tensors: object, values: object) -> None:
        raise OSError(28, "No space left on device")

    trials = plan(QUESTIONS["head"], base, 1, 1, tmp_path)[:1]
    monkeypatch.setattr("sdt_distill.training.engine.save_state", full)
    with pytest.raises(OSError, match="No space left"):
        run_trials(trials, 60.0, 0, progress=False)
    assert trials[0].result is None
    monkeypatch.undo()
    (result,) = run_trials(trials, 60.0, 0, progress=False)
    assert result["failed"] is None


def test_held_out_data_of_two_sizes_are_groups_of_their_own(base: TrainingConfig) -> None:
    (one,) = base.data.validation
    other = dataclasses.replace(one, size=(24, 40))
    sources = [open_source(each, base.data, frames=False) for each in (one, other)]
    sizes: dict[str, set[tuple[int, ...]]] = {}
    for window in HeldOut(sources, 0):
        sizes.setdefault(window.group, set()).add(window.spikes.shape)
    assert all(len(each) == 1 for each in sizes.values())
    assert len(sizes) == 2 * len({window.group for window in HeldOut(sources[:1], 0)})


def test_time_that_is_over_says_so_and_the_next_call_goes_on(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ablate", "head", "--config", str(config_file), "--out", str(tmp_path), "--seeds", "1", "--samples", "1"]
    assert main([*command, "--max-minutes", "1e-9"]) == 3
    assert "2 of 2 trials are left" in capsys.readouterr().out
    assert main(command) == 0


def test_an_arm_that_diverges_is_a_result(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdt_distill.training.engine import Trainer, TrainingError

    real = Trainer.run

    def run(self: Trainer, *args: object, **kwargs: object) -> object:
        if self.config.network["head"] == "linear":
            raise TrainingError("step 1: loss is NaN")
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "run", run)
    command = ["ablate", "head", "--config", str(config_file), "--out", str(tmp_path), "--seeds", "1", "--samples", "1"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| linear | 0 | - |" in printed
    assert "linear, seed 5, failed: step 1: loss is NaN" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [(["ablate", "head", "--config", "nowhere.yaml", "--out", "x"], "nowhere.yaml: cannot be read"),
     (["ablate", "head", "--config", "nowhere.yaml", "--out", "x", "--samples", "-1"], "--samples is -1"),
     (["ablate", "head", "--config", "nowhere.yaml", "--out", "x", "--json", "."], "--json . is a folder")],
)  # fmt: skip
def test_wrong_arguments_are_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, message", [("--seeds", "--seeds: 'a' is no whole number"), ("--max-minutes", "'a' is no number")]
)
def test_what_is_no_number_is_told(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["ablate", "head", "--config", "x", "--out", "x", option, "a"])
    assert message in capsys.readouterr().err


def test_sections_are_rewritten_in_their_places(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    put_section(page, "head", "first text\n")
    put_section(page, "neuron", "second text")
    put_section(page, "head", "third text")
    text = page.read_text()
    assert text.startswith("# Ablations")
    assert text.index("third text") < text.index("second text")
    assert "first text" not in text
    page.write_text(text.replace("<!-- end of head -->", ""))
    with pytest.raises(ValueError, match="not closed"):
        put_section(page, "head", "four")


def test_one_seed_has_no_spread() -> None:
    metric = {"network": {"abs_rel": 0.5, "rmse_log": 0.6, "delta1": 0.4}}
    metric |= {"constant median": metric["network"], "mean map": metric["network"]}
    scores = {
        "metric": metric, "energy_mj": 1.0, "firing_rates": {"stem.downs.0.conv_bn.conv": 0.01, "blocks.0": 0.2},
        "probes": {p: {"metric": metric["network"]} for p in ("blank", "first_bin", "reversed")},
        "groups": {}, "bands": [], "counts": {"frames_scored": 3},
    }  # fmt: skip
    result = {
        "arm": "a", "seed": 0, "failed": None, "steps": 1, "samples": 2, "parameters": 1500000,
        "samples_per_second": 10.0, "scores": scores,
    }  # fmt: skip
    summary = summarise([result])
    assert summary["arms"]["a"]["figures"]["firing_rate"]["mean"] == 0.2, "the rate of the events is the sensor's"
    assert "| a | 1 | 0.5000 | 0.6000 | 0.4000 | 1.50 M | 1.000 | 0.200 | 10.0 |" in markdown(summary)
