"""Compiled norms, pools and means: values and gradients of the plain ones, checkpoints that know no difference."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from depth_difference import apart
from torch import Tensor, nn

from sdt_distill.kernels import use_fused_layers
from sdt_distill.kernels.layers import FusedFusionHead
from sdt_ros.network import MLIF, build_network
from sdt_ros.network.config import NetworkConfig
from sdt_ros.network.head import FusionHead, Upsample
from sdt_ros.network.layers import ConvBN
from sdt_ros.network.stem import Downsample

SMALL = NetworkConfig(embed_dim=32, depth=2, heads=4, mlp_ratio=2, head_widths=(16, 12, 8, 8, 8))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Finish(FusionHead):
    """The last step of a head alone."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.up1, self.depth = Upsample(8, 2, 8, skip_kernel=3, refine=False), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, features: Tensor, events: Tensor) -> Tensor:  # type: ignore[override]
        return self.finish(features, events)


class FusedFinish(FusedFusionHead):
    forward = Finish.forward  # type: ignore[assignment]


class WithNeurons(nn.Module):
    """A layer under test beside neurons, without which a module is no spiking one."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.neurons = layer, MLIF()


def pair(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The layer and its compiled copy, with weights that are no identity."""
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -2, 2)
            nn.init.uniform_(module.bias, -1, 1)
    fused = use_fused_layers(WithNeurons(copy.deepcopy(layer)))
    if isinstance(layer, Finish):
        fused.layer.__class__ = FusedFinish
    assert type(fused.layer) is not type(layer)
    return layer, fused.layer


def spikes(*shape: int, rate: float = 0.2) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) < rate).float()


def compare(
    plain: nn.Module, fused: nn.Module, *inputs: Tensor, rtol: float = 1e-5, finer: torch.dtype | None = None
) -> None:
    """Outputs, gradients of inputs and parameters, and running statistics agree, relative to each tensor's largest.

    The compiled copy's output may be of a `finer` dtype.
    """
    results: list[list[Tensor]] = []
    for module in (plain, fused):
        leaves = [value.clone().requires_grad_() for value in inputs]
        output = module(*leaves)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(5))
        (output.float() * weight).sum().backward()
        tensors = [output.detach(), *(leaf.grad for leaf in leaves), *(p.grad for p in module.parameters())]
        assert all(tensor is not None for tensor in tensors)
        results.append([*tensors, *module.buffers()])  # type: ignore[list-item]
    if finer is not None:
        assert results[1][0].dtype == finer != results[0][0].dtype
        results[0][0] = results[0][0].to(finer)
    for expected, ours in zip(*results, strict=True):
        assert ours.dtype == expected.dtype
        assert ours.shape == expected.shape
        largest = expected.abs().max().item()
        torch.testing.assert_close(ours, expected, rtol=rtol, atol=max(largest, 1e-3) * rtol)


def gradient_functions(output: Tensor) -> Iterator[object]:
    """What an output was computed by, from its end on."""
    waiting = [output.grad_fn]
    while waiting:
        if (function := waiting.pop()) is not None:
            yield function
            waiting += [before for before, _ in function.next_functions]


FINER = {"finish": torch.float32}  # depth is not rounded to the eight bits of bfloat16
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "norm": (lambda: nn.BatchNorm2d(13), ((5, 13, 7, 11),)),
    "norm of one pixel": (lambda: nn.BatchNorm2d(300), ((9, 300, 1, 1),)),
    "conv 3x3": (lambda: ConvBN(2, 12, 3), ((3, 2, 2, 24, 40),)),
    "conv 1x1": (lambda: ConvBN(24, 300), ((4, 2, 24, 9, 11),)),
    "downsample": (lambda: Downsample(2, 12), ((3, 2, 2, 24, 40),)),
    "downsample wide": (lambda: Downsample(12, 32), ((2, 1, 12, 6, 10),)),
    "upsample": (lambda: Upsample(16, 12, 8), ((2, 16, 5, 6), (4, 2, 12, 10, 12))),
    "finish": (Finish, ((2, 8, 10, 12), (3, 2, 2, 20, 24))),
    "finish of one pixel": (Finish, ((1, 8, 1, 1), (1, 1, 2, 2, 2))),
    "upsample unrefined": (
        lambda: Upsample(8, 2, 8, skip_kernel=3, refine=False),
        ((2, 8, 10, 12), (3, 2, 2, 20, 24)),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_float32(name: str) -> None:
    torch.manual_seed(1)
    make, shapes = LAYERS[name]
    plain, fused = pair(make())
    compare(plain, fused, *(spikes(*shape) if len(shape) == 5 else torch.randn(shape) for shape in shapes))


@pytest.mark.parametrize("name", [name for name in LAYERS if not name.startswith("finish")])
def test_layers_whose_norms_hold_their_statistics(name: str) -> None:
    torch.manual_seed(3)
    make, shapes = LAYERS[name]
    plain, fused = pair(make())
    inputs = [spikes(*shape) if len(shape) == 5 else torch.randn(shape) for shape in shapes]
    for _ in range(3):  # statistics that are no identity, and not those of the batch
        plain(*(1.5 * value + 0.1 for value in inputs))
    fused.load_state_dict(plain.state_dict())
    before = {key: value.clone() for key, value in plain.named_buffers()}
    compare(plain.eval(), fused.eval(), *inputs)
    assert all(torch.equal(value, before[key]) for key, value in fused.named_buffers())
    reached = [str(each) for each in gradient_functions(fused(*(value.requires_grad_() for value in inputs)))]
    assert any("_NormMean" in each or "_NormPool" in each for each in reached), reached


@pytest.mark.parametrize("name", ["norm", "conv 3x3", "downsample", "upsample", "finish"])
def test_layers_under_bfloat16_autocast(name: str) -> None:
    torch.manual_seed(2)
    make, shapes = LAYERS[name]
    plain, fused = pair(make())
    inputs = [spikes(*shape) if len(shape) == 5 else torch.randn(shape) for shape in shapes]
    if name == "norm":
        inputs = [value.bfloat16() for value in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compare(plain, fused, *inputs, rtol=0.05 if name == "finish" else 0.03, finer=FINER.get(name))


def test_a_norm_far_from_zero_keeps_its_variance() -> None:
    """The difference of two large sums would lose it."""
    plain, fused = pair(nn.BatchNorm2d(8))
    far = torch.randn(16, 8, 20, 20) * 0.01 + 300
    compare(plain, fused, far, rtol=2e-3)  # torch's own float32 mean is off by that much of a deviation
    exact = copy.deepcopy(plain).double()
    exact.reset_running_stats()
    fused.reset_running_stats()  # type: ignore[operator]
    torch.testing.assert_close(fused(far).double(), exact(far.double()), rtol=0, atol=5e-3)


def test_ties_share_their_gradient_as_maximum_does() -> None:
    plain, fused = pair(Downsample(2, 4))
    flat = torch.zeros(2, 1, 2, 8, 8)
    flat[:, :, :, 3, 5] = 1  # all ties but for one place
    compare(plain, fused, flat)


def test_nan_stays_nan() -> None:
    plain, fused = pair(Downsample(2, 4))
    broken = spikes(2, 1, 2, 8, 8)
    broken[0, 0, 0, 2, 2] = torch.nan
    assert torch.equal(plain(broken).isnan(), fused(broken).isnan())
    assert fused(broken).isnan().all()  # through the statistics


def test_nan_stays_nan_in_the_last_step() -> None:
    plain, fused = pair(Finish())
    features = torch.randn(2, 8, 6, 5)
    features[0, 3, 2, 2] = torch.nan
    expected = plain(features, spikes(2, 2, 2, 12, 10)).isnan()
    assert expected.any()
    assert torch.equal(fused(features, spikes(2, 2, 2, 12, 10)).isnan(), expected)


def test_hooks_on_what_the_last_step_holds_are_called() -> None:
    plain, fused = pair(Finish())
    seen: list[Tensor] = []
    fused.up1.register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[union-attr]
    inputs = torch.randn(2, 8, 6, 5), spikes(2, 2, 2, 12, 10)
    torch.testing.assert_close(fused(*inputs), plain(*inputs))
    assert [tuple(one.shape) for one in seen] == [(2, 8, 12, 10)]


def test_the_last_step_convolves_events_once() -> None:
    for training in (True, False):
        _, fused = pair(Finish())
        fused.train(training)
        seen: list[object] = []
        fused.up1.lateral.conv.register_forward_hook(lambda *_, seen=seen: seen.append(0))  # type: ignore[union-attr]
        fused(torch.randn(2, 8, 6, 5), spikes(2, 2, 2, 12, 10))
        assert len(seen) == 1


@pytest.mark.parametrize("register", ["register_forward_pre_hook", "register_full_backward_hook"])
def test_any_hook_on_the_convolution_to_depth_is_called(register: str) -> None:
    _, fused = pair(Finish())
    seen: list[object] = []
    getattr(fused.depth, register)(lambda *_: seen.append(0))
    fused(torch.randn(2, 8, 6, 5), spikes(2, 2, 2, 12, 10)).sum().backward()
    assert seen


def test_doubles_are_left_alone_by_autocast() -> None:
    plain, fused = pair(ConvBN(2, 12, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compare(plain.double(), fused.double(), spikes(3, 2, 2, 24, 40).double())


def test_evaluation_is_the_plain_one() -> None:
    for name in ("norm", "downsample", "upsample", "finish"):
        make, shapes = LAYERS[name]
        plain, fused = pair(make())
        inputs = [torch.randn(shape) for shape in shapes]
        torch.testing.assert_close(fused.eval()(*inputs), plain.eval()(*inputs), rtol=1e-5, atol=1e-5)


def test_norms_of_another_class_compute_for_themselves() -> None:
    """Those that processes share replace a norm's class after or before the swap."""

    class Constant(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return torch.full_like(input, 7)

    for name in ("downsample", "upsample unrefined"):
        make, shapes = LAYERS[name]
        plain, fused = pair(make())
        for layer in (plain, fused):
            for module in layer.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.__class__ = Constant
        inputs = [torch.randn(shape) for shape in shapes]
        torch.testing.assert_close(fused(*inputs), plain(*inputs))


def test_frozen_statistics_do_not_move() -> None:
    plain, fused = pair(nn.BatchNorm2d(4, track_running_stats=False))
    compare(plain, fused, torch.randn(3, 4, 5, 5))


@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_changes_no_bit() -> None:
    _, fused = pair(Downsample(2, 12))
    inputs = spikes(4, 2, 2, 64, 80)
    fused.requires_grad_(True)
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        bn = fused.conv_bn.bn  # type: ignore[union-attr]
        x = torch.randn(8, 12, 64, 80, generator=torch.Generator().manual_seed(3)).requires_grad_()
        y = bn(x)  # type: ignore[operator]
        results.append((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]))
    assert inputs.any()
    for y, grad in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_a_whole_network_learns_alike() -> None:
    """Losses of a few steps stay together until rounding flips spikes; names and shapes stay throughout."""
    torch.manual_seed(3)
    plain = build_network(SMALL)
    fused = use_fused_layers(copy.deepcopy(plain))
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in fused.state_dict().items()}
    assert all(v.is_contiguous() for v in fused.state_dict().values())
    events, target = spikes(2, 4, 2, 64, 80, rate=0.1), torch.rand(2, 1, 64, 80)
    losses: dict[str, list[float]] = {"plain": [], "fused": []}
    for name, network in (("plain", plain), ("fused", fused)):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
        for _ in range(4):
            loss = (network(events) - target).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses[name].append(loss.item())
    assert len(set(losses["plain"])) == 4
    assert losses["fused"] == pytest.approx(losses["plain"], rel=2e-2)
    assert losses["fused"][0] == pytest.approx(losses["plain"][0], rel=2e-3)
    build_network(SMALL).load_state_dict(fused.state_dict())
    fused.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert apart(fused.eval()(events), plain.eval()(events)) < 0.1
