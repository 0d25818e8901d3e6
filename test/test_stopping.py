"""Ctrl-C and SIGTERM are heard at any moment."""

import os
import signal
import subprocess
import sys

import pytest

from sdt_ros.stopping import SIGNALS

WAITING = """
import signal, sys, threading
from sdt_ros.stopping import stop_on_signal
told = threading.Event()
stop = stop_on_signal(told.set)
with stop._cond:  # where `stop.wait` is while it goes to sleep and while it wakes up
    signal.raise_signal(int(sys.argv[1]))
    signal.raise_signal(int(sys.argv[1]))
    assert not stop.is_set()
sys.exit(0 if stop.wait(20) and told.wait(20) else 1)
"""
WAITING_OFTEN = """
from sdt_ros.stopping import stop_on_signal
stop = stop_on_signal()
print("ready", flush=True)
while not stop.is_set():
    stop.wait(1e-6)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_midst_of_a_wait_is_heard(number: signal.Signals):
    done = subprocess.run(
        [sys.executable, "-c", WAITING, str(int(number))], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_further_signals_change_nothing(number: signal.Signals):
    process = subprocess.Popen([sys.executable, "-c", WAITING_OFTEN], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(20):
        if process.poll() is None:
            os.kill(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and not err
