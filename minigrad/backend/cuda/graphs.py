"""CUDA graphs: what a function launches, captured once and launched again as one."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import cupy

from minigrad._core import tape
from minigrad.backend.cuda.capture import Recording
from minigrad.errors import DeviceError, message

__all__ = ["Graph", "aside"]

# what CuPy and CUDA say while a stream is captured, and what it means
REASONS = (
    ("D2H transfers", "reads values of the GPU on the host, as .item(), .tolist(), float(), bool() and print do"),
    ("H2D transfers", "copies an array from the CPU to the GPU"),
    ("synchronous API calls", "copies, and waits for it"),
    ("cuBLAS", "multiplies matrices through CuPy's own cuBLAS, which it does not let capture"),
    ("cuSOLVER", "calls cuSOLVER through CuPy, which it does not let capture"),
    ("cuSPARSE", "calls cuSPARSE through CuPy, which it does not let capture"),
    ("cuRAND", "draws random numbers of CuPy's, which it does not let capture"),
    ("cudaErrorStreamCaptureImplicit", "uses the default stream, on which nothing can be captured"),
    ("cudaErrorStreamCaptureUnjoined", "leaves work on another stream that it does not wait for"),
    ("cudaErrorStreamCapture", "waits for the GPU"),
    ("is capturing", "waits for the GPU"),
)
OURS = ("minigrad", "cupy", "cupyx", "cupy_backends", "contextlib", "numpy")


@contextmanager
def aside(stream: Any) -> Iterator[None]:
    """Run the block on another stream, after what was launched so far and before what comes next."""
    current = cupy.cuda.get_current_stream()
    stream.wait_event(current.record())
    try:
        with stream:
            yield
    finally:
        current.wait_event(stream.record())


class Graph:
    """What a function launches, captured; `launch` does it again, in the same memory.

    All that the function allocates lies in a pool of its own, which lives as long as the graph: nobody else gets what
    the function has given back. The function is called once, and nothing runs meanwhile.

    Parameters
    ----------
    function : callable
        Without arguments; what it returns is kept as `outputs`.
    who : str
        Whom an error names.
    stream : cupy.cuda.Stream
        Where to capture, one that is no default stream; whatever is to be compiled has run there before.

    Raises
    ------
    DeviceError
        If something cannot be captured. The stream is as it was.
    """

    def __init__(self, function: Callable[[], Any], who: str, stream: Any) -> None:
        gc.collect()  # what goes in the midst of a capture might wait for the GPU
        cupy.get_default_memory_pool().free_all_blocks()  # the own pool needs it
        self.pool = cupy.cuda.MemoryPool(lambda size: allocate(size, who))
        with aside(stream), cupy.cuda.using_allocator(self.pool.malloc):
            self.recording = Recording()
            stream.begin_capture()
            tape.forget_cast()  # it would be read where it was, and what is cast now is not there before a launch
            try:
                with self.recording.running():
                    self.outputs = function()
            except BaseException as error:
                end(stream)
                raise_explained(error, who)
                raise
            finally:
                tape.forget_cast()
            try:
                self._graph = stream.end_capture()
            except Exception as error:
                raise_explained(error, who)
                raise
            self._graph.upload()
        self._last: Any = None  # the stream of the launch before

    def prepare(self, shift: int) -> None:
        """Do what the host has to before a launch, on the same stream; random counters move by `shift`."""
        current = cupy.cuda.get_current_stream()
        if self._last is not None and self._last != current:  # the memory is that of the launch before
            current.wait_event(self._last.record())
        self._last = current
        self.recording.send(shift)

    def launch(self) -> None:
        """Run it on the current stream."""
        self._graph.launch()


def allocate(size: int, who: str) -> Any:
    """Memory for the pool, which must not free any to find some: the graph may have used it already."""
    try:
        return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        need = "memory beside that of the steps that are not captured"
        raise MemoryError(message(who, "the GPU", f"without {size} bytes more ({error})", need)) from None


def end(stream: Any) -> None:
    """End a capture that has failed; the error of this says nothing new."""
    with suppress(cupy.cuda.runtime.CUDARuntimeError):
        stream.end_capture()


def raise_explained(error: BaseException, who: str) -> None:
    """Raise what says what was done, and where, in place of an error about capturing."""
    for cause in chain(error):
        text = str(cause)
        reason = next((why for words, why in REASONS if words in text), None)
        if reason is not None and isinstance(cause, (RuntimeError, NotImplementedError)):
            got = f"one that {reason}{place(cause) or place(error)}"
            hint = f"What looks at values has to stay outside. CUDA says: {text}"
            raise DeviceError(message(who, "the step", got, "one that launches kernels alone", hint)) from error


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def place(error: BaseException) -> str:
    """The innermost line outside of this package that led to an error."""
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in OURS:
            return f", at {frame.f_code.co_filename}:{line}, in {frame.f_code.co_name}"
    return ""
