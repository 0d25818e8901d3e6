"""Which device a network runs on, and why."""

from __future__ import annotations

import torch


class DeviceError(RuntimeError):
    """The device asked for is not there; the message says what is."""


def resolve_device(name: str) -> tuple[torch.device, str]:
    """Finds the device of a name. Only "auto" chooses; a GPU asked for by name is used or refused.

    Args:
        name: "auto" (a CUDA GPU where there is one, else the CPU), "cpu", "cuda" or "cuda:N".

    Returns:
        The device, and in words why it is that one.

    Raises:
        DeviceError: the name is none of these, or the GPU is not there.
    """
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
