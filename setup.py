"""What pip cannot read from pyproject.toml: the ROS interfaces and the files that `ros2 launch` looks for.

Whether the interfaces are built is decided by `interfaces/policy.py`, which states the rule; `interfaces/generate.py`
builds them. colcon does not read this file: it uses CMakeLists.txt.
"""

import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "interfaces"))

import policy  # noqa: E402
from generate import BuildInterfaces, MessagePackage  # noqa: E402

DATASETS = ["h5py>=3.8", "hdf5plugin>=4.0"]  # DSEC and MVSEC are hdf5, DSEC with blosc and zstd

DISTILL = ["transformers>=4.56", "onnxruntime>=1.18"]  # teachers: DINOv2 and DINOv3, ONNX depth networks
EXPORT = ["onnx>=1.17", "onnxscript>=0.5"]  # `sdt export`: what torch's exporter needs
TRAIN = ["tensorboard>=2.16"]  # training runs without it, and says so

if policy.builds_interfaces():
    BuildInterfaces.packages = [
        MessagePackage("sdt_ros", ROOT),
        MessagePackage("event_camera_msgs", ROOT / "interfaces/event_camera_msgs"),
        MessagePackage("tf2_msgs", ROOT / "interfaces/tf2_msgs"),
    ]

setup(
    ext_modules=[package.extension() for package in BuildInterfaces.packages],
    cmdclass={"build_ext": BuildInterfaces},
    extras_require={
        "ros": policy.ros_extra(),
        "datasets": DATASETS,
        "distill": [*DATASETS, *DISTILL],
        "train": [*DATASETS, *DISTILL, *TRAIN],
        "export": [*EXPORT, "onnxruntime>=1.18"],  # which runs what was exported, to check it
        "bench": ["evt3>=0.4", "mujoco>=3.1", *DATASETS],  # peers to compare with
        "fuzz": ["atheris>=3.0"],  # test/fuzz/guided.py
        # spikingjelly is a test dependency too, but asks for torchvision: the Makefile installs it without.
        "test": [
            "pytest>=7.4",
            "pytest-xdist>=3.5",  # CI runs what needs no ROS graph on all cores
            "hypothesis>=6.80",
            "mypy>=1.8",
            "ruff>=0.6",
            "mcap>=1.1",
            "mujoco>=3.1",  # an independent ray caster
            "triton>=3.4; sys_platform == 'linux'",  # its interpreter runs the GPU's kernels
            *EXPORT,  # makes the networks that the ONNX teacher is tested with, too
            *DATASETS,
            *DISTILL,
            *TRAIN,
            *policy.test_wheels(),
        ],
    },
)
