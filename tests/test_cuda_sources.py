"""The CUDA sources compile for the GPUs they are written for, and without any: by NVRTC."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).resolve().parent.parent / "minigrad" / "backend" / "cuda").glob("*.cu"))
OPTIONS = ("--std=c++17", "--fmad=false")  # those of minigrad/backend/cuda/modules.py, which needs CuPy


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [file for folder in folders for file in Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.*")]
    if not found:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)")
    return ctypes.CDLL(str(found[0]))


def test_options_are_those_of_the_package() -> None:
    text = (SOURCES[0].parent / "modules.py").read_text(encoding="utf-8")
    assert f"OPTIONS = {OPTIONS}".replace("'", '"') in text


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_sources_compile(nvrtc: ctypes.CDLL, source: Path, architecture: str) -> None:
    program = ctypes.c_void_p()
    text = source.read_bytes()
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None)
    assert status == 0
    options = [*OPTIONS, f"--gpu-architecture={architecture}"]
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
