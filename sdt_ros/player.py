"""Plays a bag on a node's publishers: recorded bytes, recorded QoS, recorded timing.

The bytes go from the bag to the middleware as they are; nothing is deserialised. rclpy is imported on use only.
"""

from __future__ import annotations

import importlib
import math
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosReliability, QosTime
from tqdm import tqdm

from sdt_ros.bags import BagMessage, BagReader, TopicInfo, open_bag
from sdt_ros.bags.pacing import Pacer
from sdt_ros.bags.prefetch import prefetched

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.qos import QoSProfile

_NS = 1_000_000_000
_DEPTH_IF_UNKNOWN = 100  # old recorders did not know the depth of the history; drivers use up to 1000
_FOREVER_S = 9223372036  # what ROS writes for "no limit"
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total:.1f} s [{elapsed}<{remaining}]"
_SETTLE_S = 0.5  # a subscriber that we see may not see us yet; on a busy machine that took more than 0.2 s
_ARRIVE_S = 1.0  # that reliable messages are given at the end, if a subscriber sleeps
_LINGER_S = 0.2  # that those are given which nobody acknowledges


class ReplayError(RuntimeError):
    """The replay cannot start; the text names why and the fix."""


@dataclass(frozen=True)
class ReplayConfig:
    """What to play and how.

    Attributes:
        bag: folder or file.
        rate: bag seconds in a real second.
        loop: begin again at the end, until stopped.
        topics: which to play, by their recorded names; all if empty.
        clock_hz: how often to publish /clock beside once before each message [1/s]; 0 for no /clock.
        start_s: how much to leave out at the beginning [s].
        duration_s: how much to play [s of bag time]; all if infinite.
        wait_for_subscribers_s: wait until every topic has a subscriber, for so long at most [s].
        wait_for: the topics meant by that, by their recorded names; all that are played if empty.
        progress: show a progress bar if there is a terminal.
    """

    bag: Path
    rate: float = 1.0
    loop: bool = False
    topics: tuple[str, ...] = ()
    clock_hz: float = 0.0
    start_s: float = 0.0
    duration_s: float = math.inf
    wait_for_subscribers_s: float = 0.0
    wait_for: tuple[str, ...] = ()
    progress: bool = True

    def __post_init__(self) -> None:
        for name, allowed, what in (
            ("rate", 0 < self.rate < math.inf, "positive"),
            ("clock_hz", 0 <= self.clock_hz <= 10_000, "0 to 10000 Hz"),
            ("start_s", 0 <= self.start_s < math.inf, "0 s or more"),
            ("duration_s", self.duration_s > 0, "more than 0 s"),
            ("wait_for_subscribers_s", 0 <= self.wait_for_subscribers_s < math.inf, "0 s or more"),
        ):
            if not allowed:
                raise ReplayError(f"{name} must be {what}, not {getattr(self, name)}")


@dataclass
class ReplayReport:
    """What was played.

    Attributes:
        messages: number sent.
        bytes: of their CDR.
        topics: messages sent on each topic, by the name published on.
        skipped: topics that could not be published, and why.
        passes: how often the bag was begun.
        wall_s: real time from the first message to the last [s].
        bag_s: bag time in the same span [s].
        rate: achieved bag seconds in a real second.
        worst_lateness_ms: the most that a message was sent after it was due [ms].
        interrupted: whether it was stopped before the end.
    """

    messages: int = 0
    bytes: int = 0
    topics: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    passes: int = 0
    wall_s: float = 0.0
    bag_s: float = 0.0
    rate: float = 0.0
    worst_lateness_ms: float = 0.0
    interrupted: bool = False

    def __str__(self) -> str:
        again = f" in {self.passes} passes" if self.passes > 1 else ""
        return (
            f"sent {self.messages} messages ({self.bytes / 1e6:.1f} MB){again}: {self.bag_s:.2f} s of the bag in "
            f"{self.wall_s:.2f} s, rate {self.rate:.3f}, at most {self.worst_lateness_ms:.1f} ms late"
            + (", interrupted" if self.interrupted else "")
        )


def qos_profile(recorded: Sequence[Qos]) -> QoSProfile:
    """Return the profile to publish with, so that whoever could hear the recorded publishers can hear us.

    Args:
        recorded: the profiles of all publishers of the topic; where they differ, the strongest guarantee wins.
    """
    from rclpy import qos
    from rclpy.duration import Duration

    def all_are(value: Any, kind: str) -> bool:
        return bool(recorded) and all(getattr(profile, kind) == value for profile in recorded)

    def shortest(kind: str) -> Duration | None:
        times: list[QosTime] = [getattr(profile, kind) for profile in recorded]
        finite = [t.sec * _NS + t.nsec for t in times if 0 < t.sec * _NS + t.nsec < _FOREVER_S * _NS]
        return Duration(nanoseconds=min(finite)) if finite else None

    keep_all = any(profile.history == QosHistory.KEEP_ALL for profile in recorded)
    depths = [profile.depth for profile in recorded if profile.history == QosHistory.KEEP_LAST and profile.depth > 0]
    profile = qos.QoSProfile(
        history=qos.HistoryPolicy.KEEP_ALL if keep_all else qos.HistoryPolicy.KEEP_LAST,
        depth=max(depths, default=_DEPTH_IF_UNKNOWN),
        reliability=qos.ReliabilityPolicy.BEST_EFFORT
        if all_are(QosReliability.BEST_EFFORT, "reliability")
        else qos.ReliabilityPolicy.RELIABLE,
        durability=qos.DurabilityPolicy.TRANSIENT_LOCAL
        if any(profile.durability == QosDurability.TRANSIENT_LOCAL for profile in recorded)
        else qos.DurabilityPolicy.VOLATILE,
    )
    if (deadline := shortest("deadline")) is not None:
        profile.deadline = deadline
    if (lifespan := shortest("lifespan")) is not None:
        profile.lifespan = lifespan
    return profile


def import_message(type_name: str) -> Any:
    """Import the Python class of a message type such as `sensor_msgs/msg/Image`."""
    *folders, name = type_name.split("/")
    return getattr(importlib.import_module(".".join(folders)), name)


class Player:
    """Plays one bag on a node's publishers.

    Args:
        node: the node that publishes.
        config: what to play.
        stop: ends the replay when set.

    Raises:
        BagError: the bag cannot be read or lacks a topic.
        ReplayError: nothing of it can be published.
    """

    def __init__(self, node: Node, config: ReplayConfig, stop: threading.Event) -> None:
        self._node = node
        self._config = config
        self._stop = stop
        self.report = ReplayReport()
        self._bag = open_bag(config.bag)
        try:
            self._start_ns, self._stop_ns = _span(self._bag, config)
            self._clock = self._clock_publisher() if config.clock_hz > 0 else None
            self._publishers = self._topic_publishers()
        except BaseException:
            self._bag.close()
            raise
        self._pacer = Pacer(config.rate, stop, config.clock_hz, self._publish_clock)

    def run(self) -> ReplayReport:
        """Play until the end, or until stopped; returns the report."""
        with self._bag:
            if self._config.wait_for_subscribers_s:
                self._wait_for_subscribers()
            seconds = (self._stop_ns - self._start_ns) / _NS
            hidden = None if self._config.progress else True  # None: hidden unless there is a terminal
            began_s: float | None = None
            while not self._stop.is_set() and (self._config.loop or self.report.passes == 0):
                if self.report.passes:
                    self._node.get_logger().info(f"pass {self.report.passes + 1}: bag time goes back to its beginning")
                stream = self._bag.messages(self._publishers, self._start_ns, self._stop_ns)
                with (
                    prefetched(stream) as messages,
                    tqdm(total=seconds, desc="replay", bar_format=_BAR, disable=hidden) as bar,
                ):
                    first = next(messages, None)  # the bag's time begins once the disk is ready
                    if first is None:
                        if not self.report.passes:
                            raise ReplayError(self._nothing_there())
                        break
                    self._pacer.anchor(
                        self._start_ns, None if began_s is None else self._pacer.due_s(self._stop_ns - 1)
                    )
                    began_s = time.monotonic() if began_s is None else began_s
                    self.report.passes += 1
                    self._play_once(chain([first], messages), bar)
                self.report.wall_s = time.monotonic() - began_s
            report = self.report
            report.interrupted = self._stop.is_set()
            self._see_off()
        report.rate = report.bag_s / report.wall_s if report.wall_s > 0 else 0.0
        report.worst_lateness_ms = self._pacer.worst_lateness_s * 1e3
        return report

    def _nothing_there(self) -> str:
        start_s = (self._start_ns - self._bag.start_ns) / _NS
        stop_s = (self._stop_ns - self._bag.start_ns) / _NS
        return (
            f"{self._bag.path} has no message of {', '.join(self._publishers)} from {start_s:.3f} s to {stop_s:.3f} s: "
            "play more of it, or other topics"
        )

    def _play_once(self, messages: Iterable[BagMessage], bar: tqdm) -> None:
        before_ns = self._start_ns
        for message in messages:
            if not self._pacer.wait_until(message.timestamp_ns):
                return
            if self._clock is not None:
                self._publish_clock(message.timestamp_ns)
            publisher = self._publishers[message.topic]
            publisher.publish(message.data)
            self.report.messages += 1
            self.report.bytes += len(message.data)
            self.report.topics[publisher.topic_name] += 1
            passed_s = (message.timestamp_ns - before_ns) / _NS
            before_ns = message.timestamp_ns
            self.report.bag_s += passed_s
            bar.update(passed_s)

    def _see_off(self) -> None:
        """Let what was sent last arrive: a message is lost whose sender ends before it is fetched."""
        from rclpy.duration import Duration

        heard = [publisher for publisher in self._publishers.values() if publisher.get_subscription_count()]
        give_up_s = time.monotonic() + _ARRIVE_S
        for publisher in heard:
            if self._stop.is_set():
                return
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, give_up_s - time.monotonic())))
        if heard:
            self._stop.wait(_LINGER_S)

    def _topic_publishers(self) -> dict[str, Any]:
        names = list(self._config.topics) or list(self._bag.topics)
        self._bag.messages(names)  # names the topics that are not there
        publishers = {}
        for name in names:
            info = self._bag.topics[name]
            if self._clock is not None and name == "/clock":
                self.report.skipped[name] = "the clock option replaces it"
                continue
            try:
                publishers[name] = self._node.create_publisher(
                    import_message(info.type), name, qos_profile(info.offered_qos)
                )
            except (ImportError, AttributeError) as error:
                self.report.skipped[name] = f"its type {info.type} is not installed here ({error})"
            except RuntimeError as error:  # of rcl
                raise ReplayError(f"{name} ({info.type}) cannot be published: {error}") from error
        for name, reason in self.report.skipped.items():
            self._node.get_logger().warning(f"{name} is not played: {reason}")
        if not publishers:
            raise ReplayError(f"nothing of {self._bag.path} can be published; {_what_to_install(self._bag, names)}")
        self.report.topics = {publisher.topic_name: 0 for publisher in publishers.values()}
        return publishers

    def _clock_publisher(self) -> Any:
        from rclpy.qos import QoSProfile
        from rosgraph_msgs.msg import Clock

        self._clock_message = Clock()
        # Reliable, so that reliable listeners match as well as the best-effort ones of nodes on simulated time.
        return self._node.create_publisher(Clock, "/clock", QoSProfile(depth=10))

    def _publish_clock(self, bag_ns: int) -> None:
        if self._clock is not None:
            self._clock_message.clock.sec, self._clock_message.clock.nanosec = divmod(bag_ns, _NS)
            self._clock.publish(self._clock_message)

    def _wait_for_subscribers(self) -> None:
        limit_s = self._config.wait_for_subscribers_s
        give_up_s = time.monotonic() + limit_s
        if unknown := [name for name in self._config.wait_for if name not in self._publishers]:
            raise ReplayError(f"cannot wait for {', '.join(unknown)}: played are {', '.join(self._publishers)}")
        awaited = [self._publishers[name] for name in self._config.wait_for or self._publishers]
        while lonely := [publisher.topic_name for publisher in awaited if not publisher.get_subscription_count()]:
            if time.monotonic() > give_up_s:
                self._node.get_logger().warning(f"no subscriber after {limit_s:g} s: {', '.join(lonely)}")
                break
            if self._stop.wait(0.02):
                return
        self._stop.wait(_SETTLE_S)


def _span(bag: BagReader, config: ReplayConfig) -> tuple[int, int]:
    """Return the bag times to play, from the first up to but not including the second [ns]."""
    if not bag.message_count:
        raise ReplayError(f"{bag.path} has no messages")
    start_ns = bag.start_ns + round(config.start_s * _NS)
    if start_ns > bag.end_ns:
        length_s = (bag.end_ns - bag.start_ns) / _NS
        raise ReplayError(f"{bag.path} lasts {length_s:.3f} s; starting at {config.start_s:g} s leaves nothing to play")
    stop_ns = bag.end_ns + 1
    if config.duration_s < math.inf:
        stop_ns = min(stop_ns, start_ns + round(config.duration_s * _NS))
    return start_ns, stop_ns


def _what_to_install(bag: BagReader, names: Sequence[str]) -> str:
    infos: list[TopicInfo] = [bag.topics[name] for name in names]
    packages = sorted({info.type.split("/")[0] for info in infos if info.name != "/clock"})
    return f"install the Python messages of {', '.join(packages)}" if packages else "it holds only /clock"
