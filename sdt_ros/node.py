"""The depth node: event packets in, depth images out. A lifecycle node around `EventStream` and `DepthEstimator`."""

from __future__ import annotations

import sdt_ros.memory  # noqa: F401  before numpy and DDS start threads, which would have arenas of their own

# isort: split
import argparse
import math
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy import subscription
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo

from event_camera_msgs.msg import EventPacket as EventPacketMessage
from sdt_ros import parameters
from sdt_ros.calibration import CalibrationSource
from sdt_ros.diagnostics import Health, Seconds, status
from sdt_ros.egomotion import CameraMotion
from sdt_ros.events import EventPacket
from sdt_ros.load import Carried, carried
from sdt_ros.pipeline import WARM_UP_SIZE, Pipeline
from sdt_ros.serving import serve

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # pip builds it, and nearly every ROS installation has it
    TFMessage = None

LONGEST_WAIT_NS = 10_000_000_000  # of a packet in the middleware that can be believed
_HEARD_WITHIN_S = 0.5  # last words, by those who listen


class DepthNode(LifecycleNode):
    """Lifecycle node `depth`: configure loads and warms the network, activate subscribes.

    Packets are decoded and binned in the executor's thread, outside the GIL; finished windows go to the one inference
    thread, which publishes.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__("depth", **arguments)
        self._pipeline: Pipeline | None = None
        self._sensor_size = WARM_UP_SIZE  # as the last camera's was
        self._calibrations = CalibrationSource()
        self._calibration_changes = 0  # as the last diagnostics knew them
        self._motion = CameraMotion(hears_static=TFMessage is not None)
        self._subscriptions_made: list[Any] = []
        self._state = "unconfigured"
        self._problem = self._rejection = ""
        self._rejections: deque[str] = deque(maxlen=16)  # the last ones that were said
        self._seconds = Seconds()
        self._last_packet_ns = self._last_events_ns = self._idle_since_ns = time.monotonic_ns()
        self._is_idle = False  # no packet was taken since the silence was last looked at
        self._last_tick: tuple[int, int, int] = (0, 0, 0)  # thread, its processor time, the clock [ns]
        parameters.declare(self)
        for stray in parameters.strays(self):
            self.get_logger().warning(stray)
        self.config = parameters.read(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # On the steady clock: a stopped /clock is among what diagnostics must be able to report.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.create_timer(0.1, self._look_at_silence, clock=steady)

    # --- transitions --------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm the network, read the calibration, make the publishers."""
        self._problem = ""
        try:
            self.config = parameters.read(self)
            if self.config.camera_info_url:
                self._calibrations.load(self.config.camera_info_url)
            self._pipeline = Pipeline(self, self.config, self._calibrations, self._motion, self._sensor_size)
        except Exception as error:
            self._release()
            return self._refuse("configure", error)
        self._state = "inactive"
        self.get_logger().info(f"configured: {self._pipeline.runtime}")
        if self._pipeline.estimator.is_untrained:
            self.get_logger().warning("UNTRAINED WEIGHTS: the depth has no meaning")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, with all counts at zero."""
        assert self._pipeline is not None
        self._problem = self._rejection = ""
        self._rejections.clear()
        try:
            self._pipeline.start_over()
            self._subscribe()
        except Exception as error:
            self._unsubscribe()
            return self._refuse("activate", error)
        self._seconds.restart()
        self._last_packet_ns = self._last_events_ns = self._idle_since_ns = time.monotonic_ns()
        self._state = "active"
        self.get_logger().info(f"waiting for events on {self._subscriptions_made[0].topic_name}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and let the inference thread finish."""
        self._unsubscribe()
        if self._pipeline is not None:
            self._pipeline.flush()
        self._state = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give up network and publishers."""
        self._release()
        self._state = "unconfigured"
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give up everything, from any state."""
        self._release()
        self._state = "finalized"
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give up everything and become unconfigured, so that the node can be configured again."""
        self._release()
        self._state = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Stop the inference thread and destroy the node."""
        self._release()
        super().destroy_node()

    @property
    def starts_itself(self) -> bool:
        """Whether it is to configure and activate itself."""
        return self.config.autostart

    @property
    def fatal(self) -> str:
        """Why it cannot go on; empty while it can."""
        return "" if self._pipeline is None else self._pipeline.fatal

    def publish_last_words(self) -> None:
        """Say in the diagnostics why the node ends, and give it a moment to be heard: the end takes what is unread."""
        self._problem = self.fatal
        self._publish_diagnostics()
        self._diagnostics.wait_for_all_acked(Duration(seconds=_HEARD_WITHIN_S))

    def _refuse(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        """Say why a transition is not possible: rclpy takes exceptions without a word."""
        known = isinstance(error, (RuntimeError, ValueError, ImportError, OSError, ParameterException))
        self._problem = f"cannot {transition}: {error if known else repr(error)}"
        self.get_logger().error(self._problem)
        return TransitionCallbackReturn.FAILURE

    def _subscribe(self) -> None:
        # As drivers offer it: a reliable subscription would match none of them.
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1000,
            reliability=ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.VOLATILE,
        )
        overridable = QoSOverridingOptions.with_default_policies()
        self._subscriptions_made.append(
            self.create_subscription(
                EventPacketMessage,
                "~/events",
                _timed_callback(self._on_packet),
                qos,
                qos_overriding_options=overridable,
            )
        )
        if not self.config.camera_info_url:
            self._subscriptions_made.append(
                self.create_subscription(CameraInfo, "~/camera_info", self._calibrations.take, qos_profile_sensor_data)
            )
        # As deep a queue as the events': their decoding takes its turn before odometry is looked at.
        self._subscriptions_made.append(self.create_subscription(Odometry, "~/odometry", self._motion.take, qos))
        if TFMessage is not None:
            latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._subscriptions_made.append(
                self.create_subscription(TFMessage, "/tf_static", self._motion.take_static, latched)
            )

    def _unsubscribe(self) -> None:
        while self._subscriptions_made:
            self.destroy_subscription(self._subscriptions_made.pop())

    def _release(self) -> None:
        self._unsubscribe()
        if self._pipeline is not None:
            self._pipeline.stop()
            # The next configuration most likely meets the same camera, and can warm the network for it.
            if self._pipeline.stream.sensor_size != (0, 0):
                self._sensor_size = self._pipeline.stream.sensor_size
        self._pipeline = None
        self._calibrations.clear()
        self._calibration_changes = 0
        self._motion.clear()
        self._seconds.restart()

    # --- input, in the executor's thread ------------------------------------------------------------------------------

    def _on_packet(self, message: EventPacketMessage, received_ns: int) -> None:
        self._last_packet_ns, self._is_idle = received_ns, False
        stamp = message.header.stamp
        packet = EventPacket(
            stamp_ns=stamp.sec * 1_000_000_000 + stamp.nanosec,
            frame_id=message.header.frame_id,
            height=message.height,
            width=message.width,
            seq=message.seq,
            time_base=message.time_base,
            encoding=message.encoding,
            is_bigendian=message.is_bigendian,
            payload=np.frombuffer(message.events, np.uint8),
        )
        if self._pipeline is None:  # given up while the packet was on its way
            return
        events = self._pipeline.stream.windows.decoded
        try:
            self._pipeline.push(packet, received_ns)
            if self._pipeline.stream.windows.decoded != events:
                self._last_events_ns = received_ns
        except (ValueError, MemoryError) as error:
            self._rejection = str(error)
            kind = re.sub(r"-?\d+\.\d+|-?\d{5,}", "0", self._rejection)  # the same fault at another time is not news
            if kind not in self._rejections:  # two faults in turn are said once each
                self._rejections.append(kind)
                self.get_logger().error(f"packet {packet.seq} rejected: {error}")
        self._idle_since_ns = time.monotonic_ns()

    def _look_at_silence(self) -> None:
        """Close windows that the camera's silence holds open.

        While this thread was held up by something else, packets wait behind this timer: only what two looks in a row
        found idle is silence.
        """
        was_idle, self._is_idle = self._is_idle, True
        # In simulated time, silence on the host's clock says nothing about the camera's.
        simulated = self.get_parameter("use_sim_time").value
        if was_idle and self._state == "active" and self._pipeline is not None and not simulated:
            self._pipeline.close_after((time.monotonic_ns() - self._idle_since_ns) / 1e6)

    # --- parameters and diagnostics -----------------------------------------------------------------------------------

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        result, config = parameters.check(self.config, changes, configured=self._pipeline is not None)
        if result.successful and self._pipeline is not None:
            try:
                self._pipeline.reconfigure(config)
            except ValueError as error:
                return SetParametersResult(successful=False, reason=str(error))
        if result.successful:
            self.config = config
        return result

    def _publish_diagnostics(self) -> None:
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        name = f"{self.get_fully_qualified_name()[1:]}: depth from events"
        stats = None if self._pipeline is None else self._pipeline.last_stats
        array.status = [status(self._health(), name, "" if stats is None else stats.header.frame_id)]
        self._diagnostics.publish(array)

    def _health(self) -> Health:
        config, pipeline = self.config, self._pipeline
        if pipeline is None:
            return Health(state=self._state, problem=self._problem)
        topic = self._subscriptions_made[0].topic_name if self._subscriptions_made else ""
        calibration_problem = self._calibrations.problem(*pipeline.stream.sensor_size)
        stats, total = pipeline.last_stats, pipeline.counts()
        second = self._seconds.passed(total)
        now_ns = time.monotonic_ns()
        changes, self._calibration_changes = self._calibration_changes, self._calibrations.changes
        depth_topic, rivals = pipeline.rivals()
        return Health(
            state=self._state,
            problem=self._problem,
            runtime=pipeline.runtime,
            untrained=pipeline.estimator.is_untrained,
            topic=topic,
            publishers=self.count_publishers(topic) if topic else 0,
            silence_s=(now_ns - self._last_packet_ns) / 1e9,
            max_silence_s=config.max_silence_s,
            calibrated=self._calibrations.current is not None and not calibration_problem,
            calibration_problem=calibration_problem,
            calibration_changes=self._calibrations.changes - changes,
            calibration_publishers=self._publishers_of(CameraInfo),
            calibration_stranger=self._calibrations.stranger(config.frame_id or pipeline.stream.frame_id),
            has_odometry=bool(self._motion.messages),
            motion_problem=pipeline.motion_problem or self._silent_odometry(),
            scale_deviation=math.nan if stats is None else stats.scale_deviation,
            withheld=0.0 if stats is None else stats.withheld,
            needs_lens=pipeline.estimator.card.focal_px is not None,
            rejection=self._rejection,
            failure=pipeline.failure,
            device_lost=pipeline.device_lost,
            fallback=pipeline.estimator.fallback,
            latency_ms=0.0 if stats is None else stats.latency_ms,
            network_ms=pipeline.network_ms,
            period_ms=1000.0 / config.rate_hz,
            load=self._load(second.packets, second.events),
            density=pipeline.take_densest(),
            eventless_s=(now_ns - self._last_events_ns) / 1e9,
            hot_pixels=tuple(pipeline.hot_pixels()),
            masks_hot_pixels=config.mask_hot_pixels,
            rivals=rivals,
            depth_topic=depth_topic,
            second=second,
            total=total,
        )

    def _publishers_of(self, kind: type) -> int:
        """How many publish on the topics of a type that the node listens to."""
        return sum(self.count_publishers(s.topic_name) for s in self._subscriptions_made if s.msg_type is kind)

    def _silent_odometry(self) -> str:
        """Why there is no odometry where somebody asked for it by a name of his own; empty where nobody did."""
        if self._motion.messages:
            return ""
        own = f"{self.get_fully_qualified_name()}/odometry"
        asked = [s.topic_name for s in self._subscriptions_made if s.msg_type is Odometry and s.topic_name != own]
        return f"nothing came on {asked[0]} yet" if asked else ""

    def _load(self, packets: int, events: int) -> Carried:
        """What this thread, which takes and decodes packets, has done since it was last asked."""
        assert self._pipeline is not None
        before = self._last_tick
        self._last_tick = tick = (threading.get_ident(), time.thread_time_ns(), time.monotonic_ns())
        if tick[0] != before[0]:  # the first time in this thread
            return Carried()
        busy_s, seconds = (tick[1] - before[1]) / 1e9, (tick[2] - before[2]) / 1e9
        return carried(self._pipeline.decode_cost, packets, events, busy_s, seconds)


def _timed_callback(callback: Callable[[Any, int], None]) -> Callable[..., None]:
    """A subscription callback that adds when the message reached this process, on the monotonic clock [ns].

    While the executor is busy with one packet the next one waits in the middleware; that wait belongs to the latency.
    """

    def taken(message: Any) -> None:
        callback(message, time.monotonic_ns())

    def taken_with_info(message: Any, info: Any) -> None:
        now_ns = time.monotonic_ns()
        waited_ns = time.time_ns() - info["received_timestamp"]
        # A middleware that does not know says 0, and the system's clock may have been set in between.
        callback(message, now_ns - waited_ns if 0 <= waited_ns < LONGEST_WAIT_NS else now_ns)

    return taken_with_info if hasattr(subscription, "MessageInfo") else taken  # Humble has none


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until Ctrl-C or SIGTERM; returns the exit code.

    0 when stopped, 1 when it cannot start, 3 when its device is lost and `on_device_error` is stop.
    """
    return serve(DepthNode, args)


def add_parser(subparsers: Any) -> None:
    """Add `node` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "node",
        help="run the depth node",
        description="Run the depth node, as `ros2 run sdt_ros depth_node` does.",
        epilog="Example: sdt node -p weights:=net.safetensors -r '~/events:=/event_camera/events'",
    )
    parser.add_argument("-p", "--param", action="append", default=[], metavar="NAME:=VALUE", help="set a parameter")
    parser.add_argument("-r", "--remap", action="append", default=[], metavar="FROM:=TO", help="remap a topic")
    parser.add_argument("--params-file", type=Path, metavar="FILE", help="YAML file with parameters; -p wins")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt node`; returns the exit code."""
    rules = ["--ros-args"]
    if args.params_file is not None:  # before the single ones: what comes last wins
        rules += ["--params-file", str(args.params_file)]
    for flag, values in (("-p", args.param), ("-r", args.remap)):
        for value in values:
            rules += [flag, value]
    return main(["sdt", *rules])


if __name__ == "__main__":
    sys.exit(main())
