"""A device without hardware for tests of `sdt_ros.runtime.gpu`: two queues of work that run as late as they may.

The order in which the two make progress is drawn, within what events allow. What runs too early or too late on a real
GPU because nobody waited does so here, on every machine.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor


class LateEvent:
    """See `sdt_ros.runtime.gpu.accelerator.Event`."""

    def __init__(self, accelerator: LateAccelerator) -> None:
        self._accelerator = accelerator
        self.recorded = self.done = 0

    def synchronize(self) -> None:
        wanted = self.recorded
        while self.done < wanted:
            self._accelerator.advance()


@dataclass(frozen=True)
class _Work:
    action: Callable[[], object]
    after: LateEvent
    needed: int
    then: LateEvent
    number: int


class LateAccelerator:
    """See `sdt_ros.runtime.gpu.accelerator.Accelerator`.

    Args:
        seed: of the order.
        failure: raised by each capture, if any.

    Attributes:
        captured: how many passes were recorded.
        done: pieces of work that were done.
    """

    def __init__(self, seed: int = 0, failure: Exception | None = None) -> None:
        self._draw = random.Random(seed)
        self._copies: deque[_Work] = deque()
        self._computation: deque[_Work] = deque()
        self.failure = failure
        self.captured = self.done = 0

    def active(self) -> nullcontext[None]:
        return nullcontext()

    def host(self, shape: torch.Size) -> Tensor:
        return torch.full(shape, 7, dtype=torch.uint8)

    def device(self, shape: torch.Size) -> Tensor:
        memory = torch.full(shape, 8, dtype=torch.uint8)
        self._later(self._computation, memory.zero_, self.event(), self.event())
        return memory

    def event(self) -> LateEvent:
        return LateEvent(self)

    def upload(self, source: Tensor, target: Tensor, after: LateEvent, then: LateEvent) -> None:
        self._later(self._copies, lambda: target.copy_(source), after, then)

    def copy(self, source: Tensor, target: Tensor, after: LateEvent, then: LateEvent) -> None:
        self._later(self._computation, lambda: target.copy_(source), after, then)

    def capture(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        if self.failure is not None:
            raise self.failure
        self.captured += 1
        self.synchronize()  # what is recorded comes behind all that was started
        output = run()

        def replay() -> None:
            self._later(self._computation, lambda: output.copy_(run()), self.event(), self.event())
            while self._computation:  # what comes next in the computation's order is no work of ours
                self.advance()

        return output, replay

    def synchronize(self) -> None:
        while self._copies or self._computation:
            self.advance()

    def advance(self) -> None:
        """Do one piece of work."""
        ready = [
            queue for queue in (self._copies, self._computation) if queue and queue[0].after.done >= queue[0].needed
        ]
        assert ready, "all work waits for other work"
        work = self._draw.choice(ready).popleft()
        work.action()
        self.done += 1
        work.then.done = work.number

    @staticmethod
    def _later(queue: deque[_Work], action: Callable[[], object], after: LateEvent, then: LateEvent) -> None:
        needed = after.recorded
        then.recorded += 1
        queue.append(_Work(action, after, needed, then, then.recorded))
