"""Caches of compiled loops notice what changes in other files."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from sdt_ros import compiled

LOOP = """
from sdt_ros.compiled import njit

@njit(cache=True)
def twice(x):
    return 2 * x
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[], ModuleType]:
    path = tmp_path / "loop.py"
    path.write_text(LOOP)

    def loaded() -> ModuleType:
        spec = importlib.util.spec_from_file_location("loop", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.twice(4) == 8
        return module

    return loaded


def counts(module: ModuleType) -> tuple[int, int]:
    """Signatures found in the cache, and compiled."""
    stats = module.twice.stats
    return sum(stats.cache_hits.values()), sum(stats.cache_misses.values())


def test_a_change_elsewhere_is_noticed(load: Callable[[], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    assert counts(load()) == (0, 1)
    assert counts(load()) == (1, 0)
    monkeypatch.setattr(compiled, "sources_digest", lambda: "of other files")
    assert counts(load()) == (0, 1)
    assert counts(load()) == (1, 0)


def test_the_digest_is_that_of_all_files_with_loops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package, beside = tmp_path / "sdt_ros", tmp_path / "sdt_distill"
    for folder in (package / "runtime", beside):
        folder.mkdir(parents=True)
    monkeypatch.setattr(compiled, "__file__", os.fspath(package / "compiled.py"))
    digests = []
    for path, source in (
        (package / "runtime" / "bits.py", "from numba.extending import intrinsic"),
        (package / "runtime" / "bits.py", "from numba.extending import intrinsic # 2"),
        (beside / "pool.py", "from sdt_ros.compiled import njit"),
        (package / "node.py", "import rclpy"),
    ):
        path.write_text(source)
        digests.append(compiled.sources_digest.__wrapped__())
    assert len(set(digests)) == 3 and digests[2] == digests[3]


def test_another_numba_still_compiles(load: Callable[[], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("numba.core.caching.Cache._index_key")
    monkeypatch.setattr("numba.core.caching.Cache._load_overload", lambda *_: None)
    monkeypatch.setattr("numba.core.caching.Cache._save_overload", lambda *_: None)
    assert counts(load())[0] == 0
