"""An update as CUDA graphs: recorded once, then started by one call instead of a thousand.

The kernels of a small network take a few microseconds each, less than Python takes to start one, so that a GPU waits
for most of an update. `torch.compile` is no way out: it cannot differentiate a penalty's gradient.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch

WARM_UP = 3  # steps before a recording: libraries choose their kernels, and optimisers make their state, in the first
_RECORDING = threading.Lock()  # by one thread at a time


def can_record(device: torch.device) -> bool:
    """Whether work on such a device can be recorded."""
    return device.type == "cuda"


class Graphs:
    """A step as one graph for each value of its flag, recorded when it is first asked for and replayed from then on.

    device: of the step. generators: all that it draws from; what they are seeded with before a call counts in it.
    """

    def __init__(self, device: torch.device, generators: Iterable[torch.Generator]) -> None:
        self.device, self.generators = device, tuple(generators)
        self.graphs: dict[bool, torch.cuda.CUDAGraph] = {}

    def __call__(
        self, flag: bool, step: Callable[[bool], None], rehearsal: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """`step(flag)`, which does the same work on the same tensors whenever it is called, and looks at no value of
        theirs. Within a rehearsal it has no effect.

        Neither is kept: they are a trainer's own, and a trainer that its graphs knew would hold the GPU's memory until
        Python looks for cycles.
        """
        if flag not in self.graphs:
            with _RECORDING, rehearsal():
                self.graphs[flag] = self._recorded(flag, step)
        self.graphs[flag].replay()

    def forget(self) -> None:
        """Record again: for when the tensors are no longer the same."""
        self.graphs.clear()

    def _recorded(self, flag: bool, step: Callable[[bool], None]) -> torch.cuda.CUDAGraph:
        with torch.cuda.device(self.device):  # streams and graphs are made on the current one
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    step(flag)
            here.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            for generator in self.generators:
                graph.register_generator_state(generator)
            # Other threads may train on streams of their own meanwhile.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                step(flag)
        return graph
