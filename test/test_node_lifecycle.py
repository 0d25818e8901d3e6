"""The depth node's life on a real graph: parameters, transitions and their failures, load, and the way it ends."""

from __future__ import annotations

import importlib.util
import signal
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

import torch
from depth_graph import UNTRAINED, Graph, NodeProcess, pattern_packets, running_node
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import ParameterType

from sdt_ros.events import EventPacket
from sdt_ros.network import Card, build_network, save_checkpoint
from sdt_ros.parameters import NodeConfig
from sdt_ros.weights import default_weights

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[1] / "config" / "depth.yaml"
STOP_S = 5.0  # launch sends SIGTERM after so long


@pytest.fixture(scope="module")
def packets(tmp_path_factory: pytest.TempPathFactory) -> list[EventPacket]:
    return pattern_packets(tmp_path_factory.mktemp("bags"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """A node with the project's own configuration file. Tests run in their order: the last one ends it."""
    with running_node(tmp_path_factory.mktemp("node"), "--params-file", str(CONFIG)) as made:
        yield made


def test_the_configuration_file_has_every_parameter_and_its_default(graph: Graph) -> None:
    listed = yaml.safe_load(CONFIG.read_text())["/**"]["ros__parameters"]
    declared = graph.parameters()
    assert declared.pop("autostart") is False, "the command line wins"
    own = {name: value for name, value in declared.items() if name in listed}
    assert own == {name: value for name, value in listed.items() if name != "autostart"}
    strangers = declared.keys() - listed.keys()
    assert all(name == "use_sim_time" or name.startswith(("qos_overrides", "start_type")) for name in strangers)


def test_descriptors_tell_meaning_range_and_choices(graph: Graph) -> None:
    names = [entry.name for entry in fields(NodeConfig)]
    for entry, descriptor in zip(fields(NodeConfig), graph.descriptors(names), strict=True):
        assert descriptor.name == entry.name and descriptor.description == entry.metadata["text"]
        assert descriptor.read_only == (entry.name == "autostart")
        if descriptor.type == ParameterType.PARAMETER_DOUBLE:
            (bounds,) = descriptor.floating_point_range
        elif descriptor.type == ParameterType.PARAMETER_INTEGER:
            (bounds,) = descriptor.integer_range
        else:
            assert all(choice in descriptor.additional_constraints for choice in entry.metadata["choices"])
            continue
        assert (bounds.from_value, bounds.to_value) == (entry.metadata["low"], entry.metadata["high"])


def corrupted_checkpoint(folder: Path) -> str:
    path = folder / "net.safetensors"
    card = Card.of_preset("sdt_tiny")
    save_checkpoint(path, build_network(card.network), card)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    path.write_bytes(content)
    return str(path)


FAILURES: list[tuple[dict[str, Any], str]] = [
    ({"weights": "/no/such/net.safetensors"}, "/no/such/net.safetensors"),
    ({"weights": "corrupted"}, "net.safetensors"),
    ({"window_ms": 10000.0, "rate_hz": 100.0}, "overlap by more than"),
    ({"bins": 9}, "bins is 9"),
    ({"camera_info_url": "file:///no/such/camera.yaml"}, "/no/such/camera.yaml"),
    ({"device": "tpu"}, "unknown device 'tpu'"),
]
if default_weights() is None:
    FAILURES.append(({"allow_untrained": False}, "allow_untrained:=true"))
if not torch.cuda.is_available():
    FAILURES.append(({"device": "cuda"}, "device 'cuda' was asked for"))
if importlib.util.find_spec("event_camera_py") is None:
    FAILURES.append(({"decoder": "event_camera_py"}, "event_camera_py"))


@pytest.mark.parametrize(("changes", "text"), FAILURES, ids=[text for _, text in FAILURES])
def test_configure_fails_with_a_reason_and_can_be_tried_again(
    graph: Graph, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    if changes.get("weights") == "corrupted":
        changes = {"weights": corrupted_checkpoint(tmp_path)}
    graph.bring_to("unconfigured", **{**UNTRAINED, **changes})
    before = len(graph.process.text())
    assert not graph.transition("configure")
    assert graph.state() == "unconfigured" and graph.process.is_alive
    said = graph.process.text()[before:]
    assert text in said and said.count("[ERROR]") == 1 and "Traceback" not in said
    assert not graph.transition("activate"), "from unconfigured there is no way to active"


def test_a_failed_transition_is_in_the_diagnostics(graph: Graph) -> None:
    graph.bring_to("unconfigured", **{**UNTRAINED, "device": "tpu"})
    assert not graph.transition("configure")
    status = graph.diagnostic(lambda status: status.level == DiagnosticStatus.ERROR)
    assert "cannot configure" in status.message and "'tpu'" in status.message
    graph.bring_to("inactive", **UNTRAINED)
    status = graph.diagnostic(lambda status: "cannot" not in status.message)
    assert status.level == DiagnosticStatus.WARN and "UNTRAINED" in status.message


def test_a_configured_node_refuses_what_it_cannot_change(graph: Graph) -> None:
    graph.bring_to("inactive", **UNTRAINED)
    taken, reason = graph.set("weights", "other.safetensors")
    assert not taken and "weights" in reason and "cleanup" in reason
    for name, value in (("rate_hz", 0.01), ("rate_hz", 1e6), ("min_events", -1), ("colormap_min_m", 1e9)):
        taken, reason = graph.set(name, value)
        assert not taken and name in reason
    assert not graph.set("rate_hz", 10)[0], "an integer is no double"
    assert not graph.set("rate_hz", "fast")[0]
    assert not graph.set("frame_id", None)[0], "parameters cannot be taken away"
    taken, reason = graph.set("autostart", True)
    assert not taken and "read-only" in reason
    assert graph.parameters()["rate_hz"] == UNTRAINED["rate_hz"]


def test_windows_that_cannot_be_are_refused_while_running(graph: Graph) -> None:
    graph.bring_to("unconfigured", **{**UNTRAINED, "window_ms": 5000.0, "rate_hz": 10.0})
    graph.bring_to("active")
    taken, reason = graph.set("rate_hz", 1000.0)
    assert not taken and "overlap" in reason
    assert graph.process.is_alive and graph.parameters()["rate_hz"] == 10.0


def test_twenty_activations_under_load(graph: Graph, packets: list[EventPacket]) -> None:
    """Each activation counts from zero, and none hangs, leaks a publisher or stops the packets."""
    graph.bring_to("active", **UNTRAINED)
    publishers = graph.node.count_publishers("/depth/depth/image_rect")
    for _ in range(20):
        graph.publish(packets[:30], speed=5)
        assert graph.transition("deactivate") and graph.transition("activate")
    graph.quiet(0.2)
    graph.publish(packets[30:130], speed=0.8)
    seen = graph.quiet(0.3)
    assert len(seen.images) >= 4 and seen.ledger_closes
    assert seen.stats[-1].packets_received <= 130 and seen.stats[-1].windows_due < 13
    assert graph.node.count_publishers("/depth/depth/image_rect") == publishers == 1


def test_configured_again_it_works_again(graph: Graph, packets: list[EventPacket]) -> None:
    for _ in range(2):
        graph.bring_to("unconfigured")
        status = graph.diagnostic(lambda status: status.message == "unconfigured")
        assert status.level == DiagnosticStatus.OK
        assert all(float(value.value) >= 0 for value in status.values if "/s]" in value.key)
        graph.bring_to("active", **UNTRAINED)
        graph.publish(packets[:60], speed=0.8)
        assert graph.quiet(0.3).images


def test_nothing_is_published_while_inactive(graph: Graph, packets: list[EventPacket]) -> None:
    graph.bring_to("inactive", **UNTRAINED)
    graph.quiet(0.2)
    graph.publish(packets[:60], speed=2)
    assert not graph.quiet(0.2).images and not graph.packets.get_subscription_count()


def test_it_ends_at_sigint_under_load_and_a_second_one_changes_nothing(
    graph: Graph, packets: list[EventPacket]
) -> None:
    graph.bring_to("active", **UNTRAINED)
    graph.publish(packets[:60], speed=2)
    began = time.monotonic()
    graph.process.signal(signal.SIGINT)
    graph.publish(packets[60:80], speed=2)  # the camera does not care
    if graph.process.is_alive:
        graph.process.signal(signal.SIGINT)
    graph.publish(packets[80:], speed=2)
    assert graph.process.wait(STOP_S) == 0 and time.monotonic() - began < STOP_S
    assert "Traceback" not in graph.process.text() and "[FATAL]" not in graph.process.text()


def test_started_by_itself_it_ends_at_sigterm(tmp_path: Path) -> None:
    process = NodeProcess(
        tmp_path / "node.log", "-p", "allow_untrained:=true", "-p", "preset:=sdt_tiny", "-p", "wieghts:=net.safetensors"
    )
    try:
        end = time.monotonic() + 30
        while "waiting for events on /depth/events" not in process.text():
            assert process.is_alive and time.monotonic() < end, process.text()
            time.sleep(0.05)
        assert "there is no parameter 'wieghts', it has no effect; did you mean 'weights'?" in process.text()
        assert "no parameter 'preset'" not in process.text()
        process.signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0
        assert "Traceback" not in process.text()
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-p", "weights:=/no/such/net.safetensors"], "/no/such/net.safetensors"),
        (["-p", "rate_hz:=0.0"], "rate_hz"),
        (["-p", "nonsense"], "nonsense"),
    ],
)
def test_what_cannot_start_says_why_and_exits_with_1(tmp_path: Path, arguments: list[str], text: str) -> None:
    process = NodeProcess(tmp_path / "node.log", *arguments)
    try:
        assert process.wait(30) == 1
        assert text in process.text() and "cannot" in process.text() and "Traceback" not in process.text()
    finally:
        process.kill()
