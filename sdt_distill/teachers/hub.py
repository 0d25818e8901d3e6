"""Weights in the hub's format: a folder with `config.json` and `model.safetensors`, or a name to fetch one by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdt_distill.teachers.base import TeacherError
from sdt_ros import text_files

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PREPROCESSING = "preprocessor_config.json"


def find_weights(weights: str) -> Path:
    """The folder of a teacher.

    Args:
        weights: a folder, or a name on the hub as `owner/name`, which is looked up in the local cache first.

    Raises:
        TeacherError: there is none, or it is not complete; the message says which file to put where.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        check_folder(folder)
        return folder
    if not _is_hub_name(weights):
        raise TeacherError(
            f"teacher weights {weights!r}: no such folder. Put {CONFIG} and {WEIGHTS} there, "
            "or give a name on the hub such as facebook/dinov2-small"
        )
    folder = _fetch(weights)
    check_folder(folder)
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a complete folder, one or several."""
    index = folder / INDEX
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return [folder / WEIGHTS]
    shards = read_json(index).get("weight_map", {})
    return [folder / name for name in sorted(set(shards.values()))]


def check_folder(folder: Path) -> None:
    """Refuses a folder that lacks a file, naming it.

    Raises:
        TeacherError: a file is missing or is no JSON.
    """
    missing = [path.name for path in (folder / CONFIG, *weight_files(folder)) if not path.is_file()]
    if missing:
        pickled = " (pytorch_model.bin is there, but pickles are not read)" if any(folder.glob("*.bin")) else ""
        raise TeacherError(
            f"teacher weights {folder}: {' and '.join(missing)} missing{pickled}. Put {CONFIG} and {WEIGHTS} there, "
            f"or fetch them: hf download NAME --local-dir {folder}"
        )
    read_json(folder / CONFIG)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        TeacherError: it is none.
    """
    try:
        values = text_files.read_json(path)
    except (OSError, text_files.TextFileError) as error:
        raise TeacherError(f"{path}: cannot be read as JSON: {error}; fetch the file again") from error
    if not isinstance(values, dict):
        raise TeacherError(f"{path}: holds no JSON object; fetch the file again")
    return values


def _is_hub_name(weights: str) -> bool:
    parts = weights.split("/")
    return len(parts) == 2 and all(part and part[0].isalnum() for part in parts)


def _fetch(name: str) -> Path:
    """The hub's snapshot of that name, from the local cache or over the network."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise TeacherError(
            f"teacher weights {name!r}: install the hub's client: pip install 'sdt_ros[distill]'"
        ) from error
    wanted = ["*.json", "*.safetensors"]
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted, local_files_only=True))
        check_folder(folder)
        return folder
    except Exception:
        pass
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the client raises its own kinds, those of its transport, and OSError
        raise TeacherError(
            f"teacher weights {name!r}: no such folder, and not to be had from the hub "
            f"({type(error).__name__}). Where there is a network: hf download {name} --local-dir DIR "
            "(some, as DINOv3, ask for their licence to be accepted and for hf auth login first). "
            f"Then copy DIR with its {CONFIG} and {WEIGHTS} here and name it"
        ) from error
