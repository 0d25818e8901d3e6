"""All losses together, as a config weighs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdt_distill.losses.cells import CellGrid
from sdt_distill.losses.config import LossConfig
from sdt_distill.losses.depth import (
    far_weight_bands,
    far_weight_log,
    gradient_matching,
    log_residual,
    relative_error,
    scale_invariant,
    sky_shortfall,
)
from sdt_distill.losses.features import feature_distance, similarity_distance
from sdt_distill.losses.firing import rate_band
from sdt_distill.losses.proxy import metric_proxy, relative_proxy
from sdt_distill.teachers.base import TeacherOutput
from sdt_ros.network import DepthRange


@dataclass(frozen=True)
class LossResult:
    """What a batch costs.

    Attributes:
        total: the weighted sum, a scalar with a gradient.
        parts: each loss that has a weight, without its weight and without a gradient, by its key in `LossConfig`.
    """

    total: Tensor
    parts: dict[str, Tensor]


class DistillationLoss(nn.Module):
    """The losses of a config; a module because the 1x1 projections to the teacher's channels are learned with it.

    Everything is computed in float32 at least, under autocast too. A frame's cost does not depend on its batch.

    Args:
        config: weights and constants.
        student_channels: channels of the student's stages by name.
        teacher_layers: channels of the teacher's layers by name; empty without a teacher.

    Raises:
        ValueError: `config.pairs` names a stage or layer that is not there.
    """

    def __init__(
        self, config: LossConfig, student_channels: Mapping[str, int], teacher_layers: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.config = config
        # By position: names of stages have dots, which names of modules may not.
        self.projections = nn.ModuleList()
        if config.feature or config.similarity:
            for stage, layer in config.pairs:
                _require_name(stage, student_channels, "student stage")
                _require_name(layer, teacher_layers, "teacher layer")
        if config.feature:
            for stage, layer in config.pairs:
                self.projections.append(nn.Conv2d(student_channels[stage], teacher_layers[layer], 1))

    @property
    def stages(self) -> tuple[str, ...]:
        """Student stages that the losses with a weight read, each once."""
        pairs = self.config.pairs if self.config.feature or self.config.similarity else ()
        return tuple(dict.fromkeys(stage for stage, _ in pairs))

    def forward(
        self,
        log_depth: Tensor,
        depth_m: Tensor,
        depth_range: DepthRange,
        student: Mapping[str, Tensor],
        teacher: TeacherOutput | None,
        activity: Tensor,
        rates: Mapping[str, Tensor],
    ) -> LossResult:
        """Costs of a batch.

        Args:
            log_depth: the student's normalised log depth [B, 1, H, W].
            depth_m: truth in metres [B, 1, H, W], NaN where unknown, infinite where there is sky.
            depth_range: what the estimate's 0 and 1 stand for.
            student: the student's stages [B, C, h, w] by name.
            teacher: what the teacher sees, flipped and cropped as the student's input was; None without one.
            activity: events a pixel in the window [B, 1, H, W].
            rates: firing rates of the student's neurons by layer, scalars.

        Returns:
            The sum and its parts.

        Raises:
            ValueError: a loss with a weight lacks its input; the message names both.
        """
        config = self.config
        parts: dict[str, Tensor] = {}
        with torch.autocast(log_depth.device.type, enabled=False):
            log_depth = _full(log_depth)
            if config.depth or config.relative or config.gradient:
                residual, valid = log_residual(log_depth, _full(depth_m), depth_range)
                if config.depth:
                    weight = self._pixel_weights(_full(depth_m), valid, depth_range)
                    parts["depth"] = scale_invariant(residual, weight, config.si_lambda, config.root)
                if config.relative:
                    parts["relative"] = relative_error(residual, valid)
                if config.gradient:
                    parts["gradient"] = gradient_matching(residual, valid, config.gradient_scales)
            if config.sky:
                parts["sky"] = sky_shortfall(log_depth, _full(depth_m), depth_range, config.sky_m)
            if config.feature or config.similarity:
                parts |= self._compare_features(student, _require_teacher(teacher), _full(activity))
            if config.proxy:
                parts["proxy"] = _proxy(log_depth, _require_teacher(teacher), depth_range)
            if config.rate:
                parts["rate"] = rate_band({name: _full(rate) for name, rate in rates.items()}, config.rate_band)
            total = torch.stack([getattr(config, key) * part for key, part in parts.items()]).sum()
        return LossResult(total, {key: part.detach() for key, part in parts.items()})

    def _pixel_weights(self, depth_m: Tensor, valid: Tensor, depth_range: DepthRange) -> Tensor:
        if self.config.far == "log":
            return far_weight_log(depth_m, valid, depth_range, self.config.far_gain)
        if self.config.far == "bands":
            return far_weight_bands(depth_m, valid, self.config.band_edges_m, self.config.band_cap)
        return valid.to(depth_m.dtype)

    def _compare_features(
        self, student: Mapping[str, Tensor], teacher: TeacherOutput, activity: Tensor
    ) -> dict[str, Tensor]:
        """The feature losses, each the mean over the pairs."""
        config = self.config
        costs: dict[str, list[Tensor]] = {"feature": [], "similarity": []}
        for i, (stage, layer) in enumerate(config.pairs):
            _require_name(stage, student, "student stage")
            _require_name(layer, teacher.features, "teacher layer")
            features = _full(student[stage])
            cells = CellGrid.of(features, (activity.shape[-2], activity.shape[-1]))
            target = cells.sample(_full(teacher.features[layer]).detach())
            inside = cells.inside(features.device).expand(len(features), 1, -1, -1)
            active = inside & (cells.events(activity) >= config.min_events)
            if config.feature:
                mask = active if config.feature_mask else inside
                costs["feature"].append(feature_distance(self.projections[i](features), target, mask))
            if config.similarity:
                cost = similarity_distance(features, target, active, config.similarity_patches)
                costs["similarity"].append(cost)
        return {key: torch.stack(values).mean() for key, values in costs.items() if values}


def _full(values: Tensor) -> Tensor:
    """Float32, or float64 where it is that already."""
    return values if values.dtype == torch.float64 else values.float()


def _proxy(log_depth: Tensor, teacher: TeacherOutput, depth_range: DepthRange) -> Tensor:
    if teacher.depth is None:
        raise ValueError("loss 'proxy' has a weight but this teacher gives no depth: take an onnx or frame teacher")
    if teacher.depth.shape[-2:] != log_depth.shape[-2:]:
        sizes = f"{list(teacher.depth.shape)}, the student's {list(log_depth.shape)}"
        raise ValueError(f"the teacher's depth has shape {sizes}: bring it to the size of the student's input")
    if teacher.depth_kind == "metric":
        return metric_proxy(log_depth, _full(teacher.depth).detach(), depth_range)
    return relative_proxy(log_depth, _full(teacher.depth).detach(), depth_range)


def _require_teacher(teacher: TeacherOutput | None) -> TeacherOutput:
    if teacher is None:
        raise ValueError("a loss that compares with a teacher has a weight but there is no teacher output: "
                         "name a teacher, or set feature, similarity and proxy to 0")  # fmt: skip
    return teacher


def _require_name(name: str, known: Mapping[str, object], what: str) -> None:
    if name not in known:
        raise ValueError(f"loss key 'pairs' names {what} {name!r}; there are: {', '.join(known) or 'none'}")
