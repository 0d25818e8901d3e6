"""The launch files: by the real launch where it is installed, and in any case by reading their code."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
PARAMETERS = yaml.safe_load((ROOT / "config/depth.yaml").read_text())["/**"]["ros__parameters"]
ARGUMENTS = {
    "depth.launch.py": "namespace params_file weights allow_untrained device events camera_info camera_info_url "
    "odometry max_deviation pointcloud rviz autostart log_level use_sim_time respawn enclave",
    "replay.launch.py": "bag rate loop clock wait events camera_info namespace eval eval_json eval_report eval_late_ms "
    "truth",
}


def calls(path: Path, function: str) -> list[ast.Call]:
    """Returns the calls of a function, by its bare name, in a file."""
    tree = ast.parse(path.read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in found if isinstance(call.func, ast.Name) and call.func.id == function]


def literal(node: ast.expr) -> Any:
    """Returns a literal's value, None for an expression."""
    return node.value if isinstance(node, ast.Constant) else None


def executable(call: ast.Call) -> Any:
    """Returns what a node's action starts."""
    return next(literal(keyword.value) for keyword in call.keywords if keyword.arg == "executable")


# --- by reading ---


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_arguments_are_described_and_used(path: Path) -> None:
    """Each has a description that says something; each is read, and nothing else is."""
    declared = {literal(call.args[0]): literal(call.args[2]) for call in calls(path, "declare")}
    assert set(declared) == set(ARGUMENTS[path.name].split())
    assert all(text and len(text) > 10 for text in declared.values())
    used = {literal(call.args[0]) for function in ("value", "is_true") for call in calls(path, function)} - {None}
    loops = re.findall(r"for name in \(([^)]*)\) if value\(name\)", path.read_text())
    used |= {name.strip('"') for group in loops for name in group.split(", ")}
    assert used == set(declared)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_our_executables_exist(path: Path) -> None:
    """What the launch file starts from this package is installed."""
    names = []
    for function in ("Node", "LifecycleNode"):
        for call in calls(path, function):
            given = {keyword.arg: literal(keyword.value) for keyword in call.keywords}
            if given["package"] == "sdt_ros":
                names.append(given["executable"])
    assert names
    for name in names:
        assert (ROOT / "scripts" / name).is_file()


def test_arguments_that_set_parameters_are_parameters() -> None:
    """Arguments of the same name as a parameter keep the name; the rest are about the launch only."""
    about_launch = (
        "namespace params_file events camera_info odometry pointcloud rviz log_level use_sim_time respawn enclave"
    )
    arguments = set(ARGUMENTS["depth.launch.py"].split()) - set(about_launch.split())
    assert arguments <= set(PARAMETERS)


@pytest.mark.parametrize(
    ("started", "module"), [("replay_node", "sdt_ros/replay.py"), ("eval_node", "sdt_ros/evaluation/live.py")]
)
def test_replay_gives_its_nodes_parameters_that_they_have(started: str, module: str) -> None:
    """A misspelt parameter would be ignored without a word."""
    declared = set(re.findall(r'declare\(\s*"(\w+)"', (ROOT / module).read_text()))
    (node,) = [call for call in calls(ROOT / "launch/replay.launch.py", "Node") if executable(call) == started]
    (parameters,) = [keyword.value for keyword in node.keywords if keyword.arg == "parameters"]
    given = {literal(key) for one in ast.walk(parameters) if isinstance(one, ast.Dict) for key in one.keys if key}
    assert given
    assert given <= declared


def test_the_end_of_a_scored_replay_waits_for_the_scores() -> None:
    """The player's end stops everything; with scores the scorer's end does, which comes later. No list may be empty."""
    player, scorer = calls(ROOT / "launch/replay.launch.py", "Node")
    ends = [next(ast.unparse(k.value) for k in node.keywords if k.arg == "on_exit") for node in (player, scorer)]
    assert (executable(player), executable(scorer)) == ("replay_node", "eval_node")
    assert ends[0].startswith("None if scored else [EmitEvent(event=Shutdown(")
    assert ends[1].startswith("[EmitEvent(event=Shutdown(")


def test_layouts_show_topics_that_the_node_has() -> None:
    """RViz and Foxglove subscribe to the node's topics, not to last year's."""
    topics = {"/depth/depth/image_rect", "/depth/depth/camera_info", "/depth/depth/color", "/depth/points"}
    for name in ("depth.rviz", "foxglove.json"):
        text = (ROOT / "config" / name).read_text()
        shown = set(re.findall(r"/depth/[a-z_/]+", text)) - {"/depth/stats"}
        assert {"/depth/depth/image_rect", "/depth/depth/color"} <= shown <= topics
    stats = (ROOT / "msg/Stats.msg").read_text()
    for field in re.findall(r"/depth/stats\.(\w+)", (ROOT / "config/foxglove.json").read_text()):
        assert re.search(rf"^\w+ {field}\b", stats, re.MULTILINE), f"foxglove.json plots {field}, which is no statistic"


# --- by the real launch ---


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., tuple[list[str], str]]:
    """Runs depth.launch.py from an installed share folder, with a node that only prints how it was started.

    Returns a function of launch arguments (and environment variables by keyword) that returns the node's command line
    and its transports.
    """
    if importlib.util.find_spec("launch.launch_description") is None or not importlib.util.find_spec("launch_ros"):
        pytest.skip("launch and launch_ros come with a ROS 2 installation only")
    for folder in ("launch", "config"):
        shutil.copytree(ROOT / folder, tmp_path / "share/sdt_ros" / folder)
    marker = tmp_path / "share/ament_index/resource_index/packages/sdt_ros"
    marker.parent.mkdir(parents=True)
    marker.touch()
    node = tmp_path / "lib/sdt_ros/depth_node"
    node.parent.mkdir(parents=True)
    report = tmp_path / "report.json"
    node.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv, os.environ.get('FASTDDS_BUILTIN_TRANSPORTS', '')], open({str(report)!r}, 'w'))\n"
    )
    node.chmod(0o755)

    def start(*arguments: str, **variables: str) -> tuple[list[str], str]:
        code = (
            "import sys; from launch import LaunchDescription, LaunchService\n"
            "from launch.actions import IncludeLaunchDescription as Include\n"
            "given = [argument.split(':=', 1) for argument in sys.argv[2:]]\n"
            "service = LaunchService()\n"
            "service.include_launch_description(LaunchDescription([Include(sys.argv[1], launch_arguments=given)]))\n"
            "sys.exit(service.run())"
        )
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FASTDDS", "FASTRTPS"))}
        prefixes = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("AMENT_PREFIX_PATH", "")]))
        environment = {**kept, "AMENT_PREFIX_PATH": prefixes, "ROS_LOG_DIR": str(tmp_path / "log"), **variables}
        file = str(tmp_path / "share/sdt_ros/launch/depth.launch.py")
        command = [sys.executable, "-c", code, file, *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        command_line, transports = json.loads(report.read_text())
        return command_line, transports

    return start


@pytest.mark.ros
def test_defaults_start_the_node_with_large_data_transports(started: Callable[..., tuple[list[str], str]]) -> None:
    """The depth node in the root namespace, with the camera's default topics and our parameter file."""
    command, transports = started()
    assert transports.startswith("LARGE_DATA?max_msg_size=4MB")
    for words in (["-r", "__node:=depth"], ["-r", "~/events:=event_camera/events"], ["--log-level", "depth:=info"]):
        assert " ".join(words) in " ".join(command)
    files = [Path(value) for key, value in itertools.pairwise(command) if key == "--params-file"]
    assert files[0].name == "depth.yaml"


@pytest.mark.ros
def test_namespace_reaches_node_and_log_level(started: Callable[..., tuple[list[str], str]]) -> None:
    """Log levels are set by logger names, which have dots."""
    command, _ = started("namespace:=/car/front", "log_level:=debug", "events:=/camera/events")
    for word in ("__ns:=/car/front", "car.front.depth:=debug", "~/events:=/camera/events"):
        assert word in command


@pytest.mark.ros
def test_a_limit_of_uncertainty_is_a_number(started: Callable[..., tuple[list[str], str]]) -> None:
    """Also a whole one: ROS refuses an integer where a parameter is a double."""
    command, _ = started("max_deviation:=1")
    files = [Path(value) for key, value in itertools.pairwise(command) if key == "--params-file"]
    (given,) = [yaml.safe_load(file.read_text())["/depth"]["ros__parameters"] for file in files[1:]]
    assert type(given["max_deviation"]) is float and given["max_deviation"] == 1
    with pytest.raises(RuntimeError, match=r"max_deviation:=x is no number, such as 0\.3"):
        started("max_deviation:=x")


@pytest.mark.ros
def test_user_s_transports_are_kept(started: Callable[..., tuple[list[str], str]]) -> None:
    """Whoever set Fast DDS up knows why."""
    assert started(FASTDDS_BUILTIN_TRANSPORTS="UDPv4")[1] == "UDPv4"


@pytest.mark.ros
def test_wrong_choice_is_refused(started: Callable[..., tuple[list[str], str]]) -> None:
    """A typo is an error, not a default."""
    with pytest.raises(RuntimeError, match="respawn"):
        started("respawn:=maybe")
