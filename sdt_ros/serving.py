"""The node's process: signals, start, the executor's thread, and the way it ends."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from sdt_ros.stopping import stop_on_signal
from sdt_ros.thread_names import name_thread

STOPPED, FAILED, DEVICE_LOST = 0, 1, 3
"""Exit codes: stopped as asked; could not start, or crashed; the device is lost and `on_device_error` is stop."""

END_WITHIN_S = 1.5  # of a signal: whoever is loading a network by then does not hear it
_LOOK_S = 0.25


def serve(make: Callable[[], Any], args: Sequence[str] | None) -> int:
    """Run a lifecycle node until Ctrl-C or SIGTERM; returns the exit code.

    Args:
        make: makes the node, which has `starts_itself`, `fatal` and `publish_last_words` as `DepthNode` has.
        args: of the process, its name first; those it was started with by default.
    """
    stop = stop_on_signal(_end_soon)
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
        node = make()
    except (RuntimeError, ValueError, ParameterException, NameValidationException) as error:
        rclpy.logging.get_logger("depth").fatal(f"cannot start: {error}")
        rclpy.try_shutdown()
        return FAILED
    code = FAILED
    try:
        code = _spin(node, stop)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    if code == DEVICE_LOST:
        _end_now(code)  # without freeing what lies on the device
    return code


def _end_soon() -> None:
    # A network that is being loaded or warmed cannot be asked to stop: it holds nothing that needs an orderly end.
    watch = threading.Timer(END_WITHIN_S, _end_now)
    watch.daemon = True
    watch.start()


def _end_now(code: int = STOPPED) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    logging.shutdown()
    os._exit(code)


def _spin(node: Any, stop: threading.Event) -> int:
    if node.starts_itself:
        for transition in (node.trigger_configure, node.trigger_activate):
            if stop.is_set():
                return STOPPED
            if transition() != TransitionCallbackReturn.SUCCESS:
                node.get_logger().fatal("cannot start, see the error before; autostart:=false keeps the node alive")
                return FAILED
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        name_thread("executor")
        executor.spin()

    spinning = threading.Thread(target=spin, name="executor", daemon=True)
    spinning.start()
    while spinning.is_alive() and not node.fatal and not stop.wait(_LOOK_S):
        pass
    crashed = not spinning.is_alive()
    executor.shutdown()
    spinning.join()
    if node.fatal and not stop.is_set():
        node.publish_last_words()
        return DEVICE_LOST
    return FAILED if crashed and not stop.is_set() else STOPPED
