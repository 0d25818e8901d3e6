"""The recurrent UNet: its ConvLSTM against a step written by hand, its skips, its energy."""

import pytest
import torch
from torch import Tensor, nn

from sdt_distill.networks import E2Depth, E2DepthConfig
from sdt_distill.networks.e2depth import ConvLSTM, Decoder, ResidualBlock
from sdt_ros.network import EnergyRecorder, synthetic_events

CONFIG = E2DepthConfig(widths=(4, 8, 12, 16))


def lstm_by_hand(lstm: ConvLSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step, pixel by pixel, of the one convolution that takes x and h together."""
    weight = torch.cat([lstm.input.weight, lstm.hidden.weight], dim=1).detach()
    bias = lstm.input.bias
    assert bias is not None
    channels, (height, width) = x.shape[0], x.shape[1:]
    both = nn.functional.pad(torch.cat([x, h]), (1, 1, 1, 1))
    new_h, new_c = torch.empty_like(h), torch.empty_like(c)
    for y in range(height):
        for column in range(width):
            gates = (weight * both[:, y : y + 3, column : column + 3]).sum((1, 2, 3)) + bias.detach()
            i, f, o, g = gates.view(4, channels)
            cell = f.sigmoid() * c[:, y, column] + i.sigmoid() * g.tanh()
            new_c[:, y, column] = cell
            new_h[:, y, column] = o.sigmoid() * cell.tanh()
    return new_h, new_c


def test_the_lstm_is_a_hand_written_step() -> None:
    torch.manual_seed(0)
    lstm = ConvLSTM(3).double()
    nn.init.normal_(lstm.input.bias)  # type: ignore[arg-type]
    features = torch.randn(3, 2, 3, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        states = lstm(features)
    for window in range(2):
        h = c = torch.zeros(3, 4, 5, dtype=torch.float64)
        for step in range(3):
            h, c = lstm_by_hand(lstm, features[step, window], h, c)
            torch.testing.assert_close(states[step, window], h, rtol=0, atol=1e-6)  # the cell is float32


def test_forget_gates_start_open() -> None:
    bias = E2Depth(CONFIG).encoders[0].recurrent.input.bias.view(4, 8)  # type: ignore[union-attr,operator]
    assert torch.equal(bias, torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None].expand(4, 8))


def test_the_order_of_bins_matters_and_each_bin_counts() -> None:
    torch.manual_seed(0)
    network = E2Depth(CONFIG).eval()
    spikes = synthetic_events(4, 40, 40).float().requires_grad_()
    network(spikes).sum().backward()
    assert all(spikes.grad[0, step].any() for step in range(4))  # type: ignore[index]
    with torch.no_grad():
        assert not torch.allclose(network(spikes), network(spikes.flip(1)), atol=1e-5)
        assert network(spikes[:, :1]).shape == (1, 1, 40, 40)


def test_depth_is_decoded_from_the_last_step_with_sums_as_skips() -> None:
    network = E2Depth(CONFIG).eval()
    seen: dict[str, list[Tensor]] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, i, o, name=name: seen.setdefault(name, []).extend([i[0], o]))
    with torch.no_grad():
        network(synthetic_events(4, 30, 45))  # padded to 32x48
    encoders = [seen[f"encoders.{i}"][1] for i in range(3)]
    assert [tuple(e.shape) for e in encoders] == [(4, 1, 8, 16, 24), (4, 1, 12, 8, 12), (4, 1, 16, 4, 6)]
    assert torch.equal(seen["residuals.0"][0], encoders[2][-1])
    assert torch.equal(seen["decoders.0"][0], seen["residuals.1"][1] + encoders[2][-1])
    assert torch.equal(seen["decoders.1"][0], seen["decoders.0"][1] + encoders[1][-1])
    assert torch.equal(seen["decoders.2"][0], seen["decoders.1"][1] + encoders[0][-1])
    assert torch.equal(seen["depth"][0], seen["decoders.2"][1] + seen["head"][1][-1:])
    assert isinstance(network.residuals[1], ResidualBlock)
    assert isinstance(network.decoders[0], Decoder)


def test_energy_counts_every_step() -> None:
    network = E2Depth(CONFIG).eval()
    spikes = synthetic_events(4, 32, 32)
    with torch.no_grad(), EnergyRecorder(network) as recorder:
        network(spikes)
        network(spikes)
    rows = {row.name: row for row in recorder.report().rows}
    assert rows["head.conv"].spiking
    assert rows["head.conv"].runs == 4
    assert rows["encoders.0.down.conv"].runs == 4
    assert rows["encoders.0.recurrent.input"].runs == 4
    assert rows["encoders.0.recurrent.hidden"].runs == 3, "the first step has no hidden state"
    assert rows["residuals.0.second"].runs == rows["depth"].runs == 1
    assert rows["encoders.0.recurrent.hidden"].macs == 9 * 8 * 32 * 16 * 16
    assert rows["encoders.0.recurrent.hidden"].energy_mj == pytest.approx(4.6e-9 * 3 * 9 * 8 * 32 * 16 * 16)


def test_steps_that_differ_between_passes_are_not_averaged() -> None:
    network = E2Depth(CONFIG).eval()
    with torch.no_grad(), EnergyRecorder(network), pytest.raises(ValueError, match="different shapes"):
        network(synthetic_events(4, 32, 32))
        network(synthetic_events(3, 32, 32))


def test_depth_lies_within_the_range() -> None:
    network = E2Depth(CONFIG)
    nn.init.constant_(network.depth.weight, 100.0)
    with torch.no_grad():
        depth = network(synthetic_events(4, 32, 32))
    assert depth.min() >= 0
    assert depth.max() <= 1
