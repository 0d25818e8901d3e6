"""The decoder's rectifier: ReLU forwards, a leaking gradient backwards."""

import pytest
import torch
from torch.nn import functional

from sdt_ros.network import build_network, synthetic_events
from sdt_ros.network.head import FusionHead, Upsample
from sdt_ros.network.rectifier import LEAK, rectify


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("learning", [False, True])
def test_forwards_it_is_relu(dtype: torch.dtype, learning: bool) -> None:
    x = torch.randn(3, 4, 5, 6, dtype=dtype)
    x[0, 0, 0, :2] = torch.tensor([float("nan"), 0.0])
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(learning)
    y = rectify(x)
    torch.testing.assert_close(y, functional.relu(x), rtol=0, atol=0, equal_nan=True)
    assert y.dtype == dtype and y.stride() == functional.relu(x).stride()
    assert y.requires_grad == learning


def test_backwards_it_leaks() -> None:
    x = torch.tensor([-3.0, -1e-6, 0.0, 1e-6, 2.0], requires_grad=True)
    rectify(x).backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([1 * LEAK, 2 * LEAK, 3 * LEAK, 4.0, 5.0]))


def test_a_dead_channel_comes_back() -> None:
    """A decoder step whose channels are all below 0 gives one depth everywhere; with a plain ReLU it would for ever."""
    torch.manual_seed(0)
    step = Upsample(4, 2, 3, refine=False)
    torch.nn.init.constant_(step.lateral.bn.bias, -4.0)
    depth = torch.nn.Conv2d(3, 1, 3, padding=1)
    coarse, skip = torch.rand(2, 4, 8, 8), (torch.rand(4, 2, 2, 16, 16) < 0.1).float()
    wanted = functional.interpolate(coarse.mean(1, keepdim=True), scale_factor=2, mode="bilinear")
    optimiser = torch.optim.Adam([*step.parameters(), *depth.parameters()], lr=0.03)
    assert not step(coarse, skip).any()
    for _ in range(600):
        optimiser.zero_grad()
        loss = (depth(step(coarse, skip)) - wanted).square().mean()
        loss.backward()
        optimiser.step()
    assert (step(coarse, skip) > 0).any()
    assert loss < 0.5 * wanted.var()


@pytest.mark.parametrize("preset", ["sdt_tiny", "sdt_small"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_untrained_decoder_is_open(preset: str, seed: int) -> None:
    """Each channel of each step, on events that it was not set by."""
    torch.manual_seed(seed)
    network = build_network(preset).eval()
    assert isinstance(network.head, FusionHead)
    open_share: dict[str, float] = {}
    for name, module in network.head.named_modules():
        if isinstance(module, Upsample):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: open_share.__setitem__(
                    name, float((output > 0).float().mean((0, 2, 3)).min())
                )
            )
    with torch.no_grad():
        network(synthetic_events(4, 96, 128, seed=7))
    assert set(open_share) == {"up8", "up4", "up2", "up1"}
    assert min(open_share.values()) > 0.3, open_share
