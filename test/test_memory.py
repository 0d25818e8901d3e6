"""How the process keeps freed memory."""

import pytest

from sdt_ros.memory import keep_freed_memory


def test_the_user_decides_how_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not keep_freed_memory()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    assert isinstance(keep_freed_memory(), bool)
