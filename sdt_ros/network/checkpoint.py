"""Checkpoints: `x.safetensors` holds the weights, `x.json` the card that says what they are. Never a pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from sdt_ros.network.card import Card, CardFacts, CheckpointError
from sdt_ros.network.depth_range import DepthRange
from sdt_ros.network.transformer import SpikingDepthTransformer
from sdt_ros.network.uncertainty import UncertaintyHead
from sdt_ros.text_files import TextFileError, read_text
from sdt_ros.weights import packaged_names

AnyCard = TypeVar("AnyCard", bound=CardFacts)


def save_checkpoint(path: str | Path, network: SpikingDepthTransformer, card: Card, *, half: bool = False) -> Card:
    """Writes weights and card; see `store_tensors` for how.

    Args:
        path: the `.safetensors` file; its folder is made where it is missing.
        network: the network, on any device, not folded for inference.
        card: what it is; its `network` must be the network's config.
        half: write the weights of layers in float16, half the size. Norms and biases stay float32: they are few, and
            variances leave float16's range.

    Returns:
        The card as written, digest filled in.

    Raises:
        CheckpointError: path, card and network do not fit, or a weight is not finite.
    """
    path = _weights_path(path)
    if type(network) is not SpikingDepthTransformer:  # a variant under the same names would be loaded as another
        raise CheckpointError(f"{path}: a {type(network).__name__} cannot be saved for the node")
    if card.network != network.config:
        raise CheckpointError(f"{path}: the card describes {card.network}, the network is {network.config}")
    if (network.uncertainty is not None) != bool(card.uncertainty):
        has = "no head" if network.uncertainty is None else "a head"
        raise CheckpointError(f"{path}: the network has {has} for uncertainty, its card says {card.uncertainty!r}")
    return store_tensors(path, network.state_dict(), _as_described(path, card).state_dict(), card, half=half)


def store_tensors(
    path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], card: AnyCard, *, half: bool = False
) -> AnyCard:
    """Writes the tensors of any network and their card.

    Both files are written whole beside their places and then renamed, so that a crash leaves the old ones. The card
    holds the digest of its weights: if the crash falls between the two renames, loading says so.

    Args:
        path: the `.safetensors` file; its folder is made where it is missing.
        state: tensors by name, on any device.
        expected: tensors of a network that is built as the card says.
        card: the card.
        half: see `save_checkpoint`.

    Returns:
        The card as written, digest filled in.

    Raises:
        CheckpointError: the tensors are not those expected, or one is not finite.
        OSError: the disk is full, or the folder cannot be written.
    """
    path = _weights_path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    _require_same_tensors(path, tensors, expected)
    if half:
        tensors = {name: _halved(tensor) for name, tensor in tensors.items()}
    _require_finite(path, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        weights, text = Path(folder) / path.name, Path(folder) / _card_path(path).name
        data = save(tensors)  # not `save_file`, whose files are their owner's alone, and whose errors are its own
        card = dataclasses.replace(card, weights_sha256=hashlib.sha256(data).hexdigest())
        try:
            for file, content in ((weights, data), (text, card.to_json().encode())):
                with file.open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
            weights.replace(path)
            text.replace(_card_path(path))
        except OSError as error:
            why = error.strerror or error
            raise OSError(error.errno, f"cannot write {path}: {why}; what was there is kept") from error
    return card


def load_card(path: str | Path) -> Card:
    """Reads the card of a checkpoint alone.

    Args:
        path: the `.safetensors` file.

    Raises:
        CheckpointError: weights or card are missing, or the card is none.
    """
    path, text = read_card_text(path)
    try:
        return Card.from_json(text)
    except CheckpointError as error:
        raise CheckpointError(f"{_card_path(path)}: {error}") from error


def read_card_text(path: str | Path) -> tuple[Path, str]:
    """The path of a checkpoint's weights, and the text of its card.

    Raises:
        CheckpointError: weights or card are missing, or the card is no text.
    """
    path = _weights_path(path)
    card_path = _card_path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if not card_path.is_file():
        raise CheckpointError(f"{path}: its card {card_path.name} is missing; copy both files of a checkpoint together")
    try:
        return path, read_text(card_path)
    except (TextFileError, OSError) as error:
        raise CheckpointError(f"{card_path}: {error}") from error


def load_checkpoint(
    path: str | Path,
    *,
    preset: str | None = None,
    bins: int | None = None,
    window_ms: float | None = None,
    depth_range: DepthRange | None = None,
) -> tuple[SpikingDepthTransformer, Card]:
    """Loads weights and card, and refuses what does not fit.

    Args:
        path: the `.safetensors` file.
        preset: the preset that the caller needs, None for any; so with the three that follow.
        bins: time bins that the caller will feed.
        window_ms: window that the caller will feed, in milliseconds.
        depth_range: metres that the caller expects.

    Returns:
        The network on the CPU in evaluation mode, and its card.

    Raises:
        CheckpointError: a file is missing or damaged, a tensor is missing, unexpected, of another shape or not finite,
            weights and card do not belong together, or the card is not what the caller needs.
    """
    path = _weights_path(path)
    card = load_card(path)
    needed = {"preset": preset, "bins": bins, "window_ms": window_ms, "depth_range": depth_range}
    for key, value in needed.items():
        if value is not None and getattr(card, key) != value:
            raise CheckpointError(f"{path}: trained for {key} {getattr(card, key)}, asked for {value}")
    with torch.device("meta"):  # a card may name a network that fills memory: the file shows whether it is that large
        expected = _as_described(path, card).state_dict()
    tensors = load_tensors(path, expected, card)
    network = _as_described(path, card)
    network.load_state_dict(tensors)
    return network.eval(), card


def _as_described(path: Path, card: Card) -> SpikingDepthTransformer:
    """A network with the parts that a card names; CheckpointError where there is none of the kind."""
    network = SpikingDepthTransformer(card.network)
    if card.uncertainty:
        try:
            network.uncertainty = UncertaintyHead(card.network)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return network


def load_tensors(path: Path, expected: Mapping[str, Tensor], card: CardFacts) -> dict[str, Tensor]:
    """Reads the tensors of any network; those written in float16 come back as float32.

    Args:
        path: the `.safetensors` file.
        expected: tensors of a network that is built as the card says.
        card: its card.

    Raises:
        CheckpointError: the file is damaged, not the card's, or its tensors are not those expected.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or no safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float16 and tensor.ndim > 1:
            tensors[name] = tensor.float()
    _require_same_tensors(path, tensors, expected)
    _require_finite(path, tensors)
    if _sha256(path) != card.weights_sha256:
        raise CheckpointError(f"{path}: damaged, or not the weights that {_card_path(path).name} was written for")
    return tensors


def _halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.ndim > 1 and tensor.dtype == torch.float32 else tensor


def _weights_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        packaged = ", ".join(packaged_names()) or "none here"
        raise CheckpointError(
            f"{path}: a checkpoint is named by its .safetensors file, a packaged one ({packaged}) by its name"
        )
    return path


def _card_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _require_same_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if missing := [name for name in expected if name not in found]:
        raise CheckpointError(f"{path}: lacks {_some(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        raise CheckpointError(f"{path}: has {_some(unexpected)}, which the network of its card has not")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            have, want = (f"{list(t.shape)} {t.dtype}" for t in (found[name], tensor))
            raise CheckpointError(f"{path}: tensor {name!r} is {have}, the network of its card needs {want}")


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Neurons turn NaN into silence, so that broken weights would give a depth that looks sound.
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(f"{path}: NaN or infinite values in {_some(broken)}")


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + rest


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
