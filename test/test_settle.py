"""What a node does once it is warm, and the names of its threads."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

from sdt_ros.settle import settle
from sdt_ros.thread_names import name_thread


def test_what_lives_is_out_of_the_collectors_sight():
    kept = [[k] for k in range(1000)]
    try:
        settle()
        assert gc.get_freeze_count() > len(kept)
        before = gc.get_freeze_count()
        del kept
        settle()  # what has been given up in between is collected
        assert gc.get_freeze_count() < before - 900
    finally:
        gc.unfreeze()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system shows no thread names")
def test_a_named_thread_shows_its_name():
    seen = []

    def work():
        name_thread("a thread's name")
        seen.append(Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/comm").read_text().strip())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["a thread's name"]
