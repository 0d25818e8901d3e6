"""Which device a network runs on, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# How torch, cuDNN, cuBLAS and Triton begin when CUDA fails beneath them; torch has a class of its own from 2.8 on.
_FAILURES = ("CUDA error", "CUDA driver error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "Triton Error [CUDA]")
_LOST: type[BaseException] | tuple[()] = getattr(torch, "AcceleratorError", ())


class DeviceError(RuntimeError):
    """The device asked for is not there; the message says what is."""


class DeviceLost(DeviceError):  # noqa: N818  a loss is what it is
    """The device was there and gave up: no memory is left, or it stopped working. The message says which."""

    @property
    def answers(self) -> bool:
        """Whether the device still works and only lacks memory.

        To free what lies on one that does not can end the process: it answers with an error where nobody can catch it.
        """
        return isinstance(self.__cause__, torch.cuda.OutOfMemoryError)


@contextmanager
def device_errors() -> Iterator[None]:
    """Tells of a GPU that gives up inside by one kind of error, whichever library noticed it.

    Raises:
        DeviceLost: it ran out of memory or stopped working.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceLost(
            f"the GPU ran out of memory: {_first_line(error)}; stop other work on it, take a smaller network or "
            "input_scale, or set the device to cpu"
        ) from error
    except RuntimeError as error:
        if not (isinstance(error, _LOST) or any(words in str(error) for words in _FAILURES)):
            raise
        raise DeviceLost(
            f"the GPU stopped working: {_first_line(error)}; see nvidia-smi and the kernel's log, then start this "
            "process again, or set the device to cpu"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def resolve_device(name: str | torch.device) -> tuple[torch.device, str]:
    """Finds the device of a name. Only "auto" chooses; a GPU asked for by name is used or refused.

    Args:
        name: "auto" (a CUDA GPU where there is one, else the CPU), "cpu", "cuda" or "cuda:N"; torch's own will do.

    Returns:
        The device, and in words why it is that one.

    Raises:
        DeviceError: the name is none of these, or the GPU is not there.
    """
    name = str(name)
    kind, colon, number = name.partition(":")
    if name not in ("auto", "cpu", "cuda") and not (kind == "cuda" and colon and number.isdecimal()):
        raise DeviceError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu":
        return torch.device("cpu"), "asked for"
    if name == "auto" and not count:
        return torch.device("cpu"), "auto, no CUDA GPU"
    if name == "auto":
        return torch.device("cuda:0"), "auto, a GPU was found"
    index = int(number) if number else 0
    if index < count:
        return torch.device("cuda", index), "asked for"
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} is built without CUDA; install a CUDA build"
    elif not count:
        why = "torch finds no CUDA GPU; check the driver with nvidia-smi"
    else:
        why = f"the machine has {count}: cuda:0 to cuda:{count - 1}"
    raise DeviceError(f"device {name!r} was asked for, but {why}, or set the device to cpu or auto")
