"""Triton's kernels are taken where they prove to work, and plain torch elsewhere; which is said once."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch

_log = logging.getLogger(__name__)


def open_triton_module(name: str, what: str, device: torch.device, prove: Callable[[Any], torch.Tensor]) -> Any:
    """A module of kernels, or None where Triton is missing or they do not work; a warning says why.

    Args:
        name: the module's.
        what: it computes, for the warning.
        device: a GPU.
        prove: makes a loss of some small computation with the module; its backward pass is run too.

    Raises:
        torch.cuda.OutOfMemoryError: the device is full, which says nothing about the kernels.
    """
    if importlib.util.find_spec("triton") is None:
        _log.warning("Triton is not installed: %s on %s are computed by plain torch, slower", what, device)
        return None
    try:
        kernels = importlib.import_module(name)
        with torch.inference_mode(False), torch.enable_grad():
            prove(kernels).backward()
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # compilers raise whatever they like
        _log.warning("Triton does not work, %s on %s are computed by plain torch, slower: %s", what, device, error)
        return None
    return kernels
