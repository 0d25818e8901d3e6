"""The depth node when its device is lost: it goes on with the CPU, or ends, as `on_device_error` says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

from depth_graph import UNTRAINED, pattern_packets, running_node, stamp_ns
from diagnostic_msgs.msg import DiagnosticStatus

pytestmark = pytest.mark.ros

LOST = str(Path(__file__).with_name("lost_device.py"))
WINDOWS = 5  # that are well, the warm-ups among them
ONE_THREAD = {**UNTRAINED, "threads": 1}  # nothing to choose, so that each warm-up is one window


def test_it_goes_on_with_the_cpu_and_says_so(tmp_path: Path) -> None:
    packets = pattern_packets(tmp_path)
    with running_node(tmp_path, program=(LOST, str(WINDOWS))) as graph:
        graph.bring_to("active", **{**ONE_THREAD, "rates_every": 0})
        graph.diagnostics.clear()
        graph.publish(packets, speed=0.3)
        graph.publish(packets, speed=0.3)
        seen = graph.quiet(1.0)
        assert seen.ledger_closes and seen.stats[-1].windows_skipped >= 1
        assert seen.stats[-1].windows_published > WINDOWS, "depth comes again"
        assert "fallen off the bus" in graph.said("the network runs on the CPU").message

        def warned() -> DiagnosticStatus | None:  # in the second in which a window was lost it is an error
            known = (one for one in graph.diagnostics if "the network runs on the CPU" in one.message)
            return next((one for one in known if one.level == DiagnosticStatus.WARN), None)

        graph.wait_for(warned, "a warning that the network runs on the CPU", 15.0)
        assert graph.process.text().count("going on with the CPU") == 1
        assert stamp_ns(seen.images[-1].header) > 0


def test_it_stops_where_that_is_asked_for(tmp_path: Path) -> None:
    packets = pattern_packets(tmp_path)
    with running_node(tmp_path, program=(LOST, str(WINDOWS))) as graph:
        graph.bring_to("active", **{**ONE_THREAD, "rates_every": 0, "on_device_error": "stop"})
        graph.diagnostics.clear()
        graph.publish(packets, speed=0.5)
        graph.publish(packets, speed=0.5)
        ends = time.monotonic() + 10
        while graph.process.is_alive and time.monotonic() < ends:
            graph.spin(0.1)  # what is taken up only afterwards may be too much for a slow machine
        assert graph.process.wait(1) == 3
        graph.spin(2.0)
        assert any("the device is lost" in one.message for one in graph.diagnostics)
        assert graph.diagnostics[-1].level == DiagnosticStatus.ERROR
        assert "the node stops" in graph.process.text() and "Traceback" not in graph.process.text()


def test_lost_while_it_is_warmed_it_takes_the_cpu(tmp_path: Path) -> None:
    with running_node(tmp_path, program=(LOST, "0")) as graph:
        graph.bring_to("active", **UNTRAINED)
        graph.diagnostics.clear()
        graph.publish(pattern_packets(tmp_path)[:100], speed=0.5)
        assert graph.quiet(0.6).images
        graph.said("the network runs on the CPU")


def test_lost_while_it_is_loaded_it_takes_the_cpu(tmp_path: Path) -> None:
    """As at boot, on a GPU that another process has filled."""
    with running_node(tmp_path, program=(LOST, "-1")) as graph:
        graph.bring_to("active", **UNTRAINED)
        graph.diagnostics.clear()
        graph.publish(pattern_packets(tmp_path)[:100], speed=0.5)
        assert graph.quiet(0.6).images
        assert "another process has it all" in graph.said("the network runs on the CPU").message


def test_lost_while_it_is_warmed_it_cannot_configure_where_it_is_to_stop(tmp_path: Path) -> None:
    """Nothing is promised yet: the reason is told, and the parameters can be set otherwise."""
    with running_node(tmp_path, program=(LOST, "0")) as graph:
        graph.bring_to("unconfigured", **{**UNTRAINED, "on_device_error": "stop"})
        assert not graph.transition("configure")
        assert graph.state() == "unconfigured"
        end = time.monotonic() + 10
        while "fallen off the bus" not in graph.process.text():
            assert time.monotonic() < end
            graph.spin(0.1)
        assert graph.transition("configure"), "and the next one that is made works"
