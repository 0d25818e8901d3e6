"""numba's `njit`, with caches that notice what changed in other files.

numba knows a cached loop by the file that it stands in. What the loop takes from other files (constants, helpers,
instructions) is compiled into it too; when those change, by an update say, numba would go on with the old code, without
a word. Loops compiled here are known by all files that lie beside any loop as well.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_log = logging.getLogger(__name__)
_MARKS = tuple(b"@" + name for name in (b"njit", b"intrinsic", b"overload"))  # spelt so that this file has none


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As `numba.njit`, by which it is done; with `cache=True` as the module says."""

    def compile_(function: Callable[..., Any]) -> Any:
        made = numba.njit(**options)(function)
        if options.get("cache"):
            _tell_apart(made)
        return made

    return compile_


def _tell_apart(made: Any) -> None:
    """Add the digest to the stamp that numba keeps with a cache; numba has no public place for this."""
    file: Any = getattr(getattr(made, "_cache", None), "_cache_file", None)
    if hasattr(file, "_source_stamp"):
        file._source_stamp = (file._source_stamp, sources_digest())
    else:  # also with NUMBA_DISABLE_JIT
        _log.debug("caches of numba %s do not notice changes in other files", numba.__version__)


@functools.cache
def sources_digest() -> str:
    """Of all files in folders with compiled loops: of this package, and of `sdt_distill` where it lies beside it."""
    digest = hashlib.sha256()
    for path, source in _sources():
        digest.update(path.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()


def _sources() -> list[tuple[str, bytes]]:
    """Each of these files, by its place in the packages."""
    packages = Path(__file__).parents[1]
    modules = [path for name in ("sdt_ros", "sdt_distill") for path in (packages / name).rglob("*.py")]
    sources = [(path, _read(path)) for path in sorted(modules)]
    compiled = {path.parent for path, source in sources if any(mark in source for mark in _MARKS)}
    return [(path.relative_to(packages).as_posix(), source) for path, source in sources if path.parent in compiled]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # an editor's lock, say
        return b""
