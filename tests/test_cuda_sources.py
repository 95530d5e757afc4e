"""The CUDA sources compile for the GPUs they are written for, and without any: by NVRTC."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "minigrad" / "backend" / "cuda"


def own_sources() -> ModuleType:
    """minigrad.backend.cuda.sources, whose package needs CuPy."""
    spec = importlib.util.spec_from_file_location("sources", FOLDER / "sources.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


sources = own_sources()
NAMES = sorted(path.stem for path in FOLDER.glob("*.cu"))


ARCHITECTURES = ("sm_80", "sm_90")
LOCK = threading.Lock()


def compiled(nvrtc: ctypes.CDLL, name: str, architecture: str) -> tuple[int, str, int]:
    """The status, the log and the size of the result."""
    program = ctypes.c_void_p()
    text = sources.text(name).encode()
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, f"{name}.cu".encode(), 0, None, None)
    assert status == 0
    options = [*sources.OPTIONS, f"--gpu-architecture={architecture}"]
    words = (ctypes.c_char_p * len(options))(*(word.encode() for word in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), words)
    size, made = ctypes.c_size_t(), ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(made))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode(), made.value


RESULTS: dict[tuple[str, str], Future[tuple[int, str, int]]] = {}


def begin(items: Sequence[pytest.Item]) -> None:
    """Compile what the tests ask for, while others run: conftest.py calls it once the tests are chosen."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    # of CUDA 12 in cuda_nvrtc/, of 13 in cu13/
    found = [file for folder in folders for file in Path(folder).glob("*/lib/libnvrtc.so.*")]
    if found:
        for builtins in found[0].parent.glob("libnvrtc-builtins.so.*"):  # or AddressSanitizer's dlopen does not find it
            ctypes.CDLL(str(builtins))
        nvrtc = ctypes.CDLL(str(found[0]))
        RESULTS.update(
            {(item.callspec.params["name"], item.callspec.params["architecture"]): Future() for item in items}
        )
        alone = len(items) == len(items[0].session.items)
        for _ in range((os.cpu_count() or 1) if alone else 1):  # daemons, which do not hold up a run that ends early
            threading.Thread(target=work, args=(nvrtc,), daemon=True).start()


def work(nvrtc: ctypes.CDLL) -> None:
    """Compile what no other thread has begun."""
    for pair, future in RESULTS.items():
        with LOCK:
            begun = future.running() or future.done()
            if not begun:
                future.set_running_or_notify_cancel()
        if not begun:
            try:
                future.set_result(compiled(nvrtc, *pair))
            except BaseException as error:
                future.set_exception(error)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_sources_compile(name: str, architecture: str) -> None:
    if not RESULTS:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)")
    status, log, size = RESULTS[name, architecture].result()
    assert (status, log) == (0, "")  # no warning either
    assert size > 0
