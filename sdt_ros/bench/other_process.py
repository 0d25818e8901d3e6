"""A side of a benchmark in a process of its own, as its users run it.

How our runtime has memory kept (sdt_ros/memory.py) holds for a whole process and would make a peer in it faster, and
the memory of both could not be told apart. The parent asks for one round after the other; nothing runs in between. A
question is a line of text, an answer a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

Answers = Mapping[str, Callable[[], dict[str, Any]]]


class OtherProcessError(RuntimeError):
    """The other process gave up; the message holds what it said last."""


class OtherProcess:
    """A process that answers, as `serve` makes it."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._name, self._process, self._errors = name, process, errors
        self._answer()  # it is ready

    def ask(self, what: str) -> dict[str, Any]:
        """Ask one question.

        Raises:
            ImportError: a package that it needs is not installed.
            OtherProcessError: it ended.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; what it said last says why
            print(what, file=self._process.stdin, flush=True)
        return self._answer()

    def seconds(self) -> float:
        """Have it run one round; returns the seconds that it took there."""
        return float(self.ask("run")["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        if "missing" in answer:
            raise ImportError(f"No module named {answer['missing']!r}", name=answer["missing"])
        if not answer:
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            raise OtherProcessError(f"{self._name}'s process ended: {said[-1] if said else 'it said nothing'}")
        return answer


@contextmanager
def other_process(name: str, module: str, told: Mapping[str, Any]) -> Iterator[OtherProcess]:
    """Start a module that calls `serve`, and end it behind the `with`.

    Args:
        name: for messages.
        module: its name.
        told: what `serve` hands over, as JSON can hold it.

    Raises:
        ImportError: a package that it needs is not installed.
        OtherProcessError: it could not be started.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(told)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        try:
            yield OtherProcess(name, process, errors)
        finally:
            process.kill()
            process.communicate()


def serve(prepare: Callable[[dict[str, Any]], Answers]) -> None:
    """Be the other process: get ready, then answer what stdin asks until it is closed.

    Args:
        prepare: takes what the parent told; returns what answers each question.
    """
    answers_go_to, sys.stdout = sys.stdout, sys.stderr  # and nothing else does

    def say(answer: Mapping[str, Any]) -> None:
        print(json.dumps(answer), file=answers_go_to, flush=True)

    try:
        answers = prepare(json.loads(sys.argv[1]))
    except ImportError as error:
        say({"missing": error.name})
        return
    say({"ready": True})
    for line in sys.stdin:
        say(answers[line.strip()]())
