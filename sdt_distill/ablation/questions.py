"""The questions: which arms are compared, and what each changes of the config that it starts from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sdt_distill.networks import resolve
from sdt_ros.network import NetworkConfig

Plain = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: in tables and as a folder.
        change: from the plain values of the common config to those of the arm.
    """

    name: str
    change: Callable[[Plain], Plain]


@dataclass(frozen=True)
class Question:
    """A comparison.

    Attributes:
        title: what is asked, in one line.
        fairness: what is equal and what cannot be.
        arms: the sides.
    """

    title: str
    fairness: str
    arms: tuple[Arm, ...]


def _network(**keys: Any) -> Callable[[Plain], Plain]:
    def change(plain: Plain) -> Plain:
        plain = copy.deepcopy(plain)
        plain["network"] = {**_spiking(plain), **keys}
        return plain

    return change


def _spiking(plain: Plain) -> Plain:
    """The network of a config as a mapping.

    Raises:
        ValueError: it is no spiking depth transformer.
    """
    network = plain["network"]
    if not isinstance(resolve(network), NetworkConfig):
        raise ValueError(f"config key 'network' is {network!r}: ablations start from a spiking network, as sdt_tiny")
    return {"name": network} if isinstance(network, str) else dict(network)


_TAUGHT = ("feature", "similarity", "proxy")  # the losses that need a teacher
_HOW_TAUGHT = ("pairs", "feature_mask", "min_events", "similarity_patches")  # mean nothing without them


def _untaught(plain: Plain) -> Plain:
    plain = copy.deepcopy(plain)
    for key in _TAUGHT:
        plain["loss"][key] = 0.0
    for key in _HOW_TAUGHT:
        plain["loss"].pop(key, None)
    plain.pop("teacher", None)  # the default is none
    return plain


def _taught(plain: Plain) -> Plain:
    if not any(plain["loss"][key] for key in _TAUGHT):
        wanted = ", ".join(f"loss.{key}" for key in _TAUGHT)
        raise ValueError(f"the config has no distillation to leave out: set a teacher, and one of {wanted} above 0")
    return copy.deepcopy(plain)


def _peer(plain: Plain) -> Plain:
    network = _spiking(plain)
    if resized := sorted(set(network) - {"name", "neuron", "attention"}):
        raise ValueError(f"there is a peer of equal size for presets only: leave out network key {resized[0]!r}")
    name = network["name"]
    plain = copy.deepcopy(plain)
    plain["network"] = name.replace("sdt", "e2depth")
    # A teacher's layers are compared with the deepest encoder, where the network has no blocks.
    plain["loss"]["pairs"] = [["encoders.2", layer] for _, layer in plain["loss"]["pairs"]]
    return plain


QUESTIONS: Mapping[str, Question] = MappingProxyType(
    {
        "attention": Question(
            "What does attention made of spikes cost, and what does it save?",
            "Only the product between tokens changes. With softmax, Q, K and V are the real numbers behind their norm, "
            "and the projection that follows multiplies; stem, MLPs and head stay spiking.",
            (
                Arm("ssa", _network(attention="ssa")),
                Arm("spike_driven", _network(attention="spike_driven")),
                Arm("softmax", _network(attention="softmax")),
            ),
        ),
        "distillation": Question(
            "What does the teacher add?",
            "Both arms see the same samples and steps and have the same losses of depth; the teacher's frames and "
            "weights are more information, which is the point, and its time is not in the samples a second of a "
            "network that has learned.",
            (Arm("no teacher", _untaught), Arm("teacher", _taught)),
        ),
        "head": Question(
            "What does the fusion head add to a plain projection?",
            "The linear head has fewer parameters and less energy; nothing is added elsewhere to make up for it.",
            (Arm("fusion", _network(head="fusion")), Arm("linear", _network(head="linear"))),
        ),
        "neuron": Question(
            "What do spikes cost against the ANN twin?",
            "The twin is the same definition with ReLU for MLIF and all bins as channels of one step; see "
            "`sdt_distill/networks/twin.py` for what is and is not equal.",
            (Arm("mlif", _network(neuron="mlif")), Arm("relu", _network(neuron="relu"))),
        ),
        "peer": Question(
            "How does the network stand beside its twin and E2Depth's recurrent UNet of equal size?",
            "Parameters agree within 1 %; samples, steps, losses and optimiser are the same. They were chosen for the "
            "spiking network, and nothing was tuned for the others.",
            (
                Arm("sdt", _network(neuron="mlif")),
                Arm("ann twin", _network(neuron="relu")),
                Arm("e2depth", _peer),
            ),
        ),
    }
)
"""By the name that the command takes."""
