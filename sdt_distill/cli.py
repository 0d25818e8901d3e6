"""The command `sdt-distill`: one subcommand a module, imported only when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sdt_ros.cli import dispatch

# command: (module with `add_parser(subparsers)` that sets `run`, one line of help)
COMMANDS = {
    "train": ("sdt_distill.training.command", "train a network, or go on with a run"),
    "eval": ("sdt_distill.evaluate", "score any trained network, peers too, on any data set"),
    "ablate": ("sdt_distill.ablation.command", "train networks that differ in one thing, and compare them"),
    "uncertainty": (
        "sdt_distill.uncertainty.command",
        "give trained weights a head that tells how far they may be off",
    ),
    "average": ("sdt_distill.average", "one checkpoint from several: the mean of their weights"),
    "export-card": ("sdt_distill.export", "make a run's best weights what the node loads"),
    "teach": ("sdt_distill.teachers.command", "train a frame network of the DINOv2 architecture, to be a teacher"),
    "data": ("sdt_distill.datasets.command", "check data set folders, simulate banks of samples"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sdt-distill`; returns the exit code: 0 done, 1 failed, 2 wrong arguments, 130 interrupted."""
    return dispatch("sdt-distill", "Train depth networks for event cameras.", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
