"""Decides whether pip builds the ROS message interfaces, and what that needs.

A build cannot see which extras were asked for, so the rule looks at the machine alone:

1. A sourced ROS 2 (a prefix in AMENT_PREFIX_PATH that holds rclpy and is no Python environment): pip builds no
   interfaces and the extra `ros` is empty. `event_camera_msgs`, `tf2_msgs` and `rclpy` are its own, never shadowed;
   `sdt_ros.msg` comes from colcon or from `make`, which runs the same CMakeLists.txt.
2. Else, where the ROS 2 wheels exist (Linux on x86-64, CPython 3.10 to 3.14): the interfaces of `sdt_ros`,
   `event_camera_msgs` and `tf2_msgs` are built against them. They lie unused where `ros` is not installed.
3. Else (Jetson without a sourced ROS, macOS, ...): none. Network, evaluation and trainer work, the node does not.

SDT_ROS_INTERFACES=0 or =1 in the environment overrules 1 to 3.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

ROS_WHEELS = [
    "ros-kilted-rclpy",
    "ros-kilted-rmw-fastrtps-cpp",
    "ros-kilted-rmw-implementation",
    "ros-kilted-rcl-interfaces",
    "ros-kilted-builtin-interfaces",
    "ros-kilted-std-msgs",
    "ros-kilted-geometry-msgs",
    "ros-kilted-sensor-msgs",
    "ros-kilted-diagnostic-msgs",
    "ros-kilted-nav-msgs",
    "ros-kilted-lifecycle-msgs",
    "ros-kilted-rosgraph-msgs",
    "ros-kilted-ament-index-python",
    "pyyaml",  # rclpy reads parameter files with it, but its wheel does not say so
]
"""What `pip install '.[ros]'` adds where no ROS 2 is sourced."""

GENERATOR_WHEELS = [
    "ros-kilted-rosidl-adapter",
    "ros-kilted-rosidl-generator-c",
    "ros-kilted-rosidl-generator-py",
    "ros-kilted-rosidl-generator-type-description",
    "ros-kilted-rosidl-typesupport-fastrtps-c",
    "ros-kilted-rosidl-typesupport-introspection-c",
    "ros-kilted-std-msgs",
    "ros-kilted-geometry-msgs",
    "ros-kilted-ament-index-python",
    "pyyaml",  # these three are missing from the generators' own metadata
    "empy",
    "lark-parser",
]
"""What building the interfaces needs."""

COLCON_WHEELS = [
    "ros-kilted-ament-cmake",
    "ros-kilted-ament-cmake-gen-version-h",
    "ros-kilted-ament-cmake-include-directories",
    "ros-kilted-ament-cmake-python",
    "ros-kilted-ament-cmake-ros-core",
    "ros-kilted-ament-package",
    "ros-kilted-rosidl-adapter",
    "ros-kilted-rosidl-core-generators",
    "ros-kilted-rosidl-default-generators",
    "ros-kilted-rosidl-generator-type-description",
    "catkin_pkg",
    "empy",
    "lark-parser",
]
"""What the test of CMakeLists.txt needs."""


def sourced_ros() -> Path | None:
    """Returns the prefix of the sourced ROS 2 installation, or None."""
    for entry in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        prefix = Path(entry)
        # The wheels' own prefix is no ROS installation, though AMENT_PREFIX_PATH may name it.
        python_environment = (prefix / "pyvenv.cfg").exists()
        if not python_environment and (prefix / "share/ament_index/resource_index/packages/rclpy").exists():
            return prefix
    return None


def wheels_exist() -> bool:
    """Returns whether the ROS 2 wheels are published for this machine and Python."""
    return (
        sys.platform == "linux"
        and platform.machine() == "x86_64"
        and platform.python_implementation() == "CPython"
        and (3, 10) <= sys.version_info[:2] <= (3, 14)
    )


def builds_interfaces() -> bool:
    """Returns whether this build makes the interfaces; raises ValueError for a bad SDT_ROS_INTERFACES."""
    wish = os.environ.get("SDT_ROS_INTERFACES", "")
    if wish not in ("", "0", "1"):
        raise ValueError(f"SDT_ROS_INTERFACES={wish!r}: 1 builds the ROS interfaces, 0 leaves them out, or unset it")
    return wish == "1" or (wish == "" and wheels_exist() and sourced_ros() is None)


def ros_extra() -> list[str]:
    """Returns the requirements of the extra `ros`: none where a sourced ROS 2 has them."""
    return [] if sourced_ros() else ROS_WHEELS


def test_wheels() -> list[str]:
    """Returns the ROS wheels that only the tests need."""
    return COLCON_WHEELS if wheels_exist() and sourced_ros() is None else []


def build_requirements() -> list[str]:
    """Returns what pip must bring into the build's own environment."""
    return GENERATOR_WHEELS if builds_interfaces() else []


if __name__ == "__main__":
    print(sourced_ros() or "")  # asked by the Makefile
