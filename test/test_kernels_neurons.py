"""Compiled neurons: the spikes of the plain ones to the bit, their gradients, in every layout and number of threads."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sdt_distill.kernels import FusedMLIF, use_fused_neurons
from sdt_ros.network import MLIF, build_network


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def fused(**constants: float) -> FusedMLIF:
    network = use_fused_neurons(nn.Sequential(MLIF(**constants)))
    assert isinstance(network[0], FusedMLIF)
    return network[0]


def passes(neurons: nn.Module, current: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    leaf = current.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    spikes = neurons(leaf)
    spikes.backward(weight)
    assert leaf.grad is not None
    return spikes.detach(), leaf.grad


def close(ours: Tensor, eager: Tensor) -> None:
    """Gradients of float32 arithmetic in another order; bfloat16 ones are that, rounded: a neighbour at most."""
    rtol = 2**-7 if eager.dtype == torch.bfloat16 else 4e-7
    torch.testing.assert_close(ours, eager, rtol=rtol, atol=4e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", range(1, 9))
def test_random_currents(steps: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(steps)
    current = (torch.randn(steps, 3, 17, 701, generator=generator) * 3 + 1).to(dtype)  # no multiple of any block
    weight = torch.randn(current.shape, generator=generator).to(dtype)
    spikes, grad = passes(fused(), current, weight)
    expected, expected_grad = passes(MLIF(), current, weight)
    assert torch.equal(spikes, expected)
    assert 0 < spikes.float().mean() < 1
    assert grad.dtype == dtype
    close(grad, expected_grad)


@pytest.mark.parametrize("tau", [2.0, 1.5, 3.0, 7.3])
def test_time_constants_whose_inverse_is_no_power_of_two_round_alike(tau: float) -> None:
    """The multiply-add must round once, as torch's does, or charges at the threshold fall on the other side."""
    constants = {"tau": tau, "threshold": 0.7, "alpha": 3.0}
    current = torch.randn(6, 1 << 18, generator=torch.Generator().manual_seed(7)).mul(2).add(0.5)
    # Many charges exactly at the threshold, or one rounding beside it.
    current[0] = torch.tensor(0.7 * tau).nextafter(torch.tensor(9.0)) + torch.randint(-3, 3, (1 << 18,)) * 2**-24
    weight = torch.randn(current.shape)
    spikes, grad = passes(fused(**constants), current, weight)
    expected, expected_grad = passes(MLIF(**constants), current, weight)
    assert torch.equal(spikes, expected)
    close(grad, expected_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thresholds_hit_exactly_and_numbers_that_are_none(dtype: torch.dtype) -> None:
    odd = torch.tensor([2.0, 2.0 - 2**-6, math.inf, -math.inf, math.nan, -0.0, 1e-40, 3e38, -3e38], dtype=dtype)
    current = torch.stack([odd, torch.full_like(odd, 9.0), odd.flip(0), odd])
    weight = torch.ones_like(current)
    spikes, grad = passes(fused(), current, weight)
    expected, expected_grad = passes(MLIF(), current, weight)
    assert torch.equal(spikes, expected)
    assert spikes[0].tolist() == [1, 0, 1, 0, 0, 0, 0, 1, 0]
    assert torch.equal(grad.isnan(), expected_grad.isnan())
    assert grad.isnan().any()
    torch.testing.assert_close(grad, expected_grad, equal_nan=True, rtol=4e-7, atol=4e-7)


def layouts() -> dict[str, Tensor]:
    base = torch.randn(4, 2, 8, 12, 20, generator=torch.Generator().manual_seed(1)) * 3
    return {
        "channels last": base.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (4, 2)),
        "channels and rows swapped": base.transpose(2, 3),
        "time innermost": base.permute(1, 2, 3, 4, 0).contiguous().permute(4, 0, 1, 2, 3),
        "time second": base.transpose(0, 1).contiguous().transpose(0, 1),
        "every other column": base[..., ::2],
        "expanded": base[:, :1].expand(4, 5, 8, 12, 20),
        "an offset": base[1:],
        "one step": base[2:3],
    }


@pytest.mark.parametrize("name", layouts())
def test_layouts(name: str) -> None:
    current = layouts()[name]
    leaf, eager = current.clone().requires_grad_(), current.clone().requires_grad_()
    view = leaf.as_strided(leaf.shape, leaf.stride())
    if not current.is_contiguous() and name in ("every other column", "expanded"):
        assert torch.equal(fused()(current), MLIF()(current))  # a clone of these would be dense
    spikes, expected = fused()(view), MLIF()(eager)
    assert torch.equal(spikes, expected)
    assert spikes.stride() == expected.stride()
    weight = torch.randn(current.shape)  # contiguous, whatever the spikes are
    spikes.backward(weight)
    expected.backward(weight)
    assert leaf.grad is not None
    assert eager.grad is not None
    close(leaf.grad, eager.grad)


@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_changes_no_bit() -> None:
    current, weight = torch.randn(4, 100_003) * 3, torch.randn(4, 100_003)
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        results.append(passes(fused(), current, weight))
    for spikes, grad in results[1:]:
        assert torch.equal(spikes, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_no_currents_give_no_spikes() -> None:
    empty = torch.empty(4, 0, 3, requires_grad=True)
    spikes = fused()(empty)
    assert spikes.shape == (4, 0, 3)
    spikes.sum().backward()


def test_float64_is_left_to_the_plain_neurons() -> None:
    current = torch.randn(4, 50, dtype=torch.float64)
    assert torch.equal(fused()(current), MLIF()(current))


def test_spikingjelly_agrees() -> None:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron", reason="spikingjelly is not installed")
    surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")
    theirs = neuron.LIFNode(
        tau=2.0, v_threshold=1.0, v_reset=0.0, detach_reset=True, step_mode="m", surrogate_function=surrogate.ATan(2.0)
    )
    current, weight = torch.randn(4, 5000) * 3, torch.randn(4, 5000)
    spikes, grad = passes(fused(), current, weight)
    expected, expected_grad = passes(theirs, current, weight)
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(grad, expected_grad, rtol=4e-7, atol=4e-7)


def test_a_whole_network_is_swapped_and_answers_the_same() -> None:
    torch.manual_seed(0)
    network = build_network("sdt_tiny")
    names = list(network.state_dict())
    spikes = (torch.rand(1, 4, 2, 64, 80) < 0.1).float()
    network.eval()
    expected = network(spikes)
    assert use_fused_neurons(network) is network
    assert all(type(m) is FusedMLIF for m in network.modules() if isinstance(m, MLIF))
    assert list(network.state_dict()) == names
    assert torch.equal(network(spikes), expected)
    use_fused_neurons(network)  # once more changes nothing


def test_what_cannot_be_swapped_is_refused() -> None:
    class Other(MLIF):
        pass

    with pytest.raises(ValueError, match="1 is a Other"):
        use_fused_neurons(nn.Sequential(MLIF(), Other()))
    with pytest.raises(ValueError, match="Linear has no MLIF"):
        use_fused_neurons(nn.Linear(2, 2))
