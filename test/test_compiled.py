"""Caches of compiled loops notice what changes in other files."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

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


def test_the_digest_is_that_of_all_files_beside_loops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loops, beside, others = tmp_path / "sdt_ros" / "runtime", tmp_path / "sdt_distill" / "kernels", tmp_path / "sdt_ros"
    for folder in (loops, beside):
        folder.mkdir(parents=True)
    monkeypatch.setattr(compiled, "__file__", os.fspath(others / "compiled.py"))
    digests = []
    for path, source, is_seen in (
        (loops / "lif.py", "@njit(cache=True)", True),
        (loops / "constants.py", "LANES = 64", True),
        (loops / "constants.py", "LANES = 128", True),
        (beside / "pool.py", "@njit()", True),
        (others / "node.py", "import rclpy", False),
    ):
        path.write_text(source)
        digests.append(compiled.sources_digest.__wrapped__())
        assert len(digests) == 1 or (digests[-1] != digests[-2]) is is_seen
    (loops / "lock.py").symlink_to("nowhere")
    assert compiled.sources_digest.__wrapped__() != digests[-1]


def test_all_that_loops_take_from_elsewhere_is_in_the_digest() -> None:
    packages = Path(compiled.__file__).parents[1]
    seen = {name for name, _ in compiled._sources()}
    assert "sdt_ros/runtime/kernels/vectors.py" in seen and "sdt_ros/node.py" not in seen
    python_only = {"sdt_ros/compiled.py", "sdt_ros/bags/__init__.py", "sdt_ros/bags/types.py"}  # no loop uses these
    for name in seen:
        source = (packages / name).read_text()
        if "@njit" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("sdt_ros", "sdt_distill")):
                base = Path(*str(node.module).split("."))
                for alias in node.names:
                    places = (base / f"{alias.name}.py", base.with_suffix(".py"), base / "__init__.py")
                    taken = next(place.as_posix() for place in places if (packages / place).exists())
                    assert taken in seen | python_only, f"{name} imports {taken}"


def test_without_caches_or_compilation_nothing_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for made in (lambda x: x, SimpleNamespace(_cache=None), SimpleNamespace(_cache=SimpleNamespace(_cache_file=1))):
        compiled._tell_apart(made)
    code = "from sdt_ros.evaluation import metrics"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
