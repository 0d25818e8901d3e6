"""Windows on their way to the device, and one recorded pass of the network for each resolution."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdt_ros.runtime.gpu.accelerator import Accelerator, Event

GRAPHS = 4  # resolutions kept: each holds memory for all that is between its layers


@dataclass(frozen=True)
class Step:
    """One pass for one shape of input.

    Attributes:
        input: where it reads the window, uint8 on the device.
        output: where it leaves the result.
        replay: computes it.
    """

    input: Tensor
    output: Tensor
    replay: Callable[[], None]


class Steps:
    """Recorded passes by the shape of their input; the one that was longest out of use goes when there are too many.

    Args:
        accelerator: the device.
        run: the pass, from a uint8 tensor on the device to its result.
        limit: passes kept.
    """

    def __init__(self, accelerator: Accelerator, run: Callable[[Tensor], Tensor], limit: int = GRAPHS) -> None:
        self._accelerator, self._run, self._limit = accelerator, run, limit
        self._steps: OrderedDict[torch.Size, Step] = OrderedDict()

    def __len__(self) -> int:
        return len(self._steps)

    def of(self, shape: torch.Size) -> Step:
        """The pass for a shape; the first time it is recorded, which takes long. A failure leaves nothing behind."""
        if shape not in self._steps:
            while len(self._steps) >= self._limit:
                self._accelerator.synchronize()  # it may still be running
                self._steps.popitem(last=False)
            given = self._accelerator.device(shape)
            output, replay = self._accelerator.capture(lambda: self._run(given))
            self._steps[shape] = Step(given, output, replay)
        self._steps.move_to_end(shape)
        return self._steps[shape]


@dataclass
class _Slot:
    """One window on its way: host memory, device memory, and when each may be written again."""

    host: Tensor
    device: Tensor
    arrived: Event  # the host's memory was read
    taken: Event  # the device's memory was read


class Inputs:
    """Two windows on their way in turn: one can be filled and copied while the computation reads the other.

    Bytes travel, four or two times fewer than numbers, and are unpacked on the device.

    Args:
        accelerator: the device.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._slots: list[_Slot | None] = [None, None]
        self._turn = 0

    def send(self, spikes: Tensor, target: Tensor) -> None:
        """Start the way of a window to `target`; the caller may overwrite `spikes` when this returns.

        Args:
            spikes: uint8 on the CPU.
            target: the same shape on the device; computations started before read it undisturbed.
        """
        slot = self._slot(spikes.shape)
        slot.arrived.synchronize()  # the last copy but one may still be reading
        slot.host.copy_(spikes)
        self._accelerator.upload(slot.host, slot.device, after=slot.taken, then=slot.arrived)
        self._accelerator.copy(slot.device, target, after=slot.arrived, then=slot.taken)

    def _slot(self, shape: torch.Size) -> _Slot:
        turn, self._turn = self._turn, 1 - self._turn
        slot = self._slots[turn]
        if slot is None or slot.host.shape != shape:
            accelerator = self._accelerator
            # The old slot is kept until the device is done with it. And the new one's memory is still being written:
            # by its filling, or by who had it before, in an order of work that its first upload knows nothing of.
            new = _Slot(accelerator.host(shape), accelerator.device(shape), accelerator.event(), accelerator.event())
            accelerator.synchronize()
            self._slots[turn] = slot = new
        return slot
