"""DepthEstimator: a window of spikes in, metres out."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sdt_ros.events.reduce import reduce_spikes, reduced_size, require_reduced
from sdt_ros.lens import UNKNOWN_LENS_DEVIATION, depth_factor
from sdt_ros.network import (
    Card,
    EnergyReport,
    SpikingDepthTransformer,
    build_network,
    load_checkpoint,
    synthetic_events,
)
from sdt_ros.runtime.choose import FELL_BACK, check_runtime, open_runtime
from sdt_ros.runtime.device import DeviceLost, device_errors, resolve_device
from sdt_ros.runtime.estimate import Estimate
from sdt_ros.runtime.gpu.accelerator import to_host
from sdt_ros.runtime.thread_count import ALL_THREADS, fewest_threads
from sdt_ros.weights import weights_file

_log = logging.getLogger(__name__)

Spikes = NDArray[np.uint8] | Tensor
Depth = NDArray[np.float32]
ON_DEVICE_ERROR = ("raise", "cpu")


class DepthEstimator:
    """Joins a network, the card of its weights and a runtime. It keeps no state between windows.

    Made by `from_checkpoint` or `untrained`.

    Attributes:
        card: what the weights are; its `depth_range` bounds the output.
        tells_uncertainty: whether the weights have a head for it.
        parameters: how many weights and biases the network has, as it was trained.
        device_failure: how the GPU failed, where it did and the CPU took over; else empty.
    """

    def __init__(
        self,
        network: SpikingDepthTransformer,
        card: Card,
        device: str | torch.device = "auto",
        *,
        runtime: str = "auto",
        on_device_error: str = "raise",
    ) -> None:
        """Takes the network over.

        Args:
            network: with its weights.
            card: theirs.
            device: "auto", "cpu", "cuda" or "cuda:N".
            runtime: "auto", the fastest that the device carries; "eager", torch operations as the network is written;
                "cpu", compiled loops in float32; "cpu_int8", those with int8 weights; "cuda", a GPU with kernels by
                Triton; or "cuda_torch", a GPU with torch's.
            on_device_error: what to do when the GPU runs out of memory or stops working, now or later: "raise", or
                "cpu", go on there with the same weights, with a warning. That keeps a copy of them in memory.

        Raises:
            DeviceError: the GPU asked for is not there, or the runtime is not for the device.
            DeviceLost: the GPU ran out of memory or stopped working, and that is to be raised.
            ValueError: `on_device_error` is neither.
        """
        if on_device_error not in ON_DEVICE_ERROR:
            raise ValueError(f"on_device_error is {on_device_error!r}, expected one of {', '.join(ON_DEVICE_ERROR)}")
        chosen, self._reason = resolve_device(device)
        self._device = chosen
        self.card = card
        self.tells_uncertainty = network.uncertainty is not None
        self.parameters = sum(each.numel() for each in network.parameters())
        self.device_failure = ""
        may_move = on_device_error == "cpu" and chosen.type != "cpu"
        self._spare = copy.deepcopy(network) if may_move else None
        try:
            self._runtime, self._why = open_runtime(network, runtime, chosen)
        except DeviceLost as lost:
            self._go_to_cpu(lost)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        *,
        bins: int | None = None,
        runtime: str = "auto",
        on_device_error: str = "raise",
    ) -> DepthEstimator:
        """Loads a checkpoint.

        Args:
            path: the `.safetensors` file, its card beside it, or the name of a packaged one ("sdt_small", "sdt_tiny").
            device: "auto", "cpu", "cuda" or "cuda:N".
            bins: time bins that the caller will feed; None takes the card's.
            runtime: as in the constructor.
            on_device_error: as in the constructor.

        Raises:
            CheckpointError: the checkpoint is damaged or does not fit.
            DeviceError: the GPU or the runtime asked for is not there.
        """
        check_runtime(runtime, resolve_device(device)[0])  # before the slow part
        network, card = load_checkpoint(weights_file(str(path)), bins=bins)
        return cls(network, card, device, runtime=runtime, on_device_error=on_device_error)

    @classmethod
    def untrained(
        cls,
        preset: str = "sdt",
        device: str | torch.device = "auto",
        seed: int = 0,
        *,
        runtime: str = "auto",
        on_device_error: str = "raise",
    ) -> DepthEstimator:
        """Makes an estimator with random weights, for tests and timing; its depth means nothing.

        Args:
            preset: name of a preset.
            device: "auto", "cpu", "cuda" or "cuda:N".
            seed: of the weights; torch's global generator is left as it was.
            runtime: as in the constructor.
            on_device_error: as in the constructor.

        Raises:
            CheckpointError: no preset has that name.
            DeviceError: the GPU or the runtime asked for is not there.
        """
        check_runtime(runtime, resolve_device(device)[0])
        card = Card.of_preset(preset)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(card.network)
        return cls(network, card, device, runtime=runtime, on_device_error=on_device_error)

    @property
    def bins(self) -> int:
        """Time bins T of a window."""
        return self.card.bins

    @property
    def window_ms(self) -> float:
        """Length of a window in milliseconds."""
        return self.card.window_ms

    @property
    def is_untrained(self) -> bool:
        """Whether the weights are random: the depth is then no measurement."""
        return not self.card.trained

    def __call__(
        self, spikes: Spikes, output_size: tuple[int, int] | None = None, focal_px: float | None = None
    ) -> Depth:
        """Estimates depth.

        Args:
            spikes: one window [T, 2, H, W] uint8 in {0, 1} of the whole sensor, oldest bin first; polarity 0 is OFF, 1
                is ON. It is reduced here to what the network sees of it, by `card.input_scale`.
            output_size: (H, W) of the sensor where `spikes` are already on the grid that the network sees, as
                `EventStream` bins them; the result is interpolated to it in log depth.
            focal_px: focal length of the camera in pixels of the result; where it is None and the weights ask for it
                (`card.focal_px`), a usual lens is assumed, see `sdt_ros.lens`.

        Returns:
            Depth [H, W] float32 in metres within `card.depth_range`, times the lens's factor where the weights ask
            for its focal length; NaN where the network's output is NaN.

        Raises:
            ValueError: shape, dtype or values of `spikes` are others, or they are those of a whole sensor and
                `output_size` says that they are reduced.
            DeviceLost: the GPU ran out of memory or stopped working, and `on_device_error` is "raise".
        """
        return self.estimate(spikes, output_size, focal_px).depth

    def estimate(
        self,
        spikes: Spikes,
        output_size: tuple[int, int] | None = None,
        focal_px: float | None = None,
        *,
        measure: bool = False,
    ) -> Estimate:
        """Estimates depth, and how far it may be off.

        Args:
            spikes: as a call takes them; and so with the two that follow.
            output_size: see a call.
            focal_px: see a call. Where it is None and the weights ask for it, the scale is as uncertain as the lens.
            measure: count in the same pass what the window cost; slower.

        Returns:
            Depth as a call gives it; its uncertainty, where the weights tell it (`tells_uncertainty`).

        Raises:
            ValueError, DeviceLost: as a call does.
        """
        return self._estimate(*self._seen(self._checked(spikes), output_size), focal_px, measure=measure)

    def measured(
        self, spikes: Spikes, output_size: tuple[int, int] | None = None, focal_px: float | None = None
    ) -> tuple[Depth, EnergyReport]:
        """Estimates depth and measures, in the same pass, what the window cost; slower than a call.

        Returns:
            Depth as a call gives it; firing rates and energy by layer.
        """
        estimate = self.estimate(spikes, output_size, focal_px, measure=True)
        assert estimate.report is not None
        return estimate.depth, estimate.report

    def firing_rates(self, spikes: Spikes) -> dict[str, float]:
        """Share of ones in the input of each spiking layer, on this window; the first is that of the event bins."""
        return self.measured(spikes)[1].firing_rates

    def energy_mj(self, spikes: Spikes) -> float:
        """Millijoules of this window as `sdt_ros.network.energy` counts them."""
        energy = self.measured(spikes)[1].energy_mj
        assert energy is not None  # a measured report has all energies
        return energy

    def warm_up(self, height: int, width: int, budget_ms: float | None = None) -> None:
        """Runs at a resolution, so that the first real window does not pay for allocation and choice of kernels.

        A network that answers synthetic events with one constant depth is broken; that is logged as a warning.

        Args:
            height: rows that the network sees [px].
            width: columns that the network sees [px].
            budget_ms: on the CPU, leave torch in this thread the fewest threads with which a window is done in so
                long; None leaves the number as it is.
        """
        spikes = synthetic_events(self.bins, height, width, self.card.network.polarities)[0]
        depth = self._estimate(spikes, None, None).depth
        self._runtime.warm_up(spikes)
        if budget_ms is not None and self._device.type == "cpu":
            fewest_threads(lambda: self._estimate(spikes, None, None), budget_ms, ALL_THREADS)
        if not np.ptp(depth) > 0:  # true for NaN too
            _log.warning("depth is %s m everywhere on synthetic events: the weights are broken", depth.flat[0])

    @property
    def fallback(self) -> str:
        """Why the runtime is not the one that it should be here; empty where it is."""
        return self._why if FELL_BACK in self._why else ""

    def describe(self) -> str:
        """Weights and runtime in one line, and why this device and this runtime."""
        size = self.card.preset or "own network"
        state = "UNTRAINED" if self.is_untrained else f"trained on {self.card.training_data}"
        return f"{size}, {state}; {self._runtime.describe()} (device: {self._reason}; runtime: {self._why})"

    def _go_to_cpu(self, lost: DeviceLost) -> None:
        """Leaves the GPU for good, or raises where that is not wanted or was done already."""
        if self._spare is None:
            raise lost
        network, self._spare = self._spare, None
        if not lost.answers:
            self._dead = getattr(self, "_runtime", None)
        self.device_failure = str(lost)
        _log.warning("going on on the CPU, slower: %s", self.device_failure)
        self._device = torch.device("cpu")
        self._runtime, self._why = open_runtime(network, "auto", self._device)
        self._reason = f"{FELL_BACK}: {self.device_failure}"

    def _checked(self, spikes: Spikes) -> Tensor:
        if isinstance(spikes, np.ndarray):
            if spikes.dtype != np.uint8:
                raise ValueError(f"spikes have dtype {spikes.dtype}, expected uint8")
            tensor = torch.from_numpy(np.require(spikes, requirements=["C", "W"]))  # torch warns of what is read-only
        elif isinstance(spikes, Tensor):
            tensor = spikes
        else:
            raise ValueError(f"spikes are a {type(spikes).__name__}, expected a numpy array or a torch tensor")
        if tensor.dtype != torch.uint8:
            raise ValueError(f"spikes have dtype {tensor.dtype}, expected torch.uint8")
        expected = (self.bins, self.card.network.polarities)
        if tensor.ndim != 4 or tuple(tensor.shape[:2]) != expected or 0 in tensor.shape:
            raise ValueError(f"spikes have shape {list(tensor.shape)}, expected [{expected[0]}, {expected[1]}, H, W]")
        if (largest := int(tensor.max())) > 1:
            raise ValueError(f"spikes hold the value {largest}, expected 0 and 1 only: clip counts before")
        return tensor

    def _seen(self, spikes: Tensor, output_size: tuple[int, int] | None) -> tuple[Tensor, tuple[int, int] | None]:
        """What the network sees of a window, and the size of the result."""
        height, width = spikes.shape[-2:]
        smaller = reduced_size(height, width, self.card.input_scale)
        if output_size is not None:
            if not (isinstance(output_size, tuple | list) and len(output_size) == 2 and min(output_size) >= 1):
                raise ValueError(
                    f"output_size is {output_size!r}, expected (height, width) of at least 1; a focal length goes by "
                    "name: focal_px=..."
                )
            require_reduced((height, width), output_size, self.card.input_scale)
            return spikes, output_size
        if smaller == (height, width):
            return spikes, None
        return torch.from_numpy(reduce_spikes(spikes.cpu().numpy(), *smaller)), (height, width)

    def _estimate(
        self, seen: Tensor, output_size: tuple[int, int] | None, focal_px: float | None, *, measure: bool = False
    ) -> Estimate:
        """Depth of a window on the grid that the network sees."""
        try:
            with device_errors():
                return self._run(seen, output_size, focal_px, measure)
        except DeviceLost as lost:
            self._go_to_cpu(lost)
            return self._run(seen, output_size, focal_px, measure)

    def _run(
        self, seen: Tensor, output_size: tuple[int, int] | None, focal_px: float | None, measure: bool
    ) -> Estimate:
        told, report = self._runtime.measured(seen) if measure else (self._runtime(seen), None)
        depth = self._to_metres(told[:, :1], output_size, focal_px)
        if told.shape[1] == 1:
            return Estimate(depth, report=report)
        scale, place = to_host(told[0, 1:]).numpy()  # [h, w] each, the first the same everywhere
        deviation = math.exp(float(scale[0, 0]))
        if self.card.focal_px is not None and focal_px is None:
            deviation = math.hypot(deviation, UNKNOWN_LENS_DEVIATION)
        return Estimate(depth, deviation, place, report)

    def _to_metres(self, log_depth: Tensor, output_size: tuple[int, int] | None, focal_px: float | None) -> Depth:
        height, width = log_depth.shape[-2:]
        factor = depth_factor(self.card.focal_px, focal_px, (height, width), output_size)
        if output_size is not None and tuple(output_size) != tuple(log_depth.shape[-2:]):
            log_depth = functional.interpolate(log_depth, size=output_size, mode="bilinear", align_corners=False)
        metres = self.card.depth_range.to_metres(log_depth)
        if factor != 1:
            metres = metres * factor
        return to_host(metres[0, 0]).numpy()
