"""DepthEstimator: spikes in, metres out, and clear words for what it cannot take."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from depth_difference import apart

from sdt_ros.events.reduce import reduce_spikes, reduced_size
from sdt_ros.lens import UNKNOWN_LENS_DEVIATION
from sdt_ros.network import (
    Card,
    CheckpointError,
    DepthRange,
    EnergyRecorder,
    NetworkConfig,
    UncertaintyHead,
    build_network,
    save_checkpoint,
    synthetic_events,
)
from sdt_ros.runtime import DepthEstimator, DeviceError, Estimate, resolve_device
from sdt_ros.runtime.fold import fold_batch_norms

CONFIG = NetworkConfig(embed_dim=32, heads=2, depth=2, mlp_ratio=2, head_widths=(16, 8, 8, 8, 4))
SPIKES = synthetic_events(4, 70, 90)[0].numpy()


def estimator(runtime: str = "auto", **card: object) -> DepthEstimator:
    torch.manual_seed(0)
    return DepthEstimator(build_network(CONFIG), Card(CONFIG, **card), "cpu", runtime=runtime)


def uncertain(runtime: str = "auto", **card: object) -> DepthEstimator:
    """The same with a head for uncertainty."""
    torch.manual_seed(0)
    network = build_network(CONFIG)
    network.uncertainty = UncertaintyHead(CONFIG).eval()
    return DepthEstimator(network, Card(CONFIG, uncertainty="tests", **card), "cpu", runtime=runtime)


def deviation_of(estimate: Estimate, scale_deviation: float | None = None) -> np.ndarray:
    deviation = estimate.deviation(scale_deviation)
    assert deviation is not None
    return deviation


def test_depth_is_metres_in_the_range_at_the_input_size() -> None:
    depth = estimator(depth_range=DepthRange(2.0, 20.0))(SPIKES)
    assert depth.shape == (70, 90)
    assert depth.dtype == np.float32
    assert np.isfinite(depth).all()
    assert 2.0 <= depth.min() < depth.max() <= 20.0


@pytest.mark.parametrize("runtime", ["eager", "cpu"])
def test_it_is_the_network_in_metres(runtime: str) -> None:
    torch.manual_seed(0)
    network = build_network(CONFIG).eval()
    with torch.no_grad():
        expected = DepthRange().to_metres(network(torch.from_numpy(SPIKES)[None]))[0, 0].numpy()
    # Folded norms may move a spike that stood at the threshold, never the picture.
    assert np.abs(np.log(estimator(runtime)(SPIKES) / expected)).mean() < 0.02


def test_the_same_window_gives_the_same_depth() -> None:
    first, second = estimator(), estimator()
    expected = first(SPIKES)
    first(synthetic_events(4, 50, 60, seed=9)[0].numpy())
    assert np.array_equal(first(SPIKES), expected)
    assert np.array_equal(second(torch.from_numpy(SPIKES)), expected)


@pytest.mark.parametrize("size", [(70, 90), (71, 89)])
def test_a_window_of_the_whole_sensor_is_reduced_as_the_stream_reduces_it(size: tuple[int, int]) -> None:
    """What `EventStream` bins for the node and what anybody else gives are one and the same."""
    whole = synthetic_events(4, *size)[0].numpy()
    seen = reduce_spikes(whole, *reduced_size(*size, 0.5))
    subject = estimator(input_scale=0.5)
    expected = estimator()(seen, output_size=size)
    assert expected.shape == size
    np.testing.assert_array_equal(subject(whole), expected)
    np.testing.assert_array_equal(subject(torch.from_numpy(whole)), expected)
    np.testing.assert_array_equal(subject(seen, output_size=size), expected)
    np.testing.assert_array_equal(subject.measured(whole)[0], expected)


def test_a_whole_window_that_is_said_to_be_reduced_is_refused() -> None:
    whole = synthetic_events(4, 70, 90)[0].numpy()
    subject = estimator(input_scale=0.5)
    for call in (subject, subject.measured):
        with pytest.raises(ValueError, match=r"70x90 .* output_size 70x90, .* sees 35x45: leave output_size out"):
            call(whole, output_size=(70, 90))


def test_other_output_sizes_interpolate_in_log_depth() -> None:
    subject = estimator()
    same, double = subject(SPIKES, output_size=(70, 90)), subject(SPIKES, output_size=(140, 180))
    assert np.array_equal(same, subject(SPIKES))
    assert double.shape == (140, 180)
    network_output = subject._runtime(torch.from_numpy(SPIKES))
    inner = network_output[0, 0, 0, :2] @ torch.tensor([0.75, 0.25])
    assert double[0, 1] == pytest.approx(subject.card.depth_range.to_metres(inner).item(), rel=1e-4)
    with pytest.raises(ValueError, match="output_size"):
        subject(SPIKES, output_size=(0, 5))


def test_depth_follows_the_lens_where_the_weights_ask_for_its_focal_length() -> None:
    subject = estimator(focal_px=50.0)
    as_learnt = estimator()(SPIKES)
    np.testing.assert_array_equal(subject(SPIKES, focal_px=50.0), as_learnt)
    np.testing.assert_allclose(subject(SPIKES, focal_px=125.0), 2.5 * as_learnt, rtol=1e-6)
    # The focal length is in pixels of the result, here twice as many.
    np.testing.assert_allclose(subject(SPIKES, (140, 180), 100.0), estimator()(SPIKES, (140, 180)), rtol=1e-6)
    np.testing.assert_allclose(subject.measured(SPIKES, None, 25.0)[0], as_learnt / 2, rtol=1e-6)
    # Without one, the usual lens: 0.7 of the width.
    np.testing.assert_allclose(subject(SPIKES), as_learnt * (0.7 * 90 / 50), rtol=1e-6)
    np.testing.assert_array_equal(estimator()(SPIKES, focal_px=125.0), as_learnt)
    with pytest.raises(ValueError, match="focal_px is 0"):
        subject(SPIKES, focal_px=0.0)
    with pytest.raises(ValueError, match="expected one finite number above 0"):
        subject(SPIKES, focal_px=np.eye(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a focal length goes by name: focal_px="):
        subject(SPIKES, 125.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spikes, message",
    [
        (SPIKES.astype(np.float32), "dtype float32, expected uint8"),
        (torch.from_numpy(SPIKES).float(), "dtype torch.float32"),
        (SPIKES[:3], r"shape \[3, 2, 70, 90\], expected \[4, 2, H, W\]"),
        (SPIKES[:, :1], "shape"),
        (SPIKES[None], "shape"),
        (SPIKES[..., :0], "shape"),
        (SPIKES * 3, "value 3, expected 0 and 1"),
        (SPIKES.tolist(), "list"),
    ],
)
def test_other_input_is_refused(spikes: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimator()(spikes)


def test_read_only_windows_are_taken_without_a_warning() -> None:
    locked = SPIKES.copy()
    locked.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(estimator()(locked), estimator()(SPIKES))


def test_windows_that_are_no_block_of_memory_are_taken() -> None:
    wide = np.zeros((4, 2, 70, 180), np.uint8)
    wide[..., ::2] = SPIKES
    subject = estimator()
    assert np.array_equal(subject(wide[..., ::2]), subject(SPIKES))


def test_nan_is_not_hidden() -> None:
    network = build_network(CONFIG)
    with torch.no_grad():
        network.head.depth.bias.fill_(torch.nan)
    assert np.isnan(DepthEstimator(network, Card(CONFIG), "cpu")(SPIKES)).all()


def test_warming_up_is_at_the_size_that_the_network_sees() -> None:
    subject = estimator(input_scale=0.5)
    sizes: list[tuple[int, ...]] = []
    run = subject._runtime
    subject._runtime = type("Watched", (), {  # type: ignore[assignment]
        "__call__": lambda self, spikes: sizes.append(tuple(spikes.shape[-2:])) or run(spikes),
        "warm_up": lambda self, spikes: sizes.append(tuple(spikes.shape[-2:])),
    })()  # fmt: skip
    subject.warm_up(70, 90, budget_ms=1e6)
    assert len(sizes) > 2 and set(sizes) == {(70, 90)}


@pytest.mark.parametrize("bias", [0.5, float("nan")])
def test_warming_up_notices_a_broken_network(bias: float, caplog: pytest.LogCaptureFixture) -> None:
    network = build_network(CONFIG)
    with torch.no_grad():
        network.head.depth.weight.zero_()
        network.head.depth.bias.fill_(bias)
    with caplog.at_level(logging.WARNING):
        estimator().warm_up(70, 90)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        DepthEstimator(network, Card(CONFIG), "cpu").warm_up(70, 90)
    assert "everywhere on synthetic events" in caplog.text


def test_measuring_gives_the_same_depth_and_what_it_cost() -> None:
    subject = estimator()
    depth, report = subject.measured(SPIKES)
    assert np.array_equal(depth, subject(SPIKES))
    rates = subject.firing_rates(SPIKES)
    assert rates == report.firing_rates
    assert next(iter(rates.values())) == pytest.approx(SPIKES.sum() / (4 * 2 * 80 * 96))
    assert subject.energy_mj(SPIKES) == report.energy_mj
    quiet = np.zeros_like(SPIKES)
    assert next(iter(subject.firing_rates(quiet).values())) == 0


@pytest.mark.parametrize("runtime", ["eager", "cpu"])
def test_an_estimate_is_the_depth_of_a_call_and_what_the_head_tells(runtime: str) -> None:
    subject = uncertain(runtime)
    assert subject.tells_uncertainty
    estimate = subject.estimate(SPIKES)
    assert np.array_equal(estimate.depth, estimator(runtime)(SPIKES))
    assert np.array_equal(estimate.depth, subject(SPIKES))
    _, scale, place = subject._runtime(torch.from_numpy(SPIKES))[0].numpy()
    assert estimate.scale_deviation == pytest.approx(np.exp(scale[0, 0]), rel=1e-6)
    assert estimate.ln_place is not None and estimate.ln_place.dtype == np.float32
    assert np.array_equal(estimate.ln_place, place) and np.ptp(place) > 0.01
    assert estimate.report is None


def test_deviations_of_scale_and_place_are_combined() -> None:
    estimate = uncertain().estimate(SPIKES)
    assert estimate.ln_place is not None and estimate.scale_deviation is not None
    place = np.exp(estimate.ln_place.astype(np.float64))
    deviation = deviation_of(estimate)
    assert deviation.shape == (70, 90) and deviation.dtype == np.float32
    np.testing.assert_allclose(deviation, np.sqrt(estimate.scale_deviation**2 + place**2), rtol=1e-5)
    # Somebody else may know the scale, even exactly, and asking changes nothing.
    np.testing.assert_allclose(deviation_of(estimate, 0.5), np.sqrt(0.25 + place**2), rtol=1e-5)
    np.testing.assert_allclose(deviation_of(estimate, 0.0), place, rtol=1e-5)
    np.testing.assert_array_equal(deviation_of(estimate), deviation)


def test_deviation_is_unknown_where_depth_is() -> None:
    depth = np.ones((2, 3), np.float32)
    depth[0, 1] = np.nan
    deviation = deviation_of(Estimate(depth, 0.3, np.full((2, 3), np.log(0.4), np.float32)))
    assert np.array_equal(np.isnan(deviation), np.isnan(depth))
    assert deviation[~np.isnan(depth)] == pytest.approx(0.5)
    network = build_network(CONFIG)
    network.uncertainty = UncertaintyHead(CONFIG)
    with torch.no_grad():
        network.head.depth.bias.fill_(torch.nan)
    broken = DepthEstimator(network, Card(CONFIG, uncertainty="tests"), "cpu").estimate(SPIKES)
    assert np.isnan(broken.depth).all() and np.isnan(deviation_of(broken)).all()


def test_deviation_is_brought_to_the_size_of_depth() -> None:
    estimate = uncertain().estimate(SPIKES, output_size=(140, 180))
    assert estimate.ln_place is not None and estimate.ln_place.shape == (70, 90)
    deviation = deviation_of(estimate, 0.0)
    assert deviation.shape == estimate.depth.shape == (140, 180)
    inner = estimate.ln_place[0, :2] @ np.array([0.75, 0.25])  # interpolated as depth is, in logarithms
    assert np.log(deviation[0, 1]) == pytest.approx(inner, rel=1e-4)
    whole = synthetic_events(4, 140, 180)[0].numpy()
    reduced = uncertain(input_scale=0.5).estimate(whole)
    assert reduced.ln_place is not None and reduced.ln_place.shape == (70, 90)
    assert deviation_of(reduced).shape == (140, 180)


@pytest.mark.parametrize("learnt_px", [None, 50.0])
def test_an_unknown_lens_makes_the_scale_uncertain_where_it_matters(learnt_px: float | None) -> None:
    subject = uncertain(focal_px=learnt_px)
    unknown, known = subject.estimate(SPIKES), subject.estimate(SPIKES, focal_px=60.0)
    assert known.scale_deviation == uncertain().estimate(SPIKES).scale_deviation
    added = 0.0 if learnt_px is None else UNKNOWN_LENS_DEVIATION
    assert known.scale_deviation is not None
    assert unknown.scale_deviation == pytest.approx(np.hypot(known.scale_deviation, added), rel=1e-6)
    assert unknown.ln_place is not None and known.ln_place is not None
    np.testing.assert_array_equal(unknown.ln_place, known.ln_place)
    # Who knows the scale knows what the lens made of it.
    np.testing.assert_array_equal(deviation_of(unknown, 0.1), deviation_of(known, 0.1))


def test_weights_without_a_head_tell_no_uncertainty() -> None:
    subject = estimator(focal_px=50.0)
    assert not subject.tells_uncertainty
    estimate = subject.estimate(SPIKES)
    assert np.array_equal(estimate.depth, subject(SPIKES))
    assert estimate.scale_deviation is None and estimate.ln_place is None
    assert estimate.deviation() is None and estimate.deviation(0.1) is None


def test_an_estimate_can_be_measured() -> None:
    subject = uncertain()
    estimate, expected = subject.estimate(SPIKES, measure=True), subject.estimate(SPIKES)
    assert estimate.report is not None and estimate.report.energy_mj is not None and estimate.report.windows == 1
    assert "uncertainty.place.0" in {row.name for row in estimate.report.rows}
    np.testing.assert_array_equal(estimate.depth, expected.depth)
    np.testing.assert_array_equal(deviation_of(estimate), deviation_of(expected))
    depth, report = subject.measured(SPIKES)
    assert report == estimate.report and np.array_equal(depth, expected.depth)
    assert estimator().estimate(SPIKES, measure=True).report is not None


def test_an_estimate_refuses_what_a_call_refuses() -> None:
    with pytest.raises(ValueError, match="dtype float32, expected uint8"):
        uncertain().estimate(SPIKES.astype(np.float32))
    with pytest.raises(ValueError, match="focal_px is 0"):
        uncertain(focal_px=50.0).estimate(SPIKES, focal_px=0.0)


def test_a_checkpoint_with_a_head_tells_the_same_uncertainty(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(CONFIG)
    network.uncertainty = UncertaintyHead(CONFIG)
    save_checkpoint(tmp_path / "x.safetensors", network, Card(CONFIG, uncertainty="tests"))
    loaded = DepthEstimator.from_checkpoint(tmp_path / "x.safetensors", "cpu")
    assert loaded.tells_uncertainty
    expected = uncertain().estimate(SPIKES)
    np.testing.assert_array_equal(deviation_of(loaded.estimate(SPIKES)), deviation_of(expected))


def test_folding_norms_keeps_rates_and_depth() -> None:
    torch.manual_seed(0)
    network = build_network(CONFIG).eval()
    spikes = synthetic_events(4, 160, 160, seed=4)

    def pass_of() -> tuple[torch.Tensor, dict[str, float]]:
        with torch.no_grad(), EnergyRecorder(network) as recorder:
            return network(spikes), recorder.report().firing_rates

    depth, rates = pass_of()
    fold_batch_norms(network)
    folded_depth, folded_rates = pass_of()
    left = [name for name, module in network.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert left == ["blocks.0.attention.norm", "blocks.1.attention.norm"]
    assert folded_rates.keys() == rates.keys()
    assert folded_rates == pytest.approx(rates, abs=1e-3)
    assert apart(folded_depth, depth) < 0.1


def test_untrained_estimators_say_so_and_are_seeded() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = (DepthEstimator.untrained("sdt_tiny", "cpu", seed=seed) for seed in (1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.is_untrained
    assert "UNTRAINED" in one.describe()
    assert "cpu" in one.describe()
    assert (one.bins, one.window_ms) == (4, 50.0)
    assert np.array_equal(one(SPIKES), DepthEstimator.untrained("sdt_tiny", "cpu", seed=1)(SPIKES))
    assert not np.array_equal(one(SPIKES), two(SPIKES))
    with pytest.raises(CheckpointError, match="sdt_huge"):
        DepthEstimator.untrained("sdt_huge")


def test_a_checkpoint_gives_the_same_depth(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(CONFIG)
    card = Card(CONFIG, trained=True, training_data="nothing real")
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, network, card)
    loaded = DepthEstimator.from_checkpoint(path, "cpu", bins=4)
    assert not loaded.is_untrained
    assert "trained on nothing real" in loaded.describe()
    assert np.array_equal(loaded(SPIKES), estimator()(SPIKES))
    with pytest.raises(CheckpointError, match="asked for 8"):
        DepthEstimator.from_checkpoint(path, "cpu", bins=8)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "tpu"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda or cuda:N"):
        resolve_device(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == (torch.device("cpu"), "auto, no CUDA GPU")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match=f"'{name}' was asked for"):
            DepthEstimator.untrained("sdt_tiny", name)


def test_a_gpu_is_chosen_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    assert resolve_device("auto")[0] == torch.device("cuda:0")
    assert resolve_device("cuda:1")[0] == torch.device("cuda:1")
    assert resolve_device("cpu")[0] == torch.device("cpu")
    with pytest.raises(DeviceError, match="the machine has 2"):
        resolve_device("cuda:2")


@pytest.mark.gpu
def test_a_gpu_gives_the_depth_of_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    cpu, gpu = (DepthEstimator.untrained("sdt_tiny", name)(SPIKES) for name in ("cpu", "cuda"))
    assert np.abs(np.log(cpu / gpu)).mean() < 0.05
