"""A training step replayed as one CUDA graph: a small network's kernels take less time than it takes to start them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

_WARM = 3  # steps of a shape that run as ever: libraries choose kernels and the optimiser makes its memory


Left = TypeVar("Left")


class GraphedStep(Generic[Left]):
    """Calls a step, from the fourth time on a shape comes by replaying what its kernels were.

    Args:
        step: from tensors on a GPU to one on it. What it does must follow from their shapes alone, and it must not
            wait for the GPU. What it changes in place (weights, statistics, the optimiser's memory), a replay changes.
        told: called behind each step with what `tell` gave when that shape was captured.
        tell: names what a step leaves elsewhere, such as firing rates, to be put there again behind a replay.
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        tell: Callable[[], Left] | None = None,
        told: Callable[[Left], None] | None = None,
    ) -> None:
        self._step, self._tell, self._told = step, tell, told
        self._seen: Counter[tuple[torch.Size, ...]] = Counter()
        self._graphs: dict[tuple[torch.Size, ...], _Graph[Left]] = {}
        self._pool: Any = None  # memory that all graphs share

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The step's result.

        Raises:
            RuntimeError: it cannot be captured; nothing was done, and the step can be called as ever.
        """
        shapes = tuple(each.shape for each in inputs)
        if shapes in self._graphs:
            return self._replay(self._graphs[shapes], inputs)
        self._seen[shapes] += 1
        if self._seen[shapes] <= _WARM:
            return self._warm(inputs)
        self._graphs[shapes] = self._capture(inputs)
        return self._replay(self._graphs[shapes], inputs)

    def prepare(self, *inputs: Tensor) -> None:
        """Take all steps that come before the first replay of a shape; nothing where they were taken."""
        while tuple(each.shape for each in inputs) not in self._graphs:
            self(*inputs)

    def _warm(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """On a stream of its own, as a capture will be."""
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            result = self._step(*inputs)
        current.wait_stream(aside)
        return result

    def _capture(self, inputs: tuple[Tensor, ...]) -> _Graph[Left]:
        kept = tuple(each.clone() for each in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = self._step(*kept)
        self._pool = graph.pool()
        return _Graph(graph, kept, result, None if self._tell is None else self._tell())

    def _replay(self, graph: _Graph[Left], inputs: tuple[Tensor, ...]) -> Tensor:
        for kept, given in zip(graph.inputs, inputs, strict=True):
            kept.copy_(given)
        graph.graph.replay()
        if self._told is not None and graph.left is not None:
            self._told(graph.left)
        return graph.result.clone()


@dataclasses.dataclass
class _Graph(Generic[Left]):
    """A captured step: where its inputs lie, and what it leaves where."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    result: Tensor
    left: Left | None
