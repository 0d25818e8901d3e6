"""Plays a recording through the depth node.

All arguments of depth.launch.py may be given too, but for `use_sim_time`, which follows `clock`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, EmitEvent, IncludeLaunchDescription, OpaqueFunction
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

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


def recorded(path: str) -> dict[str, Any]:
    """Returns what `python3 -m sdt_ros.bags` finds in a recording; raises RuntimeError where it cannot be read.

    A process of its own, as the nodes are: it sees the virtual environment that is active, `ros2 launch` does not.
    """
    command = ["python3", "-m", "sdt_ros.bags", str(Path(path).expanduser())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if reason.startswith("ModuleNotFoundError"):
            reason += "; activate the virtual environment that has it, and launch again"
        raise RuntimeError(f"bag:={path}: {reason}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def only(names: list[str], path: str, argument: str) -> str | None:
    """Returns the one name, None if there is none; raises RuntimeError if there are several."""
    if len(names) > 1:
        raise RuntimeError(f"bag:={path} has several topics for {argument}: choose one of {names} with {argument}:=")
    return names[0] if names else None


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Returns the player and the depth node for the arguments' values, and what scores the depth."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    bag = recorded(value("bag"))
    events = value("events") or only(bag["events"], value("bag"), "events")
    if events is None:
        raise RuntimeError(f"bag:={value('bag')} has no event_camera_msgs/msg/EventPacket to make depth from")
    if not any(topic == events or topic.endswith(f"/{events}") for topic in bag["events"]):
        raise RuntimeError(f"bag:={value('bag')} has no events:={events}: choose one of {bag['events']}")
    camera_info = value("camera_info") or bag["camera_info_of"].get(events)
    # A recording's own depth images, say, have no subscriber: wait for the node's. A name given may not be recorded,
    # and with a calibration from a file the node listens to none.
    infos = [] if LaunchConfiguration("camera_info_url", default="").perform(context) else bag["camera_infos"]
    awaited = [name for name in (events, camera_info) if name in (*bag["events"], *infos)]
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
                "wait_for_subscribers": float(value("wait")) if awaited else 0.0,
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
