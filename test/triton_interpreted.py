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
from torch import Tensor, nn

from sdt_distill.kernels import neurons, triton_lif, triton_norm
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
    assert by_torch.std() > 0.003
    assert equal(by_triton, by_torch)


def norms(channels: int) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    """Two equal norms, some of whose scales are negative."""
    ours, expected = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
    with torch.no_grad():
        ours.weight.uniform_(-1, 2)
        ours.bias.normal_()
    expected.load_state_dict(ours.state_dict())
    return ours, expected


def near(ours: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    most = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    assert ours.shape == expected.shape
    return bool((ours.double() - expected.double()).norm() <= most * expected.double().norm())


@pytest.mark.parametrize(("dtype", "held"), [*((dtype, False) for dtype in FORMATS), (torch.float32, True)])
@pytest.mark.parametrize(
    ("size", "steps", "programs"),  # one program for several tiles, or more programs than are added up at once
    [((8, 8, 6, 10), 4, 1), ((2, 12, 4, 2), 2, 528), ((3, 72, 18, 20), 1, 528), ((8, 130, 2, 2), 4, 528)],
)
@pytest.mark.parametrize("pooled", [False, True])
def test_norms_and_what_follows_are_torchs(
    size: tuple[int, ...], steps: int, programs: int, pooled: bool, held: bool, dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(triton_norm, "_PROGRAMS", programs)
    torch.manual_seed(0)
    ours, expected = norms(size[1])
    if held:
        for norm in (ours, expected):
            norm.eval()
            norm.running_mean.fill_(37)
            norm.running_var.fill_(16)
    # Whole numbers, far from 0: ties are shared as torch shares them, and a variance is small beside the mean's square.
    x = (torch.randn(size) * 3 + 40).round().to(dtype)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    if pooled:
        found, normed = triton_norm.norm_pool(ours, a), expected(b)
        tall = torch.maximum(normed[..., 0::2, :], normed[..., 1::2, :])
        wanted = torch.maximum(tall[..., 0::2], tall[..., 1::2])
    else:
        found, wanted = triton_norm.norm_mean(ours, a, steps), expected(b).unflatten(0, (steps, -1)).mean(0)
    assert found.dtype == dtype and near(found, wanted, dtype)
    grad = torch.randn(wanted.shape).to(dtype)
    found.backward(grad)
    wanted.backward(grad)
    assert a.grad is not None and b.grad is not None and a.grad.dtype == dtype
    assert near(ours.bias.grad, expected.bias.grad, dtype)
    assert near(ours.running_mean, expected.running_mean, torch.float32)
    assert near(ours.running_var, expected.running_var, torch.float32)
    assert ours.num_batches_tracked == (0 if held else 1)
    if dtype == torch.float32 or not pooled:  # values that are equal to one rounding are ties by the other
        assert near(a.grad, b.grad, dtype) and near(ours.weight.grad, expected.weight.grad, dtype)


def test_norms_of_another_kind_are_left_alone() -> None:
    x = torch.rand(4, 8, 2, 2)
    assert triton_norm.takes(nn.BatchNorm2d(8), x)
    assert triton_norm.takes(nn.BatchNorm2d(8).eval(), x)
    assert not triton_norm.takes(nn.BatchNorm2d(8, track_running_stats=False).eval(), x)
    assert not triton_norm.takes(nn.BatchNorm2d(8, affine=False), x)
    assert not triton_norm.takes(nn.BatchNorm2d(8, momentum=None), x)
    assert not triton_norm.takes(nn.BatchNorm2d(8), x.double())
    assert not triton_norm.takes(nn.BatchNorm2d(8), x[:1, :, :1, :1])
    untracked = nn.BatchNorm2d(8, track_running_stats=False)
    assert near(triton_norm.norm_mean(untracked, x, 1), nn.BatchNorm2d(8)(x), torch.float32)


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
        assert neurons.triton_lif(device) is triton_lif and not caplog.records
        x = currents(4, (30,))
        assert equal(neurons._fire_on_gpu(x, 2.0, 1.0, 2.0), eager(x))
        assert neurons._fire_on_gpu(x.double(), 2.0, 1.0, 2.0) is None
        assert neurons._fire_on_gpu(torch.zeros(triton_lif.STEPS + 1, 3), 2.0, 1.0, 2.0) is None
        neurons.triton_lif.cache_clear()
        monkeypatch.setattr(triton_lif.TritonLIF, "apply", no_compiler)
        assert neurons._fire_on_gpu(x, 2.0, 1.0, 2.0) is None and neurons._fire_on_gpu(x, 2.0, 1.0, 2.0) is None
        assert [record.message for record in caplog.records] == [
            "Triton does not work, neurons on cpu are computed by plain torch, slower: no compiler"
        ]
    finally:
        neurons.triton_lif.cache_clear()


def test_steps_beyond_32_bits_are_refused() -> None:
    assert check_neurons(2**31 - 1 - BLOCK) == 2**31 - 1 - BLOCK
    with pytest.raises(ValueError, match="more than a kernel counts"):
        check_neurons(2**31 - BLOCK)


def test_this_is_the_interpreter() -> None:
    assert triton.knobs.runtime.interpret
