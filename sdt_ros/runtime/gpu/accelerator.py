"""The few things that a GPU runtime asks of CUDA, in one place: memory, order between streams, and captured graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

_WARM_UPS = 3  # passes before a capture: kernels compile, cuDNN chooses algorithms, cuBLAS takes its workspace


class Event(Protocol):
    """A point in a stream, as `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait until the device has come to it; at once where it was never recorded."""


class Accelerator(Protocol):
    """What `Inputs` and `Steps` need; `CudaAccelerator` is the real one."""

    def active(self) -> Any:
        """A context in which this device is the current one."""

    def host(self, shape: torch.Size) -> Tensor:
        """Unset uint8 memory that the device can read from by itself."""

    def device(self, shape: torch.Size) -> Tensor:
        """Zeros on the device, uint8."""

    def event(self) -> Event:
        """A point that was not recorded yet."""

    def upload(self, source: Tensor, target: Tensor, after: Event, then: Event) -> None:
        """Beside the computation: wait for `after`, copy host memory to the device, record `then`."""

    def copy(self, source: Tensor, target: Tensor, after: Event, then: Event) -> None:
        """In the computation's order: wait for `after`, copy on the device, record `then`."""

    def capture(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Run some passes, and record one: its output, which each call of what is returned makes anew."""

    def synchronize(self) -> None:
        """Wait for all that was started."""


class CudaAccelerator:
    """See `Accelerator`.

    Args:
        device: a CUDA device with its index.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._copies, self._side = torch.cuda.Stream(), torch.cuda.Stream()

    @contextmanager
    def active(self) -> Iterator[None]:
        """See `Accelerator`."""
        with torch.cuda.device(self._device):
            yield

    def host(self, shape: torch.Size) -> Tensor:
        """See `Accelerator`."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)

    def device(self, shape: torch.Size) -> Tensor:
        """See `Accelerator`."""
        return torch.zeros(shape, dtype=torch.uint8, device=self._device)

    def event(self) -> Event:
        """See `Accelerator`."""
        return torch.cuda.Event()

    def upload(self, source: Tensor, target: Tensor, after: Event, then: Event) -> None:
        """See `Accelerator`."""
        assert isinstance(after, torch.cuda.Event) and isinstance(then, torch.cuda.Event)
        with torch.cuda.stream(self._copies):
            after.wait()
            target.copy_(source, non_blocking=True)
            then.record()

    def copy(self, source: Tensor, target: Tensor, after: Event, then: Event) -> None:
        """See `Accelerator`."""
        assert isinstance(after, torch.cuda.Event) and isinstance(then, torch.cuda.Event)
        after.wait()
        target.copy_(source, non_blocking=True)
        then.record()

    def capture(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """See `Accelerator`; cuDNN measures which algorithms are fast."""
        side = self._side
        side.wait_stream(torch.cuda.current_stream())
        with _fast_convolutions():
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the device meanwhile, as the publisher of another node in the process does.
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                output = run()
        return output, graph.replay

    def synchronize(self) -> None:
        """See `Accelerator`."""
        torch.cuda.synchronize(self._device)


@contextmanager
def _fast_convolutions() -> Iterator[None]:
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def to_host(tensor: Tensor) -> Tensor:
    """A tensor on the CPU; from a GPU straight into pinned memory, in one copy.

    The memory belongs to what is returned and goes back to torch's store of pinned blocks with it.
    """
    if not tensor.is_cuda:
        return tensor.cpu()
    result = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    result.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return result
