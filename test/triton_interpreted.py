"""What test_triton_kernels.py runs in a process of its own, by Triton's interpreter: kernels against eager torch.

The interpreter must be asked for before Triton is imported: TRITON_INTERPRET=1 pytest test/triton_interpreted.py
"""

from __future__ import annotations

import copy
import math
import os

import numpy as np
import pytest
import torch
import triton
from torch import Tensor

from sdt_distill.kernels import neurons, triton_lif
from sdt_distill.kernels.triton_lif import FORMATS, TritonLIF
from sdt_ros.network import MLIF, NetworkConfig, build_network, synthetic_events
from sdt_ros.runtime.gpu.layers import use_gpu_layers
from sdt_ros.runtime.gpu.torch_ops import TorchOps, max_pool
from sdt_ros.runtime.gpu.triton_ops import BLOCK, TritonOps, check_neurons

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_triton_kernels.py, or with TRITON_INTERPRET=1"

# Ragged, one, and whole blocks; with fewer and more than one program.
SIZES = [(1, 1, 2, 2), (3, 7, 6, 10), (2, 5, 14, 22), (1, 16, 4, BLOCK // 64)]  # [B, C, H, W]


@pytest.fixture(autouse=True)
def one_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter multiplies and adds with two roundings; a GPU's multiply-add has one, as has torch's."""
    from triton.runtime import interpreter

    def fma(self: object, x: object, y: object, z: object) -> object:
        exact = x.data.astype(np.float64) * y.data + z.data  # type: ignore[attr-defined]
        return interpreter.TensorHandle(exact.astype(np.float32), z.dtype.scalar)  # type: ignore[attr-defined]

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fma", fma)


def currents(steps: int, size: tuple[int, ...], seed: int = 0) -> Tensor:
    """Currents around the threshold, many of them exactly at it."""
    x = torch.randn(steps, *size, generator=torch.Generator().manual_seed(seed)).mul(2).add(0.6)
    return torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.3, 2.0, x)


def spoil(x: Tensor, tau: float) -> Tensor:
    values = [torch.nan, torch.inf, -torch.inf, tau, math.nextafter(tau, 0), 0.0, -0.0, 3e38, -3e38, 1e-42]
    flat = x.view(-1)
    flat[: len(values)] = torch.tensor(values)[: flat.numel()]
    return x


def eager(x: Tensor, tau: float = 2.0, threshold: float = 1.0) -> Tensor:
    return MLIF(tau, threshold)(x)


def equal(ours: Tensor, expected: Tensor) -> bool:
    return ours.dtype == expected.dtype and torch.equal(ours, expected)


@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize("size", SIZES)
def test_neurons_fire_to_the_bit(steps: int, size: tuple[int, ...]) -> None:
    x = spoil(currents(steps, size), 2.0)
    expected = eager(x)
    ours = TritonOps().fire(x.flatten(0, 1), steps, 2.0, 1.0, torch.float32)
    assert equal(ours.unflatten(0, (steps, -1)), expected)
    assert 0 < expected.mean() < 1


@pytest.mark.parametrize(("tau", "threshold"), [(3.0, 1.0), (1.5, 0.7), (10.0, 0.3)])
@pytest.mark.parametrize("dtype", FORMATS)
def test_other_constants_and_formats_fire_to_the_bit(tau: float, threshold: float, dtype: torch.dtype) -> None:
    x = spoil(currents(4, (3, 17, 9)), tau).to(dtype)
    ours = TritonOps().fire(x, 4, tau, threshold, dtype)
    assert equal(ours, eager(x, tau, threshold))
    assert equal(TritonOps().fire(x, 4, tau, threshold, torch.float16), eager(x, tau, threshold).half())


@pytest.mark.parametrize("steps", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_pool_and_neurons_fire_to_the_bit(steps: int, size: tuple[int, ...]) -> None:
    x = spoil(currents(steps, size), 2.0)
    bias = torch.linspace(-0.5, 0.5, size[2] if len(size) == 5 else 1)
    x4 = x.flatten(0, 1) if len(size) == 4 else x.flatten(0, 2).unflatten(0, (steps * size[0] * size[1], 1))[:, 0]
    bias = torch.linspace(-0.5, 0.5, x4.shape[1])
    expected = eager((max_pool(x4) + bias[:, None, None]).unflatten(0, (steps, -1))).flatten(0, 1)
    assert equal(TritonOps().fire(x4, steps, 2.0, 1.0, torch.float32, bias=bias, pool=True), expected)


def test_scale_and_bias_are_those_of_their_channel() -> None:
    x, scale, bias = currents(4, (2, 7, 5, 3)).flatten(0, 1), torch.rand(7) + 0.5, torch.randn(7)
    ours = TritonOps().fire(x, 4, 2.0, 1.0, torch.float32, scale=scale, bias=bias)
    wide = (x * scale[:, None, None] + bias[:, None, None]).unflatten(0, (4, 2))
    assert equal(ours, eager(wide).flatten(0, 1))
    assert not equal(ours, TritonOps().fire(x, 4, 2.0, 1.0, torch.float32, scale=scale.flip(0), bias=bias))


@pytest.mark.parametrize("dtype", FORMATS)
def test_any_layout_is_taken(dtype: torch.dtype) -> None:
    x = currents(4, (7, 6, 10)).to(dtype)
    for laid_out in (x, x.contiguous(memory_format=torch.channels_last), currents(4, (7, 6, 20)).to(dtype)[..., ::2]):
        ours = TritonOps().fire(laid_out, 4, 2.0, 1.0, dtype)
        assert equal(ours, eager(laid_out))
        assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_shortcut_is_the_sum(dtype: torch.dtype) -> None:
    membrane, added, bias = torch.randn(5, 13, 7, 11), torch.randn(5, 13, 7, 11).to(dtype), torch.randn(13)
    ours = TritonOps().shortcut(membrane, added, bias)
    assert equal(ours, membrane + (added + bias[:, None, None]))
    assert equal(ours, TorchOps().shortcut(membrane, added, bias))


@pytest.mark.parametrize("attention", ["ssa", "spike_driven"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_network_by_triton_is_that_by_torch(attention: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        embed_dim=16, heads=2, depth=1, mlp_ratio=2, head_widths=(8, 8, 8, 8, 4), attention=attention
    )
    plain, spikes = build_network(config).eval(), synthetic_events(4, 40, 60)
    with torch.inference_mode():
        by_triton, by_torch = (
            use_gpu_layers(copy.deepcopy(plain), ops, dtype)(spikes) for ops in (TritonOps(), TorchOps())
        )
    assert by_torch.std() > 0.01
    assert equal(by_triton, by_torch)


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("size", [(1,), (3, 17, 9), (2, BLOCK)])
def test_gradients_are_those_of_eager_neurons(steps: int, size: tuple[int, ...]) -> None:
    x, grad = currents(steps, size), torch.randn(steps, *size)
    for tau, threshold, alpha in ((2.0, 1.0, 2.0), (3.0, 0.7, 4.0)):
        expected, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
        fired = MLIF(tau, threshold, alpha)(expected)
        fired.backward(grad)
        spikes = TritonLIF.apply(ours, tau, threshold, alpha)
        spikes.backward(grad)
        assert equal(spikes.detach(), fired.detach())
        assert expected.grad is not None and ours.grad is not None
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-5, atol=1e-5)
        assert expected.grad.abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_half_formats(dtype: torch.dtype) -> None:
    x, grad = currents(4, (300,)).to(dtype), torch.randn(4, 300).to(dtype)
    expected, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    MLIF()(expected).backward(grad)
    spikes = TritonLIF.apply(ours, 2.0, 1.0, 2.0)
    spikes.backward(grad)
    assert spikes.dtype == dtype and ours.grad is not None and ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-2, atol=1e-2)


def test_backward_takes_any_layout_and_keeps_the_currents_only() -> None:
    x = currents(4, (2, 6, 5, 7)).permute(0, 1, 3, 4, 2)  # [T, B, H, W, C] of memory that is not
    grad = torch.randn(4, 2, 5, 7, 6)
    kept = []
    results = []
    for fire in (lambda x: MLIF()(x), lambda x: TritonLIF.apply(x, 2.0, 1.0, 2.0)):
        leaf = x.detach().requires_grad_()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
            spikes = fire(leaf)
        (spikes * grad).sum().backward()
        results.append((spikes.detach(), leaf.grad))
        assert [t.shape for t in kept] == [x.shape]
    assert kept[0].untyped_storage().data_ptr() != spikes.untyped_storage().data_ptr()
    (expected, expected_grad), (ours, ours_grad) = results
    assert equal(ours, expected) and ours.stride() == expected.stride()
    torch.testing.assert_close(ours_grad, expected_grad, rtol=1e-5, atol=1e-5)


def test_the_trainer_takes_kernels_that_work_and_no_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(*args: object) -> None:
        raise OSError("no compiler")

    device = torch.device("cpu")  # the interpreter's
    try:
        assert neurons._triton(device) is triton_lif and not caplog.records
        x = currents(4, (30,))
        assert equal(neurons._fire_on_gpu(x, 2.0, 1.0, 2.0), eager(x))
        assert neurons._fire_on_gpu(x.double(), 2.0, 1.0, 2.0) is None
        assert neurons._fire_on_gpu(torch.zeros(triton_lif.STEPS + 1, 3), 2.0, 1.0, 2.0) is None
        neurons._triton.cache_clear()
        monkeypatch.setattr(triton_lif.TritonLIF, "apply", no_compiler)
        assert neurons._fire_on_gpu(x, 2.0, 1.0, 2.0) is None and neurons._fire_on_gpu(x, 2.0, 1.0, 2.0) is None
        assert [record.message for record in caplog.records] == [
            "Triton does not work, neurons on cpu are computed by plain torch, slower: no compiler"
        ]
    finally:
        neurons._triton.cache_clear()


def test_steps_beyond_32_bits_are_refused() -> None:
    assert check_neurons(2**31 - 1 - BLOCK) == 2**31 - 1 - BLOCK
    with pytest.raises(ValueError, match="more than a kernel counts"):
        check_neurons(2**31 - BLOCK)


def test_this_is_the_interpreter() -> None:
    assert triton.knobs.runtime.interpret
