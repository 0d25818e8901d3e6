"""Frozen networks that see frames, to teach a network that sees events."""

from sdt_distill.teachers.base import Teacher, TeacherError, TeacherOutput

__all__ = ["Teacher", "TeacherError", "TeacherOutput"]
