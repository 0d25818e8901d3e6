"""`sdt-distill uncertainty`: a head that is fitted to what a trained network is off by."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdt_distill.cli import main
from sdt_distill.datasets import SampleConfig, open_dataset, write_bank
from sdt_distill.datasets.simulated_config import SimulatedConfig
from sdt_distill.uncertainty.fit import FitConfig, fit, losses
from sdt_distill.uncertainty.mistakes import Comparer, Mistakes, joined
from sdt_distill.uncertainty.score import score
from sdt_ros.lens import focal_length
from sdt_ros.network import Card, NetworkConfig, UncertaintyHead, build_network, load_checkpoint, save_checkpoint
from sdt_ros.runtime import DepthEstimator

WINDOW_MS = 10.0
SMALL = NetworkConfig(embed_dim=16, depth=1, heads=1, head_widths=(8, 8, 8, 8, 8))


def mistakes(windows: int, seed: int, size: tuple[int, int] = (32, 48)) -> Mistakes:
    """A network that is off by .1 or .4 in places, and by .05 or .8 in scale, as the first features say."""
    random = torch.Generator().manual_seed(seed)
    height, width = size
    coarse = torch.rand((windows, 8, height // 16, width // 16), generator=random)
    fine = torch.rand((windows, 8, height // 8, width // 8), generator=random)
    sure, clear = torch.rand(windows, generator=random) < 0.5, torch.rand(windows, 2, generator=random) < 0.5
    coarse[:, 0] = sure[:, None, None] * 1.0
    left, right = fine[..., : width // 16], fine[..., width // 16 :]
    left[:, 0], right[:, 0] = clear[:, :1, None] * 1.0, clear[:, 1:, None] * 1.0
    spread = torch.where(fine[:, :1] > 0.5, 0.1, 0.4).repeat_interleave(8, -1).repeat_interleave(8, -2)[:, 0]
    place = laplace(spread, random)
    place[:, :2] = math.nan
    scale = laplace(torch.where(sure, 0.05, 0.8), random)
    log_depth = torch.rand((windows, 1, height, width), generator=random)
    return Mistakes(coarse.half(), fine.half(), log_depth.half(), place.half(), scale)


def laplace(b: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    sign = torch.where(torch.rand(b.shape, generator=random) < 0.5, -1.0, 1.0)
    return -torch.log(torch.rand(b.shape, generator=random).clamp_min(1e-6)) * b * sign


def test_the_head_learns_where_a_network_is_off() -> None:
    head = fit(SMALL, [mistakes(512, 1), mistakes(128, 2, (48, 32))], FitConfig(epochs=12, lr=1e-2))
    held_out = mistakes(256, 3)
    told = held_out.told_by(head).detach().exp()
    assert told.shape == (256, 2, 32, 48)
    sure = held_out.coarse[:, 0, 0, 0] > 0.5
    assert float(told[sure, 0].median()) == pytest.approx(math.sqrt(2) * 0.05, rel=0.4)
    assert float(told[~sure, 0].median()) == pytest.approx(math.sqrt(2) * 0.8, rel=0.4)
    clear = held_out.fine[:, 0, 1, 1] > 0.5
    assert float(told[clear, 1, 8, 8].median()) == pytest.approx(math.sqrt(2) * 0.1, rel=0.3)
    assert float(told[~clear, 1, 8, 8].median()) == pytest.approx(math.sqrt(2) * 0.4, rel=0.3)
    found = score(head, held_out)
    assert found["windows"] == 256 and found["pixels"] == 256 * 30 * 48, "pixels without truth are not counted"
    assert found["within_1_deviation"] == pytest.approx(0.75, abs=0.06)
    assert found["surest"][0]["delta1"] > found["surest"][-1]["delta1"] + 0.2
    assert found["scale"]["pixels"] == 256 and found["scale"]["within_1_deviation"] == pytest.approx(0.757, abs=0.09)


def test_the_loss_is_that_of_laplace_s_distribution() -> None:
    head, some = UncertaintyHead(SMALL).eval(), mistakes(3, 4)
    told = some.told_by(head).double()
    scale, place = losses(head, some)
    b = told.exp() / math.sqrt(2)
    expected = -torch.distributions.Laplace(0.0, b[:, 0, 0, 0]).log_prob(some.scale.double()).mean() - math.log(2)
    assert scale.item() == pytest.approx(float(expected), abs=1e-4)
    known = some.place.isfinite()
    likelihood = torch.distributions.Laplace(0.0, b[:, 1]).log_prob(torch.where(known, some.place.double(), 0.0))
    of_pictures = (likelihood * known).flatten(1).sum(1) / known.flatten(1).sum(1)
    assert place.item() == pytest.approx(float(-of_pictures.mean()) - math.log(2), abs=1e-4)


def test_fitting_repeats_and_leaves_the_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    one, two = (fit(SMALL, [mistakes(64, 1)], FitConfig(epochs=1, seed=5)).state_dict() for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = fit(SMALL, [mistakes(64, 1)], FitConfig(epochs=1, seed=6)).state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_windows_of_one_size_are_joined() -> None:
    groups = joined([mistakes(3, 1), mistakes(2, 2, (48, 32)), mistakes(4, 3)])
    assert sorted((len(group), tuple(group.place.shape[1:])) for group in groups) == [(2, (48, 32)), (7, (32, 48))]


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="no mistakes"):
        fit(SMALL, [])
    with pytest.raises(ValueError, match="epochs is 0"):
        FitConfig(epochs=0)
    with pytest.raises(ValueError, match="lr is nan"):
        FitConfig(lr=math.nan)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights without a head, and two banks."""
    made = tmp_path_factory.mktemp("uncertainty")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(SMALL)
    card = Card(
        network=SMALL, trained=True, training_data="x", steps=1, input_scale=0.5, focal_px=50.0, window_ms=WINDOW_MS
    )
    save_checkpoint(made / "w.safetensors", network, card)
    save_checkpoint(made / "half.safetensors", network, card, half=True)
    for name, seed in (("one", 1), ("two", 2)):
        tiny = {"camera": "64x48", "group": 4, "texture_sets": 1, "window_ms": WINDOW_MS, "seed": seed, "samples": 12}
        write_bank(made / name, SimulatedConfig.from_dict(tiny))
    return made


def test_weights_get_a_head_and_keep_their_depth(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out, figures = folder / "w.safetensors", folder / "out.safetensors", folder / "figures.json"
    command = ["uncertainty", "--weights", str(weights), "--device", "cpu", "--held-out", str(folder / "two")]
    shown = folder / "shown.png"
    command += ["--json", str(figures), "--picture", str(shown)]
    assert main([*command, "--data", str(folder / "one"), "--out", str(out)]) == 0
    with Image.open(shown) as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert pixels.shape[1] == 1398 and pixels.shape[0] > 4 * 150, "a row of each of the four families"
    assert len(np.unique(pixels[300:, 700:].reshape(-1, 3), axis=0)) > 50
    before, after = load_checkpoint(weights)[0], load_checkpoint(out)[0]
    card = load_checkpoint(out)[1]
    assert card.uncertainty == "12 windows of one" and card.training_data == "x"
    spikes = (torch.rand((1, 4, 2, 24, 32)) < 0.1).float()
    with torch.no_grad():
        assert torch.equal(before(spikes), after(spikes))
        assert after(spikes, with_uncertainty=True).shape == (1, 3, 24, 32)
    told = json.loads(figures.read_text())
    assert told == card.scores["uncertainty"] and told["two"]["windows"] == 12
    assert "two: the truth is within one deviation for" in capsys.readouterr().out
    assert main(["uncertainty", "--weights", str(out), "--device", "cpu", "--held-out", str(folder / "two")]) == 0
    assert f"{told['two']['within_1_deviation']:.0%} of the pixels" in capsys.readouterr().out
    command = ["uncertainty", "--weights", str(folder / "half.safetensors"), "--data", str(folder / "one")]
    assert main([*command, "--device", "cpu", "--epochs", "1", "--out", str(folder / "small.safetensors")]) == 0
    assert (folder / "small.safetensors").stat().st_size < 0.7 * out.stat().st_size, "as precise as it was"


def test_depth_is_compared_as_the_evaluation_does(folder: Path) -> None:
    network, card = load_checkpoint(folder / "w.safetensors")
    dataset = open_dataset(folder / "one", config=SampleConfig(WINDOW_MS, frames=False))
    found = Comparer(network, card, torch.device("cpu"))(dataset, "one")
    estimator = DepthEstimator.from_checkpoint(folder / "w.safetensors", "cpu")
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample.intrinsics is not None
        focal_px = focal_length(sample.intrinsics)
        depth = estimator(sample.spikes, focal_px=focal_px)
        reach = min(80.0, card.depth_range.max_m * 0.5 * focal_px / 50.0)  # at half the resolution, learnt at 50 px
        truth = torch.from_numpy(sample.depth)
        error = torch.log(truth / torch.from_numpy(depth))[truth <= reach]
        assert float(found.scale[index]) == pytest.approx(float(error.nanmedian()), abs=0.05)
        inner = found.place[index].float()
        assert float(inner[inner.isfinite()].median()) == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--data", "one"], 2, "go together"),
        (["--out", "new.safetensors", "--held-out", "two"], 2, "go together"),
        ([], 2, "nothing to do"),
        (["--data", "one", "--held-out", "one", "--out", "new.safetensors"], 2, "in --data and in --held-out"),
        (["--data", "one", "--out", "w.safetensors"], 2, "would overwrite"),
        (["--data", "one", "--out", "new.safetensors", "--json", "new.json"], 2, "would overwrite"),
        (["--data", "one", "--out", "new.safetensors", "--seed", "-1"], 2, "--seed is -1"),
        (["--data", "one", "--out", "new.safetensors", "--picture", "new.png"], 2, "draws what is held out"),
        (["--held-out", "two", "two"], 2, "two data sets called two"),
        (["--held-out", "two", "--epochs", "3"], 2, "--epochs has no effect without --data"),
        (["--held-out", "two", "--seed", "0"], 2, "--seed has no effect without --data"),
        (["--held-out", "two", "--picture", "new.gif"], 2, "is no .png file"),
        (["--held-out", "two"], 1, "has no head for uncertainty"),
        (["--data", "nowhere", "--out", "new.safetensors"], 1, "nowhere"),
        (["--data", "one", "--out", "new.pt"], 2, "new.pt is no .safetensors file"),
    ],
)
def test_wrong_arguments_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    given = [each if each.startswith("-") or each.isdigit() else str(folder / each) for each in arguments]
    assert main(["uncertainty", "--weights", str(folder / "w.safetensors"), "--device", "cpu", *given]) == code
    assert said in capsys.readouterr().err
    assert not (folder / "new.safetensors").exists()


def test_untrained_weights_get_no_head(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(folder / "raw.safetensors", build_network(SMALL), Card(network=SMALL))
    command = ["uncertainty", "--weights", str(folder / "raw.safetensors"), "--data", str(folder / "one")]
    assert main([*command, "--out", str(folder / "new.safetensors"), "--device", "cpu"]) == 1
    assert "untrained" in capsys.readouterr().err
