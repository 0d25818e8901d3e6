"""The depth node as its users meet it: a process of its own on a real graph, and everything it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sdt_ros.msg import Stats
from sensor_msgs.msg import CameraInfo, Image

from event_camera_msgs.msg import EventPacket as EventPacketMessage
from sdt_ros.bags import open_bag, parse_event_packet, serialize_event_packet
from sdt_ros.bench.service_calls import call_until_answered
from sdt_ros.events import EventPacket, EventStream, SpikeWindow, WindowConfig
from sdt_ros.parameters import NodeConfig
from sdt_ros.simulation.patterns import EVENTS_TOPIC, write_pattern_bag

HEIGHT, WIDTH = 96, 128
RATE_HZ, MIN_EVENTS = 20.0, 100
DEFAULTS = {entry.name: entry.default for entry in fields(NodeConfig) if entry.name != "autostart"}
UNTRAINED = {
    **DEFAULTS, "allow_untrained": True, "preset": "sdt_tiny", "device": "cpu", "rates_every": 5,
    "rate_hz": RATE_HZ, "min_events": MIN_EVENTS, "smoothing_s": 0.0,
}  # fmt: skip
"""Parameters of a small network on the CPU, as every test begins with them."""

TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}
STATE_AFTER = {"configure": "inactive", "activate": "active", "deactivate": "inactive", "cleanup": "unconfigured"}
WAY_TO = {  # from, to: transitions
    ("unconfigured", "inactive"): ["configure"],
    ("unconfigured", "active"): ["configure", "activate"],
    ("inactive", "active"): ["activate"],
    ("inactive", "unconfigured"): ["cleanup"],
    ("active", "inactive"): ["deactivate"],
    ("active", "unconfigured"): ["deactivate", "cleanup"],
}


class NodeProcess:
    """`sdt node` in a process of its own, which never outlives the test."""

    def __init__(self, log: Path, *arguments: str, program: Sequence[str] = ("-m", "sdt_ros.cli")) -> None:
        self.log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, *program, "node", *arguments],
                stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit code; a process that does not end in time fails the test."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End it whatever it does."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)


@dataclass
class Seen:
    """All that has arrived since the last look, in the order of arrival."""

    images: list[Image] = field(default_factory=list)
    infos: list[CameraInfo] = field(default_factory=list)
    stats: list[Stats] = field(default_factory=list)
    colors: list[Image] = field(default_factory=list)
    deviations: list[Image] = field(default_factory=list)

    @property
    def stamps(self) -> list[int]:
        """Stamps of the depth images [ns]."""
        return [stamp_ns(image.header) for image in self.images]

    @property
    def ledger_closes(self) -> bool:
        """Whether in all statistics every window that was due is accounted for."""
        return all(
            one.windows_published + one.windows_skipped + one.windows_empty == one.windows_due for one in self.stats
        )

    def together(self) -> list[tuple[Image, CameraInfo, Stats]]:
        """What belongs to each depth image; one that lost a part on its way is left out."""
        infos = {stamp_ns(info.header): info for info in self.infos}
        stats = {stamp_ns(one.header): one for one in self.stats}
        whole = [image for image in self.images if stamp_ns(image.header) in infos.keys() & stats.keys()]
        return [(image, infos[stamp_ns(image.header)], stats[stamp_ns(image.header)]) for image in whole]


def stamp_ns(header: Any) -> int:
    """A header's stamp [ns since the epoch]."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def depth_of(image: Image) -> np.ndarray:
    return np.frombuffer(image.data, "<f4").reshape(image.height, image.width)


def figures(status: DiagnosticStatus) -> dict[str, str]:
    """The figures of a diagnostic."""
    return {value.key: value.value for value in status.values}


def pattern_packets(folder: Path) -> list[EventPacket]:
    """One second of moving patterns in packets of 5 ms."""
    write_pattern_bag(folder / "patterns", seconds=1, width=WIDTH, height=HEIGHT, packet_ms=5)
    with open_bag(folder / "patterns") as bag:
        return [parse_event_packet(message.data) for message in bag.messages([EVENTS_TOPIC])]


def offline(packets: Iterable[EventPacket], rate_hz: float = RATE_HZ) -> tuple[EventStream, dict[int, SpikeWindow]]:
    """The packets through the stream without ROS: the stream, and the windows by stamp [ns]."""
    windows: list[SpikeWindow] = []
    stream = EventStream(WindowConfig(50.0, 4, rate_hz, MIN_EVENTS), lambda window: windows.append(window.detach()))
    for packet in packets:
        stream.push(packet)
    return stream, {window.stamp_ns: window for window in windows}


@contextmanager
def running_node(
    folder: Path, *arguments: str, program: Sequence[str] = ("-m", "sdt_ros.cli"), autostart: bool = False
) -> Iterator[Graph]:
    """A node that waits to be configured, unless it is to start by itself, and a graph to meet it on."""
    started = f"autostart:={str(autostart).lower()}"
    process = NodeProcess(folder / "node.log", "-p", started, *arguments, program=program)
    try:
        graph = Graph(process)
        try:
            yield graph
        finally:
            graph.close()
    finally:
        process.kill()


class Graph:
    """A test's own node on the graph: publishes packets, calls services, sees what the depth node publishes."""

    def __init__(self, process: NodeProcess) -> None:
        self.process = process
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        self.node = rclpy.create_node("tester", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.seen = Seen()
        self.diagnostics: list[DiagnosticStatus] = []
        self.packets = self.node.create_publisher(EventPacketMessage, "/depth/events", QoSProfile(depth=1000))
        self.infos = self.node.create_publisher(CameraInfo, "/depth/camera_info", QoSProfile(depth=10))
        self._outputs = [
            self._subscribe(Image, "/depth/depth/image_rect", lambda message: self.seen.images.append(message)),
            self._subscribe(CameraInfo, "/depth/depth/camera_info", lambda message: self.seen.infos.append(message)),
            self._subscribe(Stats, "/depth/stats", lambda message: self.seen.stats.append(message)),
        ]
        self._subscribe(DiagnosticArray, "/diagnostics", lambda message: self.diagnostics.extend(message.status))
        self._clients: dict[str, Any] = {}

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def _subscribe(self, kind: Any, topic: str, callback: Callable[[Any], Any]) -> Any:
        return self.node.create_subscription(kind, topic, callback, QoSProfile(depth=1000))

    @contextmanager
    def colors(self) -> Iterator[None]:
        """See the coloured depth too."""
        subscription = self._subscribe(Image, "/depth/depth/color", lambda message: self.seen.colors.append(message))
        try:
            self.wait_for(lambda: subscription.get_publisher_count(), "a publisher of colours")
            yield
        finally:
            self.node.destroy_subscription(subscription)

    @contextmanager
    def deviations(self) -> Iterator[None]:
        """See how far depth may be off too."""
        topic = "/depth/depth/deviation"
        subscription = self._subscribe(Image, topic, lambda message: self.seen.deviations.append(message))
        try:
            self.wait_for(lambda: subscription.get_publisher_count(), "a publisher of deviations")
            yield
        finally:
            self.node.destroy_subscription(subscription)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def spin(self, seconds: float) -> None:
        """Take what comes for so long."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            self.executor.spin_once(timeout_sec=max(0.0, min(left, 0.05)))
            if left <= 0:
                return

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
        """Take what comes until a condition is met; returns its value."""
        value = self._until(condition, seconds)
        assert value, f"no {what} after {seconds} s; the node's log:\n{self.process.text()}"
        return value

    def _until(self, condition: Callable[[], Any], seconds: float) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()) and time.monotonic() < end:
            assert self.process.is_alive, f"the node ended:\n{self.process.text()}"
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def said(self, *texts: str) -> DiagnosticStatus:
        """The first diagnostic since they were last cleared whose message holds all these texts; waits for it."""

        def found() -> DiagnosticStatus | None:
            return next((one for one in self.diagnostics if all(text in one.message for text in texts)), None)

        said: DiagnosticStatus = self.wait_for(found, f"diagnostic of {texts}", 15.0)
        return said

    def quiet(self, seconds: float = 0.4) -> Seen:
        """Wait until nothing more comes for so long; returns what has come, and forgets it."""
        count, since = -1, time.monotonic()
        while time.monotonic() - since < seconds:
            self.executor.spin_once(timeout_sec=0.05)
            if len(self.seen.stats) + len(self.seen.images) != count:
                count, since = len(self.seen.stats) + len(self.seen.images), time.monotonic()
        seen, self.seen = self.seen, Seen()
        return seen

    def diagnostic(self, condition: Callable[[DiagnosticStatus], Any] = lambda status: True) -> DiagnosticStatus:
        """The first diagnostic from now on that meets a condition."""
        self.diagnostics.clear()
        self.wait_for(lambda: any(map(condition, self.diagnostics)), "such diagnostic", 15.0)
        return next(status for status in self.diagnostics if condition(status))

    # --- services -----------------------------------------------------------------------------------------------------

    def call(self, kind: Any, name: str, seconds: float = 30.0, **fields: Any) -> Any:
        """Call a service of the depth node; returns the response."""
        return self._call(kind, name, seconds, **fields)[0]

    def _call(self, kind: Any, name: str, seconds: float = 30.0, **fields: Any) -> tuple[Any, bool]:
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(kind, f"/depth/{name}")
        self.wait_for(client.service_is_ready, f"service {name}", 30.0)
        answer = call_until_answered(client, kind.Request(**fields), self._until, seconds)
        assert answer is not None, f"no answer of {name} after {seconds} s; the node's log:\n{self.process.text()}"
        return answer

    def transition(self, name: str) -> bool:
        """Go through a lifecycle transition; whether it succeeded."""
        transition = Transition(id=TRANSITIONS[name])
        response, is_first = self._call(ChangeState, "change_state", transition=transition)
        return bool(response.success) or (not is_first and self.state() == STATE_AFTER[name])

    def state(self) -> str:
        return str(self.call(GetState, "get_state").current_state.label)

    def set(self, name: str, value: Any) -> tuple[bool, str]:
        """Set one parameter; whether it was taken, and why not."""
        message = Parameter(name, value=value).to_parameter_msg()
        (result,) = self.call(SetParameters, "set_parameters", parameters=[message]).results
        return bool(result.successful), str(result.reason)

    def parameters(self) -> dict[str, Any]:
        """All parameters' values."""
        names = list(self.call(ListParameters, "list_parameters").result.names)
        values = self.call(GetParameters, "get_parameters", names=names).values
        return {
            name: Parameter.from_parameter_msg(_message(name, value)).value
            for name, value in zip(names, values, strict=True)
        }

    def descriptors(self, names: Sequence[str]) -> Any:
        return self.call(DescribeParameters, "describe_parameters", names=list(names)).descriptors

    def bring_to(self, state: str, **parameters: Any) -> None:
        """Set parameters and go to a state, from the start of an activation; what came before is forgotten."""
        if self.state() == "active":
            self._go("inactive")
        for name, value in parameters.items():
            taken, reason = self.set(name, value)
            if not taken and "cleanup" in reason:
                self._go("unconfigured")
                taken, reason = self.set(name, value)
            assert taken, reason
        self._go(state)
        if state == "active":
            self.wait_for(self.packets.get_subscription_count, "subscription to events")
            self.wait_for(lambda: all(one.get_publisher_count() for one in self._outputs), "publishers")
        self.seen = Seen()

    def _go(self, state: str) -> None:
        for name in WAY_TO.get((self.state(), state), []):
            assert self.transition(name), f"{name} failed:\n{self.process.text()}"

    # --- packets ------------------------------------------------------------------------------------------------------

    def publish(self, packets: Iterable[EventPacket], speed: float) -> None:
        """Publish packets at their own pace times `speed`, taking what comes meanwhile."""
        began, first = time.monotonic(), None
        for packet in packets:
            first = packet.stamp_ns if first is None else first
            due = began + (packet.stamp_ns - first) / 1e9 / speed
            while True:
                left = due - time.monotonic()
                self.executor.spin_once(timeout_sec=max(0.0, left))
                if left <= 0:
                    break
            self.packets.publish(serialize_event_packet(packet))


def _message(name: str, value: Any) -> Any:
    from rcl_interfaces.msg import Parameter as ParameterMessage

    return ParameterMessage(name=name, value=value)
