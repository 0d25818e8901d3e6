"""Calling a service whose answer may get lost.

A server of Fast DDS gives up an answer when it has not matched the client's reader of answers within 0.1 s, although
the client has matched the server: on a busy machine, the first call of a client may be heard and never answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ASK_AGAIN_S = 8.0


def call_until_answered(
    client: Any, request: Any, until: Callable[[Callable[[], Any], float], Any], seconds: float
) -> tuple[Any, bool] | None:
    """Call a service, and again every `ASK_AGAIN_S` that no answer has come.

    Args:
        client: of rclpy, whose service is ready.
        request: what to ask.
        until: takes what comes until a condition is met or so many seconds are over; returns the condition's value.
        seconds: for the answer, at most.

    Returns:
        The response, and whether it answers the first call; where it does not, the service may have acted on an
        earlier one already. None if there was no answer in time.
    """
    futures: list[Any] = []
    left_s = seconds
    while left_s > 0:
        futures.append(client.call_async(request))
        if until(lambda: any(future.done() for future in futures), min(ASK_AGAIN_S, left_s)):
            first = next(number for number, future in enumerate(futures) if future.done())
            return futures[first].result(), first == 0
        left_s -= ASK_AGAIN_S
    return None
