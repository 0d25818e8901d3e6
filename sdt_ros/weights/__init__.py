"""The weights that come with the package, found by name."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
DEFAULT = "sdt_small"


def packaged_names() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def default_weights() -> Path | None:
    """The default checkpoint; None in a package without weights."""
    return weights_file(DEFAULT) if DEFAULT in packaged_names() else None


def weights_file(text: str) -> Path:
    """The checkpoint that is meant by the name of a packaged one, or by a path, which need not be there."""
    return FOLDER / f"{text}.safetensors" if text in packaged_names() else Path(text).expanduser()
