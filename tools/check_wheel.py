"""Try a built wheel the way a user meets it: a fresh environment, an empty folder, nothing of the checkout in reach.

    python tools/check_wheel.py dist/minigrad-0.1.0-*.whl

First the wheel must hold every module of minigrad/ and nn/, the data and the license, and nothing else.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SMOKE = """
import sys
import minigrad as mg
import minigrad.nn
from importlib.metadata import version

assert mg.__file__.startswith(sys.prefix), mg.__file__
assert minigrad.nn.__file__.startswith(sys.prefix), minigrad.nn.__file__
x = mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
(x * x).sum().backward()
assert x.grad.tolist() == [2.0, 4.0, 6.0], x.grad
layer = minigrad.nn.Dense(2, in_features=3)
layer(x).sum().backward()
assert layer.weight.grad.shape == (3, 2), layer.weight.grad.shape
assert len(mg.data.load_digits().train_images) > 1000
print(f"minigrad {version('minigrad')} imports, differentiates and finds its data under {sys.version.split()[0]}")
"""


def expected() -> set[str]:
    """The names of the Python modules, stubs and data that the checkout holds, as they lie in a wheel."""
    patterns = (
        "*.py",
        "*.pyi",
        "py.typed",
        "data/*.npz",
        "data/*.csv.gz",
        "data/*.md",
        "backend/cuda/*.cu",
        "backend/cuda/*.cuh",
    )
    engine = {file.relative_to(ROOT) for pattern in patterns for file in (ROOT / "minigrad").rglob(pattern)}
    layers = {Path("minigrad") / file.relative_to(ROOT) for file in (ROOT / "nn").rglob("*.py")}
    return {file.as_posix() for file in engine | layers}


def check_contents(wheel: Path) -> None:
    """Compare the wheel's list of files with the checkout's."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    compiled = {name for name in names if name.endswith(".so")}
    modules = {Path(name).name.split(".")[0] for name in compiled}
    levels = {name.rpartition("_")[2] for name in modules if name.startswith("halves_")}
    sources = {source.stem for source in (ROOT / "minigrad/_core").glob("*.pyx")}
    sources |= {f"{s.stem}_{level}" for s in (ROOT / "minigrad/_core/loops").glob("*.pyx") for level in levels or {"?"}}
    problems = {
        "missing": expected() - names,
        "should not be there": names - metadata - compiled - expected(),
        "not compiled": sources - modules,
        "no license": set() if any(name.endswith("/LICENSE") for name in metadata) else {"LICENSE"},
    }
    if any(problems.values()):
        lines = [f"  {problem}: {', '.join(sorted(files))}" for problem, files in problems.items() if files]
        sys.exit("\n".join([f"{wheel.name} is wrong:", *lines]))


def check_import(wheel: Path) -> None:
    """Install the wheel in an environment of its own and use it from an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        home, empty = Path(folder, "venv"), Path(folder, "empty")
        empty.mkdir()
        venv.create(home, with_pip=True)
        python = str(home / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel.resolve())]
        for command in (pip, [python, "-W", "error", "-c", SMOKE]):
            if status := subprocess.run(command, cwd=empty, check=False).returncode:
                sys.exit(status)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    check_contents(wheel)
    check_import(wheel)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, good")
