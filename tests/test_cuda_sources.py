"""The CUDA sources compile for the GPUs they are written for, and without any: by NVRTC."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Future[tuple[int, str, int]]]]:
    """All that the tests of this run ask for, compiled side by side."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [file for folder in folders for file in Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.*")]
    if not found:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)")
    nvrtc = ctypes.CDLL(str(found[0]))
    calls = [item.callspec.params for item in request.session.items if item.path == request.path]
    pairs = [(params["name"], params["architecture"]) for params in calls]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {pair: pool.submit(compiled, nvrtc, *pair) for pair in pairs}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_sources_compile(
    results: dict[tuple[str, str], Future[tuple[int, str, int]]], name: str, architecture: str
) -> None:
    status, log, size = results[name, architecture].result()
    assert (status, log) == (0, "")  # no warning either
    assert size > 0
