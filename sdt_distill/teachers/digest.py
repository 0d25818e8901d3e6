"""Digests of files and settings: equal digests mean equal output of a teacher."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def digest(files: Iterable[Path], settings: Mapping[str, Any]) -> str:
    """SHA-256 over the content of files and over settings, as hexadecimal text.

    Args:
        files: the files, in an order that is always the same; their names and places do not matter.
        settings: plain values.
    """
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        content = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                content.update(block)
        total.update(content.digest())
    return total.hexdigest()
