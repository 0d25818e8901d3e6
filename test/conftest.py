"""What every test shares: the recordings beside the project, and a ROS domain that nobody else is on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# The same examples in each run, so that a run says something about the change it tests. HYPOTHESIS_PROFILE=random draws
# others each time: that is how new faults are found.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("random")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Before anything imports rclpy, and inherited by every process that a test starts. Two runs on one machine are told
# apart by their process ids; 0 to 101 are the domains that Linux leaves free of ephemeral ports.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Tests run networks too small for two threads, and processes beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from depth_graph import Graph

    from sdt_ros.events import EventPacket

SHARED = Path(__file__).parents[2] / "shared" / "data"
RECORDINGS = ("evt3_640x480", "libcaer_cmp_346x260", "libcaer_640x480")


@pytest.fixture(params=RECORDINGS)
def recording(request: pytest.FixtureRequest) -> Path:
    """The folder of each of the real recordings."""
    folder: Path = SHARED / "recordings" / request.param
    if not folder.is_dir():
        pytest.skip(f"no recording at {folder}")
    return folder


@pytest.fixture
def expected(recording: Path) -> dict:
    """What an independent decoder reads in the recording."""
    listed = json.loads((recording.parent / "expected.json").read_text())["recordings"]
    return next(entry for entry in listed if Path(entry["path"]).parent.name == recording.name)


@pytest.fixture(scope="module")
def packets(tmp_path_factory: pytest.TempPathFactory) -> list[EventPacket]:
    """A second of moving patterns, to be published to the node."""
    from depth_graph import pattern_packets

    return pattern_packets(tmp_path_factory.mktemp("bags"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """The depth node as a process of its own, on a real graph."""
    from depth_graph import running_node

    with running_node(tmp_path_factory.mktemp("node")) as made:
        yield made
