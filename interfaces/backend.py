"""The PEP 517 build backend: setuptools, plus the ROS generators where `policy` wants the interfaces built."""

from __future__ import annotations

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (the backend's hooks)

import policy


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """Returns setuptools' requirements and those of the interfaces."""
    return build_meta.get_requires_for_build_wheel(config_settings) + policy.build_requirements()


get_requires_for_build_editable = get_requires_for_build_wheel
