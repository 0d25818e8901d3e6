"""Plays a recording through the depth node. All arguments of depth.launch.py may be given too."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, EmitEvent, IncludeLaunchDescription, OpaqueFunction
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from sdt_ros.bags import CAMERA_INFO_TYPE, EVENT_PACKET_TYPE, BagError, camera_info_topic, open_bag

DEPTH = Path(get_package_share_directory("sdt_ros")) / "launch/depth.launch.py"
BOOLEAN = ["true", "false"]
CLOCK_HZ = 100.0


def arguments() -> list[DeclareLaunchArgument]:
    """Returns the launch arguments beside those of depth.launch.py."""

    def declare(
        name: str, default: str | None, description: str, choices: list[str] | None = None
    ) -> DeclareLaunchArgument:
        return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)

    return [
        declare("bag", None, "recording: a bag folder, or one .db3 or .mcap file"),
        declare("rate", "1.0", "seconds of the recording in a second"),
        declare("loop", "false", "begin again at the end", BOOLEAN),
        declare("clock", "false", "publish /clock with the recording's time, and use it in the node", BOOLEAN),
        declare("wait", "30.0", "wait for subscribers before playing, at most so long [s]"),
        declare("events", "", "topic of the event packets; empty = the recording's"),
        declare("camera_info", "", "topic of the calibration; empty = the recording's"),
        declare("namespace", "", "namespace of the depth node"),
        declare("eval", "false", "score what the node publishes, and end with a table", BOOLEAN),
        declare("eval_json", "", "file to write the scores to"),
        declare("eval_report", "", "file to write a page about the scores to (HTML)"),
        declare("eval_late_ms", "0.0", "a latency above counts as late [ms]; 0 = the time to the next window"),
        declare("truth", "/depth/image_rect", "topic of the recording's true depth"),
    ]


def only_topic(path: str, message_type: str, argument: str) -> str | None:
    """Returns the recording's topic of a type, None if it has none; raises RuntimeError if it has several."""
    try:
        with open_bag(Path(path).expanduser()) as bag:
            names = sorted(info.name for info in bag.topics.values() if info.type == message_type)
    except BagError as error:
        raise RuntimeError(f"bag:={path}: {error}") from error
    if len(names) > 1:
        raise RuntimeError(f"bag:={path} has several topics of {message_type}: choose one of {names} with {argument}:=")
    return names[0] if names else None


def calibration(path: str, events: str) -> str | None:
    """Returns the topic of the event camera's calibration; raises RuntimeError where it cannot be told from others."""
    try:
        with open_bag(Path(path).expanduser()) as bag:
            beside = camera_info_topic(bag, events)
    except BagError as error:
        raise RuntimeError(f"bag:={path}: {error}") from error
    return beside or only_topic(path, CAMERA_INFO_TYPE, "camera_info")


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Returns the player and the depth node for the arguments' values, and what scores the depth."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    events = value("events") or only_topic(value("bag"), EVENT_PACKET_TYPE, "events")
    if events is None:
        raise RuntimeError(f"bag:={value('bag')} has no {EVENT_PACKET_TYPE} messages to make depth from")
    camera_info = value("camera_info") or calibration(value("bag"), events)
    # A recording's own depth images, say, have no subscriber: wait for the node's. A name given may not be recorded.
    found = [(value("events"), events), (value("camera_info"), camera_info)]
    awaited = [name for given, name in found if name and not given]
    clock, scored = value("clock") == "true", value("eval") == "true"
    if scored and value("loop") == "true":
        raise RuntimeError("eval:=true needs an end of the recording: leave loop:=true out")
    if value("eval") == "false" and (value("eval_json") or value("eval_report")):
        raise RuntimeError("eval_json and eval_report need eval:=true")
    player = Node(
        package="sdt_ros",
        executable="replay_node",
        name="replay",
        ros_arguments=["--enclave", "/replay"],
        parameters=[
            {
                "bag": value("bag"),
                "rate": float(value("rate")),
                "loop": value("loop") == "true",
                "clock": CLOCK_HZ if clock else 0.0,
                "wait_for_subscribers": float(value("wait")),
                "wait_for": awaited or [""],
            }
        ],
        output="both",
        emulate_tty=True,
        on_exit=None if scored else [EmitEvent(event=Shutdown(reason="the recording is over"))],
    )
    depth = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(DEPTH)),
        launch_arguments={
            "events": events,
            "camera_info": camera_info or "event_camera/camera_info",
            "use_sim_time": str(clock).lower(),
        }.items(),
    )
    if not scored:
        return [depth, player]
    namespace = value("namespace").strip("/")
    evaluation = Node(
        package="sdt_ros",
        executable="eval_node",
        name="eval",
        parameters=[
            {
                "bag": value("bag"),
                "depth_node": f"/{namespace}/depth".replace("//", "/"),
                "events": events,
                "truth": value("truth"),
                "json": value("eval_json"),
                "report": value("eval_report"),
                "late_ms": float(value("eval_late_ms")),
            }
        ],
        output="both",
        emulate_tty=True,
        on_exit=[EmitEvent(event=Shutdown(reason="the recording is over and scored"))],
    )
    return [depth, evaluation, player]


def generate_launch_description() -> LaunchDescription:
    """Returns what `ros2 launch sdt_ros replay.launch.py bag:=PATH` starts."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=nodes)])
