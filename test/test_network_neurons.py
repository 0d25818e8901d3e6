"""MLIF: what it computes, and that spikingjelly computes the same."""

import math

import pytest
import torch

from sdt_ros.network import MLIF


def test_a_neuron_worked_by_hand() -> None:
    current = torch.tensor([[1.0], [1.0], [3.0], [0.5], [-8.0], [9.0]])
    # h: .5, .75, 1.875 (fires, v = 0), .25, -3.875, 2.5625 (fires)
    assert MLIF()(current).flatten().tolist() == [0, 0, 1, 0, 0, 1]


def test_it_fires_at_the_threshold_itself() -> None:
    assert MLIF()(torch.tensor([[2.0]])).item() == 1
    assert MLIF(tau=4.0, threshold=0.5)(torch.tensor([[2.0], [1.9]])).flatten().tolist() == [1, 0]


def test_forward_is_the_same_with_and_without_a_graph() -> None:
    current = torch.randn(4, 3, 5, 7, 9)
    assert torch.equal(MLIF()(current), MLIF()(current.clone().requires_grad_()))


def test_no_state_survives_a_call() -> None:
    neurons, current = MLIF(), torch.full((2, 1), 1.9)
    assert torch.equal(neurons(current), neurons(current))


def test_layout_and_dtype_are_those_of_the_input() -> None:
    current = torch.randn(4, 2, 8, 6, 6).flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (4, 2))
    spikes = MLIF()(current.bfloat16())
    assert spikes.dtype == torch.bfloat16
    assert spikes.stride() == current.stride()


def test_membranes_are_float32_whatever_the_currents_are() -> None:
    current = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)).mul(2).bfloat16()
    reference = MLIF()(current.float())
    membrane, rounded = torch.zeros(1000, dtype=torch.bfloat16), []
    for step in current:
        membrane = membrane + (step - membrane) * 0.5
        rounded.append(membrane >= 1)
        membrane = membrane * (membrane < 1)
    assert not torch.equal(torch.stack(rounded).float(), reference), "bfloat16 membranes would show"
    assert torch.equal(MLIF()(current).float(), reference)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(MLIF()(current).float(), reference)
        assert torch.equal(MLIF()(current.requires_grad_()).float(), reference)


def test_gradient_of_one_step_by_hand() -> None:
    current = torch.tensor([[1.0]], requires_grad=True)
    MLIF(alpha=2.0)(current).sum().backward()
    # h - threshold = -.5; ATan: 1 / (1 + (pi * .5)^2); dh/dx = 1/2
    assert current.grad is not None
    assert current.grad.item() == pytest.approx(0.5 / (1 + (math.pi / 2) ** 2), abs=1e-7)


@pytest.mark.parametrize("shape", [(1, 5), (4, 2, 8, 9, 11), (12, 1, 64)])
@pytest.mark.parametrize("scale", [0.5, 2.0, 20.0])
def test_spikingjelly_agrees(shape: tuple[int, ...], scale: float) -> None:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron", reason="spikingjelly is not installed")
    surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")
    theirs = neuron.LIFNode(
        tau=2.0, v_threshold=1.0, v_reset=0.0, detach_reset=True, step_mode="m", surrogate_function=surrogate.ATan(2.0)
    )
    generator = torch.Generator().manual_seed(len(shape))
    current = torch.randn(shape, generator=generator) * scale
    current.flatten()[: shape[0]] = 2.0  # the first step of some stands exactly at the threshold
    weight = torch.randn(shape, generator=generator)
    ours_in, theirs_in = current.clone().requires_grad_(), current.clone().requires_grad_()
    ours_out, theirs_out = MLIF()(ours_in), theirs(theirs_in)
    assert torch.equal(ours_out, theirs_out)
    assert ours_out.sum() > 0
    (ours_out * weight).sum().backward()
    (theirs_out * weight).sum().backward()
    assert ours_in.grad is not None
    assert theirs_in.grad is not None
    assert ours_in.grad.abs().max() > 0
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=0, atol=1e-6)
