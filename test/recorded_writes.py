"""`sdt`, with every file that Python code opens for writing, makes or renames listed in the file $WRITES.

What compiled libraries write does not pass here: tests look for that in the folders themselves.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from sdt_ros.cli import main

_CHANGES = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate", "os.mkfifo"}
_LISTED = os.open(os.environ["WRITES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, _, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            _list(event, os.fsdecode(path))
    elif event in _CHANGES:
        _list(event, os.fsdecode(arguments[0]))


def _list(event: str, path: str) -> None:
    os.write(_LISTED, f"{event}\t{Path.cwd() / path}\n".encode())


sys.addaudithook(_hear)
if __name__ == "__main__":
    sys.exit(main())
