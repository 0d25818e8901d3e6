"""One process at a time for a run's folder."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .state import StateError

_log = logging.getLogger(__name__)

LOCK_NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder; the lock goes with its process, however that ends.

    Raises:
        StateError: another process holds it.
        OSError: the folder cannot be written.
    """
    with (folder / LOCK_NAME).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{folder}: another process trains there; wait for it, or name another --out") from None
        except OSError as error:  # a file system without locks
            _log.warning("%s cannot be locked (%s): let no other process train there", folder, error)
        yield
