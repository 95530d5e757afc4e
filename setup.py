"""Build the Cython core and map the top-level folder ``nn/`` to the package ``minigrad.nn``.

Everything static is in pyproject.toml; this file holds only what has to be computed.
``MINIGRAD_DEBUG=1`` builds the core with bounds checks, assertions and debug symbols.
"""

import os
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

DEBUG = os.environ.get("MINIGRAD_DEBUG", "0") not in ("", "0")
JOBS = os.cpu_count() or 1
# One folder a flavor: neither Cython nor setuptools rebuilds a file because the flavor changed.
BUILD = Path("build", "debug" if DEBUG else "release")

DIRECTIVES = {
    "language_level": 3,
    "embedsignature": True,
    "auto_pickle": False,  # Tensor says how it is pickled; what Cython makes up would take any bytes for a state
    "cdivision": True,
    # Off in the debug build too: there a negative index fails the bounds check instead of wrapping silently.
    "wraparound": False,
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
}
MACROS: list[tuple[str, str | None]] = [
    ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
    ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
]
COMPILE_ARGS = [
    "-Wall",
    "-Wextra",
    # Only what Cython's own generated code triggers: helpers that a module does not call, arguments that a slot's
    # signature demands, slots left zero, method tables cast to one type, temporaries of a removed assertion.
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-Wno-unused-variable",
]
LINK_ARGS: list[str] = []
if DEBUG:
    COMPILE_ARGS += ["-O1", "-g"]
else:
    # Never -ffast-math (it switches the whole process to flush-to-zero) and never -march=native (wheels travel).
    COMPILE_ARGS += ["-O3", "-fno-math-errno", "-fno-trapping-math"]
    MACROS += [("CYTHON_WITHOUT_ASSERTIONS", None)]
    if sys.platform == "linux":
        LINK_ARGS += ["-Wl,-s"]

# Further flags of single modules, by the name of their .pyx: {"softmax": ["-fopenmp"]}. Compiler and linker get them.
MODULE_ARGS: dict[str, list[str]] = {}

NO_COMPILER = """
minigrad: the Cython core cannot be built: there is no working C compiler, or Python's headers are missing.

    compiler: {compiler}
    headers:  {headers}
    problem:  {problem}

Install both, then try again:
    Debian, Ubuntu   apt install gcc python3-dev
    Fedora, RHEL     dnf install gcc python3-devel
    Alpine           apk add gcc musl-dev python3-dev
    macOS            xcode-select --install
If the compiler lies elsewhere, name it in the environment variable CC."""


class BuildCore(build_ext):
    """build_ext that translates and compiles in parallel, and says what to install where there is no compiler."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or JOBS
        if self.inplace:
            # An editable install would build in a temporary folder, and so compile every module every time.
            self.build_lib = str(BUILD / "inplace")
            self.build_temp = str(BUILD / "inplace-temp")

    def build_extensions(self) -> None:
        self.check_compiler()
        self.translate()
        super().build_extensions()

    def check_compiler(self) -> None:
        """Compile one line that includes Python.h; stop with instructions where that fails."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("#include <Python.h>\n", encoding="utf-8")
            try:
                self.compiler.compile([str(source)], output_dir=folder, include_dirs=self.include_dirs)
            except (CCompilerError, BaseError) as error:
                compiler = " ".join(self.compiler.compiler_so[:1])
                headers = sysconfig.get_path("include")
                raise SystemExit(NO_COMPILER.format(compiler=compiler, headers=headers, problem=error)) from None

    def translate(self) -> None:
        """Replace every module's .pyx by the C file that Cython makes of it."""
        import numpy
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError

        # Cython looks at the sources' dates; the directives are here.
        changed = Path("setup.py").stat().st_mtime
        stale = any(file.stat().st_mtime < changed for file in BUILD.rglob("*.c"))
        try:
            translated = cythonize(
                self.extensions,
                build_dir=str(BUILD / "cython"),
                compiler_directives=DIRECTIVES,
                nthreads=JOBS,
                force=stale or bool(self.force),
            )
        except CompileError as error:  # Cython has printed the lines at fault
            raise SystemExit(f"minigrad: Cython cannot translate the core: {error}") from None
        for extension, module in zip(self.extensions, translated, strict=True):
            extension.sources = module.sources
            extension.include_dirs.append(numpy.get_include())


def core() -> list[Extension]:
    """One extension for every ``minigrad/_core/*.pyx``."""
    return [
        Extension(
            f"minigrad._core.{source.stem}",
            sources=[str(source)],
            define_macros=MACROS,
            undef_macros=["NDEBUG"] if DEBUG else [],
            extra_compile_args=COMPILE_ARGS + MODULE_ARGS.get(source.stem, []),
            extra_link_args=LINK_ARGS + MODULE_ARGS.get(source.stem, []),
            depends=["setup.py"],
        )
        for source in sorted(Path("minigrad/_core").glob("*.pyx"))
    ]


def packages() -> list[str]:
    """Every package under ``minigrad/``, and those under ``nn/`` by the name that they are imported with."""
    found = find_packages(include=["minigrad", "minigrad.*", "nn", "nn.*"])
    return [name if name.split(".")[0] == "minigrad" else f"minigrad.{name}" for name in found]


if __name__ == "__main__":
    setup(
        packages=packages(),
        package_dir={"minigrad.nn": "nn"},
        ext_modules=core(),
        cmdclass={"build_ext": BuildCore},
        options={"build": {"build_base": str(BUILD)}},
    )
