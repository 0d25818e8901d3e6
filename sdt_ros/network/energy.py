"""Energy of a window, counted as the literature on spiking transformers counts it, from firing rates really measured.

    E = 4.6 pJ * (MACs of layers whose input is not {0,1})  +  0.9 pJ * sum of (input rate * T * MACs of the layer)

for 45 nm at 32 bit (Horowitz 2014; Spikformer V2, arXiv 2403.18228). A layer's input is called spikes when every value
seen is 0 or 1, whatever its author meant. The products of attention are counted too: each adds rows of one operand
where the other, a spike, is 1, or multiplies where it is none. Not in it: memory traffic, which on most hardware costs
more, and the neurons, norms, pools, gates and interpolations, which are linear in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdt_ros.network.attention import SoftmaxProduct, SpikeAgreement, SpikeProduct
from sdt_ros.network.firing import firing_rate

MAC_PJ = 4.6  # a 32-bit floating point multiplication and addition
AC_PJ = 0.9  # an addition


@dataclass(frozen=True)
class LayerEnergy:
    """One row of the table.

    Attributes:
        name: module path; a product of attention adds which product it is.
        kind: "conv", "linear", "product", or "norm" for the row that gathers all norms' parameters.
        input_shape: of one run, [C, H, W] or [heads, N, d].
        parameters: weights and biases of the layer itself.
        macs: multiply-accumulates of one run if nothing were sparse.
        runs: how often it runs in a window: T, or once behind the mean over time. Time steps may come as one batch
            or one after the other.
        rate: share of ones in its input; None for real input, or where nothing was measured.
        spiking: whether all inputs seen were 0 or 1, so that it accumulates (AC) and multiplies nothing.
        energy_mj: millijoules a window; None where nothing was measured.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    parameters: int
    macs: int
    runs: int
    rate: float | None
    spiking: bool
    energy_mj: float | None


@dataclass(frozen=True)
class EnergyReport:
    """The table, and totals that are sums of its rows."""

    rows: tuple[LayerEnergy, ...]
    windows: int

    @property
    def parameters(self) -> int:
        """Parameters of all rows; those of the network."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """MACs of one run of each row."""
        return sum(row.macs for row in self.rows)

    @property
    def energy_mj(self) -> float | None:
        """Millijoules a window; None where nothing was measured."""
        energies = [row.energy_mj for row in self.rows]
        return None if None in energies else sum(energies)  # type: ignore[arg-type]

    @property
    def firing_rates(self) -> dict[str, float]:
        """Share of ones in the input of each spiking layer; the first is the rate of the event bins."""
        return {row.name: row.rate for row in self.rows if row.rate is not None}

    def without_rates(self) -> EnergyReport:
        """The same layers with nothing said about rates and energy."""
        return EnergyReport(tuple(replace(row, rate=None, energy_mj=None) for row in self.rows), windows=0)


@dataclass
class _Tally:
    """What the hooks of one layer have seen."""

    kind: str
    input_shape: tuple[int, ...]
    parameters: int
    macs: int
    runs: int = 0
    spiking: bool = True
    rates: list[float] = field(default_factory=list)
    runs_now: int = 0  # in the pass that is under way

    def row(self, name: str) -> LayerEnergy:
        rate = sum(self.rates) / len(self.rates) if self.spiking else None
        picojoules = self.runs * self.macs * (MAC_PJ if rate is None else AC_PJ * rate)
        return LayerEnergy(
            name, self.kind, self.input_shape, self.parameters, self.macs, self.runs, rate, self.spiking,
            picojoules * 1e-9,
        )  # fmt: skip


class EnergyRecorder:
    """Counts the passes of a network made inside its `with` block.

        with EnergyRecorder(network) as recorder:
            network(spikes)
        recorder.report().energy_mj

    Several passes are averaged, each with the same weight; all must have the same shape.

    Args:
        network: any module whose input is a batch [B, ...]; layers may fold time steps into the batch.

    Attributes:
        windows: how many have passed.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._tallies: dict[str, _Tally] = {}
        self._handles: list[RemovableHandle] = []
        self._batch = 1
        self.windows = 0

    def __enter__(self) -> EnergyRecorder:
        self._handles.append(self._network.register_forward_pre_hook(self._begin))
        for name, module in self._network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                self._handles.append(module.register_forward_hook(self._layer_hook(name)))
            elif isinstance(module, SpikeProduct | SpikeAgreement | SoftmaxProduct):
                self._handles.append(module.register_forward_hook(self._product_hook(name)))
        self._handles.append(self._network.register_forward_hook(self._end))  # behind the hooks of its layers
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def report(self) -> EnergyReport:
        """The table of what was seen.

        Raises:
            ValueError: no window was.
        """
        if not self.windows:
            raise ValueError("no window has passed through the network: its energy is not known")
        rows = [tally.row(name) for name, tally in self._tallies.items()]
        others = sum(p.numel() for p in self._network.parameters()) - sum(row.parameters for row in rows)
        if others:
            rows.append(LayerEnergy("batch norms, all", "norm", (), others, 0, 0, None, False, 0.0))
        return EnergyReport(tuple(rows), self.windows)

    def _begin(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._batch = inputs[0].shape[0]
        self.windows += self._batch
        for tally in self._tallies.values():
            tally.runs_now = 0

    def _end(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for name, tally in self._tallies.items():
            if tally.runs != tally.runs_now:
                if tally.runs:
                    self._refuse(name)
                tally.runs = tally.runs_now

    def _layer_hook(self, name: str) -> Callable[..., None]:
        def record(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
            spikes = inputs[0].detach()
            if isinstance(module, nn.Conv2d):
                kind, fan_in, sites = "conv", module.weight[0].numel(), output[0].numel()
            else:
                kind, fan_in, sites = "linear", module.in_features, output[0].numel()
            parameters = sum(p.numel() for p in module.parameters())
            runs = spikes.shape[0] // self._batch
            tally = self._tally(name, _Tally(kind, tuple(spikes.shape[1:]), parameters, fan_in * sites), runs)
            rate = firing_rate(spikes)
            tally.spiking &= rate is not None
            tally.rates.append(rate or 0.0)

        return record

    def _product_hook(self, name: str) -> Callable[..., None]:
        def record(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            q = inputs[0]  # [T, B, heads, N, d]
            runs = q.shape[0] * q.shape[1] // self._batch
            for product, macs, rate in module.operations(*inputs):
                tally = self._tally(f"{name}: {product}", _Tally("product", tuple(q.shape[2:]), 0, macs), runs)
                tally.spiking &= rate is not None
                tally.rates.append(rate or 0.0)

        return record

    def _tally(self, name: str, fresh: _Tally, runs: int) -> _Tally:
        tally = self._tallies.setdefault(name, fresh)
        if tally.input_shape != fresh.input_shape:
            self._refuse(name)
        tally.runs_now += runs
        return tally

    @staticmethod
    def _refuse(name: str) -> None:
        raise ValueError(f"{name}: windows of different shapes cannot be averaged; record each shape by itself")
