"""The demo's processes: node and replay, each by itself, on a ROS domain of their own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdt_ros.stopping import SIGNALS

LARGE_DATA = "LARGE_DATA?max_msg_size=4MB&sockets_size=4MB&non_blocking=true"


class GraphError(RuntimeError):
    """A process of the demo could not do its part; the message says which, and ends with its log."""


def prepare_environment() -> None:
    """Choose domain, discovery and transport for this process and its children, where the user has not.

    Must be called before rclpy is initialised.
    """
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", LARGE_DATA)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM to the end of the block: a process between its start and our list of them would stay.

    Only in the main thread.

    Raises:
        KeyboardInterrupt: at the end, where one of them came.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in before:
        signal.signal(number, lambda signum, _: came.append(signum))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


class Process:
    """A `sdt` command, or another module, that runs beside this one, its output in a file."""

    def __init__(self, name: str, arguments: list[str], log: Path, module: str = "sdt_ros.cli") -> None:
        self.name = name
        self.log = log
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], stdout=stream, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise a GraphError if it has ended with an error."""
        if self._process.poll() not in (None, 0):
            raise self.failure(f"ended with exit code {self._process.returncode}")

    def failure(self, what: str) -> GraphError:
        """An error about this process, with the end of its log."""
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
        return GraphError(f"{self.name} {what}; its log, {self.log}, ends with:\n{tail}")

    def stop(self, patience_s: float = 15.0) -> int:
        """End it as Ctrl-C would, by force if it does not heed; returns its exit code."""
        if self.is_alive:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
