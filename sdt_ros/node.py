"""The depth node: event packets in, depth images out. A lifecycle node around `EventStream` and `DepthEstimator`."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterValueException, ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import LoggingSeverity
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from event_camera_msgs.msg import EventPacket as EventPacketMessage
from sdt_ros import parameters
from sdt_ros.calibration import Calibration, CalibrationError
from sdt_ros.diagnostics import Health, status
from sdt_ros.events import EventPacket, EventStream, SpikeWindow, WindowConfig
from sdt_ros.inference import InferenceThread
from sdt_ros.network import CheckpointError, EnergyReport
from sdt_ros.outputs import Outputs, Totals, WindowTimes, add_rates, add_times, statistics
from sdt_ros.runtime import DepthEstimator
from sdt_ros.runtime.packaged import packaged_weights

WARM_UP_SIZE = (260, 346)  # of the sensor, until the first packet tells it

# As drivers offer it. A reliable subscription would match none of them.
_EVENTS_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1000,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)


class DepthNode(LifecycleNode):
    """Lifecycle node `depth`: configure loads and warms the network, activate subscribes.

    Packets are decoded and binned in the executor's thread, outside the GIL; finished windows go to the one inference
    thread, which publishes.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__("depth", **arguments)
        parameters.declare(self)
        self.config = parameters.read(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._inference: InferenceThread | None = None
        self._estimator: DepthEstimator | None = None
        self._stream: EventStream | None = None
        self._outputs: Outputs | None = None
        self._subscriptions_made: list[Any] = []
        self._calibration: Calibration | None = None
        self._calibration_problem = ""
        self._warmed_size: tuple[int, ...] = (0, 0)
        self._state = "unconfigured"
        self._reset_counts()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # On the steady clock: a stopped /clock is among what diagnostics must be able to report.
        self.create_timer(1.0, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # --- transitions --------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm the network, read the calibration, make the publishers."""
        try:
            self.config = parameters.read(self)
            self._inference = InferenceThread(self._process)
            self._estimator = self._inference.call(self._load)
            self._make_stream()
            if self.config.camera_info_url:
                self._calibration = Calibration.from_url(self.config.camera_info_url)
            self._outputs = Outputs(self)
        except (CheckpointError, CalibrationError, ImportError, RuntimeError, ValueError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        self._state = "inactive"
        self.get_logger().info(f"configured: {self._estimator.describe()}")
        if self._estimator.is_untrained:
            self.get_logger().warning("UNTRAINED WEIGHTS: the depth has no meaning")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, with all counts at zero."""
        assert self._inference is not None
        self._make_stream()
        self._inference.reset()
        self._reset_counts()
        result = super().on_activate(state)  # enables the publishers
        self._subscriptions_made.append(
            self.create_subscription(
                EventPacketMessage,
                "~/events",
                self._on_packet,
                _EVENTS_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        )
        if not self.config.camera_info_url:
            self._subscriptions_made.append(
                self.create_subscription(CameraInfo, "~/camera_info", self._on_camera_info, qos_profile_sensor_data)
            )
        self._state = "active"
        self.get_logger().info(f"waiting for events on {self._subscriptions_made[0].topic_name}")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and let the inference thread finish."""
        self._unsubscribe()
        if self._inference is not None:
            self._inference.flush()
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

    def _load(self) -> DepthEstimator:
        """Make and warm the estimator; runs in the inference thread."""
        config = self.config
        if config.threads:
            torch.set_num_threads(config.threads)
        weights = Path(config.weights).expanduser() if config.weights else packaged_weights()
        if weights is not None:
            estimator = DepthEstimator.from_checkpoint(weights, config.device, bins=config.bins or None)
        elif config.allow_untrained:
            estimator = DepthEstimator.untrained(config.preset, config.device)
        else:
            raise ValueError(
                "there are no weights: set weights to a checkpoint, or try without by allow_untrained:=true"
            )
        if estimator.is_untrained and not config.allow_untrained:
            raise ValueError(f"{weights} is untrained: set weights to another checkpoint, or allow_untrained:=true")
        if config.bins not in (0, estimator.bins):
            raise ValueError(f"bins is {config.bins}, the network takes {estimator.bins}: set bins to 0")
        if config.window_ms not in (0.0, estimator.window_ms):
            self.get_logger().warning(
                f"window_ms is {config.window_ms:g}, the network was made for {estimator.window_ms:g} ms"
            )
        scale = estimator.card.input_scale
        self._warmed_size = tuple(max(1, round(side * scale)) for side in WARM_UP_SIZE)
        estimator.warm_up(*self._warmed_size)
        return estimator

    def _release(self) -> None:
        self._unsubscribe()
        if self._inference is not None:
            self._inference.stop()
        if self._outputs is not None:
            self._outputs.destroy()
        self._inference = self._estimator = self._stream = self._outputs = self._calibration = None

    def _unsubscribe(self) -> None:
        while self._subscriptions_made:
            self.destroy_subscription(self._subscriptions_made.pop())

    def _make_stream(self) -> None:
        """A stream with the parameters' windows that has seen nothing."""
        estimator, config = self._estimator, self.config
        assert estimator is not None
        windows = WindowConfig(
            window_ms=config.window_ms or estimator.window_ms,
            bins=estimator.bins,
            rate_hz=config.rate_hz,
            min_events=config.min_events,
        )
        self._stream = EventStream(
            windows, self._on_window, estimator.card.input_scale, config.decoder, on_notice=self._notice
        )

    def _notice(self, text: str) -> None:
        self.get_logger().warning(text)

    def _reset_counts(self) -> None:
        self._totals = Totals()
        self._empty = 0
        self._report: EnergyReport | None = None
        self._rejection = self._failure = ""
        self._last_packet_ns = time.monotonic_ns()
        self._last_stats: Any = None
        self._last_counts: dict[str, int] = {}

    # --- input, in the executor's thread ------------------------------------------------------------------------------

    def _on_packet(self, message: EventPacketMessage) -> None:
        received_ns = time.monotonic_ns()
        self._last_packet_ns = received_ns
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
        stream, inference, estimator = self._stream, self._inference, self._estimator
        assert stream is not None and inference is not None and estimator is not None
        try:
            stream.push(packet, received_ns)
            if stream.spike_size != self._warmed_size:
                # The first packet tells the size; the network gets used to it before the first window is complete.
                self._warmed_size = size = stream.spike_size
                inference.submit(lambda: estimator.warm_up(*size))
        except ValueError as error:
            if str(error) != self._rejection:
                self._rejection = str(error)
                self.get_logger().error(f"packet {packet.seq} rejected: {error}")

    def _on_window(self, window: SpikeWindow) -> None:
        assert self._inference is not None and self._stream is not None
        self._empty = self._stream.windows.empty
        self._inference.offer(window)

    def _on_camera_info(self, info: CameraInfo) -> None:
        try:
            self._calibration = Calibration.from_message(info)
            self._calibration_problem = ""
        except CalibrationError as error:
            self._calibration, self._calibration_problem = None, str(error)

    # --- output, in the inference thread ------------------------------------------------------------------------------

    def _process(self, window: SpikeWindow) -> None:
        estimator, outputs, stream, inference = self._estimator, self._outputs, self._stream, self._inference
        assert estimator is not None and outputs is not None and stream is not None and inference is not None
        times = WindowTimes(taken_ns=time.monotonic_ns())
        config = self.config
        try:
            every = config.rates_every
            if every and self._totals.published % every == 1 % every:  # not the first window, which is slow already
                depth, self._report = estimator.measured(window.spikes, stream.sensor_size)
            else:
                depth = estimator(window.spikes, stream.sensor_size)
            times.estimated_ns = time.monotonic_ns()
            seconds, nanoseconds = divmod(window.stamp_ns, 1_000_000_000)
            header = Header(frame_id=config.frame_id or window.frame_id)
            header.stamp.sec, header.stamp.nanosec = seconds, nanoseconds
            published = outputs.depth(header, depth, self._calibration)
            outputs.color(header, published, config.colormap_min_m, config.colormap_max_m)
            self._totals.published += 1
            stats = statistics(header, window, stream, inference.ledger, self._totals, self._empty)
            stats.runtime = estimator.describe()
            stats.trained = not estimator.is_untrained
            stats.window_ms = stream.config.window_ms
            add_rates(stats, self._report)
            add_times(stats, window, times, self.get_clock().now().nanoseconds)
            outputs.stats(stats)
            self._last_stats = stats
        except Exception as error:  # whatever the network meets, the next window may do better, and people must know
            self._totals.failed += 1
            if str(error) != self._failure:
                self._failure = str(error)
                self.get_logger().error(f"no depth for the window at {window.stamp_ns} ns: {error}")
        finally:
            window.release()

    # --- parameters and diagnostics -----------------------------------------------------------------------------------

    def _on_set_parameters(self, changes: list[Parameter]) -> Any:
        result, config = parameters.check(self.config, changes, configured=self._estimator is not None)
        if result.successful and config != self.config:
            before, self.config = self.config, config
            windows_changed = (before.rate_hz, before.min_events) != (config.rate_hz, config.min_events)
            if self._stream is not None and windows_changed:
                self._stream.reconfigure(
                    dataclasses.replace(self._stream.config, rate_hz=config.rate_hz, min_events=config.min_events)
                )
        return result

    def _publish_diagnostics(self) -> None:
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        stats = self._last_stats
        hardware = stats.header.frame_id if stats is not None else ""
        array.status = [status(self._health(), f"{self.get_fully_qualified_name()[1:]}: depth from events", hardware)]
        self._diagnostics.publish(array)

    def _health(self) -> Health:
        stream, inference, stats = self._stream, self._inference, self._last_stats
        counts = dict.fromkeys(("packets", "lost", "rejected", "events", "published", "failed", "skipped", "empty"), 0)
        if stream is not None and inference is not None:
            counts["packets"] = stream.packets.received
            counts["lost"] = stream.packets.lost
            counts["rejected"] = stream.packets.rejected
            counts["events"] = stream.windows.events
            counts["empty"] = stream.windows.empty
            counts["skipped"] = inference.ledger.skipped
            counts["published"] = self._totals.published
            counts["failed"] = self._totals.failed
        second = {name: value - self._last_counts.get(name, 0) for name, value in counts.items()}
        self._last_counts = counts
        subscription = self._subscriptions_made[0] if self._subscriptions_made else None
        calibration = self._calibration
        problem = self._calibration_problem
        height, width = (0, 0) if stream is None else stream.sensor_size
        if calibration is not None and height and (calibration.height, calibration.width) != (height, width):
            problem = (
                f"the calibration is for {calibration.width}x{calibration.height} px, the sensor has "
                f"{width}x{height}: it is not used"
            )
        return Health(
            state=self._state,
            runtime="" if self._estimator is None else self._estimator.describe(),
            untrained=self._estimator is not None and self._estimator.is_untrained,
            silence_s=(time.monotonic_ns() - self._last_packet_ns) / 1e9,
            max_silence_s=self.config.max_silence_s,
            publishers=0 if subscription is None else self.count_publishers(subscription.topic_name),
            topic="" if subscription is None else subscription.topic_name,
            calibrated=calibration is not None and not problem,
            calibration_problem=problem,
            packets=second["packets"],
            packets_lost=second["lost"],
            packets_lost_total=counts["lost"],
            packets_rejected=second["rejected"],
            rejection=self._rejection,
            due=second["published"] + second["failed"] + second["skipped"] + second["empty"],
            published=second["published"],
            skipped=second["skipped"],
            empty=second["empty"],
            failed=second["failed"],
            failure=self._failure,
            events=second["events"],
            latency_ms=0.0 if stats is None else stats.latency_ms,
            network_ms=0.0 if stats is None else stats.network_ms,
            period_ms=1000.0 / self.config.rate_hz,
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until Ctrl-C or SIGTERM; returns the exit code: 0 when stopped, 1 when it cannot start."""
    stop = threading.Event()

    def on_signal(number: int, frame: Any) -> None:
        for one in (signal.SIGINT, signal.SIGTERM):  # a second one must not break the clean-up
            signal.signal(one, signal.SIG_IGN)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        node = DepthNode()
        return _serve(node, stop)
    except (ParameterException, InvalidParameterValueException, ValueError) as error:
        rclpy.logging.get_logger("depth").log(f"cannot start: {error}", LoggingSeverity.FATAL)
        return 1
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _serve(node: DepthNode, stop: threading.Event) -> int:
    if node.config.autostart:
        for transition in (node.trigger_configure, node.trigger_activate):
            if stop.is_set():
                return 0
            if transition() != TransitionCallbackReturn.SUCCESS:
                node.get_logger().fatal("cannot start, see the error before; autostart:=false keeps the node alive")
                return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, name="executor", daemon=True)
    spinning.start()
    while spinning.is_alive() and not stop.wait(0.5):
        pass
    crashed = not stop.is_set()
    executor.shutdown()
    spinning.join()
    return int(crashed)


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
    parser.add_argument("--params-file", type=Path, metavar="FILE", help="YAML file with parameters")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt node`; returns the exit code."""
    rules = ["--ros-args"]
    for flag, values in (("-p", args.param), ("-r", args.remap)):
        for value in values:
            rules += [flag, value]
    if args.params_file is not None:
        rules += ["--params-file", str(args.params_file)]
    return main(["sdt", *rules])


if __name__ == "__main__":
    sys.exit(main())
