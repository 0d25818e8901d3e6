"""The weights that come with the package."""

from __future__ import annotations

from pathlib import Path

_DEFAULT = Path(__file__).parents[1] / "weights" / "sdt_small.safetensors"


def packaged_weights() -> Path | None:
    """The default checkpoint; None in a package without weights."""
    return _DEFAULT if _DEFAULT.is_file() else None
