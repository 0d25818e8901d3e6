"""Checkpoints of any network: those of spiking transformers are the node's, those of peers say so in their card."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdt_ros.network import (
    Card,
    CheckpointError,
    DepthRange,
    NetworkConfig,
    SpikingDepthTransformer,
    load_checkpoint,
    presets,
    save_checkpoint,
)
from sdt_ros.network.card import CardFacts, read_json
from sdt_ros.network.checkpoint import load_tensors, read_card_text, store_tensors

from .e2depth import E2DepthConfig
from .registry import bare, config_of, name_of
from .twin import AnnTwin, TwinConfig

PEERS: dict[str, type[TwinConfig] | type[E2DepthConfig]] = {"ann_twin": TwinConfig, "e2depth": E2DepthConfig}
"""Kinds of peers as their cards name them."""


@dataclass(frozen=True)
class PeerCard(CardFacts):
    """The card of a network that the node does not run; `Card` refuses it by its key `peer`.

    Attributes:
        peer: kind of the network, a key of `PEERS`.
        network: its config.
    """

    peer: str
    network: TwinConfig | E2DepthConfig

    def __post_init__(self) -> None:
        """Refuses values that no checkpoint can have, naming the key."""
        super().__post_init__()
        if self.peer not in PEERS or not isinstance(self.network, PEERS[self.peer]):
            raise CheckpointError(
                f"card key 'peer' is {self.peer!r}, expected one of {', '.join(PEERS)} and its network"
            )
        if isinstance(self.network, TwinConfig) and self.network.bins != self.bins:
            raise CheckpointError(f"card key 'bins' is {self.bins}, the network takes {self.network.bins}")

    def plain(self) -> dict[str, Any]:
        """The card as plain values that JSON can hold."""
        return {**super().plain(), "network": self.network.to_dict()}

    @classmethod
    def from_json(cls, text: str) -> PeerCard:
        """Reads a card back.

        Raises:
            CheckpointError: the text is no card of a peer; the message names the key.
        """
        try:
            values = cls._plain_from_json(text)
            if values["peer"] not in PEERS:
                raise CheckpointError(f"card key 'peer' is {values['peer']!r}, expected one of {', '.join(PEERS)}")
            values["network"] = PEERS[values["peer"]].from_dict(values["network"])
            return cls(**values)
        except CheckpointError:
            raise
        except (TypeError, ValueError) as error:
            raise CheckpointError(str(error)) from error


AnyCard = Card | PeerCard


def make_card(network: nn.Module, **facts: Any) -> AnyCard:
    """The card of a network.

    Args:
        network: built by `build`.
        facts: attributes of `CardFacts`.

    Raises:
        CheckpointError: a value is impossible.
        TypeError: the network is none of ours, or a key unknown.
    """
    config = config_of(network)
    if isinstance(config, NetworkConfig):
        preset = next((name for name, value in presets.items() if value == config), None)
        return Card(config, preset, **facts)
    return PeerCard("ann_twin" if isinstance(config, TwinConfig) else "e2depth", config, **facts)


def save_network(path: str | Path, network: nn.Module, card: AnyCard, *, half: bool = False) -> AnyCard:
    """Writes weights and card, whole or not at all.

    Args:
        path: the `.safetensors` file.
        network: built by `build`, on any device.
        card: made by `make_card`.
        half: layers in float16; see `sdt_ros.network.save_checkpoint`.

    Returns:
        The card as written, digest filled in.

    Raises:
        CheckpointError: path, card and network do not fit, or a weight is not finite.
    """
    if isinstance(card, Card):
        if not isinstance(network, SpikingDepthTransformer) or isinstance(network, AnnTwin):
            raise CheckpointError(f"{path}: the card is one of a spiking transformer, the network is none")
        return save_checkpoint(path, network, card, half=half)
    if config_of(network) != card.network:
        raise CheckpointError(f"{path}: the card describes {card.network}, the network is {config_of(network)}")
    return store_tensors(Path(path), network.state_dict(), bare(card.network).state_dict(), card, half=half)


def read_card(path: str | Path) -> AnyCard:
    """Reads the card of a checkpoint alone.

    Raises:
        CheckpointError: weights or card are missing, or the card is none.
    """
    path, text = read_card_text(path)
    try:
        return PeerCard.from_json(text) if "peer" in read_json(text) else Card.from_json(text)
    except CheckpointError as error:
        raise CheckpointError(f"{path.with_suffix('.json')}: {error}") from error


def load_network(path: str | Path) -> tuple[nn.Module, AnyCard]:
    """Loads weights and card of any network here.

    Returns:
        The network on the CPU in evaluation mode, and its card.

    Raises:
        CheckpointError: as `sdt_ros.network.load_checkpoint`.
    """
    card = read_card(path)
    if isinstance(card, Card):
        return load_checkpoint(path)
    network = bare(card.network)
    network.load_state_dict(load_tensors(Path(path), network.state_dict(), card))
    return network.eval(), card


def take_weights(network: nn.Module, path: str | Path, depth_range: DepthRange) -> AnyCard:
    """Gives a network the weights of a checkpoint, to train it further.

    Args:
        network: that takes them.
        path: the `.safetensors` file.
        depth_range: of the network; where the checkpoint's is another, the last layer is rewritten to say the same
            metres.

    Returns:
        The checkpoint's card.

    Raises:
        CheckpointError: as `load_network`, or the checkpoint is of another network, or of another depth range and the
            network has no linear last layer to rewrite.
    """
    found, card = load_network(path)
    if card.network != config_of(network):
        raise CheckpointError(
            f"{path} holds {network_name(card)} ({card.network}), which is to be a start for {config_of(network)}: "
            "name a checkpoint of the same network"
        )
    if card.depth_range != depth_range:
        if not isinstance(found, SpikingDepthTransformer):
            raise CheckpointError(f"{path} is for {card.depth_range}, not {depth_range}: set data.min_m and data.max_m")
        _change_range(found.head.depth, card.depth_range, depth_range)
    if isinstance(found, SpikingDepthTransformer):
        found.uncertainty = None  # fitted to weights as they were
    network.load_state_dict(found.state_dict())
    return card


@torch.no_grad()
def _change_range(last: nn.Conv2d, old: DepthRange, new: DepthRange) -> None:
    """Has a layer give normalised log depth of another range: a line in the old one's."""
    assert last.bias is not None
    slope = old.alpha / new.alpha
    last.weight.mul_(slope)
    last.bias.mul_(slope).add_(1 - slope + math.log(old.max_m / new.max_m) / new.alpha)


def network_name(card: AnyCard) -> str:
    """What to call the network of a card."""
    return name_of(card.network)
