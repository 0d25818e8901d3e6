"""The graph of `sdt bench soak`: camera, node and listener, and the faults that are done to them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String

from sdt_ros.bench.node_traffic import Traffic
from sdt_ros.bench.service_calls import call_until_answered
from sdt_ros.bench.soak_camera import GOOD, ORDERS
from sdt_ros.bench.soak_faults import CAMERA_FAULTS, Fault
from sdt_ros.bench.soak_ledger import Watch
from sdt_ros.demo.graph import GraphError, Process

NAME, EVENTS, INFO = "/bench/depth", "/bench/events", "/bench/camera_info"
START_S = 120.0  # for a process to load and appear, at most
_ASK_AGAIN_S = 0.5
_STATE_AFTER = {
    Transition.TRANSITION_CONFIGURE: "inactive",
    Transition.TRANSITION_ACTIVATE: "active",
    Transition.TRANSITION_DEACTIVATE: "inactive",
    Transition.TRANSITION_CLEANUP: "unconfigured",
}
_BURST = 3.0
WINDOW_MS, RATE_HZ = 50.0, 20.0


class SoakGraph:
    """Camera process, node process and a listener here; every wait takes what comes meanwhile.

    Attributes:
        watch: what the listener sees.
    """

    def __init__(self, folder: Path, arguments: list[str], traffic: Traffic) -> None:
        """Start them and wait for the first depth.

        Args:
            folder: for logs.
            arguments: of the node, as `sdt node` takes them.
            traffic: of the camera.

        Raises:
            GraphError: one of them could not start.
        """
        self._folder, self._arguments, self._traffic = folder, arguments, traffic
        self._processes: list[Process] = []
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        try:
            self._node = rclpy.create_node("bench_soak", context=self._context)
            self._executor = SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self._node)
            self._said: dict[str, Any] = {}
            self._orders = self._node.create_publisher(String, ORDERS, 100)
            self._node.create_subscription(String, GOOD, self._on_good, 100)
            self._states: Any = self._node.create_client(ChangeState, f"{NAME}/change_state")
            self._state: Any = self._node.create_client(GetState, f"{NAME}/get_state")
            self._parameters: Any = self._node.create_client(SetParameters, f"{NAME}/set_parameters")
            self._count = 0
            self.depth_node = self._start("node", [*self._arguments, "-r", "__ns:=/bench"])
            self.watch = Watch(self._node, NAME, self.depth_node.pid)
            self.wait(lambda: self._node.count_subscribers(EVENTS), START_S, "a node that subscribes")
            self._camera = self._start_camera()
            self.wait(lambda: self.watch.arrived, START_S, "depth")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.stop()
        self._context.try_shutdown()

    def end(self) -> int:
        """Stop camera and node as Ctrl-C would; returns the node's exit code."""
        self._camera.stop()
        self.spin(1.0)
        return self.depth_node.stop()

    # --- waiting ------------------------------------------------------------------------------------------------------

    def spin(self, seconds: float) -> None:
        """Take what comes for so long.

        Raises:
            GraphError: the node has ended.
        """
        self._until(lambda: False, seconds)

    def wait(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """Take what comes until a condition is met; returns its value.

        Raises:
            GraphError: it was not in time, or the node has ended.
        """
        value = self._until(condition, seconds)
        if not value:
            raise self.depth_node.failure(f"or its graph: no {what} within {seconds:g} s")
        return value

    def _until(self, condition: Callable[[], Any], seconds: float) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()) and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.02)
            if not self.depth_node.is_alive:
                raise self.depth_node.failure("died")
        return value

    def _start(self, name: str, arguments: list[str], module: str = "sdt_ros.cli") -> Process:
        number = len(self._processes)
        process = Process(name, arguments, self._folder / f"{number:04d}_{name}.log", module)
        self._processes.append(process)
        return process

    # --- the camera ---------------------------------------------------------------------------------------------------

    def _on_good(self, message: String) -> None:
        self._said = json.loads(message.data)

    def _start_camera(self) -> Process:
        self._count += 1
        first = {"id": self._count, "kind": "mark"}
        arguments = [json.dumps(asdict(self._traffic)), json.dumps(first)]
        return self._start("camera", arguments, "sdt_ros.bench.soak_camera")

    def order(self, kind: str, **values: Any) -> int:
        """Have the camera do something; returns the order's number once the camera has taken it."""
        self._count += 1
        order = String(data=json.dumps({"id": self._count, "kind": kind, **values}))
        for _ in range(60):
            self._orders.publish(order)
            if self._until(lambda: self._said.get("begun", -1) >= self._count, _ASK_AGAIN_S):
                return self._count
        raise self._camera.failure(f"does not take the order {kind}")

    def good(self, number: int, seconds: float) -> dict[str, Any]:
        """The first good packet behind an order: its `stamp_ns` and when it was sent, `at_s`."""
        self.wait(lambda: (self._said.get("good") or {}).get("id", -1) >= number, seconds, f"good packet ({number})")
        good: dict[str, Any] = self._said["good"]
        return good

    # --- faults -------------------------------------------------------------------------------------------------------

    def inject(self, fault: Fault) -> dict[str, Any]:
        """Do one fault from begin to end; returns the first good packet behind it."""
        if fault.kind in CAMERA_FAULTS:
            number = self.order(fault.kind, seconds=fault.seconds, factor=_BURST)
        else:
            number = getattr(self, f"_{fault.kind}")(fault.seconds)
        return self.good(number, fault.seconds + START_S)

    def _camera_killed(self, seconds: float) -> int:
        os.kill(self._camera.pid, signal.SIGKILL)
        self._camera.stop()
        self._processes.remove(self._camera)
        self.spin(seconds)
        self._camera = self._start_camera()
        return self._count

    def _node_stalled(self, seconds: float) -> int:
        os.kill(self.depth_node.pid, signal.SIGSTOP)
        try:
            self.spin(seconds)
        finally:
            os.kill(self.depth_node.pid, signal.SIGCONT)
        return self.order("mark")

    def _slow_subscriber(self, seconds: float) -> int:
        context = rclpy.Context()
        rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
        try:
            slow = rclpy.create_node("bench_slow", context=context)
            qos = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
            slow.create_subscription(Image, f"{NAME}/depth/image_rect", lambda message: None, qos)  # never spun
            number = self.order("mark")  # good data never went away
            self.good(number, START_S)
            self.spin(seconds)
            slow.destroy_node()
        finally:
            context.try_shutdown()
        return number

    def _parameters_change(self, seconds: float) -> int:
        changed = {"rate_hz": RATE_HZ / 2, "min_events": 50, "mask_hot_pixels": True, "colormap_max_m": 20.0}
        usual = {"rate_hz": RATE_HZ, "min_events": 100, "mask_hot_pixels": False, "colormap_max_m": 50.0}
        for values in (changed, usual):
            messages = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
            response, _ = self._call(self._parameters, SetParameters.Request(parameters=messages))
            for result in response.results:
                if not result.successful:
                    raise GraphError(f"the node refuses a parameter: {result.reason}")
            if values is changed:
                self.spin(seconds)
        return self.order("mark")

    def _reactivated(self, seconds: float) -> int:
        self._transitions(Transition.TRANSITION_DEACTIVATE)
        self.spin(seconds)
        self._transitions(Transition.TRANSITION_ACTIVATE)
        return self.order("mark")

    def _configured_again(self, seconds: float) -> int:
        self._transitions(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
        self.spin(seconds)
        self._transitions(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
        return self.order("mark")

    def _second_node(self, seconds: float) -> int:
        before = self._node.count_subscribers(EVENTS)
        other = self._start("other", [*self._arguments, "-r", "__ns:=/other"])
        self.wait(lambda: self._node.count_subscribers(EVENTS) > before, START_S, "second node")
        self.spin(seconds)
        if other.stop() != 0:
            raise other.failure("did not end cleanly")
        self._processes.remove(other)
        return self.order("mark")

    def _transitions(self, *numbers: int) -> None:
        for number in numbers:
            response, is_first = self._call(self._states, ChangeState.Request(transition=Transition(id=number)))
            if response.success:
                continue
            state, _ = self._call(self._state, GetState.Request())
            if is_first or state.current_state.label != _STATE_AFTER[number]:  # refused where it is there already
                raise self.depth_node.failure(f"refused transition {number}")

    def _call(self, client: Any, request: Any) -> tuple[Any, bool]:
        self.wait(client.service_is_ready, START_S, f"service {client.srv_name}")
        answer = call_until_answered(client, request, self._until, START_S)
        if answer is None:
            raise self.depth_node.failure(f"or its graph: no answer of {client.srv_name} within {START_S:g} s")
        return answer


def node_arguments(traffic: Traffic, network: list[str]) -> list[str]:
    """Of `sdt node`, for that camera and network."""
    parameters = [*network, f"rate_hz:={RATE_HZ}"]
    remaps = [f"~/events:={traffic.events_topic}", f"~/camera_info:={traffic.info_topic}"]
    flagged = [("-p", parameter) for parameter in parameters] + [("-r", remap) for remap in remaps]
    return ["node", *(part for pair in flagged for part in pair)]


def traffic_of(width: int, height: int, rate_mev: float, packets_per_s: float) -> Traffic:
    """The camera's packets in their good times.

    Raises:
        ValueError: such a camera is not possible.
    """
    return replace(
        Traffic(EVENTS, INFO, ""), width=width, height=height, rate_mev=rate_mev, packets_per_s=packets_per_s
    )
