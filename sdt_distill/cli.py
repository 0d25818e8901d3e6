"""The command `sdt-distill`: one subcommand a module, imported only when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sdt_ros.cli import dispatch

# command: (module with `add_parser(subparsers)` that sets `run`, one line of help)
COMMANDS = {
    "data": ("sdt_distill.datasets.command", "say what a data set folder is, and what is missing or broken in it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sdt-distill`; returns the exit code: 0 done, 1 failed, 2 wrong arguments, 130 interrupted."""
    return dispatch("sdt-distill", "Train depth networks for event cameras.", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
