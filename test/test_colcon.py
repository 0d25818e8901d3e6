"""The colcon route: CMakeLists.txt configured, built and installed by CMake alone, as colcon does it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "interfaces"))

import policy  # noqa: E402


def wheels_prefix(tmp: Path) -> Path:
    """Makes a prefix in which CMake can use the ROS wheels of this environment.

    The wheels' CMake files name the Python of the machine that built them; a copy of them names ours.
    """
    prefix = tmp / "ros"
    prefix.mkdir()
    for name in ("bin", "include", "lib"):
        (prefix / name).symlink_to(Path(sys.prefix) / name)
    shutil.copytree(Path(sys.prefix) / "share", prefix / "share")
    include, lib = sysconfig.get_path("include"), str(prefix / "lib")
    for file in (prefix / "share").rglob("*.cmake"):
        text = file.read_text()
        if "/opt/python/" in text:
            text = re.sub(r"/opt/python/[^/]+/include/python[\d.]+t?", include, text)
            file.write_text(re.sub(r"/opt/python/[^/]+/lib", lib, text))
    return prefix


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell in which a ROS 2 with ament_cmake is sourced."""
    if not shutil.which("cmake"):
        pytest.skip("no cmake here")
    if policy.sourced_ros():
        return dict(os.environ)
    if not (Path(sys.prefix) / "share/ament_cmake").is_dir():
        pytest.skip("no ament_cmake: neither is a ROS 2 sourced, nor are its wheels installed")
    prefix = str(wheels_prefix(tmp_path_factory.mktemp("wheels")))
    # LD_LIBRARY_PATH was set by the wheels when this interpreter started.
    return {**os.environ, "AMENT_PREFIX_PATH": prefix, "CMAKE_PREFIX_PATH": prefix}


@pytest.fixture(scope="module")
def installed(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix that CMake installed the package into."""
    folder = tmp_path_factory.mktemp("colcon")

    def run(*command: str) -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"

    # A copy: CMake refuses header folders (numpy's, in .venv) that lie inside the source folder.
    source, build, install = folder / "source", folder / "build", folder / "install"
    for name in ("msg", "sdt_ros", "scripts", "launch", "config"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("CMakeLists.txt", "package.xml"):
        shutil.copy(ROOT / name, source)
    options = ["-DBUILD_TESTING=OFF", "-DCMAKE_C_FLAGS=-O0", "-DCMAKE_CXX_FLAGS=-O0"]
    options += [f"-DPython3_EXECUTABLE={sys.executable}", f"-DCMAKE_INSTALL_PREFIX={install}"]
    run("cmake", "-S", str(source), "-B", str(build), *options)
    run("cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1))
    run("cmake", "--install", str(build))
    return install


def test_launch_finds_all_it_needs(installed: Path) -> None:
    """The ament index entry, the share folder, and executables that can be executed."""
    assert (installed / "share/ament_index/resource_index/packages/sdt_ros").is_file()
    assert (installed / "share/sdt_ros/package.xml").is_file()
    for folder in ("launch", "config"):
        ours, theirs = (
            {
                str(path.relative_to(base))
                for path in base.rglob("*")
                if path.is_file() and "__pycache__" not in path.parts
            }
            for base in (ROOT / folder, installed / "share/sdt_ros" / folder)
        )
        assert theirs == ours
    scripts = sorted(path.name for path in (ROOT / "scripts").iterdir())
    assert sorted(path.name for path in (installed / "lib/sdt_ros").iterdir()) == scripts
    for name in scripts:
        assert os.access(installed / "lib/sdt_ros" / name, os.X_OK)


def test_python_package_is_ours_and_has_messages(installed: Path, environment: dict[str, str]) -> None:
    """The installed package is the written one, not the generated empty one, and its messages can be published."""
    (site,) = [path for path in installed.rglob("*-packages") if path.is_dir()]
    assert (site / "sdt_ros/__init__.py").read_text() == (ROOT / "sdt_ros/__init__.py").read_text()
    ours = {path.relative_to(ROOT) for path in (ROOT / "sdt_ros").rglob("*.py")}
    assert ours <= {path.relative_to(site) for path in site.rglob("*.py")}
    if importlib.util.find_spec("rclpy") is None:
        pytest.skip("no rclpy here to publish with")
    code = "\n".join(
        [
            "import rclpy, sdt_ros.msg",
            "from sdt_ros.events.packet import EventPacket",
            "rclpy.init()",
            "publisher = rclpy.create_node('colcon').create_publisher(sdt_ros.msg.Stats, 'stats', 1)",
            "publisher.publish(sdt_ros.msg.Stats(runtime='none'))",
            "print(sdt_ros.msg.__file__)",
        ]
    )
    variables = {
        **environment,
        "PYTHONPATH": os.pathsep.join([str(site), environment.get("PYTHONPATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join([str(installed / "lib"), environment.get("LD_LIBRARY_PATH", "")]),
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=variables, cwd=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(site)
