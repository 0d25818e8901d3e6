"""The command `sdt`: one subcommand a module, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

# command: (module with `add_parser(subparsers)` that sets `run`, one line of help)
COMMANDS = {
    "node": ("sdt_ros.node", "run the depth node"),
    "replay": ("sdt_ros.replay", "publish a recording's messages on the ROS graph"),
    "demo": ("sdt_ros.demo", "play a recording through the node, write pictures and figures"),
    "eval": ("sdt_ros.evaluation.command", "score depth from a recording against its truth"),
    "simulate": ("sdt_ros.simulation.command", "write a simulated recording with exact depth"),
    "info": ("sdt_ros.info", "print layers, parameters, operations and energy of a network"),
    "export": ("sdt_ros.export", "write weights as an ONNX graph, from spikes to metres"),
    "bench": ("sdt_ros.bench", "measure speed against named peers"),
}


ROS = {
    "builtin_interfaces", "diagnostic_msgs", "event_camera_msgs", "lifecycle_msgs", "rcl_interfaces", "rclpy",
    "rosgraph_msgs", "sensor_msgs", "std_msgs", "std_srvs",
}  # fmt: skip
"""Modules that come with ROS 2 alone, installed by itself or as wheels."""


def needs_ros(error: ImportError) -> str:
    """What to say where a module of ROS 2 is missing."""
    return f"needs ROS 2 ({error}); source an installation, or: pip install 'sdt_ros[ros]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sdt`; returns the exit code: 0 done, 1 failed, 2 wrong arguments, 130 interrupted."""
    return dispatch("sdt", "Depth from event cameras with a spiking transformer.", COMMANDS, argv)


def dispatch(
    program: str, description: str, commands: Mapping[str, tuple[str, str]], argv: Sequence[str] | None = None
) -> int:
    """Run one of several commands, importing only its module.

    Args:
        program: name of the program.
        description: of the program, for `--help`.
        commands: name to (module, one line of help).
        argv: the arguments; those of the process by default.

    Returns:
        The command's exit code; 130 when interrupted, also while its module loads, which takes seconds.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = argparse.ArgumentParser(prog=program, description=description)
        subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
        called = arguments[0] if arguments else None
        for name, (module, text) in commands.items():
            if name == called:
                try:
                    command = importlib.import_module(module)
                except ModuleNotFoundError as error:
                    if (error.name or "").partition(".")[0] not in ROS:
                        raise
                    print(f"{program} {name}: {needs_ros(error)}", file=sys.stderr)
                    return 1
                command.add_parser(subparsers)
            else:  # listed without importing what it needs
                subparsers.add_parser(name, help=text)
        return _run(parser, arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone, as in `sdt info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Parse and call. Settings key=value may stand anywhere; argparse takes only those of one place."""
    args, left = parser.parse_known_args(arguments)
    scattered = "settings" in args and all("=" in each and not each.startswith("-") for each in left)
    if left and not scattered:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if scattered:
        args.settings += left
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
