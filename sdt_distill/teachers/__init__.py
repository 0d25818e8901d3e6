"""Frozen networks that see frames, to teach a network that sees events.

Read `base.py` first; `dino.py`, `onnx_depth.py` and `frame.py` are the teachers, `cached.py` keeps what they saw.
"""

from sdt_distill.teachers.base import DepthKind, Teacher, TeacherError, TeacherOutput
from sdt_distill.teachers.cached import CachedTeacher
from sdt_distill.teachers.config import TeacherConfig
from sdt_distill.teachers.registry import open_teacher

__all__ = [
    "CachedTeacher",
    "DepthKind",
    "Teacher",
    "TeacherConfig",
    "TeacherError",
    "TeacherOutput",
    "open_teacher",
]
