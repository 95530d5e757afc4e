"""What a user gets: the package and its data, light dependencies, and plain words where the core cannot be built."""

import importlib.metadata
import importlib.resources
import importlib.util
import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import minigrad
import minigrad.nn

ROOT = Path(__file__).resolve().parent.parent


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nn_is_a_subpackage():
    assert minigrad.nn.__name__ == "minigrad.nn"
    assert minigrad.nn.__spec__.parent == "minigrad.nn"


def test_version_is_that_of_the_metadata():
    assert minigrad.__version__ == importlib.metadata.version("minigrad")


def test_types_and_data_are_installed():
    files = importlib.resources.files("minigrad")
    assert files.joinpath("py.typed").is_file()
    assert files.joinpath("data", "digits.npz").is_file()


@pytest.mark.parametrize("folder", ["minigrad", "nn"])
def test_every_folder_of_modules_is_a_package(folder):
    holding_modules = {file.parent for file in (ROOT / folder).rglob("*.py")}
    assert [str(path.relative_to(ROOT)) for path in holding_modules if not (path / "__init__.py").exists()] == []


def test_import_needs_only_the_declared_dependencies():
    declared = {
        re.split(r"[^\w.-]", requirement)[0].lower()
        for requirement in importlib.metadata.requires("minigrad") or []
        if "extra ==" not in requirement
    }
    script = (
        "import sys; from importlib.metadata import packages_distributions as distributions\n"
        "before = set(sys.modules)\n"
        "import minigrad, minigrad.nn\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*{owner.lower() for name, owners in distributions().items() if name in new for owner in owners})"
    )
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(loaded.stdout.split()) - {"minigrad"} <= declared


def test_importing_the_core_leaves_subnormals_alone():
    # A library linked with -ffast-math makes the processor flush them to zero, for the whole process.
    smallest = np.full(4, np.finfo(np.float32).smallest_subnormal)
    assert (smallest * np.float32(1) > 0).all()
    assert (np.full(4, np.finfo(np.float32).tiny) / np.float32(2) > 0).all()


def test_without_a_compiler_the_build_says_what_to_install(tmp_path):
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path}"]
    missing = str(tmp_path / "no-such-compiler")
    built = subprocess.run(command, cwd=ROOT, env=os.environ | {"CC": missing}, capture_output=True, text=True)
    assert built.returncode == 1
    assert "apt install gcc python3-dev" in built.stderr
    assert missing in built.stderr
    assert "Traceback" not in built.stderr


class Picky:
    """A compiler that knows some flags only."""

    def __init__(self, lacks, error):
        self.lacks, self.error = lacks, error

    def compile(self, sources, output_dir, extra_postargs):
        if any(flag.startswith(self.lacks) for flag in extra_postargs):
            raise self.error("no such flag")


@pytest.mark.parametrize(
    ("lacks", "built", "flags"),
    [
        (("-no-such",), {"v2", "v3", "v4"}, "-march=x86-64-v4 -mprefer-vector-width=512"),
        (("-march=x86-64",), {"v2", "v3", "v4"}, "-mavx512vl -mprefer-vector-width=512"),  # gcc before 11
        (("-march=x86-64-v4", "-mavx512"), {"v2", "v3"}, "-march=x86-64-v3"),
        (("-march", "-m"), {"base"}, ""),  # macOS, for two processors at once
    ],
)
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="other processors have one level")
def test_instruction_sets_that_the_compiler_lacks_are_left_out(lacks, built, flags, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    setuptools = pytest.importorskip("setuptools")
    setup = load(ROOT / "setup.py")
    build = setup.BuildCore(setuptools.Distribution({"ext_modules": setup.core()}))
    build.extensions = build.distribution.ext_modules
    before = {e.name for e in build.extensions if not e.name.startswith(setup.LOOPS)}
    build.compiler = Picky(lacks, setup.CCompilerError)
    build.choose_levels()
    loops = {e.name.rpartition("_")[2]: e for e in build.extensions if e.name.startswith(setup.LOOPS)}
    assert set(loops) == built
    assert {e.name for e in build.distribution.ext_modules if not e.name.startswith(setup.LOOPS)} == before
    assert " ".join(loops[max(built)].extra_compile_args).endswith(flags or setup.COMPILE_ARGS[-1])
    assert ("left out" in capsys.readouterr().err) == (built != {"v2", "v3", "v4"})


def test_the_wheel_check_names_what_is_missing_and_what_is_too_much(tmp_path):
    check = load(ROOT / "tools" / "check_wheel.py")
    wheel = tmp_path / "minigrad-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in check.expected() - {"minigrad/nn/__init__.py"} | {"tests/stray.py"}:
            archive.writestr(name, "")
    with pytest.raises(SystemExit) as stopped:
        check.check_contents(wheel)
    message = str(stopped.value)
    assert "missing: minigrad/nn/__init__.py" in message
    assert "should not be there: tests/stray.py" in message
    assert "not compiled: " in message
    assert "no license: LICENSE" in message
