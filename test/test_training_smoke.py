"""Whole runs of the smoke config: with teachers, killed, and in two processes."""

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import SMOKE, settings, smoke, write_banks

from sdt_distill.training.engine import Trainer, TrainingError
from sdt_distill.training.log import read_log
from sdt_distill.training.state import StateError
from sdt_ros.network import CheckpointError, load_card
from sdt_ros.runtime import DepthEstimator

ONNX = Path(__file__).parents[2] / "shared/data/teacher/tcmonodepth_tcsmallnet_192x320.onnx"


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    return write_banks(tmp_path_factory.mktemp("banks"))


def losses(folder, key="loss"):
    return [row[key] for row in read_log(folder) if row["kind"] == "train"]


def train(config, out):
    return Trainer(config, out).run(progress=False)


def start(banks, out, *more, launcher=("-m",), group=False):
    command = [sys.executable, *launcher, "sdt_distill.cli", "train", "--config", SMOKE, "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*map(str, command), *settings(banks, *more)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=group,
    )  # fmt: skip


def test_learns_and_the_node_loads_it(banks, tmp_path):
    outcome = train(smoke(banks), tmp_path)
    assert outcome.finished and outcome.step == 40
    curve = losses(tmp_path)
    assert len(curve) == 40
    assert np.mean(curve[30:36]) < 0.85 * np.mean(curve[:6])  # the sixth epoch and the first: the same samples
    estimator = DepthEstimator.from_checkpoint(tmp_path / "best.safetensors", device="cpu")
    assert estimator.card.steps == 40 and estimator.card.input_scale == 0.25
    assert estimator.card.scores["validation"]["rmse_log"] == pytest.approx(outcome.scores.mean["rmse_log"])
    page = (tmp_path / "summary.html").read_text()
    assert "data:image/png" in page and "stem.neurons.0" in page
    assert (tmp_path / "examples.png").stat().st_size > 1000
    if importlib.util.find_spec("tensorboard"):
        (events,) = (tmp_path / "tensorboard").iterdir()
        assert events.stat().st_size > 10_000


def test_learns_from_dinov2(banks, tmp_path):
    pytest.importorskip("transformers", reason="needs the extra distill")
    from teacher_models import save_dino

    save_dino(tmp_path / "dinov2", patch=14)
    teacher = f"{{kind: dino, weights: {tmp_path}/dinov2, patch: 14, layers: [layer.2, last], cache: {tmp_path}/cache}}"
    pairs = "pairs: [[blocks.0, layer.2], [blocks.1, last]]"
    taught = {
        f"{{feature: 1, similarity: 1, {pairs}}}": {"loss": 0.9, "feature": 0.6},
        f"{{depth: 0, gradient: 0, similarity: 1, {pairs}}}": {"similarity": 0.95},  # slow beside other losses
    }
    for number, (loss, parts) in enumerate(taught.items()):
        run = tmp_path / f"run{number}"
        train(smoke(banks, f"teacher={teacher}", f"loss={loss}", "run.steps=30"), run)
        for part, most in parts.items():
            curve = losses(run, part)  # an epoch has six steps
            assert np.mean(curve[-6:]) < most * np.mean(curve[:6]), part
    indices = [json.loads(path.read_text())["frames"] for path in (tmp_path / "cache").glob("*/*.json")]
    frames = [key for each in indices for key in each]
    assert len(frames) == len(set(frames)) == 24  # each frame once, whatever was done to the batch


def test_learns_from_an_onnx_teacher(banks, tmp_path):
    if not ONNX.is_file():
        pytest.skip(f"no teacher at {ONNX}")
    pytest.importorskip("onnxruntime", reason="needs the extra distill")
    teacher = f"{{kind: onnx, weights: {ONNX}, pixels: byte, depth: relative, cache: {tmp_path}}}"
    more = (f"teacher={teacher}", "loss={depth: 0, gradient: 0, proxy: 1}", "run.steps=30")
    train(smoke(banks, *more), tmp_path / "run")
    curve = losses(tmp_path / "run", "proxy")
    assert np.mean(curve[-6:]) < np.mean(curve[:6])


def test_a_killed_run_goes_on_to_the_bit(banks, tmp_path):
    more = ("run.steps=20", "run.save_every=4", "run.log_every=1", "data.validation=[]", "augment.crop=[32, 48]",
            "optimiser.hold_norms=0.55")  # fmt: skip
    train(smoke(banks, *more), tmp_path / "whole")
    killed = start(banks, tmp_path / "killed", *more)
    deadline = time.monotonic() + 60
    while len(losses(tmp_path / "killed")) < 7 and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    output = killed.communicate()[0]
    assert killed.returncode == -signal.SIGKILL, output
    before = losses(tmp_path / "killed")
    assert 7 <= len(before) < 20
    trainer = Trainer(smoke(banks, *more), tmp_path / "killed")
    assert 4 <= trainer.step < 20 and trainer.step % 4 == 0
    trainer.run(progress=False)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    weights = [(tmp_path / name / "last.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_norms_hold_their_statistics_in_the_last_part(banks, tmp_path):
    more = ("run.save_every=6", "optimiser.hold_norms=0.5", "data.validation=[]", "optimiser.ema_decay=0.9")
    config = smoke(banks, *more, "run.steps=12")
    trainer = Trainer(config, tmp_path)
    seen = []
    forward = trainer.network.forward

    def watched(spikes):
        norms = [m for m in trainer.network.modules() if isinstance(m, nn.BatchNorm2d)]
        seen.append((trainer.network.training, {m.training for m in norms}))
        if trainer.step in (6, 11):  # counted from 0
            seen[-1] += ([m.running_var.clone() for m in norms], [m.weight.detach().clone() for m in norms])
        return forward(spikes)

    trainer.network.forward = watched
    trainer.run(progress=False)
    assert [step[:2] for step in seen] == [(True, {True})] * 6 + [(True, {False})] * 6
    first, last = seen[6], seen[11]
    assert all(torch.equal(*pair) for pair in zip(first[2], last[2], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(first[3], last[3], strict=True))
    held = [m.running_var for m in trainer.average.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(*pair) for pair in zip(held, last[2], strict=True))
    assert Trainer(config, tmp_path).step == 12


def test_two_processes_are_one_with_twice_the_batch(banks, tmp_path):
    more = ("run.steps=6", "run.log_every=1", "augment.crop=[32, 48]")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    both = start(banks, tmp_path / "two", *more, "run.batch=2", launcher=launcher)
    output = both.communicate(timeout=120)[0]
    assert both.returncode == 0, output
    train(smoke(banks, *more, "run.batch=4"), tmp_path / "one")
    for part in ("loss", "depth", "rate"):
        assert losses(tmp_path / "two", part) == pytest.approx(losses(tmp_path / "one", part), abs=1e-4), part
    validations = [next(r for r in read_log(tmp_path / n) if r["kind"] == "validation") for n in ("one", "two")]
    assert validations[0]["rmse_log"] == pytest.approx(validations[1]["rmse_log"], rel=1e-3)


def test_stops_at_nan_and_names_the_batch(banks, tmp_path, monkeypatch):
    trainer = Trainer(smoke(banks, "run.save_every=5", "run.log_every=5"), tmp_path)
    stepped = trainer._optimiser.step

    def step(*args):
        stepped(*args)
        if trainer.step == 6:  # what a learning rate far too high does
            next(trainer.network.parameters()).data.fill_(math.nan)

    monkeypatch.setattr(trainer._optimiser, "step", step)
    with pytest.raises(TrainingError, match=r"step 8: .* is NaN or infinite; the state of step 5 .* kept.*train-.*/\d"):
        trainer.run(progress=False)
    again = Trainer(smoke(banks), tmp_path)
    assert again.step == 5
    assert all(torch.isfinite(tensor).all() for tensor in again.network.state_dict().values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_group_saves_and_a_second_run_beside_it_is_refused(banks, tmp_path, number, code):
    """As batch systems and terminals send it: to the makers of batches too."""
    more = ("run.steps=5000", "run.save_every=5000", "run.log_every=1", "data.validation=[]", "data.workers=1")
    run = start(banks, tmp_path, *more, group=True)
    try:
        deadline = time.monotonic() + 60
        while len(losses(tmp_path)) < 5 and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.02)
        if number == signal.SIGTERM:
            with pytest.raises(StateError, match="another process trains there; wait for it"):
                Trainer(smoke(banks, *more), tmp_path).run(progress=False)
        os.killpg(run.pid, number)
        output = run.communicate(timeout=60)[0]
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == code and "Traceback" not in output, output
    assert ("saving behind this step" in output) == (number == signal.SIGINT)
    assert f"step {len(losses(tmp_path))} of 5000" in output and "goes on from here" in output
    assert Trainer(smoke(banks, *more), tmp_path).step == len(losses(tmp_path)) >= 5


def test_weights_to_begin_with_are_needed_once(banks, tmp_path):
    train(smoke(banks, "run.steps=2", "data.validation=[]"), tmp_path / "first")
    weights = tmp_path / "first" / "last.safetensors"
    more = ("data.validation=[]", f"run.start_from={weights}", "run.save_every=1")
    Trainer(smoke(banks, *more, "run.steps=4"), tmp_path / "run").run(max_minutes=1e-9, progress=False)
    weights.unlink()
    trainer = Trainer(smoke(banks, *more, "run.steps=4"), tmp_path / "run")
    assert trainer.step == 1
    trainer.run(progress=False)
    card = load_card(tmp_path / "run" / "last.safetensors")
    assert "before that" in card.training_data and card.training_data.endswith("(2 steps)")
    with pytest.raises(CheckpointError, match="no such file"):
        Trainer(smoke(banks, *more), tmp_path / "new")


def test_time_over_saves_and_goes_on(banks, tmp_path):
    outcome = Trainer(smoke(banks, "data.validation=[]"), tmp_path).run(max_minutes=1e-9, progress=False)
    assert not outcome.finished and outcome.step == 1
    assert Trainer(smoke(banks), tmp_path).step == 1
