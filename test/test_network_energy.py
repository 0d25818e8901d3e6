"""The energy count against numbers worked by hand, and against the network's own shapes."""

import math

import pytest
import torch
from torch import Tensor, nn

from sdt_ros.network import EnergyRecorder, NetworkConfig, build_network, synthetic_events
from sdt_ros.network.firing import firing_rate


class TwoSteps(nn.Module):
    """A convolution of spikes in T time steps, its mean over time, and a convolution of that: spikes, then reals."""

    def __init__(self) -> None:
        super().__init__()
        self.spiking = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.real = nn.Conv2d(3, 1, 1)

    def forward(self, spikes: Tensor) -> Tensor:
        currents = self.spiking(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])
        return self.real(currents.mean(1))


def test_a_tiny_network_worked_by_hand() -> None:
    spikes = torch.zeros(1, 4, 2, 5, 6)
    spikes[0, 0, 0] = 1  # 30 ones of 240: a rate of 1/8
    with EnergyRecorder(TwoSteps()) as recorder, torch.no_grad():
        recorder._network(spikes)
    spiking, real = recorder.report().rows
    assert (spiking.name, spiking.kind, spiking.input_shape) == ("spiking", "conv", (2, 5, 6))
    assert spiking.macs == 9 * 2 * 3 * 30
    assert (spiking.runs, spiking.rate, spiking.spiking) == (4, 0.125, True)
    assert spiking.energy_mj == pytest.approx(0.9e-9 * 0.125 * 4 * 1620)
    assert (spiking.parameters, real.parameters) == (54, 4)
    assert (real.macs, real.runs, real.rate, real.spiking) == (3 * 30, 1, None, False)
    assert real.energy_mj == pytest.approx(4.6e-9 * 90)


def test_linear_layers_and_batches_are_counted_by_window() -> None:
    network = nn.Linear(8, 3)
    with EnergyRecorder(network) as recorder:
        network(torch.ones(5, 7, 8))  # five windows, seven tokens each
    (row,) = recorder.report().rows
    assert (row.kind, row.macs, row.runs, row.rate, row.parameters) == ("linear", 7 * 8 * 3, 1, 1.0, 27)
    assert recorder.report().windows == 5


def test_rates_are_the_mean_over_passes() -> None:
    network = nn.Conv2d(1, 1, 1)
    with EnergyRecorder(network) as recorder:
        network(torch.ones(1, 1, 4, 4))
        network(torch.zeros(1, 1, 4, 4))
    assert recorder.report().rows[0].rate == 0.5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.bool, torch.float32, torch.bfloat16])
def test_a_firing_rate_is_the_share_of_ones(dtype: torch.dtype) -> None:
    spikes = (torch.arange(240) % 5 == 0).to(dtype).view(2, 3, 8, 5)
    assert firing_rate(spikes) == firing_rate(spikes.transpose(1, 3)) == pytest.approx(0.2)
    assert firing_rate(torch.zeros_like(spikes)) == 0.0
    if dtype != torch.bool:
        spikes[1, 2, 7, 4] = math.nan if dtype.is_floating_point else 2
        assert firing_rate(spikes) is None


def test_one_real_value_makes_a_layer_multiply() -> None:
    network = nn.Conv2d(1, 1, 1)
    with EnergyRecorder(network) as recorder:
        network(torch.ones(1, 1, 4, 4))
        network(torch.full((1, 1, 4, 4), 0.5))
    row = recorder.report().rows[0]
    assert not row.spiking
    assert row.energy_mj == pytest.approx(4.6e-9 * 16)


@pytest.mark.parametrize("attention, products", [("ssa", ["k^T v", "q (k^T v)"]), ("spike_driven", ["sum k*v"])])
def test_the_table_of_a_network_adds_up(attention: str, products: list[str]) -> None:
    config = NetworkConfig(
        embed_dim=32, heads=4, depth=2, mlp_ratio=2, attention=attention, head_widths=(16, 8, 8, 8, 4)
    )
    network = build_network(config).eval()
    spikes = synthetic_events(4, 60, 60)  # padded to 64: 16 tokens of 4 x 8 channels
    with torch.no_grad(), EnergyRecorder(network) as recorder:
        network(spikes)
    report = recorder.report()
    assert report.parameters == sum(p.numel() for p in network.parameters())
    assert report.macs == sum(row.macs for row in report.rows)
    assert report.energy_mj == pytest.approx(sum(row.energy_mj or 0 for row in report.rows))
    by_name = {row.name: row for row in report.rows}
    # Padding has no events and counts as pixels.
    rate = spikes.sum().item() / (4 * 2 * 64 * 64)
    first = by_name["stem.downs.0.conv_bn.conv"]
    assert first.rate == pytest.approx(rate)
    assert first.macs == 9 * 2 * 4 * 64 * 64
    assert next(iter(report.firing_rates)) == first.name
    found = [row for row in report.rows if row.kind == "product"]
    assert [row.name.partition(": ")[2] for row in found] == products * 2
    assert found[0].macs == (4 * 16 * 8 * 8 if attention == "ssa" else 4 * 16 * 8)
    assert all(row.runs == 4 and 0 < (row.rate or 0) < 1 for row in found)
    assert {row.name for row in report.rows if not row.spiking and row.macs} >= {"head.depth", "head.up8.reduce"}


def test_hooks_are_gone_afterwards_and_nothing_seen_is_no_report() -> None:
    network = nn.Conv2d(1, 1, 1)
    with EnergyRecorder(network) as recorder:
        pass
    network(torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match="no window"):
        recorder.report()


def test_windows_of_two_sizes_are_not_averaged() -> None:
    network = nn.Conv2d(1, 1, 1)
    with EnergyRecorder(network), pytest.raises(ValueError, match="different shapes"):
        network(torch.ones(1, 1, 4, 4))
        network(torch.ones(1, 1, 4, 5))


def test_without_rates_says_nothing_about_energy() -> None:
    network = nn.Conv2d(1, 1, 1)
    with EnergyRecorder(network) as recorder:
        network(torch.ones(1, 1, 4, 4))
    report = recorder.report().without_rates()
    assert report.energy_mj is None
    assert report.firing_rates == {}
    assert report.macs == 16
