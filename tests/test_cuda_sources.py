"""The CUDA sources compile for the GPUs they are written for, and without any: by NVRTC."""

from __future__ import annotations

import ctypes
import importlib.util
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


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [file for folder in folders for file in Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.*")]
    if not found:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)")
    return ctypes.CDLL(str(found[0]))


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", NAMES)
def test_sources_compile(nvrtc: ctypes.CDLL, name: str, architecture: str) -> None:
    program = ctypes.c_void_p()
    text = sources.text(name).encode()
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, f"{name}.cu".encode(), 0, None, None)
    assert status == 0
    options = [*sources.OPTIONS, f"--gpu-architecture={architecture}"]
    words = (ctypes.c_char_p * len(options))(*(word.encode() for word in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), words)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert (status, log.value.decode()) == (0, "")  # no warning either
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    assert size.value > 0
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
