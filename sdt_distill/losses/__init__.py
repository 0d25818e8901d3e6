"""Losses that train a student on depth and on a teacher. Read `config.py` first, then `distillation.py`."""

from sdt_distill.losses.config import LossConfig
from sdt_distill.losses.distillation import DistillationLoss, LossResult

__all__ = ["DistillationLoss", "LossConfig", "LossResult"]
