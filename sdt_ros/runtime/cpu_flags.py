"""What the CPU can do, in its own words."""

from __future__ import annotations

from pathlib import Path


def cpu_flags() -> frozenset[str]:
    """Instructions that the CPU reports; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))
