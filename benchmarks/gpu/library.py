"""The two libraries: how each makes tensors on the GPU, waits for it, and tells what it is.

A dry run, on a machine without a GPU, has the tests' stand-in for CuPy on one side and PyTorch's CPU on the other.
"""

from __future__ import annotations

import abc
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parent.parent.parent / "tests"


class Library(abc.ABC):
    """What the workloads ask of a library."""

    name: str
    version: str

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.base = self.free()

    @abc.abstractmethod
    def put(self, array: Any, dtype: str | None = None, grad: bool = False) -> Any:
        """An array as a tensor on the GPU."""

    @abc.abstractmethod
    def host(self, tensor: Any) -> Any:
        """A tensor's values in float64."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait for the GPU."""

    @abc.abstractmethod
    def free(self) -> int:
        """Bytes of the GPU that nobody has."""

    @abc.abstractmethod
    def gpu(self) -> dict[str, Any]:
        """What the GPU is."""

    @abc.abstractmethod
    def event(self) -> Any:
        """An event of the GPU, which knows when it came to it."""

    def seconds(self, run: Callable[[], Any], number: int) -> float:
        """Seconds of so many calls, by the GPU's own clock where there is one."""
        if self.dry:
            self.synchronize()
            begun = time.perf_counter()
            for _ in range(number):
                run()
            self.synchronize()
            return time.perf_counter() - begun
        start, end = self.event(), self.event()
        start.record()
        for _ in range(number):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def taken(self) -> int:
        """Bytes that were taken from the GPU since the start: both libraries keep what they once had."""
        self.synchronize()
        return max(0, self.base - self.free())


class Minigrad(Library):
    """minigrad, through CuPy."""

    name = "minigrad"

    def __init__(self, dry: bool) -> None:
        if dry:
            sys.path.insert(0, str(TESTS))
            self.stand_in = importlib.import_module("stand_in_cupy").installed()
            self.stand_in.__enter__()
        import minigrad as mg

        self.mg, self.version = mg, mg.__version__
        mg.ones(1, device="cuda")
        if not dry:
            mg.cuda.compile_kernels()
        super().__init__(dry)

    def put(self, array: Any, dtype: str | None = None, grad: bool = False) -> Any:
        made = self.mg.asarray(array, device="cuda")
        return self.mg.tensor(made if dtype is None else made.astype(getattr(self.mg, dtype)), requires_grad=grad)

    def host(self, tensor: Any) -> Any:
        return tensor.detach().to("cpu").numpy().astype(np.float64)

    def synchronize(self) -> None:
        self.mg.cuda.synchronize()

    def free(self) -> int:
        return int(self.mg.cuda.memory_stats()["free"])

    def gpu(self) -> dict[str, Any]:
        return dict(self.mg.cuda.get_device_properties())

    def event(self) -> Any:
        return self.mg.cuda.Event(enable_timing=True)


class Torch(Library):
    """PyTorch."""

    name = "torch"

    def __init__(self, dry: bool) -> None:
        import torch

        self.torch, self.version = torch, torch.__version__
        self.device = "cpu" if dry else "cuda"
        if not dry:
            torch.ones(1, device="cuda")
        super().__init__(dry)

    def put(self, array: Any, dtype: str | None = None, grad: bool = False) -> Any:
        made = self.torch.from_numpy(np.array(array, order="C")).to(self.device)
        made = made if dtype is None else made.to(getattr(self.torch, dtype))
        return made.requires_grad_() if grad else made

    def host(self, tensor: Any) -> Any:
        return tensor.detach().cpu().double().numpy()  # not there: it would take memory

    def synchronize(self) -> None:
        if not self.dry:
            self.torch.cuda.synchronize()

    def free(self) -> int:
        return 0 if self.dry else int(self.torch.cuda.mem_get_info()[0])

    def gpu(self) -> dict[str, Any]:
        if self.dry:
            return {"name": "CPU"}
        found = self.torch.cuda.get_device_properties(0)
        return {"name": found.name, "total_memory": found.total_memory}

    def event(self) -> Any:
        return self.torch.cuda.Event(enable_timing=True)

    def compile(self, function: Callable[..., Any], mode: str | None = None) -> Callable[..., Any]:
        """A function as ``torch.compile`` makes it; a dry run does without its C++ compiler."""
        made: Callable[..., Any]
        if self.dry:
            made = self.torch.compile(function, backend="eager")
        else:
            made = self.torch.compile(function, mode=mode)
        return made


LIBRARIES: dict[str, type[Library]] = {"minigrad": Minigrad, "torch": Torch}
