"""numba's `njit`, with caches that notice what changed in other files.

numba knows a cached loop by the file that it stands in. What the loop takes from other files (constants, helpers,
instructions) is compiled into it too; when those change, by an update say, numba would go on with the old code, without
a word. Loops compiled here are known by the files of all loops as well.
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


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As `numba.njit`, by which it is done; with `cache=True` as the module says."""

    def compile_(function: Callable[..., Any]) -> Any:
        made = numba.njit(**options)(function)
        if options.get("cache"):
            _tell_apart(made)
        return made

    return compile_


def _tell_apart(made: Any) -> None:
    cache = made._cache
    own = getattr(cache, "_index_key", None)  # numba has no public place for this
    if own is None:
        _log.debug(
            "numba %s keeps its caches differently: they do not notice changes in other files", numba.__version__
        )
        return
    cache._index_key = lambda *signature: (own(*signature), sources_digest())


@functools.cache
def sources_digest() -> str:
    """Of all files with compiled loops: those of this package, and of `sdt_distill` where it lies beside it."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for folder in (package, package.parent / "sdt_distill"):
        for path in sorted(folder.rglob("*.py")):
            source = path.read_bytes()
            if b"njit" in source or b"numba" in source:
                digest.update(path.relative_to(folder.parent).as_posix().encode() + b"\0" + source)
    return digest.hexdigest()
