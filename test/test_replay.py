"""Replay: its timing on a clock that we turn, and whole on a real ROS graph, in a process of its own."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from sdt_ros.bags import QOS_BEST_EFFORT, QOS_RELIABLE, BagError, BagWriter, open_bag, serialize
from sdt_ros.bags.pacing import Pacer
from sdt_ros.bags.types import message_class
from sdt_ros.cli import main
from sdt_ros.player import ReplayConfig, ReplayError, import_message, qos_profile
from sdt_ros.replay import _check_remapped as check_remapped

START_NS = 1_700_000_000_000_000_000
COMMAND_LINE = (
    "import argparse, sys\n"
    "from sdt_ros import replay\n"
    "parser = argparse.ArgumentParser(prog='sdt')\n"
    "replay.add_parser(parser.add_subparsers())\n"
    "args = parser.parse_args()\n"
    "sys.exit(args.run(args))\n"
)


class HandTurnedClock:
    """Time that passes only while one waits for it, each wait `late_s` too long."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.time_s = 100.0
        self.late_s = late_s

    def now(self) -> float:
        return self.time_s

    def wait(self, seconds: float) -> None:
        assert seconds >= 0
        self.time_s += seconds + self.late_s


def make_pacer(rate: float = 1.0, late_s: float = 0.0, **options: Any) -> tuple[Pacer, HandTurnedClock]:
    clock = HandTurnedClock(late_s)
    pacer = Pacer(rate, threading.Event(), now=clock.now, wait=clock.wait, **options)
    pacer.anchor(START_NS)
    return pacer, clock


@given(st.floats(0.1, 20), st.lists(st.integers(0, 50_000_000), min_size=1, max_size=40))
def test_oversleeping_never_adds_up(rate: float, gaps_ns: list[int]) -> None:
    pacer, clock = make_pacer(rate, late_s=0.001)
    bag_ns = START_NS
    for gap_ns in gaps_ns:
        bag_ns += gap_ns
        assert pacer.wait_until(bag_ns)
        due = 100 + (bag_ns - START_NS) * 1e-9 / rate
        assert due - 1e-6 <= clock.now() <= due + 0.001 + 1e-6
    assert pacer.worst_lateness_s <= 0.001 + 1e-6


def test_a_delay_is_caught_up_and_reported() -> None:
    pacer, clock = make_pacer()
    clock.time_s += 0.5  # the disk was slow
    for number in range(4):
        assert pacer.wait_until(START_NS + number * 100_000_000)
    assert clock.now() == pytest.approx(100.5)
    assert pacer.worst_lateness_s == pytest.approx(0.5)
    assert pacer.wait_until(START_NS + 700_000_000)
    assert clock.now() == pytest.approx(100.7)


def test_ticks_come_at_their_rate_and_stay_before_the_message() -> None:
    ticks: list[int] = []
    pacer, _ = make_pacer(rate=2.0, tick_hz=10, tick=ticks.append)
    pacer.wait_until(START_NS + 1_100_000_000)  # 0.55 s away
    assert [round((tick - START_NS) * 1e-9, 6) for tick in ticks] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_missed_ticks_are_left_out() -> None:
    ticks: list[int] = []
    pacer, clock = make_pacer(tick_hz=100, tick=ticks.append)
    clock.time_s += 0.255
    pacer.wait_until(START_NS + 280_000_000)
    assert [round((tick - START_NS) * 1e-9, 6) for tick in ticks] == [0.255, 0.26, 0.27]


def test_stopping_ends_a_wait_at_once() -> None:
    stop = threading.Event()
    pacer = Pacer(1.0, stop)
    pacer.anchor(START_NS)
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    assert not pacer.wait_until(START_NS + 60 * 10**9)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rate": 0.0}, "rate must be positive, not 0.0"),
        ({"rate": math.nan}, "rate must be positive"),
        ({"clock_hz": -1.0}, "clock_hz must be 0 to 10000 Hz"),
        ({"start_s": -1.0}, "start_s must be 0 s or more"),
        ({"duration_s": 0.0}, "duration_s must be more than 0 s"),
        ({"wait_for_subscribers_s": math.inf}, "wait_for_subscribers_s must be 0 s or more"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ReplayError, match=message):
        ReplayConfig(bag=Path("bag"), **wrong)  # type: ignore[arg-type]


def recorded(history: QosHistory, depth: int, reliability: QosReliability, durability: QosDurability) -> Qos:
    forever = QosTime(9223372036, 854775807)
    finite = QosTime(2, 500_000_000)
    return Qos(history, depth, reliability, durability, finite, forever, QosLiveliness.AUTOMATIC, forever, False)


def test_recorded_qos_is_kept() -> None:
    qos = pytest.importorskip("rclpy.qos")
    best_effort = qos_profile([QOS_BEST_EFFORT])
    assert best_effort.reliability == qos.ReliabilityPolicy.BEST_EFFORT
    assert best_effort.durability == qos.DurabilityPolicy.VOLATILE
    assert (best_effort.history, best_effort.depth) == (qos.HistoryPolicy.KEEP_LAST, 1000)
    latched = recorded(QosHistory.KEEP_ALL, 0, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL)
    both = qos_profile([QOS_BEST_EFFORT, latched])
    assert both.reliability == qos.ReliabilityPolicy.RELIABLE
    assert both.durability == qos.DurabilityPolicy.TRANSIENT_LOCAL
    assert both.history == qos.HistoryPolicy.KEEP_ALL
    assert both.deadline.nanoseconds == 2_500_000_000
    unknown = recorded(QosHistory.UNKNOWN, 0, QosReliability.BEST_EFFORT, QosDurability.VOLATILE)
    assert qos_profile([unknown]).depth == 100
    assert qos_profile([]).reliability == qos.ReliabilityPolicy.RELIABLE


def note(text: str) -> bytes:
    return serialize(message_class("std_msgs/msg/String")(text))


@pytest.fixture
def bag_path(tmp_path: Path) -> Path:
    """Forty notes and four points within 0.4 s, the notes best effort."""
    path = tmp_path / "bag"
    with BagWriter(path) as bag:
        bag.add_topic("/note", "std_msgs/msg/String", QOS_BEST_EFFORT)
        bag.add_topic("/point", "geometry_msgs/msg/Point", QOS_RELIABLE)
        for number in range(40):
            bag.write("/note", "std_msgs/msg/String", START_NS + number * 10_000_000, note(f"{number:*^50}"))
            if number % 10 == 0:
                point = serialize(message_class("geometry_msgs/msg/Point")(number, 1, 2))
                bag.write("/point", "geometry_msgs/msg/Point", START_NS + number * 10_000_000 + 1, point)
    return path


def run_replay(*args: object, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMAND_LINE, "replay", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=Path(__file__).parents[1])


class Listener:
    """A subscriber in this process, which keeps the raw bytes of what it hears."""

    def __init__(self, topics: dict[str, tuple[str, bool]], sim_time: bool = False) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.parameter import Parameter
        from rclpy.qos import QoSProfile, ReliabilityPolicy

        self.heard: list[tuple[str, bytes]] = []
        self.times_ns: list[int] = []
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        overrides = [Parameter("use_sim_time", value=sim_time)]
        self.node = rclpy.create_node("listener", context=self.context, parameter_overrides=overrides)
        for topic, (type_name, reliable) in topics.items():
            policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
            callback = self._keep(topic)
            kind = import_message(type_name)
            self.node.create_subscription(kind, topic, callback, QoSProfile(depth=1000, reliability=policy), raw=True)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def _keep(self, topic: str) -> Callable[[bytes], None]:
        def keep(data: bytes) -> None:
            self.heard.append((topic, data))
            self.times_ns.append(self.node.get_clock().now().nanoseconds)

        return keep

    def of(self, topic: str) -> list[bytes]:
        return [data for name, data in self.heard if name == topic]

    def listen_to(self, process: subprocess.Popen[str], until: Callable[[], bool] = lambda: False) -> None:
        give_up = time.monotonic() + 30
        while process.poll() is None and not until():
            self.executor.spin_once(timeout_sec=0.05)
            assert time.monotonic() < give_up, "the replay does not end"
        before, quiet_from = len(self.heard), time.monotonic() + 0.3
        while time.monotonic() < quiet_from:
            self.executor.spin_once(timeout_sec=0.05)
            if process.poll() is not None and len(self.heard) > before and time.monotonic() < give_up:
                before, quiet_from = len(self.heard), time.monotonic() + 0.3

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def ros() -> None:
    """Skips where there is no ROS 2; the domain of this test run is set in conftest.py."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")


@pytest.fixture
def listeners(ros: None) -> Iterator[Callable[..., Listener]]:
    opened: list[Listener] = []

    def listen(*args: Any, **options: Any) -> Listener:
        opened.append(Listener(*args, **options))
        return opened[-1]

    yield listen
    for listener in opened:
        listener.close()


def start_replay(*args: object, module: bool = False) -> subprocess.Popen[str]:
    how = ["-m", "sdt_ros.replay"] if module else ["-c", COMMAND_LINE, "replay"]
    return subprocess.Popen(
        [sys.executable, *how, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def sent_bytes(path: Path, topic: str) -> list[bytes]:
    """A topic's messages as they arrive: RTPS fills each up to a multiple of four bytes."""
    with open_bag(path) as bag:
        return [message.data + bytes(-len(message.data) % 4) for message in bag.messages([topic])]


NOTE, POINT, CLOCK = "std_msgs/msg/String", "geometry_msgs/msg/Point", "rosgraph_msgs/msg/Clock"


@pytest.mark.ros
def test_a_subscriber_gets_every_byte_in_order(bag_path: Path, tmp_path: Path, listeners: Any) -> None:
    listener = listeners({"/here/note": (NOTE, False), "/point": (POINT, True), "/clock": (CLOCK, True)}, sim_time=True)
    report_file = tmp_path / "out/report.json"
    process = start_replay(
        bag_path, "--wait-for-subscribers", 20, "--clock", 200, "--remap", "/note:=/here/note", "--json", report_file
    )
    listener.listen_to(process)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    assert listener.of("/here/note") == sent_bytes(bag_path, "/note")
    assert listener.of("/point") == sent_bytes(bag_path, "/point")

    ticks = [
        int.from_bytes(c[4:8], "little") * 10**9 + int.from_bytes(c[8:12], "little") for c in listener.of("/clock")
    ]
    assert ticks == sorted(ticks)
    assert (ticks[0], ticks[-1]) == (START_NS, START_NS + 390_000_000)
    assert len(ticks) > 44 + 20  # one a message, and those between
    assert START_NS <= listener.times_ns[-1] <= START_NS + 390_000_000  # the listener's own clock follows

    report = json.loads(report_file.read_text())
    assert (report["messages"], report["passes"], report["interrupted"]) == (44, 1, False)
    assert report["topics"] == {"/here/note": 40, "/point": 4}
    assert report["bag_s"] == pytest.approx(0.39)
    assert 0.38 < report["wall_s"] < 5 and report["rate"] == pytest.approx(report["bag_s"] / report["wall_s"])
    assert out.startswith("sent 44 messages")


@pytest.mark.ros
def test_a_loop_goes_back_in_time_and_ends_cleanly_on_ctrl_c(bag_path: Path, listeners: Any) -> None:
    listener = listeners({"/note": (NOTE, False)})
    process = start_replay(bag_path, "--loop", "--rate", 4, "--topics", "/note", "--wait-for-subscribers", 20)
    listener.listen_to(process, until=lambda: len(listener.heard) > 100)
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err and "Traceback" not in out
    assert "bag time goes back" in err and "interrupted" in out
    notes = sent_bytes(bag_path, "/note")
    assert listener.of("/note")[:100] == (notes * 3)[:100]


@pytest.mark.ros
def test_the_node_plays_part_of_a_bag(bag_path: Path, listeners: Any) -> None:
    listener = listeners({"/note": (NOTE, False)})
    parameters = {"bag": bag_path, "start": 0.1, "duration": 0.2, "rate": 2.0, "wait_for_subscribers": 20.0}
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    process = start_replay("--ros-args", *arguments, "-p", "topics:=[/note]", module=True)
    listener.listen_to(process)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    assert listener.of("/note") == sent_bytes(bag_path, "/note")[10:30]
    assert "sent 20 messages" in err


@pytest.mark.ros
def test_it_waits_for_the_topics_that_matter(bag_path: Path, listeners: Any) -> None:
    """The other topics of the recording have no subscriber here, and would cost the whole of the wait."""
    listener = listeners({"/note": (NOTE, False)})
    began = time.monotonic()
    process = start_replay(bag_path, "--rate", "10", "--wait-for-subscribers", 60, "--wait-for", "/note")
    listener.listen_to(process)
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0 and time.monotonic() - began < 45, err
    assert listener.of("/note") == sent_bytes(bag_path, "/note") and "no subscriber" not in out + err
    process = start_replay(bag_path, "--wait-for-subscribers", 1, "--wait-for", "/nothing")
    assert process.wait(timeout=30) == 1
    assert "cannot wait for /nothing: played are " in process.communicate()[1]


@pytest.mark.ros
def test_event_packets_of_the_generated_recording_arrive(tmp_path: Path, listeners: Any) -> None:
    pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed")
    from sdt_ros.simulation.patterns import EVENTS_TOPIC, write_pattern_bag

    write_pattern_bag(tmp_path / "bag", seconds=0.3)
    listener = listeners({EVENTS_TOPIC: ("event_camera_msgs/msg/EventPacket", False)})
    process = start_replay(tmp_path / "bag", "--topics", EVENTS_TOPIC, "--wait-for-subscribers", 20)
    listener.listen_to(process)
    assert process.wait(timeout=10) == 0
    assert listener.of(EVENTS_TOPIC) == sent_bytes(tmp_path / "bag", EVENTS_TOPIC)


@pytest.mark.ros
def test_types_that_are_not_installed_are_skipped_by_name(tmp_path: Path, ros: None) -> None:
    odd = ("/odd", "odd_msgs/msg/Odd")
    with BagWriter(tmp_path / "mixed") as bag:
        bag.add_topic(*odd, definition="int32 a", type_hash="RIHS01_" + "0" * 64)
        bag.write(*odd, START_NS, b"\x00\x01\x00\x00" + bytes(4))
        bag.write("/note", NOTE, START_NS, note("a"))
    mixed = run_replay(tmp_path / "mixed")
    assert mixed.returncode == 0
    assert "/odd is not played: its type odd_msgs/msg/Odd is not installed here" in mixed.stderr
    assert "sent 1 messages" in mixed.stdout
    alone = run_replay(tmp_path / "mixed", "--topics", "/odd")
    assert alone.returncode == 1
    assert "can be published; install the Python messages of odd_msgs" in alone.stderr


@pytest.mark.ros
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{nowhere}"], "sdt replay: there is no bag at"),
        (["{bag}", "--topics", "/typo"], "has no topic /typo; there are: /note (std_msgs/msg/String)"),
        (["{bag}", "--start", "7"], "lasts 0.390 s; starting at 7 s leaves nothing"),
        (["{bag}", "--remap", "/note:=bad name"], "/events:=/events: ROS refuses /note:=bad name"),
        (["{bag}", "--topics", "/point", "--start", "0.38"], "has no message of /point from 0.380 s to 0.390 s: play"),
        (["{bag}", "--remap", "/note:=/x", "/point:=/x"], "/point (geometry_msgs/msg/Point) cannot be published: "),
        (["{bag}", "--remap", "/nope:=/x"], "has no topic /nope; there are: /note (std_msgs/msg/String)"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(
    bag_path: Path, tmp_path: Path, ros: None, args: list[str], message: str
) -> None:
    result = run_replay(*(arg.format(bag=bag_path, nowhere=tmp_path / "nowhere") for arg in args))
    assert result.returncode == 1
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--rate", "-1"], "rate must be positive, not -1.0"),
        (["--start", "-1"], "start_s must be 0 s or more, not -1.0"),
        (["--wait-for", "/note"], "--wait-for has no effect without --wait-for-subscribers S"),
        (["--remap", "/note"], "--remap takes FROM:=TO, such as /camera/events:=/events, not '/note'"),
        (["--remap", ":=/c"], "not ':=/c'"),
        (["--json", "{bag}/metadata.yaml/x"], "metadata.yaml is a file, no folder"),
        (["--json", "{bag}/metadata.yaml"], "is a file of the bag, which it would overwrite"),
        (["--json", "{bag}"], "is a folder; name a file"),
        (["--json", "{data}"], "is a file of the bag, which it would overwrite"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    bag_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    (data,) = (path for path in bag_path.iterdir() if path.suffix != ".yaml")
    assert main(["replay", str(bag_path), *(arg.format(bag=bag_path, data=data) for arg in args)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sdt replay: ") and message in error and error.count("\n") == 1


def test_rules_for_topics_that_are_not_there_are_refused(bag_path: Path) -> None:
    config = ReplayConfig(bag=bag_path, clock_hz=10.0)
    check_remapped(config, ["/note:=/x", "note:=y", "replay:/point:=/p", "__ns:=/here", "__node:=n", "/clock:=/time"])
    for rule in ("/nope:=/x", "nope:=x", "~/note:=/x"):
        with pytest.raises(BagError, match="has no topic"):
            check_remapped(config, ["/note:=/n", rule])
    with pytest.raises(ReplayError, match="--remap names /note, which --topics leaves out; add it there"):
        check_remapped(ReplayConfig(bag=bag_path, topics=("/point",)), ["/note:=/n"])


def test_help_needs_no_ros() -> None:
    script = "import sys; sys.modules['rclpy'] = None\n" + COMMAND_LINE
    result = subprocess.run(
        [sys.executable, "-c", script, "replay", "--help"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 0 and "--wait-for-subscribers" in result.stdout
