"""The whole network: shapes, what its convolutions see, gradients, presets, the start from random weights."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdt_ros.network import MLIF, NetworkConfig, build_network, get_preset, presets, synthetic_events
from sdt_ros.network.attention import SpikeAgreement, SpikeProduct, SpikingSelfAttention

SMALL = {"embed_dim": 32, "heads": 2, "depth": 2, "mlp_ratio": 2, "head_widths": (16, 16, 8, 8, 4)}
# The head's decoder behind the mean over time: the only convolutions that take real numbers.
REAL_INPUT = {
    "head.up8.reduce", "head.up8.refine.0", "head.up4.reduce", "head.up4.refine.0", "head.up2.reduce",
    "head.up2.refine.0", "head.up1.reduce", "head.depth",
}  # fmt: skip


def inputs_of_convolutions(network: nn.Module, spikes: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].clone()))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        network(spikes)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("height, width", [(32, 32), (33, 47), (65, 90), (16, 100), (130, 173)])
@pytest.mark.parametrize("head", ["fusion", "linear"])
def test_any_size_in_the_same_size_out(height: int, width: int, head: str) -> None:
    network = build_network(NetworkConfig(**SMALL, head=head)).eval()
    with torch.no_grad():
        depth = network(synthetic_events(4, height, width).expand(2, -1, -1, -1, -1))
    assert depth.shape == (2, 1, height, width)
    assert depth.dtype == torch.float32
    assert torch.isfinite(depth).all()


@pytest.mark.parametrize("height, width", [(260, 346), (480, 640)])
def test_the_sizes_of_common_sensors(height: int, width: int) -> None:
    network = build_network("sdt_tiny").eval()
    with torch.no_grad():
        assert network(synthetic_events(4, height, width)).shape == (1, 1, height, width)


@pytest.mark.parametrize("bins", [1, 3, 7])
def test_any_number_of_bins(bins: int) -> None:
    network = build_network(NetworkConfig(**SMALL)).eval()
    with torch.no_grad():
        assert network(synthetic_events(bins, 48, 48)).shape == (1, 1, 48, 48)


def test_windows_of_a_batch_do_not_see_each_other() -> None:
    network = build_network(NetworkConfig(**SMALL)).eval()
    windows = [synthetic_events(4, 64, 64, seed=seed) for seed in (1, 2)]
    with torch.no_grad():
        together = network(torch.cat(windows))
        alone = torch.cat([network(window) for window in windows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 2, 64, 64), (1, 4, 3, 64, 64), (1, 0, 2, 64, 64)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        build_network(NetworkConfig(**SMALL))(torch.zeros(shape))


@pytest.mark.parametrize("attention", ["ssa", "spike_driven"])
@pytest.mark.parametrize("training", [True, False])
def test_convolutions_see_only_zeros_and_ones(attention: str, training: bool) -> None:
    network = build_network(NetworkConfig(**SMALL, attention=attention)).train(training)
    seen = inputs_of_convolutions(network, synthetic_events(4, 70, 90))
    binary = {name for name, spikes in seen.items() if ((spikes == 0) | (spikes == 1)).all()}
    assert set(seen) - binary == REAL_INPUT
    assert "stem.downs.0.conv_bn.conv" in binary
    silent = [name for name in binary if not seen[name].any()]
    assert not silent, "a convolution that sees no spike proves nothing"


def test_all_convolutions_of_the_linear_head_see_spikes() -> None:
    seen = inputs_of_convolutions(build_network(NetworkConfig(**SMALL, head="linear")), synthetic_events(4, 64, 64))
    assert all(((spikes == 0) | (spikes == 1)).all() for spikes in seen.values())


@pytest.mark.parametrize("attention", ["ssa", "spike_driven"])
@pytest.mark.parametrize("head", ["fusion", "linear"])
def test_every_parameter_gets_a_gradient(attention: str, head: str) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(**SMALL, attention=attention, head=head))
    target = torch.rand(2, 1, 64, 64)
    spikes = torch.cat([synthetic_events(4, 64, 64, seed=seed) for seed in (1, 2)])
    (network(spikes) - target).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_a_few_steps_of_training_lower_the_loss() -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(**SMALL))
    spikes = synthetic_events(4, 64, 64)
    target = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = (network(spikes) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_the_membrane_stream_stays_float32_under_autocast() -> None:
    network = build_network(NetworkConfig(**SMALL)).eval()
    streams: list[Tensor] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, inputs, output: streams.extend([*inputs, output]))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        network(synthetic_events(4, 64, 64))
    assert streams
    assert {stream.dtype for stream in streams} == {torch.float32}


@pytest.mark.parametrize("tokens, channels", [(5, 16), (16, 16), (200, 8)])
def test_both_orders_of_the_attention_product_are_equal(tokens: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    q, k, v = ((torch.rand(4, 1, 2, tokens, channels, generator=generator) < 0.3).float() for _ in range(3))
    keys_first, queries_first = q @ (k.transpose(-2, -1) @ v), (q @ k.transpose(-2, -1)) @ v
    assert torch.equal(keys_first, queries_first)
    product = SpikeProduct()
    assert torch.equal(product(q, k, v), keys_first)
    macs = sum(macs for _, macs, _ in product.operations(q, k, v))
    assert macs == 2 * 2 * tokens * channels * min(tokens, channels)


def test_attention_is_what_a_loop_over_tokens_gives() -> None:
    q, k, v = ((torch.rand(1, 1, 1, 6, 3, generator=torch.Generator().manual_seed(s)) < 0.5).float() for s in range(3))
    expected = torch.zeros(6, 3)
    agreement = torch.zeros(3)
    for i in range(6):
        for j in range(6):
            expected[i] += (q[0, 0, 0, i] @ k[0, 0, 0, j]) * v[0, 0, 0, j]
        agreement += k[0, 0, 0, i] * v[0, 0, 0, i]
    assert torch.equal(SpikeProduct()(q, k, v)[0, 0, 0], expected)
    assert torch.equal(SpikeAgreement()(q, k, v)[0, 0, 0, 0], agreement)


@pytest.mark.parametrize("attention", ["ssa", "spike_driven"])
def test_split_and_merge_of_heads_undo_each_other(attention: str) -> None:
    module = SpikingSelfAttention(NetworkConfig(**SMALL, attention=attention))
    spikes = torch.rand(2, 3, 3 * 32, 4, 5)
    parts = [module._merge(part, torch.Size((2, 3, 32, 4, 5))) for part in module._split(spikes)]
    assert torch.equal(torch.cat(parts, dim=2), spikes)


@pytest.mark.parametrize(
    "name, millions, tolerance", [("sdt", 20.5, 0.01), ("sdt_small", 5.0, 0.06), ("sdt_tiny", 1.0, 0.08)]
)
def test_presets_have_the_size_they_promise(name: str, millions: float, tolerance: float) -> None:
    parameters = sum(p.numel() for p in build_network(name).parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=tolerance)


@pytest.mark.parametrize("name", presets)
def test_untrained_neurons_fire_neither_seldom_nor_always(name: str) -> None:
    torch.manual_seed(1)
    network = build_network(name).eval()
    rates: dict[str, float] = {}
    for layer, module in network.named_modules():
        if isinstance(module, MLIF):
            module.register_forward_hook(
                lambda _, inputs, out, layer=layer: rates.__setitem__(layer, out.mean().item())
            )
    with torch.no_grad():
        depth = network(synthetic_events(4, 130, 173, seed=5))
    assert {layer: rate for layer, rate in rates.items() if not 0.04 <= rate <= 0.3} == {}
    assert len(rates) == 4 + 5 * 4 + 4 + 2
    assert 0.002 < depth.std() < 0.05
    assert 0 < depth.mean() < 1


def test_building_leaves_no_trace_but_in_the_global_generator() -> None:
    torch.manual_seed(3)
    one = build_network("sdt_tiny")
    torch.manual_seed(3)
    two = build_network("sdt_tiny")
    assert one.training
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert {module.momentum for module in one.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}
    assert all(p.requires_grad and p.grad is None for p in one.parameters())


def test_synthetic_events_are_sparse_spikes_of_both_polarities() -> None:
    spikes = synthetic_events(4, 60, 80, seed=2).numpy()
    assert spikes.shape == (1, 4, 2, 60, 80)
    assert spikes.dtype == np.uint8
    assert spikes.max() == 1
    assert (spikes.mean(axis=(0, 1, 3, 4)) > 0.02).all()
    assert spikes.mean() < 0.3


def test_unknown_presets_and_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"'sdt_huge'.*sdt_tiny"):
        get_preset("sdt_huge")
    with pytest.raises(ValueError, match=r"'embeddim'.*embed_dim"):
        NetworkConfig.from_dict({"embeddim": 64})


@pytest.mark.parametrize(
    "key, value",
    [("embed_dim", 60), ("heads", 7), ("depth", 0), ("attention", "linear"), ("head", "unet"), ("tau", 1.0),
     ("threshold", 0.0), ("head_widths", (1, 2)), ("mlp_ratio", 2.5), ("surrogate_alpha", -1.0), ("tau", "two")],
)  # fmt: skip
def test_impossible_configs_name_the_key(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        NetworkConfig.from_dict({key: value})


def test_configs_survive_plain_values() -> None:
    config = NetworkConfig(**SMALL, attention="spike_driven")
    assert NetworkConfig.from_dict(config.to_dict()) == config
