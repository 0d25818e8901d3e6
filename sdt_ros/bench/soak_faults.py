"""The faults of `sdt bench soak`: what each is, how long it lasts, and the random schedule of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

CAMERA_FAULTS: dict[str, tuple[float, float]] = {
    "gap": (0.05, 1.0),  # packets are lost
    "reordered": (0.1, 0.5),  # packets change places
    "duplicates": (0.1, 0.5),  # packets come twice
    "random_bytes": (0.1, 0.5),  # payloads are noise
    "cut_packets": (0.1, 0.5),  # payloads end anywhere
    "unreadable": (0.1, 0.5),  # unknown encoding, no size
    "silence": (1.2, 3.0),  # no packets
    "static": (1.0, 3.0),  # packets without events
    "storm": (0.3, 1.0),  # all pixels fire
    "hot_pixels": (1.0, 3.0),  # three pixels never rest
    "other_geometry": (0.5, 2.0),
    "other_encoding": (0.5, 2.0),
    "second_camera": (0.5, 1.5),  # another one publishes on the same topic
    "burst": (1.0, 3.0),  # three times the packets, events and windows
    "time_back": (0.0, 0.0),  # camera and host go back by an hour
    "time_forward": (0.0, 0.0),
    "stamps_back": (0.0, 0.0),  # the host's clock is set
    "sensor_clock_leaps": (0.0, 0.0),
    "bag_loops": (0.0, 0.0),  # numbers, stamps and times as at the beginning
    "camera_restarts": (0.0, 0.0),  # new numbers, new time base
}
"""What the camera does, and for how long: shortest and longest [s]; see `soak_camera`."""

GRAPH_FAULTS: dict[str, tuple[float, float]] = {
    "camera_killed": (0.0, 0.5),  # and started again
    "node_stalled": (0.2, 2.0),  # stopped as a debugger does
    "slow_subscriber": (1.0, 3.0),  # one that never takes what it subscribes to, reliable, keep all
    "parameters_change": (0.5, 1.0),  # rate, least events and masks, and back
    "reactivated": (0.0, 0.3),  # deactivated, activated
    "configured_again": (0.0, 0.0),  # deactivated, cleaned up, configured, activated
    "second_node": (0.5, 1.0),  # another node on the same camera comes and goes
}
"""What is done to node and graph; see `soak_graph`."""

KINDS = {**CAMERA_FAULTS, **GRAPH_FAULTS}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: of `KINDS`.
        seconds: how long it lasts [s].
        pause_s: good data after it was recovered from [s].
    """

    kind: str
    seconds: float
    pause_s: float


def schedule(seed: int, kinds: tuple[str, ...], pause_s: float) -> Iterator[Fault]:
    """Faults without end: first each kind once, then as chance has it; the same for the same seed.

    Args:
        seed: of chance.
        kinds: those that take part.
        pause_s: mean of the pauses [s].

    Raises:
        ValueError: a kind is unknown, or there is none.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"unknown faults {', '.join(unknown) or '(none)'}; choose from {', '.join(KINDS)}")
    chance = random.Random(seed)
    coming: list[str] = []
    first = list(kinds)
    chance.shuffle(first)
    coming += first
    while True:
        kind = coming.pop(0) if coming else chance.choice(kinds)
        yield Fault(kind, chance.uniform(*KINDS[kind]), chance.uniform(0.5, 1.5) * pause_s)
