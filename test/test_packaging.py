"""What is installed where: interfaces, package descriptions, files that launch and pip look for, the build's rule."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "interfaces"))

import generate  # noqa: E402
import policy  # noqa: E402

TF_HASH = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
EVENT_PACKET_HASH = "RIHS01_d6fa176260b1f37e5a40845305315e150a0f18191241eb64f407442aa29844aa"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE_XML = ElementTree.parse(ROOT / "package.xml").getroot()
MESSAGES = sorted([*(ROOT / "msg").glob("*.msg"), *(ROOT / "interfaces").glob("*/msg/*.msg")])


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a new process in the project's folder."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def needs_interfaces() -> None:
    """Skips a test where the ROS interfaces are not there."""
    for name in ("rclpy", "event_camera_msgs.msg", "tf2_msgs.msg", "sdt_ros.msg"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[ros]', or source a ROS 2")


# --- interfaces ---


@pytest.mark.parametrize(
    "name, message, upstream",
    [("event_camera_msgs", "EventPacket", EVENT_PACKET_HASH), ("tf2_msgs", "TFMessage", TF_HASH)],
)
def test_definitions_have_upstream_type_hashes(name: str, message: str, upstream: str, tmp_path: Path) -> None:
    """The generators compute upstream's hash from our definition."""
    if importlib.util.find_spec("rosidl_generator_type_description") is None:
        pytest.skip("no rosidl generators here")
    if policy.sourced_ros():
        pytest.skip(f"a sourced ROS 2 has its own {name}, ours is not built")
    generate.generate(generate.MessagePackage(name, ROOT / "interfaces" / name), tmp_path)
    description = json.loads((tmp_path / f"c/{name}/msg/{message}.json").read_text())
    hashes = {entry["type_name"]: entry["hash_string"] for entry in description["type_hashes"]}
    assert hashes[f"{name}/msg/{message}"] == upstream


@pytest.mark.ros
def test_event_packet_is_announced_with_upstream_type_hash() -> None:
    """What other nodes see of a publisher is upstream's type."""
    needs_interfaces()
    code = """
import time, rclpy
from event_camera_msgs.msg import EventPacket
rclpy.init()
node = rclpy.create_node("hash")
publisher = node.create_publisher(EventPacket, "events", 1)
deadline = time.monotonic() + 20
while not (found := node.get_publishers_info_by_topic("events")) and time.monotonic() < deadline:
    time.sleep(0.05)
print(found[0].topic_type, getattr(found[0], "topic_type_hash", ""))
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    topic_type, *type_hash = done.stdout.split()
    assert topic_type == "event_camera_msgs/msg/EventPacket"
    if not type_hash:
        pytest.skip("this ROS 2 has no type hashes")
    assert type_hash == [EVENT_PACKET_HASH]


@pytest.mark.ros
def test_interfaces_have_every_type_support_that_fast_dds_asks_for() -> None:
    """A missing one shows as warnings on stderr when messages of other packages follow."""
    needs_interfaces()
    code = """
import rclpy
from event_camera_msgs.msg import EventPacket
from sensor_msgs.msg import Image
from sdt_ros.msg import Stats
from tf2_msgs.msg import TFMessage
rclpy.init()
node = rclpy.create_node("supports")
for name, kind in (("events", EventPacket), ("image", Image), ("stats", Stats), ("tf", TFMessage), ("again", Image)):
    node.create_subscription(kind, name, lambda message: None, 1)
    node.create_publisher(kind, name, 1)
"""
    done = run_python(code)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.ros
def test_messages_arrive_as_sent() -> None:
    """Payload and arrays of our messages survive serialisation."""
    needs_interfaces()
    code = """
import array, time, rclpy
from event_camera_msgs.msg import EventPacket
from geometry_msgs.msg import TransformStamped
from sdt_ros.msg import Stats
from tf2_msgs.msg import TFMessage
rclpy.init()
node = rclpy.create_node("echo")
got = {}
sent = [
    EventPacket(encoding="evt3", height=480, width=640, seq=2**63, events=array.array("B", bytes(range(256)) * 40)),
    Stats(runtime="cpu", firing_layers=["a", "b"], firing_rates=[0.25, 0.5], energy_mj=float("inf"), windows_due=3),
    TFMessage(transforms=[TransformStamped(child_frame_id=name) for name in ("camera", "lidar")]),
]
publishers = []
for index, message in enumerate(sent):
    kind, name = type(message), type(message).__name__
    node.create_subscription(kind, name, lambda m, name=name: got.setdefault(name, m), 10)
    publishers.append(node.create_publisher(kind, name, 10))
deadline = time.monotonic() + 20
while len(got) < len(sent) and time.monotonic() < deadline:
    for publisher, message in zip(publishers, sent):
        publisher.publish(message)
    rclpy.spin_once(node, timeout_sec=0.05)
assert [got.get(type(message).__name__) for message in sent] == sent, got
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_every_message_field_is_explained(path: Path) -> None:
    """Each field has a comment; those that are times, lengths or energies name their unit."""
    units = {"_ms": "[ms]", "_mj": "[mJ]", "height": "[px]", "width": "[px]"}
    for line in path.read_text().splitlines():
        definition, _, comment = line.partition("#")
        if not definition.strip():
            continue
        assert comment.strip(), f"{path.name}: no comment on: {line}"
        name = definition.split()[1]
        for ending, unit in units.items():
            if name.endswith(ending):
                assert unit in comment, f"{path.name}: {name} does not say {unit}"


def test_editable_python_and_built_messages_are_one_package() -> None:
    """The checkout's code is what runs, though sdt_ros.msg lies elsewhere."""
    needs_interfaces()
    done = run_python("import sdt_ros.events.packet as p, sdt_ros.msg as m; print(p.__file__); print(m.__file__)")
    assert done.returncode == 0, done.stderr
    python, messages = map(Path, done.stdout.split())
    assert python.is_relative_to(ROOT)
    assert not messages.is_relative_to(ROOT / "sdt_ros")


# --- the build's rule ---


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine for which the wheels exist, with no ROS sourced."""
    for name in ("AMENT_PREFIX_PATH", "SDT_ROS_INTERFACES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "python_implementation", lambda: "CPython")
    return monkeypatch


def make_prefix(folder: Path) -> Path:
    """Makes what a ROS 2 installation with rclpy looks like."""
    marker = folder / "share/ament_index/resource_index/packages/rclpy"
    marker.parent.mkdir(parents=True)
    marker.touch()
    return folder


def test_interfaces_are_built_where_the_wheels_exist(bare: pytest.MonkeyPatch) -> None:
    """On a bare x86-64 machine, with the generators among the build's requirements."""
    assert policy.builds_interfaces()
    assert "ros-kilted-rosidl-generator-py" in policy.build_requirements()
    assert "ros-kilted-rclpy" in policy.ros_extra()


def test_sourced_ros_is_never_shadowed(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a ROS 2 sourced nothing of ROS is built or installed."""
    prefix = make_prefix(tmp_path / "ros")
    bare.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'workspace'}{os.pathsep}{prefix}")
    assert policy.sourced_ros() == prefix
    assert not policy.builds_interfaces()
    assert policy.build_requirements() == policy.ros_extra() == policy.test_wheels() == []


def test_a_path_to_the_wheels_is_no_sourced_ros(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AMENT_PREFIX_PATH may name the environment itself, for `ros2 launch`."""
    prefix = make_prefix(tmp_path)
    (prefix / "pyvenv.cfg").touch()
    bare.setenv("AMENT_PREFIX_PATH", str(prefix))
    assert policy.sourced_ros() is None
    assert policy.builds_interfaces()


@pytest.mark.parametrize(("system", "machine"), [("linux", "aarch64"), ("darwin", "x86_64")])
def test_no_interfaces_where_there_are_no_wheels(bare: pytest.MonkeyPatch, system: str, machine: str) -> None:
    """A Jetson or a Mac gets the ROS-free package."""
    bare.setattr(sys, "platform", system)
    bare.setattr(platform, "machine", lambda: machine)
    assert not policy.builds_interfaces()
    assert policy.build_requirements() == []


def test_environment_overrules(bare: pytest.MonkeyPatch) -> None:
    """SDT_ROS_INTERFACES says yes, no, or is refused by name."""
    bare.setenv("SDT_ROS_INTERFACES", "0")
    assert not policy.builds_interfaces()
    bare.setattr(platform, "machine", lambda: "aarch64")
    bare.setenv("SDT_ROS_INTERFACES", "1")
    assert policy.builds_interfaces()
    bare.setenv("SDT_ROS_INTERFACES", "yes")
    with pytest.raises(ValueError, match="SDT_ROS_INTERFACES='yes'"):
        policy.builds_interfaces()


# --- descriptions that must agree ---


def test_package_xml_and_pyproject_agree() -> None:
    """Name, version and licence are the same for colcon and pip."""
    project = PYPROJECT["project"]
    for tag in ("name", "version", "license"):
        assert PACKAGE_XML.findtext(tag) == project[tag]
    assert PACKAGE_XML.get("format") == "3"
    assert PACKAGE_XML.find("export/build_type").text == "ament_cmake"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_package_xml_names_what_the_code_imports() -> None:
    """Every ROS package that is imported is a dependency, and so is what the README promises."""
    declared = {element.text for element in PACKAGE_XML if element.tag.endswith("depend")}
    always = "rclpy cv_bridge event_camera_py event_camera_msgs launch launch_ros python3-numpy rosidl_default_runtime"
    assert set(always.split()) <= declared
    known = ("rclpy", "launch", "launch_ros", "cv_bridge", "event_camera_py", "ament_index_python", "tf2_ros")
    imported = set()
    for path in [*(ROOT / "sdt_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for module in re.findall(r"^\s*(?:from|import) ([a-z_0-9]+)", path.read_text(), re.MULTILINE):
            if module in known or module.endswith(("_msgs", "_interfaces")):
                imported.add(module)
    assert "rclpy" in imported or not (ROOT / "sdt_ros/node.py").exists()
    assert imported <= declared


def test_no_torch_or_pip_keys_in_package_xml() -> None:
    """Packages with pip keys cannot be released to the ROS build farm."""
    keys = [element.text or "" for element in PACKAGE_XML if element.tag.endswith("depend")]
    assert not [key for key in keys if "torch" in key or key.endswith("-pip")]


def test_cmake_builds_every_message_and_its_paths_exist() -> None:
    """Whatever CMakeLists.txt generates from or installs is there."""
    text = re.sub(r"#.*", "", (ROOT / "CMakeLists.txt").read_text())
    messages = set(re.findall(r"msg/\w+\.msg", text))
    assert messages == {f"msg/{path.name}" for path in (ROOT / "msg").iterdir()}
    installs = re.findall(r"install\((?:DIRECTORY|PROGRAMS)\s+(.*?)\s+DESTINATION", text, re.DOTALL)
    paths = [path for group in installs for path in group.split()]
    assert len(paths) >= 5
    for path in paths:
        assert (ROOT / path).exists(), f"CMakeLists.txt installs {path}, which is not there"
    assert {path for path in paths if path.startswith("scripts/")} == {
        f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir()
    }


def test_pip_installs_the_same_share_files_as_cmake() -> None:
    """The data files of pyproject.toml exist, and every launch and configuration file is among them."""
    found = set()
    for patterns in PYPROJECT["tool"]["setuptools"]["data-files"].values():
        for pattern in patterns:
            matches = list(ROOT.glob(pattern))
            assert matches, f"pyproject.toml installs {pattern}, which matches nothing"
            found.update(matches)
    for folder in ("launch", "config", "scripts"):
        files = {path for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {path for path in files if "__pycache__" not in path.parts} <= found


def test_scripts_can_be_executed() -> None:
    """The shebang takes the Python of the active environment; CMake's install keeps names and modes."""
    for path in (ROOT / "scripts").iterdir():
        assert os.access(path, os.X_OK), f"{path.name} is not executable"
        assert path.read_text().startswith("#!/usr/bin/env python3\n")


def test_no_index_address_anywhere() -> None:
    """Where packages come from is the user's setting, not ours."""
    names = ["setup.py", "pyproject.toml", "constraints.txt", "Makefile", ".ci/run", "MANIFEST.in", "CMakeLists.txt"]
    paths = [ROOT / name for name in names] + sorted((ROOT / "interfaces").glob("*.py"))
    for path in paths:
        text = path.read_text()
        for address in (*(f"index{mark}url" for mark in "-_"), "find-links", "PIP_INDEX", "trusted-host"):
            assert address not in text, f"{path.name} names an index: {address}"


def test_tested_versions_are_within_the_allowed_ones() -> None:
    """constraints.txt pins exactly, and only within what pyproject.toml allows."""
    from packaging.requirements import Requirement

    allowed = {Requirement(text).name.lower(): Requirement(text) for text in PYPROJECT["project"]["dependencies"]}
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line]
    assert "torch==2.13.0" in [str(pin) for pin in pins]
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        if pin.name.lower() in allowed:
            assert specifier.version in allowed[pin.name.lower()].specifier


# --- parameters ---


def test_configuration_file_has_exactly_the_node_s_parameters() -> None:
    """config/depth.yaml names every parameter of the node, with its default value, and no other."""
    from sdt_ros.parameters import NodeConfig

    written = yaml.safe_load((ROOT / "config/depth.yaml").read_text())["/**"]["ros__parameters"]
    assert written == asdict(NodeConfig())


@pytest.mark.ros
def test_node_takes_the_configuration_file() -> None:
    """ROS reads the file with the types that the node declares."""
    needs_interfaces()
    code = """
import rclpy, rclpy.lifecycle
from sdt_ros.parameters import NodeConfig, declare, read
rclpy.init(args=["--ros-args", "--params-file", "config/depth.yaml", "-p", "rate_hz:=25.0"])
node = rclpy.lifecycle.LifecycleNode("depth")
declare(node)
assert read(node) == NodeConfig(rate_hz=25.0), read(node)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_every_configured_parameter_has_a_comment() -> None:
    """A user reads the file, not the code."""
    lines = (ROOT / "config/depth.yaml").read_text().splitlines()
    values = [line for line in lines if re.match(r"    \w+:", line)]
    assert len(values) >= 10
    for line in values:
        assert "#" in line, f"no comment on: {line.strip()}"
