"""The GPU runtimes: their modules, order of work, choice and errors on any machine, and all of it on a real GPU.

Tests marked `gpu` run from a checkout with torch for CUDA, Triton, numba, safetensors and pyyaml; no ROS.
"""

from __future__ import annotations

import copy
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from depth_difference import apart
from late_accelerator import LateAccelerator
from torch import Tensor

from sdt_ros.network import (
    Card,
    NetworkConfig,
    SpikingDepthTransformer,
    UncertaintyHead,
    build_network,
    synthetic_events,
)
from sdt_ros.network.layers import ConvBN
from sdt_ros.runtime import CudaRuntime, DepthEstimator, DeviceError, DeviceLost, EagerRuntime, choose, estimator
from sdt_ros.runtime.device import device_errors
from sdt_ros.runtime.fold import fold_batch_norms
from sdt_ros.runtime.gpu.layers import use_gpu_layers
from sdt_ros.runtime.gpu.precision import largest_current, pick_dtype
from sdt_ros.runtime.gpu.steps import Inputs, Steps
from sdt_ros.runtime.gpu.torch_ops import TorchOps

SIZES = {"embed_dim": 32, "heads": 2, "depth": 2, "mlp_ratio": 2, "head_widths": (16, 8, 8, 8, 4)}
CONFIG = NetworkConfig(**SIZES)
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


def network(config: NetworkConfig = CONFIG, seed: int = 0) -> SpikingDepthTransformer:
    torch.manual_seed(seed)
    return build_network(config).eval()


def with_head() -> SpikingDepthTransformer:
    plain = network()
    plain.uncertainty = UncertaintyHead(CONFIG).eval()
    return plain


def window(height: int = 70, width: int = 90, seed: int = 0) -> Tensor:
    return synthetic_events(4, height, width, seed=seed)[0].to(torch.uint8)


def depth_of(some: SpikingDepthTransformer, spikes: Tensor) -> Tensor:
    with torch.inference_mode():
        depth: Tensor = some(spikes)
    return depth


def runtime_on_cpu(plain: SpikingDepthTransformer, accelerator: LateAccelerator) -> CudaRuntime:
    return CudaRuntime(
        copy.deepcopy(plain), CPU, triton=False, accelerator=accelerator, dtype=(torch.float32, "a test")
    )


# --- the modules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["ssa", "spike_driven"])
@pytest.mark.parametrize("head", ["fusion", "linear"])
@pytest.mark.parametrize("size", [(70, 90), (30, 40)])  # the second has fewer tokens than channels a head
def test_modules_are_the_network(attention: str, head: str, size: tuple[int, int]) -> None:
    plain = network(NetworkConfig(**SIZES, attention=attention, head=head))
    spikes = torch.cat([synthetic_events(4, *size, seed=seed) for seed in (0, 1)])
    fast = use_gpu_layers(copy.deepcopy(plain), TorchOps(), torch.float32)
    expected, ours = depth_of(plain, spikes), depth_of(fast, spikes)
    assert apart(ours, expected) < 0.07


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 0.01), (torch.bfloat16, 0.02)])
def test_half_formats_fire_at_the_same_rates(dtype: torch.dtype, most: float) -> None:
    """An untrained network is chaotic, so that single spikes differ; rates hardly do."""
    half = CudaRuntime(network(), CPU, triton=False, accelerator=LateAccelerator(), dtype=(dtype, "a test"))
    assert half.describe() == f"captured, {str(dtype)[6:]} (a test), kernels by torch, on cpu"
    rates = []
    for runtime in (EagerRuntime(network(), CPU), half):
        reports = [runtime.measured(window(seed=seed))[1] for seed in range(3)]
        rates.append(np.mean([list(report.firing_rates.values()) for report in reports], axis=0))
    assert np.abs(rates[1] - rates[0]).max() < most
    assert not np.array_equal(*rates)


def test_measuring_reports_the_layers_of_the_eager_network() -> None:
    plain = network()
    reports = [
        runtime.measured(window())[1]
        for runtime in (EagerRuntime(copy.deepcopy(plain), CPU), runtime_on_cpu(plain, LateAccelerator()))
    ]
    told = [[(row.name, row.macs, row.runs, row.spiking, row.input_shape) for row in report.rows] for report in reports]
    assert told[0] == told[1]
    assert reports[0].parameters == reports[1].parameters
    assert reports[1].firing_rates == pytest.approx(reports[0].firing_rates, abs=2e-3)


@pytest.mark.parametrize("size", [(70, 90), (30, 40)])
def test_uncertainty_is_that_of_the_eager_network(size: tuple[int, int]) -> None:
    plain = with_head()
    runtimes = EagerRuntime(copy.deepcopy(plain), CPU), runtime_on_cpu(plain, LateAccelerator())
    expected, ours = (runtime(window(*size)) for runtime in runtimes)
    for told in (expected, ours):
        assert told.shape == (1, 3, *size) and told.dtype == torch.float32
        assert (told[:, 1] == told[0, 1, 0, 0]).all()
    assert apart(ours[:, :1], expected[:, :1]) < 0.07
    assert abs(ours[0, 1, 0, 0] - expected[0, 1, 0, 0]) < 3e-3
    assert apart(ours[:, 2:], expected[:, 2:]) < 0.07


def test_a_head_for_uncertainty_leaves_depth_and_adds_its_layers_to_the_report() -> None:
    without, some = (runtime_on_cpu(plain, LateAccelerator()) for plain in (network(), with_head()))
    (depth, before), (told, report) = without.measured(window()), some.measured(window())
    assert torch.equal(told[:, :1], depth) and torch.equal(told, some(window()))
    added = [row for row in report.rows if row.name.startswith("uncertainty.")]
    names = ["uncertainty.scale.0", "uncertainty.scale.2", "uncertainty.place.0", "uncertainty.place.2"]
    assert [row.name for row in added] == names
    assert all(row.runs == 1 and not row.spiking for row in added)
    assert tuple(row for row in report.rows if row not in added) == before.rows
    assert before.energy_mj is not None
    assert report.energy_mj == pytest.approx(before.energy_mj + 4.6e-9 * sum(row.macs for row in added))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_tell_uncertainty_in_float32(dtype: torch.dtype) -> None:
    half = CudaRuntime(with_head(), CPU, triton=False, accelerator=LateAccelerator(), dtype=(dtype, "a test"))
    given: list[Tensor] = []
    assert half._network.uncertainty is not None
    half._network.uncertainty.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
    told = half(window())
    assert told.shape == (1, 3, 70, 90) and told.dtype == torch.float32 and torch.isfinite(told).all()
    assert [each.dtype for each in given[:3]] == [dtype, dtype, torch.float32]
    expected = EagerRuntime(with_head(), CPU)(window())
    assert abs(told[0, 1, 0, 0] - expected[0, 1, 0, 0]) < 0.05  # spikes differ: see above


def test_softmax_is_refused() -> None:
    with pytest.raises(ValueError, match="softmax"):
        use_gpu_layers(network(NetworkConfig(**SIZES, attention="softmax")), TorchOps(), torch.float32)


@pytest.mark.parametrize(
    ("capability", "scale", "expected", "why"),
    [
        ((9, 0), 1.0, torch.float16, "9.0"),
        ((5, 3), 1.0, torch.float16, "5.3"),
        ((6, 1), 1.0, torch.float32, "no fast float16"),
        ((8, 7), 1e5, torch.bfloat16, "beyond float16"),
        ((7, 5), 1e5, torch.float32, "no bfloat16"),
        ((8, 0), torch.nan, torch.bfloat16, "inf"),
    ],
)
def test_the_format_is_one_that_the_gpu_and_the_weights_allow(
    capability: tuple[int, int], scale: float, expected: torch.dtype, why: str
) -> None:
    plain = network()
    fold_batch_norms(plain)
    plain.stem.position.conv.weight.data.mul_(scale)
    dtype, reason = pick_dtype(plain, capability)
    assert dtype == expected and why in reason


def test_no_current_is_larger_than_the_bound() -> None:
    plain, largest = network(), []
    fold_batch_norms(plain)
    for module in plain.modules():
        if isinstance(module, ConvBN):
            weight, bias = module.conv.weight, module.conv.bias
            module.conv.register_forward_hook(
                lambda conv, inputs, output, bias=bias: largest.append(
                    (output - bias[:, None, None]).abs().max().item()  # biases are added in float32
                )
            )
            assert weight.dtype == torch.float32
    depth_of(plain, synthetic_events(4, 70, 90))
    bound = largest_current(plain)
    assert 0.05 * bound < max(largest) <= bound


# --- windows on their way, and recorded passes -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_windows_arrive_whole_whatever_runs_first(seed: int) -> None:
    """The caller overwrites its window at once, sizes change in between, and nothing waits that need not."""
    accelerator = LateAccelerator(seed)
    inputs = Inputs(accelerator)
    given = torch.empty(6, dtype=torch.uint8)
    targets = []
    for number in range(9):
        size = 4 if number in (4, 5) else 6
        targets.append(torch.zeros(size, dtype=torch.uint8))
        given.fill_(number + 10)
        inputs.send(given[:size], targets[-1])
    given.fill_(99)
    accelerator.synchronize()
    assert [set(target.tolist()) for target in targets] == [{number + 10} for number in range(9)]


def test_two_windows_may_be_on_their_way_at_once() -> None:
    accelerator = LateAccelerator()
    inputs, target = Inputs(accelerator), torch.zeros(6, dtype=torch.uint8)
    for value in (8, 9):  # the first two take memory, and wait for it
        inputs.send(torch.full((6,), value, dtype=torch.uint8), target)
    accelerator.synchronize()
    before = accelerator.done
    inputs.send(torch.full((6,), 1, dtype=torch.uint8), target)
    inputs.send(torch.full((6,), 2, dtype=torch.uint8), target)
    assert accelerator.done == before  # neither call waited for anything
    accelerator.synchronize()
    assert target.tolist() == [2] * 6


def test_one_pass_is_recorded_for_each_resolution() -> None:
    plain, accelerator = network(), LateAccelerator()
    runtime = runtime_on_cpu(plain, accelerator)
    assert accelerator.captured == 1  # of the proof
    sizes = [(70, 90), (33, 47), (70, 90), (33, 47)]
    depths = []
    for number, size in enumerate(sizes):
        depths.append(runtime(window(*size, seed=number)))
    assert accelerator.captured == 3
    for number, (size, depth) in enumerate(zip(sizes, depths, strict=True)):  # none was overwritten by a later one
        assert depth.shape == (1, 1, *size)
        assert apart(depth, depth_of(plain, window(*size, seed=number)[None])) < 0.07


def test_the_pass_out_of_use_for_longest_goes() -> None:
    accelerator = LateAccelerator()
    steps = Steps(accelerator, lambda x: x.float() * 2, limit=2)
    shapes = [torch.Size((size,)) for size in (1, 2, 1, 3, 1, 2)]
    for shape in shapes:
        step = steps.of(shape)
        assert step.input.shape == step.output.shape == shape
        step.input.fill_(3)
        step.replay()
        assert step.output.tolist() == [6.0] * shape[0]
    assert len(steps) == 2
    assert accelerator.captured == 4  # 1, 2, 3, and 2 again


def test_a_pass_that_cannot_be_recorded_leaves_nothing() -> None:
    accelerator = LateAccelerator()
    steps = Steps(accelerator, lambda x: x.float())
    accelerator.failure = RuntimeError("capture failed")
    with pytest.raises(RuntimeError, match="capture failed"):
        steps.of(torch.Size((2,)))
    accelerator.failure = None
    assert len(steps) == 0
    assert steps.of(torch.Size((2,))).output.shape == (2,)


# --- the choice ------------------------------------------------------------------------------------------------------


class Fake:
    """A GPU runtime that runs eager on the CPU, unless the kernels are among those that fail."""

    fails: dict[bool, Exception] = {}

    def __init__(self, network: SpikingDepthTransformer, device: torch.device, *, triton: bool = False) -> None:
        assert device == CUDA
        if triton in self.fails:
            for parameter in network.parameters():
                parameter.data.fill_(torch.nan)  # what a runtime that fails half way leaves behind
            raise self.fails[triton]
        self.name = "triton" if triton else "torch"
        self._eager = EagerRuntime(network, CPU)

    def __call__(self, spikes: Tensor) -> Tensor:
        return self._eager(spikes)


class FakeEager(Fake):
    def __init__(self, network: SpikingDepthTransformer, device: torch.device) -> None:
        super().__init__(network, device, triton=False)
        self.name = "eager"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(choose, "CudaRuntime", Fake)
    monkeypatch.setattr(choose, "EagerRuntime", type("Eager", (FakeEager,), {"fails": {}}))
    monkeypatch.setattr(Fake, "fails", {})
    monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: object())
    return Fake


@pytest.mark.parametrize(
    ("fails", "name", "words"),
    [
        ({}, "triton", "the fastest on a GPU"),
        ({True: OSError("no compiler")}, "torch", "FELL BACK: cuda failed with OSError"),
        (
            {True: ImportError("old"), False: RuntimeError("capture")},
            "eager",
            "FELL BACK: cuda_torch failed with RuntimeError",
        ),
    ],
)
def test_auto_takes_the_fastest_that_works(
    fakes: type[Fake], caplog: pytest.LogCaptureFixture, fails: dict[bool, Exception], name: str, words: str
) -> None:
    fakes.fails = fails
    plain = network()
    runtime, why = choose.open_runtime(copy.deepcopy(plain), "auto", CUDA)
    assert isinstance(runtime, Fake) and runtime.name == name and words in why
    assert all(str(error) in caplog.text for error in fails.values())
    assert len(caplog.records) == len(fails)
    assert apart(runtime(window()), depth_of(plain, window()[None])) < 0.07  # of weights that nobody spoiled


def test_without_triton_torch_is_taken_and_that_is_no_fault(
    fakes: type[Fake], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: None)
    runtime, why = choose.open_runtime(network(), "auto", CUDA)
    assert isinstance(runtime, Fake) and runtime.name == "torch"
    assert why == "auto, Triton is not installed" and not caplog.records


def test_softmax_runs_eager_on_a_gpu(fakes: type[Fake]) -> None:
    runtime, why = choose.open_runtime(network(NetworkConfig(**SIZES, attention="softmax")), "auto", CUDA)
    assert isinstance(runtime, FakeEager) and "softmax" in why


@pytest.mark.parametrize(("name", "triton"), [("cuda", True), ("cuda_torch", False)])
def test_a_runtime_asked_for_by_name_is_made_or_refused(fakes: type[Fake], name: str, triton: bool) -> None:
    runtime, why = choose.open_runtime(network(), name, CUDA)
    assert isinstance(runtime, Fake) and runtime.name == ("triton" if triton else "torch") and why == "asked for"
    fakes.fails = {triton: OSError("no compiler")}
    with pytest.raises(DeviceError, match=f"'{name}' was asked for, but it does not work here: no compiler"):
        choose.open_runtime(network(), name, CUDA)
    fakes.fails = {triton: torch.cuda.OutOfMemoryError("Tried to allocate 2 GiB")}
    with pytest.raises(DeviceLost, match="ran out of memory: Tried to allocate 2 GiB"):
        choose.open_runtime(network(), name, CUDA)
    with pytest.raises(DeviceError, match="runs on a CUDA GPU, but the device is cpu"):
        choose.open_runtime(network(), name, CPU)


# --- a device that gives up ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nmore"), r"ran out of memory: .*2 GiB\.; stop"),
        (RuntimeError("CUDA error: unspecified launch failure"), "stopped working: CUDA error: unspecified"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "stopped working: cuDNN"),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), "stopped working: Triton"),
    ],
)
def test_all_ways_of_giving_up_are_told_as_one_error(error: Exception, words: str) -> None:
    with pytest.raises(DeviceLost, match=words) as raised, device_errors():
        raise error
    assert raised.value.__cause__ is error


def test_other_errors_stay_what_they_are() -> None:
    for error in (RuntimeError("shapes do not fit"), ValueError("CUDA error in name only")):
        with pytest.raises(type(error), match=str(error)) as raised, device_errors():
            raise error
        assert not isinstance(raised.value, DeviceLost)


class Dying:
    """A runtime that gives up at its second window."""

    error: tuple[type[Exception], str] = (torch.cuda.OutOfMemoryError, "CUDA out of memory")

    def __init__(self, network: SpikingDepthTransformer) -> None:
        self._eager, self._windows = EagerRuntime(network, CPU), 0

    def __call__(self, spikes: Tensor) -> Tensor:
        self._windows += 1
        if self._windows > 1:
            raise self.error[0](self.error[1])
        return self._eager(spikes)

    def measured(self, spikes: Tensor) -> Any:
        return self(spikes), None

    def describe(self) -> str:
        return "dying"


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_runtime(network: SpikingDepthTransformer, name: str, device: torch.device) -> tuple[Any, str]:
        if device == CUDA:
            return Dying(network), "a test"
        return choose.open_runtime(network, name, device)

    monkeypatch.setattr(estimator, "resolve_device", lambda name: (torch.device(name), "asked for"))
    monkeypatch.setattr(estimator, "open_runtime", open_runtime)


@pytest.mark.usefixtures("dying")
def test_a_lost_device_is_raised() -> None:
    subject = DepthEstimator(network(), Card(CONFIG), "cuda:0")
    subject(window())
    for _ in range(2):
        with pytest.raises(DeviceLost, match="ran out of memory"):
            subject(window())
    assert subject.device_failure == "" and "dying" in subject.describe()


@pytest.mark.usefixtures("dying")
@pytest.mark.parametrize("measured", [False, True])
def test_the_cpu_goes_on_with_the_same_weights(caplog: pytest.LogCaptureFixture, measured: bool) -> None:
    expected = DepthEstimator(network(), Card(CONFIG), "cpu")(window(seed=5))
    subject = DepthEstimator(network(), Card(CONFIG), "cuda:0", on_device_error="cpu")
    subject(window())
    assert not caplog.records
    subject._runtime._windows = 5  # type: ignore[attr-defined]
    depth = subject.measured(window(seed=5))[0] if measured else subject(window(seed=5))
    assert np.array_equal(depth, expected)
    assert "out of memory" in subject.device_failure and "out of memory" in caplog.text
    assert "FELL BACK" in subject.describe() and "on cpu" in subject.describe()
    assert len(caplog.records) == 1
    subject(window())


@pytest.mark.usefixtures("dying")
def test_the_cpu_goes_on_to_tell_uncertainty() -> None:
    card = Card(CONFIG, uncertainty="tests")
    expected = DepthEstimator(with_head(), card, "cpu").estimate(window(seed=5)).deviation()
    subject = DepthEstimator(with_head(), card, "cuda:0", on_device_error="cpu")
    subject(window())
    deviation = subject.estimate(window(seed=5)).deviation()
    assert subject.device_failure and subject.tells_uncertainty
    assert expected is not None and deviation is not None and np.array_equal(deviation, expected)


@pytest.mark.usefixtures("dying")
@pytest.mark.parametrize("works", [True, False])
def test_memory_is_given_back_to_a_device_that_works_only(works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dying, "error", Dying.error if works else (RuntimeError, "CUDA error: a trap"))
    subject = DepthEstimator(network(), Card(CONFIG), "cuda:0", on_device_error="cpu")
    lost = weakref.ref(subject._runtime)
    for _ in range(2):
        subject(window())
    gc.collect()
    assert subject.device_failure and (lost() is None) == works


@pytest.mark.usefixtures("dying")
def test_other_ways_to_react_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of raise, cpu"):
        DepthEstimator(network(), Card(CONFIG), "cuda:0", on_device_error="stop")


# --- on a real GPU ---------------------------------------------------------------------------------------------------

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
HAS_TRITON = choose.importlib.util.find_spec("triton") is not None
RUNTIMES = [
    pytest.param("cuda", marks=pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")),
    "cuda_torch",
]


def gpu_pair(runtime: str, config: NetworkConfig, seed: int = 1) -> tuple[DepthEstimator, DepthEstimator]:
    """The eager network on the CPU, and the runtime on the GPU."""
    plain = network(config, seed)
    return (
        DepthEstimator(copy.deepcopy(plain), Card(config), "cpu", runtime="eager"),
        DepthEstimator(copy.deepcopy(plain), Card(config), "cuda", runtime=runtime),
    )


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_gpu_rates_are_those_of_the_eager_network(runtime: str) -> None:
    eager, fast = gpu_pair(runtime, NetworkConfig(embed_dim=96, heads=3, mlp_ratio=6, head_widths=(64, 32, 16, 8, 8)))
    rates: list[list[list[float]]] = [[], []]
    for seed in range(4):
        spikes = window(260, 346, seed=seed)
        for some, kept in zip((eager, fast), rates, strict=True):
            kept.append(list(some.measured(spikes)[1].firing_rates.values()))
    exact, ours = (np.mean(kept, axis=0) for kept in rates)
    assert np.abs(ours - exact).max() < 0.01
    assert abs(ours.mean() / exact.mean() - 1) < 0.01


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_gpu_scores_on_simulated_scenes(runtime: str) -> None:
    """float16 moves spikes: Abs Rel within 2 %, but for the few windows taken for a scene of another scale."""
    for needed in ("rosbags", "zstandard", "h5py"):
        pytest.importorskip(needed, reason=f"simulated scenes need {needed}")
    from sdt_distill.datasets.simulated import SimulatedDataset
    from sdt_distill.datasets.simulated_config import SimulatedConfig
    from sdt_ros.weights import weights_file

    scenes = {"camera": "172x130", "samples": 192, "group": 4, "texture_block": 8, "texture_sets": 24}
    path = weights_file("sdt_tiny")
    eager = DepthEstimator.from_checkpoint(path, device="cpu", runtime="eager")
    fast = DepthEstimator.from_checkpoint(path, device="cuda", runtime=runtime)
    errors, medians = [], []
    for sample in SimulatedDataset(SimulatedConfig.from_dict(scenes)):
        known = np.isfinite(sample.depth)
        # Samples of half a sensor, as the network sees it.
        depths = [some(sample.spikes, output_size=(260, 344)) for some in (eager, fast)]
        small = [depth[1::2, 1::2][: known.shape[0], : known.shape[1]] for depth in depths]
        errors.append([np.mean(np.abs(d - sample.depth)[known] / sample.depth[known]) for d in small])
        medians.append([float(np.median(depth)) for depth in small])
    error, median = np.array(errors), np.array(medians)
    kept = np.abs(median[:, 1] / median[:, 0] - 1) <= 0.25
    assert kept.mean() >= 0.95
    assert abs(error[kept, 1].mean() / error[kept, 0].mean() - 1) < 0.02


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_gpu_graphs_replay_what_is_launched_kernel_by_kernel(runtime: str) -> None:
    fast = choose.open_runtime(network(), runtime, CUDA)[0]
    assert isinstance(fast, CudaRuntime)
    sizes = [(70, 90), (33, 47)]
    windows = [window(*sizes[number % 2], seed=number) for number in range(8)]
    replayed = [fast(spikes) for spikes in windows]  # none is waited for
    for spikes, depth in zip(windows, replayed, strict=True):
        assert depth.is_cuda and depth.dtype == torch.float32
        # Convolutions may go by other algorithms, whose rounding moves spikes; most windows have none that is moved.
        assert apart(fast.uncaptured(spikes.cuda()), depth) < 0.7
        assert torch.equal(fast(spikes), depth)


@pytest.mark.gpu
@on_gpu
@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gpu_neurons_fire_to_the_bit(dtype: torch.dtype) -> None:
    from sdt_ros.runtime.gpu.triton_ops import TritonOps

    for tau in (2.0, 3.0):
        for steps in (1, 4, 8):
            x = torch.randn(steps, 3, 17, 10, 14, device="cuda").mul(2).add(0.6).to(dtype)
            x[0, 0, 0, 0, :5] = torch.tensor([torch.nan, torch.inf, -torch.inf, tau, 0.0])
            bias = torch.linspace(-1, 1, 17, device="cuda")
            for pool in (False, True):
                wide = torch.nn.functional.max_pool2d(x.flatten(0, 1).float(), 2) if pool else x.flatten(0, 1).float()
                wide = wide + bias[:, None, None]
                expected = TorchOps().fire(wide, steps, tau, 1.0, dtype)
                ours = TritonOps().fire(x.flatten(0, 1), steps, tau, 1.0, dtype, bias=bias, pool=pool)
                assert 0 < expected.float().mean() < 1
                assert torch.equal(ours, expected)


@pytest.mark.gpu
@on_gpu
@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
def test_gpu_auto_takes_triton() -> None:
    subject = DepthEstimator(network(), Card(CONFIG), "cuda")
    assert "kernels by Triton" in subject.describe() and "FELL BACK" not in subject.describe()


@pytest.mark.gpu
@on_gpu
def test_gpu_without_memory_the_cpu_goes_on() -> None:
    subject = DepthEstimator(network(), Card(CONFIG), "cuda", on_device_error="cpu")
    subject(window())
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        depth = subject(window(700, 900))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.isfinite(depth).all() and "out of memory" in subject.device_failure


@pytest.mark.gpu
@on_gpu
def test_gpu_training_steps_are_those_of_plain_neurons() -> None:
    from sdt_distill.kernels import use_fused_layers
    from sdt_ros.network.neurons import MLIF

    x, grad = torch.randn(4, 2, 24, 20, 30, device="cuda"), torch.randn(4, 2, 24, 20, 30, device="cuda")
    results = []
    for neurons in (MLIF(), use_fused_layers(torch.nn.Sequential(MLIF()))):
        leaf = (x * 2).requires_grad_()
        spikes = neurons(leaf)
        spikes.backward(grad)
        results.append((spikes.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-5, atol=1e-5)

    trained = use_fused_layers(network().train().cuda())
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.002)
    spikes, target = synthetic_events(4, 64, 80).cuda(), torch.rand(1, 1, 64, 80, device="cuda")
    losses = []
    for _ in range(4):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = (trained(spikes).float() - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("subject", ["network", "training"])
def test_gpu_benchmarks_run(subject: str, tmp_path: Path) -> None:
    for needed in ("rosbags", "zstandard", "spikingjelly"):
        pytest.importorskip(needed, reason=f"sdt bench needs {needed}")
    from sdt_ros.cli import main

    path = tmp_path / "figures.json"
    options = ["--preset", "sdt_tiny", "--size", "64x48", "--rounds", "2", "--device", "cuda", "--json", str(path)]
    assert main(["bench", subject, *options]) == 0
    figures = json.loads(path.read_text())
    assert figures["device"] == "cuda:0" and figures["ratio"] > 0 and figures["peak_mb"] > 0
    if subject == "network":
        assert figures["mean_rate"] == pytest.approx(figures["peer_mean_rate"], rel=0.02)
        assert all(0 < spent["conv"] < spent["all"] for spent in figures["stages_ms"].values())
