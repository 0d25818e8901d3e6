"""Training on a GPU: Triton's norms there, and steps replayed as CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from training_runs import smoke, write_banks

from sdt_distill.kernels import layers, use_fused_layers
from sdt_distill.training.config import OptimiserConfig
from sdt_distill.training.engine import Trainer
from sdt_distill.training.graphed import GraphedStep
from sdt_distill.training.optimise import make_optimiser, set_learning_rate
from sdt_ros.network import NetworkConfig, build_network, synthetic_events

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]

TINY = NetworkConfig(embed_dim=32, depth=1, heads=2, mlp_ratio=2, head_widths=(16, 12, 8, 8, 8))
GPU = torch.device("cuda", 0)


def difference(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("channels", [8, 12, 96, 256])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_norms_are_those_of_double_precision(channels: int, pooled: bool, held: bool) -> None:
    kernels = layers._triton_norms(GPU)
    assert kernels is not None
    torch.manual_seed(0)
    x = torch.randn(8, channels, 34, 46) * 2 + 7
    ours, exact = nn.BatchNorm2d(channels).to(GPU), nn.BatchNorm2d(channels).double()
    if held:
        for norm in (ours, exact):
            norm.eval()
            norm.running_mean.fill_(6)  # type: ignore[union-attr,operator]
            norm.running_var.fill_(3)  # type: ignore[union-attr,operator]
    a, b = x.to(GPU).requires_grad_(), x.double().requires_grad_()
    if pooled:
        found, wanted = kernels.norm_pool(ours, a), functional.max_pool2d(exact(b), 2)
    else:
        found, wanted = kernels.norm_mean(ours, a, 4), exact(b).unflatten(0, (4, 2)).mean(0)
    grad = torch.randn(wanted.shape)
    found.backward(grad.to(GPU))
    wanted.backward(grad.double())
    assert a.grad is not None and b.grad is not None and ours.weight.grad is not None
    pairs = [
        (found, wanted),
        (a.grad, b.grad),
        (ours.weight.grad, exact.weight.grad),
        (ours.bias.grad, exact.bias.grad),
    ]
    pairs += [(ours.running_mean, exact.running_mean), (ours.running_var, exact.running_var)]
    for mine, theirs in pairs:
        assert mine is not None and theirs is not None
        assert difference(mine, theirs) < 1e-5


def learner(network: nn.Module) -> tuple[Callable[[Tensor, Tensor], Tensor], torch.optim.Optimizer]:
    optimiser = make_optimiser([network], OptimiserConfig(lr=1e-3, decoder_rate=1))

    def step(spikes: Tensor, wanted: Tensor) -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss = (network(spikes) - wanted).square().mean()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step, optimiser


def test_replayed_steps_learn_what_others_do() -> None:
    """Two shapes in turn, more often than it takes to capture both, with a learning rate that moves."""
    torch.manual_seed(0)
    first = use_fused_layers(build_network(TINY)).to(GPU).train()
    batches = [
        (
            synthetic_events(4, height, 64).expand(2, -1, -1, -1, -1).contiguous().to(GPU),
            torch.rand(2, 1, height, 64, device=GPU),
        )
        for height in (48, 64)
    ]
    found: list[list[float]] = []
    for graphed in (False, True):
        network = copy.deepcopy(first)
        step, optimiser = learner(network)
        replayed = GraphedStep(step)
        losses = []
        for turn in range(14):
            set_learning_rate(optimiser, 2e-3 / (1 + turn))
            losses.append((replayed if graphed else step)(*batches[turn % 2]).item())
        assert len(replayed._graphs) == (2 if graphed else 0)
        found.append(losses)
    assert found[0][-1] < 0.9 * found[0][1]
    assert found[1] == pytest.approx(found[0], rel=5e-3)


def test_a_run_is_the_same_replayed_or_not(tmp_path: Path) -> None:
    banks = write_banks(tmp_path / "banks", samples=8)
    scores = []
    for graph in ("off", "on"):
        config = smoke(
            banks, f"run.graph='{graph}'", "run.device=cuda", "data.resident=true", "run.steps=12", "run.save_every=6"
        )
        trainer = Trainer(config, tmp_path / graph)
        outcome = trainer.run(progress=False)
        assert outcome.finished and outcome.scores is not None
        assert trainer.taps.rates and all(0 <= float(rate) <= 1 for rate in trainer.taps.rates.values())
        scores.append(outcome.scores.mean["rmse_log"])
        again = Trainer(config, tmp_path / graph)
        assert again.step == 12
    assert scores[1] == pytest.approx(scores[0], rel=0.05)
