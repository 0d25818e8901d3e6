"""A call whose answer gets lost is made again, and says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sdt_ros.bench import service_calls
from sdt_ros.bench.service_calls import call_until_answered


@dataclass
class Call:
    """What rclpy returns of a call: done from a moment on, or never."""

    number: int
    done_s: float

    def done(self) -> bool:
        return time.monotonic() >= self.done_s

    def result(self) -> int:
        return self.number


@dataclass
class Client:
    """Answers each call after so many seconds; `None` is an answer that gets lost."""

    delays_s: list[float | None]
    calls: list[Call] = field(default_factory=list)

    def call_async(self, request: Any) -> Call:
        assert request == "request"
        delay = self.delays_s[min(len(self.calls), len(self.delays_s) - 1)]
        self.calls.append(Call(len(self.calls), float("inf") if delay is None else time.monotonic() + delay))
        return self.calls[-1]


def until(condition: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.002)
    return value


@pytest.mark.parametrize(
    ("delays_s", "expected", "calls"),
    [
        ([0.0], (0, True), 1),
        ([None, 0.0], (1, False), 2),
        ([None, None, 0.0], (2, False), 3),
        ([0.08, None], (0, True), 2),  # the first was only slow: what it answers counts
        ([None], None, 6),
    ],
)
def test_calls(
    monkeypatch: pytest.MonkeyPatch, delays_s: list[float | None], expected: tuple[int, bool] | None, calls: int
) -> None:
    monkeypatch.setattr(service_calls, "ASK_AGAIN_S", 0.05)
    client = Client(delays_s)
    assert call_until_answered(client, "request", until, 0.26) == expected
    assert len(client.calls) == calls
