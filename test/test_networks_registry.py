"""Networks by name: sizes, shapes, gradients; the twin is the same definition; softmax attention by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from sdt_distill.networks import NAMES, AnnTwin, E2Depth, E2DepthConfig, TwinConfig, build, config_of, name_of, resolve
from sdt_ros.network import MLIF, EnergyRecorder, NetworkConfig, SpikingDepthTransformer, synthetic_events
from sdt_ros.network.attention import SoftmaxProduct, SpikeProduct

SMALL = {"embed_dim": 32, "heads": 2, "depth": 2, "mlp_ratio": 2, "head_widths": [16, 16, 8, 8, 4]}
KINDS = {
    "softmax": {"name": "sdt_tiny", **SMALL, "attention": "softmax"},
    "twin": {"name": "sdt_tiny_ann", **SMALL},
    "twin, spike_driven": {"name": "sdt_tiny_ann", **SMALL, "attention": "spike_driven"},
    "twin, softmax, linear": {"name": "sdt_tiny_ann", **SMALL, "attention": "softmax", "head": "linear"},
    "e2depth": {"name": "e2depth_tiny", "widths": [4, 8, 12, 16]},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return build(request.param)


@pytest.mark.parametrize("height, width", [(32, 32), (33, 47), (65, 90)])
def test_any_size_in_the_same_size_out(network: nn.Module, height: int, width: int) -> None:
    with torch.no_grad():
        depth = network.eval()(synthetic_events(4, height, width).expand(2, -1, -1, -1, -1))
    assert depth.shape == (2, 1, height, width)
    assert depth.dtype == torch.float32
    assert torch.isfinite(depth).all()
    assert depth.std() > 0


def test_every_parameter_gets_a_gradient(network: nn.Module) -> None:
    spikes = torch.cat([synthetic_events(4, 64, 64, seed=seed) for seed in (1, 2)])
    (network(spikes) - torch.rand(2, 1, 64, 64)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_windows_of_a_batch_do_not_see_each_other(network: nn.Module) -> None:
    network.eval()
    windows = [synthetic_events(4, 40, 48, seed=seed) for seed in (1, 2)]
    with torch.no_grad():
        together, alone = network(torch.cat(windows)), torch.cat([network(window) for window in windows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_a_few_steps_of_training_lower_the_loss(network: nn.Module) -> None:
    spikes = torch.cat([synthetic_events(4, 64, 64, seed=seed) for seed in (1, 2)])
    target = torch.linspace(0, 1, 64).expand(2, 1, 64, 64)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = (network(spikes) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.7


@pytest.mark.parametrize("shape", [(4, 2, 64, 64), (1, 4, 3, 64, 64), (1, 0, 2, 64, 64)])
def test_other_shapes_are_refused(network: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        network(torch.zeros(shape))


@pytest.mark.parametrize("kind", ["twin", "twin, softmax, linear", "e2depth"])
def test_autocast_to_bf16_gives_nearly_the_same(kind: str) -> None:
    torch.manual_seed(0)
    network = build(KINDS[kind]).eval()
    spikes = synthetic_events(4, 64, 64)
    with torch.no_grad():
        plain = network(spikes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            quick = network(spikes)
    assert (plain - quick).abs().mean() < 0.1 * plain.std()


@pytest.mark.parametrize(
    "name, millions, tolerance",
    [("e2depth", 10.71, 0.001), ("e2depth_small", 5.19, 0.01), ("e2depth_tiny", 0.93, 0.01),
     ("sdt_tiny_ann", 0.93, 0.01)],
)  # fmt: skip
def test_peers_have_the_size_they_promise(name: str, millions: float, tolerance: float) -> None:
    assert sum(p.numel() for p in build(name).parameters()) / 1e6 == pytest.approx(millions, rel=tolerance)


@pytest.mark.parametrize("attention", ["ssa", "spike_driven", "softmax"])
@pytest.mark.parametrize("head", ["fusion", "linear"])
def test_the_twin_shares_the_definition(attention: str, head: str) -> None:
    spec = {"name": "sdt_tiny", **SMALL, "attention": attention, "head": head}
    own, twin = build(spec), build({**spec, "neuron": "relu"}, bins=3)
    shapes, others = ({name: p.shape for name, p in net.state_dict().items()} for net in (own, twin))
    assert shapes.keys() == others.keys()
    reads_events = {"stem.downs.0.conv_bn.conv.weight"} | (
        {"head.up1.lateral.conv.weight"} if head == "fusion" else set()
    )
    assert {name for name in shapes if shapes[name] != others[name]} == reads_events
    assert all(others[name][1] == 3 * shapes[name][1] for name in reads_events)
    assert type(twin).__mro__[1] is SpikingDepthTransformer is type(own)
    where = [name for name, module in own.named_modules() if isinstance(module, MLIF)]
    exchanged = dict(twin.named_modules())
    assert where
    assert all(isinstance(exchanged[name], nn.ReLU) for name in where)
    assert not any(isinstance(module, MLIF) for module in twin.modules())


def test_the_twin_reads_all_bins_in_their_order() -> None:
    twin = build(KINDS["twin"])
    seen: list[Tensor] = []
    first = twin.get_submodule("stem.downs.0.conv_bn.conv")
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    spikes = torch.randint(0, 2, (2, 4, 2, 32, 32), dtype=torch.uint8)
    twin(spikes)
    assert seen[0].shape == (2, 8, 32, 32)
    for step in range(4):
        for polarity in range(2):
            assert torch.equal(seen[0][:, 2 * step + polarity], spikes[:, step, polarity].float())


def test_softmax_attention_is_the_formula() -> None:
    q, k, v = torch.randn(3, 2, 1, 4, 7, 5, dtype=torch.float64)
    expected = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(5), dim=-1) @ v
    torch.testing.assert_close(SoftmaxProduct()(q, k, v), expected)
    torch.testing.assert_close(nn.functional.scaled_dot_product_attention(q, k, v), expected)
    assert SoftmaxProduct().operations(q, k, v) == [("q k^T", 4 * 49 * 5, None), ("softmax(q k^T) v", 4 * 49 * 5, None)]


def test_energy_of_softmax_attention_and_of_a_twin_multiplies() -> None:
    spikes = synthetic_events(4, 64, 64)
    for kind, runs in (("softmax", 4), ("twin", 1)):
        network = build(KINDS[kind]).eval()
        with torch.no_grad(), EnergyRecorder(network) as recorder:
            network(spikes)
        report = recorder.report()
        products = [row for row in report.rows if row.kind == "product"]
        assert len(products) == 4
        assert all(row.rate is None and not row.spiking and row.runs == runs for row in products)
        assert products[0].energy_mj == pytest.approx(4.6e-9 * runs * products[0].macs)
        assert report.parameters == sum(p.numel() for p in network.parameters())
    accumulating = {row.name for row in report.rows if row.spiking and row.macs}
    assert accumulating == {"stem.downs.0.conv_bn.conv", "head.up1.lateral.conv"}, "only events are spikes to a twin"


def test_a_product_of_spikes_and_reals_adds_where_the_gate_is_a_spike() -> None:
    spikes, reals = (torch.rand(1, 1, 1, 9, 3) < 0.5).float(), torch.rand(1, 1, 1, 9, 3)
    assert [rate is None for *_, rate in SpikeProduct().operations(spikes, reals, spikes)] == [True, False]


@pytest.mark.parametrize("name", NAMES)
def test_names_and_configs_lead_to_each_other(name: str) -> None:
    config = resolve(name)
    assert resolve(config) is config
    assert name_of(config) == name
    assert type(config).from_dict(config.to_dict()) == config


def test_configs_are_kept_by_their_networks() -> None:
    for spec, kind in (
        (KINDS["softmax"], NetworkConfig),
        (KINDS["twin"], TwinConfig),
        (KINDS["e2depth"], E2DepthConfig),
    ):
        config = resolve(spec)
        assert isinstance(config, kind)
        assert config_of(build(spec)) == config
    with pytest.raises(TypeError, match="Linear"):
        config_of(nn.Linear(1, 1))
    assert name_of(resolve({"name": "sdt_tiny_ann", "head": "linear"})) == "sdt_tiny_ann, head linear"


@pytest.mark.parametrize(
    "spec, message",
    [
        ("sdt_huge", r"'sdt_huge'.*e2depth_tiny"),
        ({"attention": "ssa"}, "the key 'name'"),
        (3, "expected a name"),
        ({"name": "sdt_tiny", "colour": 1}, r"'colour'; known keys: .*neuron"),
        ({"name": "sdt_tiny", "neuron": "gelu"}, r"'neuron' is 'gelu'.*mlif, relu"),
        ({"name": "sdt_tiny_ann", "neuron": "mlif"}, "is a twin"),
        ({"name": "e2depth", "heads": 2}, r"'heads'; known keys: widths"),
        ({"name": "e2depth", "widths": [1, 2]}, "four channel counts"),
        ({"name": "e2depth", "residual_blocks": 0}, "'residual_blocks' is 0"),
    ],
)  # fmt: skip
def test_what_makes_no_network_is_named(spec: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(spec)  # type: ignore[arg-type]


def test_a_twin_takes_its_own_number_of_bins_only() -> None:
    twin = build("sdt_tiny_ann", bins=2)
    assert isinstance(twin, AnnTwin)
    with pytest.raises(ValueError, match=r"\[1, 4, 2, 32, 32\], expected \[B, 2, 2, H, W\]"):
        twin(torch.zeros(1, 4, 2, 32, 32))
    with pytest.raises(ValueError, match="'bins' is 0"):
        build("sdt_tiny_ann", bins=0)


def test_weights_come_from_the_global_generator_alone() -> None:
    for name in ("sdt_tiny_ann", "e2depth_tiny"):
        torch.manual_seed(3)
        one = build(name)
        torch.manual_seed(3)
        two = build(name)
        assert one.training
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert isinstance(one, E2Depth)
