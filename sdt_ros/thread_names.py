"""Names for threads that `top -H`, `ps -L` and `sdt bench node` show."""

import threading
from contextlib import suppress
from pathlib import Path


def name_thread(name: str) -> None:
    """Name the calling thread where the system shows names (Linux, 15 characters); threads it starts inherit it."""
    with suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name, encoding="ascii")
