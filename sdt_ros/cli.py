"""The command `sdt`: one subcommand a module, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

# command: (module with `add_parser(subparsers)` that sets `run`, one line of help)
COMMANDS = {
    "node": ("sdt_ros.node", "run the depth node"),
    "replay": ("sdt_ros.replay", "publish a recording's messages on the ROS graph"),
    "demo": ("sdt_ros.demo", "play a recording through the node, write pictures and figures"),
    "eval": ("sdt_ros.evaluation.command", "score depth from a recording against its truth"),
    "simulate": ("sdt_ros.simulation.command", "write a simulated recording with exact depth"),
    "info": ("sdt_ros.info", "print layers, parameters, operations and energy of a network"),
    "bench": ("sdt_ros.bench", "measure speed against named peers"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sdt`; returns the exit code: 0 done, 1 failed, 2 wrong arguments, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # also while the command's modules load, which takes seconds
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone, as in `sdt info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="sdt", description="Depth from event cameras with a spiking transformer.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    called = arguments[0] if arguments else None
    for name, (module, text) in COMMANDS.items():
        if name == called:
            importlib.import_module(module).add_parser(subparsers)
        else:  # listed without importing what it needs
            subparsers.add_parser(name, help=text)
    args = parser.parse_args(arguments)
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
