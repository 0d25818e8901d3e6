"""How the process keeps freed memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdt_ros.memory import keep_freed_memory


def test_the_user_decides_how_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not keep_freed_memory()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    assert isinstance(keep_freed_memory(), bool)


ARENAS = """
import importlib, sys
importlib.import_module(sys.argv[1])
import ctypes, threading
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
threads = [threading.Thread(target=lambda: libc.free(libc.malloc(100_000))) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.ros
@pytest.mark.parametrize(("module", "one"), [("sdt_ros.node", True), ("numpy", False)])
def test_all_threads_of_the_node_share_one_arena(module: str, one: bool, tmp_path: Path) -> None:
    """What imports numpy first has threads with arenas of their own, whose memory grows with each configuration."""
    pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")
    report = tmp_path / "malloc.xml"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    subprocess.run([sys.executable, "-c", ARENAS, module, str(report)], check=True, timeout=120, env=environment)
    arenas = report.read_text().count("<heap nr=")
    assert (arenas == 1) is one
