"""Starts the depth node, and on request RViz and a point cloud.

Relative topic names follow `namespace`; an absolute one (`events:=/camera/events`) does not.
"""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import ComposableNodeContainer, LifecycleNode, Node
from launch_ros.descriptions import ComposableNode

CONFIG = Path(get_package_share_directory("sdt_ros")) / "config"
BOOLEAN = ["true", "false"]
AS_CONFIGURED = ["", *BOOLEAN]
LEVELS = ["debug", "info", "warn", "error", "fatal"]

# On Fast DDS's default transports, best-effort messages above half a megabyte are lost. It helps when the camera driver
# has it too. A user's own setting is kept.
LARGE_DATA = "LARGE_DATA?max_msg_size=4MB&sockets_size=4MB&non_blocking=true"
FAST_DDS_SETTINGS = ("FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


def arguments() -> list[DeclareLaunchArgument]:
    """Returns the launch arguments. An empty value leaves the parameter to `params_file`."""

    def declare(name: str, default: str, description: str, choices: list[str] | None = None) -> DeclareLaunchArgument:
        return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)

    return [
        declare("namespace", "", "namespace of all nodes and relative topics, e.g. front"),
        declare("params_file", str(CONFIG / "depth.yaml"), "YAML file with the node's parameters"),
        declare("weights", "", "checkpoint (.safetensors); empty = as in params_file"),
        declare("allow_untrained", "", "accept random weights; empty = as in params_file", AS_CONFIGURED),
        declare("device", "", "auto, cpu, cuda or cuda:N; empty = as in params_file"),
        declare("events", "event_camera/events", "topic of the camera's event packets"),
        declare("camera_info", "event_camera/camera_info", "topic of the camera's calibration"),
        declare("camera_info_url", "", "calibration file instead of the topic, file:///... or package://..."),
        declare("odometry", "", "nav_msgs/Odometry of the robot, for the scale of depth; empty = none"),
        declare("max_deviation", "", "leave out depth that is more uncertain; empty = as in params_file"),
        declare("pointcloud", "false", "publish depth/points with depth_image_proc", BOOLEAN),
        declare("rviz", "false", "show depth in RViz", BOOLEAN),
        declare("autostart", "", "configure and activate at start, or wait; empty = as in params_file", AS_CONFIGURED),
        declare("log_level", "info", "least severe message of the node's log", LEVELS),
        declare("use_sim_time", "false", "take time from /clock", BOOLEAN),
        declare("respawn", "false", "start the node again when it dies", BOOLEAN),
        declare("enclave", "", "SROS 2 enclave of the node; empty = its full name, /depth without a namespace"),
    ]


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Returns the nodes for the arguments' values."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    def is_true(name: str) -> bool:
        return value(name) == "true"

    namespace = value("namespace").strip("/")
    depth = f"/{namespace}/depth".replace("//", "/")
    parameters: dict[str, str | bool | float] = {
        name: value(name) for name in ("weights", "device", "camera_info_url") if value(name)
    }
    parameters |= {name: is_true(name) for name in ("allow_untrained", "autostart") if value(name)}
    parameters["use_sim_time"] = is_true("use_sim_time")
    if value("max_deviation"):
        try:
            parameters["max_deviation"] = float(value("max_deviation"))
        except ValueError:
            wrong = f"max_deviation:={value('max_deviation')} is no number, such as 0.3; 0 leaves nothing out"
            raise ValueError(wrong) from None

    # The node itself goes through its transitions: launch_ros's own autostart is not in Humble.
    entities: list[LaunchDescriptionEntity] = [
        LifecycleNode(
            package="sdt_ros",
            executable="depth_node",
            name="depth",
            namespace=namespace,
            parameters=[value("params_file"), parameters],
            remappings=[
                ("~/events", value("events")),
                ("~/camera_info", value("camera_info")),
                *([("~/odometry", value("odometry"))] if value("odometry") else []),
            ],
            ros_arguments=[
                *("--log-level", f"{depth.strip('/').replace('/', '.')}:={value('log_level')}"),
                *("--enclave", value("enclave") or depth),
            ],
            output="both",
            emulate_tty=True,
            respawn=is_true("respawn"),
            respawn_delay=2.0,
        )
    ]
    if is_true("pointcloud"):
        cloud = ComposableNode(
            package="depth_image_proc",
            plugin="depth_image_proc::PointCloudXyzNode",
            name="points",
            namespace=namespace,
            parameters=[{"use_sim_time": is_true("use_sim_time")}],
            remappings=[
                ("image_rect", f"{depth}/depth/image_rect"),
                ("camera_info", f"{depth}/depth/camera_info"),
                ("points", f"{depth}/points"),
            ],
        )
        entities.append(
            ComposableNodeContainer(
                package="rclcpp_components",
                executable="component_container",
                name="points_container",
                namespace=namespace,
                composable_node_descriptions=[cloud],
                output="both",
            )
        )
    if is_true("rviz"):
        shown = ("depth/image_rect", "depth/camera_info", "depth/color", "points")
        entities.append(
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz",
                namespace=namespace,
                arguments=["-d", str(CONFIG / "depth.rviz")],
                parameters=[{"use_sim_time": is_true("use_sim_time")}],
                remappings=[(f"/depth/{topic}", f"{depth}/{topic}") for topic in shown],
                output="log",
            )
        )
    return entities


def generate_launch_description() -> LaunchDescription:
    """Returns what `ros2 launch sdt_ros depth.launch.py` starts."""
    environment: list[LaunchDescriptionEntity] = []
    if not any(name in os.environ for name in FAST_DDS_SETTINGS):
        environment.append(SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", LARGE_DATA))
    return LaunchDescription([*arguments(), *environment, OpaqueFunction(function=nodes)])
