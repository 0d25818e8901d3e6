"""Losses: numbers worked by hand, gradients against differences, and what must not change them."""

import math

import pytest
import torch
from torch.nn import functional

from sdt_distill.losses import DistillationLoss, LossConfig
from sdt_distill.losses.cells import CellGrid
from sdt_distill.losses.depth import (
    far_weight_bands,
    far_weight_log,
    gradient_matching,
    log_residual,
    relative_error,
    scale_invariant,
    sky_shortfall,
)
from sdt_distill.losses.features import feature_distance, pick_cells, similarity_distance
from sdt_distill.losses.firing import rate_band
from sdt_distill.losses.proxy import metric_proxy, relative_proxy
from sdt_distill.teachers import TeacherOutput
from sdt_ros.network import DepthRange

RANGE = DepthRange(1.0, 100.0)
NAN = math.nan
OFF = {"depth": 0.0, "gradient": 0.0}


def image(rows):
    return torch.tensor(rows, dtype=torch.float64)[None, None]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(size=3, height=20, width=28, dtype=torch.float32):
    """A batch with gaps in its depth, one stage of four cells of 16 px and one layer of a finer teacher."""
    depth = RANGE.to_metres(random(size, 1, height, width, seed=1, dtype=dtype).sigmoid())
    gaps = random(size, 1, height, width, seed=2)
    depth[gaps > 1] = NAN
    depth[gaps < -1.5] = math.inf  # the sky
    return {
        "log_depth": random(size, 1, height, width, seed=3, dtype=dtype).sigmoid(),
        "depth_m": depth,
        "depth_range": RANGE,
        "student": {"blocks.0": random(size, 5, 2, 2, seed=4, dtype=dtype)},
        "teacher": TeacherOutput(
            {"last": random(size, 7, 4, 5, seed=5, dtype=dtype)},
            random(size, 1, height, width, seed=6, dtype=dtype),
            "relative",
        ),
        "activity": torch.ones(size, 1, height, width, dtype=dtype),
        "rates": {"stem": torch.tensor(0.5, dtype=dtype)},
    }


def select(values, i):
    """The batch of frame i alone."""
    teacher = values["teacher"]
    return {
        **values,
        **{key: values[key][i : i + 1] for key in ("log_depth", "depth_m", "activity")},
        "student": {name: stage[i : i + 1] for name, stage in values["student"].items()},
        "teacher": TeacherOutput(
            {name: layer[i : i + 1] for name, layer in teacher.features.items()},
            teacher.depth[i : i + 1],
            teacher.depth_kind,
        ),
    }


ALL = LossConfig(
    sky=1.0, feature=1.0, similarity=1.0, proxy=1.0, rate=1.0, pairs=(("blocks.0", "last"),), gradient_scales=2
)


def full_loss(config=ALL):
    torch.manual_seed(0)
    return DistillationLoss(config, {"blocks.0": 5}, {"last": 7})


# Depth


def test_residual_is_the_log_ratio_of_metres():
    depth = image([[1.0, 10.0, 100.0, NAN, 0.0, math.inf, 1000.0]])
    residual, valid = log_residual(RANGE.from_metres(image([[2.0, 5.0, 100.0, 7.0, 7.0, 7.0, 50.0]])), depth, RANGE)
    assert valid.flatten().tolist() == [True, True, True, False, False, False, True]
    expected = [math.log(2), math.log(0.5), 0, 0, 0, 0, math.log(0.5)]  # 1000 m counts as the range's 100 m
    torch.testing.assert_close(residual, image([expected]))


def test_relative_error_by_hand():
    """Abs Rel up to 4.5 times the truth, its tangent beyond; no weight, no cost."""
    residual = torch.tensor([2.0, 0.5, 1.0]).log().reshape(1, 1, 1, 3)
    assert relative_error(residual, torch.ones_like(residual)).item() == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert relative_error(residual, torch.tensor([0.0, 1, 0]).reshape(1, 1, 1, 3)).item() == pytest.approx(0.5)
    assert relative_error(residual, torch.zeros_like(residual)).item() == 0
    far = torch.full((1, 1, 1, 1), 3.5, requires_grad=True)
    cost = relative_error(far, torch.ones(1, 1, 1, 1))
    cost.backward()
    assert far.grad.item() == pytest.approx(math.exp(1.5))
    assert cost.item() == pytest.approx(math.expm1(1.5) + 2 * math.exp(1.5))


def test_sky_costs_what_it_is_too_near():
    depth = image([[math.inf, math.inf, 7.0, NAN]])
    estimate = RANGE.from_metres(image([[10.0, 60.0, 1.0, 1.0]])).requires_grad_()
    cost = sky_shortfall(estimate, depth, RANGE, 40.0)
    assert cost.item() == pytest.approx(math.log(4) / 3)  # of three pixels that are known or sky
    cost.backward()
    assert estimate.grad[0, 0, 0, 0] < 0 and not estimate.grad[..., 1:].any()
    beyond = sky_shortfall(RANGE.from_metres(image([[50.0]])), image([[math.inf]]), RANGE, 500.0)
    assert beyond.item() == pytest.approx(math.log(2))  # the range ends at 100 m, and the estimate with it


def test_scale_invariant_by_hand():
    residual = image([[1.0, 3.0], [5.0, 0.0]])
    weight = image([[1.0, 1.0], [0.0, 0.0]])
    assert scale_invariant(residual, weight, 0.0).item() == pytest.approx(5)  # (1 + 9) / 2
    assert scale_invariant(residual, weight, 0.5).item() == pytest.approx(3)  # less half of 2^2
    assert scale_invariant(residual, weight, 1.0).item() == pytest.approx(1)
    weight = image([[3.0, 1.0], [0.0, 0.0]])
    assert scale_invariant(residual, weight, 0.5).item() == pytest.approx(3 - 0.5 * 1.5**2)  # (3 + 9) / 4, mean 6 / 4


def test_roots_are_of_each_frame_and_bend_nowhere():
    residual = torch.zeros(2, 1, 1, 2)
    residual[0] = 3.0  # a frame that is off by one factor, and one without error
    residual.requires_grad_()
    loss = scale_invariant(residual, torch.ones_like(residual), 0.0, root=True)
    assert loss.item() == pytest.approx((3 + 0) / 2, abs=0.01), "not the root of the mean"
    loss.backward()
    assert torch.isfinite(residual.grad).all()
    assert (residual.grad[0] > 0).all() and (residual.grad[1] == 0).all()


def test_lambda_one_is_blind_to_scale_and_less_is_not():
    values = batch(dtype=torch.float64)

    def loss(factor, si_lambda):
        log_depth = values["log_depth"] + math.log(factor) / RANGE.alpha
        residual, valid = log_residual(log_depth, values["depth_m"], RANGE)
        return scale_invariant(residual, valid, si_lambda).item()

    assert loss(3.0, 1.0) == pytest.approx(loss(1.0, 1.0), rel=1e-12)
    assert loss(3.0, 0.5) > 1.2 * loss(1.0, 0.5)


def test_gradient_matching_by_hand():
    residual = image([[0.0, 1.0, 3.0, 3.0], [0.0, 1.0, 3.0, 7.0]])
    everywhere = torch.ones_like(residual, dtype=torch.bool)
    # Along x 1 2 0 and 1 2 4, along y 0 0 0 4.
    assert gradient_matching(residual, everywhere, 1).item() == pytest.approx(10 / 6 + 4 / 4)
    # The second scale is 0.5 and 4, the third a single pixel.
    assert gradient_matching(residual, everywhere, 2).item() == pytest.approx(10 / 6 + 1 + 3.5)
    assert gradient_matching(residual, everywhere, 4).item() == pytest.approx(10 / 6 + 1 + 3.5)
    valid = everywhere.clone()
    valid[..., 1, 3] = False  # the 7 is unknown; the coarse pixel is the mean of the other three
    masked = torch.where(valid, residual, 0.0)
    assert gradient_matching(masked, valid, 2).item() == pytest.approx(6 / 5 + 0 + 2.5)


def test_gradient_matching_is_blind_to_a_common_factor():
    residual, everywhere = random(2, 1, 13, 9), torch.ones(2, 1, 13, 9, dtype=torch.bool)
    loss = gradient_matching(residual, everywhere, 4)
    torch.testing.assert_close(gradient_matching(residual + 5, everywhere, 4), loss)
    torch.testing.assert_close(gradient_matching(2 * residual, everywhere, 4), 2 * loss)


def test_far_weights():
    depth = image([[1.0, 10.0, 100.0, NAN]])
    valid = torch.isfinite(depth)
    assert far_weight_log(depth, valid, RANGE, 5.0).flatten().tolist() == pytest.approx([1, 3, 5, 0])
    depth = image([[1.0, 1.0, 1.0, 5.0, 50.0, 50.0, NAN]])
    valid = torch.isfinite(depth)
    weights = far_weight_bands(depth, valid, (5.0, 20.0, 200.0), 10.0).flatten().tolist()
    assert weights == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2, 1, 1, 0])  # each of three bands adds up to 2
    capped = far_weight_bands(depth, valid, (5.0, 20.0, 200.0), 1.5).flatten().tolist()
    assert capped == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1.5, 1, 1, 0])


# Proxy labels


def test_relative_proxy_by_hand():
    # Inverse depth 1, 1/2, 1/4: median 1/2, mean deviation 1/4; normalised 2, 0, -1.
    log_depth = RANGE.from_metres(image([[1.0, 2.0, 4.0, 50.0]]))
    # Teacher 0, 10, -5: median 0, mean deviation 5; normalised 0, 2, -1. Mean of |2 - 0|, |0 - 2|, |-1 + 1|.
    label = image([[0.0, 10.0, -5.0, NAN]])
    assert relative_proxy(log_depth, label, RANGE).item() == pytest.approx(4 / 3)


def test_relative_proxy_is_blind_to_scale_and_shift_and_metric_is_not():
    log_depth = random(2, 1, 8, 8).sigmoid()
    metres = RANGE.to_metres(log_depth)
    assert relative_proxy(log_depth, 7 / metres + 3, RANGE).item() == pytest.approx(0, abs=1e-10)
    assert relative_proxy(log_depth, -7 / metres, RANGE).item() > 0.5  # upside down
    label = random(2, 1, 8, 8, seed=1)
    loss = relative_proxy(log_depth, label, RANGE).item()
    assert relative_proxy(log_depth, 0.1 * label - 4, RANGE).item() == pytest.approx(loss, rel=1e-9)
    assert metric_proxy(log_depth, metres, RANGE).item() == pytest.approx(0, abs=1e-12)
    assert metric_proxy(log_depth, 2 * metres.clamp_max(50), RANGE).item() > 0.3


def test_relative_proxy_takes_nothing_from_a_label_without_structure():
    log_depth = random(1, 1, 8, 8).sigmoid().requires_grad_()
    loss = relative_proxy(log_depth, torch.full((1, 1, 8, 8), 0.7, dtype=torch.float64), RANGE)
    loss.backward()
    assert loss.item() == 0
    assert not log_depth.grad.any()


def test_metric_proxy_by_hand():
    log_depth = RANGE.from_metres(image([[1.0, 8.0, 4.0]]))
    assert metric_proxy(log_depth, image([[2.0, 2.0, NAN]]), RANGE).item() == pytest.approx(1.5 * math.log(2))


# Features


def test_feature_distance_by_hand():
    student = torch.tensor([[3.0, 0.0, 2.0], [4.0, 1.0, 2.0]]).view(1, 2, 1, 3)
    teacher = torch.tensor([[30.0, 0.0, -1.0], [40.0, -9.0, -1.0]]).view(1, 2, 1, 3)
    mask = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    assert feature_distance(student, teacher, mask).item() == pytest.approx(2)  # 0 and 4; the last does not count


def test_similarity_distance_by_hand():
    # Cosines: student 1-2: 0, 1-3: 1, 2-3: 0; teacher 1-2: 1, 1-3: -1, 2-3: -1. Cell 4 has no events.
    student = torch.tensor([[1.0, 0.0, 5.0, 9.0], [0.0, 2.0, 0.0, 9.0]]).view(1, 2, 2, 2)
    teacher = torch.tensor([[1.0, 3.0, -1.0, 4.0]]).view(1, 1, 2, 2)
    mask = torch.tensor([True, True, True, False]).view(1, 1, 2, 2)
    assert similarity_distance(student, teacher, mask, 256).item() == pytest.approx((1 + 4 + 1) / 3)
    assert similarity_distance(student, teacher, torch.zeros_like(mask), 256).item() == 0
    one = torch.tensor([True, False, False, False]).view(1, 1, 2, 2)
    assert similarity_distance(student, teacher, one, 256).item() == 0


def test_similarity_is_blind_to_length_and_rotation_of_features():
    student, mask = random(2, 6, 3, 5), torch.ones(2, 1, 3, 5, dtype=torch.bool)
    rotation = torch.linalg.qr(random(6, 6, seed=1)).Q
    length = random(2, 1, 3, 5, seed=2).exp()
    teacher = torch.einsum("ij,bjhw->bihw", rotation, student) * length
    assert similarity_distance(student, teacher, mask, 256).item() == pytest.approx(0, abs=1e-12)


def test_picked_cells_count_and_depend_on_the_frame_alone():
    mask = random(4, 300) > 0
    index, used = pick_cells(mask, 64)
    assert index.shape == (4, 64)
    assert used.all()  # each has more than 64
    assert mask.gather(1, index).all()
    assert all(len(row.unique()) == 64 for row in index)
    alone, _ = pick_cells(mask[2:3], 64)
    assert torch.equal(alone, index[2:3])
    few, used = pick_cells(mask[:, :10], 64)
    assert few.shape == (4, 10)
    assert used.sum(1).tolist() == mask[:, :10].sum(1).tolist()


# Cells


def test_cells_of_a_padded_map():
    cells = CellGrid.of(torch.zeros(1, 1, 17, 22), (260, 346))
    assert cells.cell == (16, 16)
    inside = cells.inside(torch.device("cpu"))
    assert not inside[16].any()  # the last row's centre is at 264 px
    assert inside[:16].all()  # the last column's is at 344 px
    assert CellGrid.of(torch.zeros(1, 1, 34, 44), (260, 346)).cell == (8, 8)
    assert CellGrid.of(torch.zeros(1, 1, 260, 346), (260, 346)).cell == (1, 1)
    assert CellGrid.of(torch.zeros(1, 1, 1, 1), (16, 16)).cell == (16, 16)
    assert CellGrid.of(torch.zeros(1, 1, 10, 15), (260, 346)).cell == (26, 346 / 15)  # no such stride: stretched


@pytest.mark.parametrize("teacher_size", [(19, 25), (65, 87), (130, 173)])
def test_a_map_is_sampled_where_the_cells_are(teacher_size):
    height, width = teacher_size
    y = (torch.arange(height) + 0.5) / height * 260  # the value is the place, in pixels
    x = (torch.arange(width) + 0.5) / width * 346
    places = torch.stack([y[:, None].expand(-1, width), x[None, :].expand(height, -1)])[None]
    sampled = CellGrid.of(torch.zeros(1, 1, 17, 22), (260, 346)).sample(places)
    inner = sampled[0, :, 1:15, 1:20]  # beyond the outermost centres the border repeats
    torch.testing.assert_close(inner[0], (torch.arange(1, 15)[:, None] * 16 + 8.0).expand(14, 19), atol=0.2, rtol=0)
    torch.testing.assert_close(inner[1], (torch.arange(1, 20)[None, :] * 16 + 8.0).expand(14, 19), atol=0.2, rtol=0)


def test_events_are_counted_by_cell():
    activity = torch.zeros(1, 1, 20, 28)
    activity[..., 15, 15], activity[..., 16, 16], activity[..., 19, 27] = 3, 4, 5
    counts = CellGrid.of(torch.zeros(1, 1, 2, 2), (20, 28)).events(activity)
    assert counts.flatten().tolist() == [3, 0, 0, 9]
    counts = CellGrid.of(torch.zeros(1, 1, 7, 3), (260, 346)).events(torch.ones(1, 1, 260, 346))
    assert counts.sum().item() == pytest.approx(260 * 346)


# Firing rates


def test_rate_band_by_hand():
    rates = {"a": torch.tensor(0.01), "b": torch.tensor(0.2), "c": torch.tensor(0.6)}
    assert rate_band(rates, (0.05, 0.3)).item() == pytest.approx((0.04**2 + 0.3**2) / 3)
    assert rate_band(rates, (0.2, 0.2)).item() == pytest.approx((0.19**2 + 0.4**2) / 3)
    with pytest.raises(ValueError, match="rate"):
        rate_band({}, (0.05, 0.3))


# Gradients


def test_gradients_agree_with_differences():
    values = batch(size=2, height=6, width=7, dtype=torch.float64)
    depth = values["depth_m"]
    log_depth = values["log_depth"].requires_grad_()
    weight = random(2, 1, 6, 7).abs()
    label = random(2, 1, 6, 7, seed=9)
    features = random(2, 4, 2, 3).requires_grad_()
    mask = torch.tensor([True, True, False, True, True, True]).view(1, 1, 2, 3).expand(2, -1, -1, -1)

    def depth_losses(x):
        residual, valid = log_residual(x, depth, RANGE)
        return scale_invariant(residual, weight * valid, 0.5), gradient_matching(residual, valid, 3)

    assert torch.autograd.gradcheck(depth_losses, log_depth)
    assert torch.autograd.gradcheck(lambda x: sky_shortfall(x, depth, RANGE, 90.0), log_depth)
    assert torch.autograd.gradcheck(lambda x: relative_proxy(x, label, RANGE), log_depth)
    assert torch.autograd.gradcheck(lambda x: metric_proxy(x, depth, RANGE), log_depth)
    assert torch.autograd.gradcheck(lambda x: feature_distance(x, random(2, 4, 2, 3, seed=8), mask), features)
    assert torch.autograd.gradcheck(lambda x: similarity_distance(x, random(2, 3, 2, 3, seed=8), mask, 4), features)
    rates = torch.tensor([0.01, 0.5, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rate_band(dict(enumerate(x)), (0.05, 0.3)), rates)


def test_gradients_through_the_whole_loss_in_float64():
    values = batch(size=2, height=18, width=17, dtype=torch.float64)
    loss = full_loss().double()
    stage = values["student"]["blocks.0"].requires_grad_()
    log_depth = values["log_depth"].requires_grad_()

    def total(x, y):
        return loss(**{**values, "log_depth": x, "student": {"blocks.0": y}}).total

    assert torch.autograd.gradcheck(total, (log_depth, stage), fast_mode=True)


# All together


def test_total_is_the_weighted_sum_of_the_parts():
    config = LossConfig(2.0, 17.0, 3.0, 19.0, 5.0, 7.0, 11.0, 13.0, pairs=(("blocks.0", "last"),))
    result = full_loss(config)(**batch())
    assert set(result.parts) == {"depth", "relative", "gradient", "sky", "feature", "similarity", "proxy", "rate"}
    assert all(part > 0 and not part.requires_grad for part in result.parts.values())
    expected = sum(getattr(config, key) * part for key, part in result.parts.items())
    torch.testing.assert_close(result.total.detach(), expected)


@pytest.mark.parametrize("far", ["none", "log", "bands"])
def test_a_batch_costs_the_mean_of_its_frames(far):
    values = batch()
    values["depth_m"][1] = NAN  # a frame without truth is a frame all the same
    values["activity"][2, :, :16] = 0
    config = LossConfig.from_dict({**ALL.to_dict(), "far": far, "feature_mask": True, "band_edges_m": [5, 20]})
    loss = full_loss(config)
    together = loss(**values)
    alone = [loss(**select(values, i)) for i in range(3)]
    for key, part in together.parts.items():
        torch.testing.assert_close(part, torch.stack([one.parts[key] for one in alone]).mean(), rtol=1e-5, atol=1e-7)
    assert alone[1].parts["depth"] == 0


@pytest.mark.parametrize("far", ["none", "log", "bands"])
def test_frames_without_anything_known_cost_zero_and_give_no_nan(far):
    values = batch()
    values["depth_m"][:] = NAN
    values["activity"][:] = 0
    values["teacher"].depth[:] = NAN
    values["log_depth"].requires_grad_()
    stage = values["student"]["blocks.0"].requires_grad_()
    result = full_loss(LossConfig.from_dict({**ALL.to_dict(), "far": far, "feature_mask": True, "rate": 0}))(**values)
    result.total.backward()
    assert result.total.item() == 0
    assert all(part == 0 for part in result.parts.values())
    assert torch.equal(values["log_depth"].grad, torch.zeros_like(values["log_depth"]))
    assert torch.equal(stage.grad, torch.zeros_like(stage))


def test_a_silent_stage_gives_finite_gradients():
    values = batch()
    stage = torch.zeros_like(values["student"]["blocks.0"]).requires_grad_()
    values["student"]["blocks.0"] = stage
    full_loss()(**values).total.backward()
    assert torch.isfinite(stage.grad).all()


def test_what_is_masked_out_has_no_say():
    values = batch()
    values["activity"][..., :16, :16] = 0  # the first cell saw nothing
    config = LossConfig(**OFF, feature=1.0, similarity=1.0, pairs=(("blocks.0", "last"),), feature_mask=True)
    loss = full_loss(config)
    stage = values["student"]["blocks.0"].requires_grad_()
    loss(**values).total.backward()
    assert not stage.grad[..., 0, 0].any()
    assert stage.grad[..., 0, 1].all()


def test_float32_under_autocast():
    values = batch()
    loss = full_loss()
    plain = loss(**values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(**values)
    assert mixed.total.dtype == torch.float32
    assert torch.equal(mixed.total, plain.total)
    half = {name: stage.bfloat16() for name, stage in values["student"].items()}
    log_depth = values["log_depth"].bfloat16()
    rounded = {**values, "student": {"blocks.0": half["blocks.0"].float()}, "log_depth": log_depth.float()}
    assert torch.equal(loss(**{**values, "student": half, "log_depth": log_depth}).total, loss(**rounded).total)


def test_a_loss_without_weight_is_never_computed():
    class Trap(dict):
        def __getitem__(self, key):
            raise AssertionError(f"{key} was read")

    values = batch()
    result = DistillationLoss(LossConfig(), {}, {})(
        **{**values, "student": Trap(), "teacher": None, "activity": None, "rates": Trap()}
    )
    assert set(result.parts) == {"depth", "gradient"}
    assert list(DistillationLoss(LossConfig(), {}, {}).parameters()) == []
    no_depth = LossConfig(**OFF, rate=1.0)
    assert set(DistillationLoss(no_depth, {}, {})(**{**values, "depth_m": None}).parts) == {"rate"}


def test_projection_learns_to_read_the_teacher():
    values = batch(size=4)
    target = functional.conv2d(values["student"]["blocks.0"], random(7, 5, 1, 1, dtype=torch.float32))
    values["teacher"] = TeacherOutput({"last": target})
    values["log_depth"] = values["log_depth"][..., :32, :32]
    values["activity"] = torch.ones(4, 1, 32, 32)  # the teacher's cells are the student's
    loss = full_loss(LossConfig(**OFF, feature=1.0, pairs=(("blocks.0", "last"),)))
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        cost = loss(**values).total
        cost.backward()
        optimiser.step()
    assert cost.item() < 0.01


# Bad input


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lambda": 0.5}, "unknown loss key 'lambda'; known keys: depth, relative, gradient"),
        ({"depth": -1}, "'depth' is -1"),
        ({"depth": NAN}, "'depth' is nan"),
        ({"depth": 0, "gradient": 0}, "every loss has weight 0"),
        ({"si_lambda": 2}, "'si_lambda'"),
        ({"root": 1}, "'root'"),
        ({"gradient_scales": 0}, "'gradient_scales'"),
        ({"sky_m": 0}, "'sky_m'"),
        ({"feature": 1}, "'pairs' is empty"),
        ({"feature": 1, "pairs": ["ab"]}, "'pairs' is"),
        ({"rate_band": [0.3, 0.1]}, "'rate_band'"),
        ({"far": "yes"}, "'far' is 'yes'"),
        ({"band_edges_m": [5, 2]}, "'band_edges_m'"),
        ({"similarity_patches": 1}, "'similarity_patches'"),
    ],
)
def test_config_refuses(values, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        LossConfig.from_dict(values)


def test_config_survives_the_way_through_plain_values():
    assert LossConfig.from_dict(ALL.to_dict()) == ALL


def test_missing_inputs_are_named():
    with pytest.raises(ValueError, match=r"student stage 'blocks\.0'; there are: stem"):
        DistillationLoss(ALL, {"stem": 3}, {"last": 7})
    with pytest.raises(ValueError, match="teacher layer 'last'; there are: none"):
        DistillationLoss(ALL, {"blocks.0": 5}, {})
    values = batch()
    with pytest.raises(ValueError, match="there is no teacher output"):
        full_loss()(**{**values, "teacher": None})
    with pytest.raises(ValueError, match="gives no depth"):
        full_loss()(**{**values, "teacher": TeacherOutput(values["teacher"].features)})
    with pytest.raises(ValueError, match="bring it to the size"):
        small = TeacherOutput(values["teacher"].features, torch.ones(3, 1, 4, 4), "relative")
        full_loss()(**{**values, "teacher": small})
