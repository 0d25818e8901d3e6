"""SIGINT and SIGTERM in every state of the lifecycle: the node ends within two seconds, with exit code 0."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

from depth_graph import UNTRAINED, Graph, pattern_packets, running_node
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

pytestmark = pytest.mark.ros

END_S = 2.0
_SLACK_S = 2.0  # for machines with other work; without it, they end in a few tenths


def bring_to(graph: Graph, state: str, folder: Path) -> None:
    if state == "unconfigured":
        assert graph.state() == state
        return
    if state == "configuring":
        graph.bring_to("unconfigured", **{**UNTRAINED, "preset": "sdt"})  # the one that takes longest
        client = graph.node.create_client(ChangeState, "/depth/change_state")
        graph.wait_for(client.service_is_ready, "service")
        client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
        graph.spin(0.3)
        assert "configured:" not in graph.process.text(), "it is still at it"
        return
    graph.bring_to("active" if state in ("active", "deactivated") else "inactive", **UNTRAINED)
    if state == "active":
        graph.publish(pattern_packets(folder)[:60], speed=1)
    elif state == "deactivated":
        assert graph.transition("deactivate")
    elif state == "finalized":
        shutdown = Transition(id=Transition.TRANSITION_INACTIVE_SHUTDOWN)
        assert graph.call(ChangeState, "change_state", transition=shutdown).success


@pytest.mark.parametrize(
    ("state", "number"),
    [
        ("unconfigured", signal.SIGINT),
        ("configuring", signal.SIGTERM),
        ("inactive", signal.SIGTERM),
        ("active", signal.SIGINT),
        ("deactivated", signal.SIGTERM),
        ("finalized", signal.SIGINT),
    ],
)
def test_a_signal_ends_it(tmp_path: Path, state: str, number: signal.Signals) -> None:
    with running_node(tmp_path) as graph:
        bring_to(graph, state, tmp_path)
        began = time.monotonic()
        graph.process.signal(number)
        assert graph.process.wait(END_S + _SLACK_S) == 0
        assert time.monotonic() - began < END_S + _SLACK_S
        assert "Traceback" not in graph.process.text() and "[FATAL]" not in graph.process.text()


def test_a_signal_while_it_starts_by_itself_ends_it(tmp_path: Path) -> None:
    with running_node(tmp_path, "-p", "allow_untrained:=true", "-p", "preset:=sdt", autostart=True) as graph:
        graph.wait_for(lambda: graph.node.count_publishers("/diagnostics"), "node", 30.0)
        graph.process.signal(signal.SIGTERM)
        assert graph.process.wait(END_S + _SLACK_S) == 0
        assert "Traceback" not in graph.process.text()
