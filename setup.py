"""Build the Cython core and map the top-level folder ``nn/`` to the package ``minigrad.nn``.

Everything static is in pyproject.toml; this file holds only what has to be computed.
``MINIGRAD_DEBUG=1`` builds the core with bounds checks, assertions and debug symbols.
"""

import os
import platform
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

# The modules in _core/loops are built once for each of these that the compiler knows, in the first spelling that it
# takes (gcc before 11 has no names for the levels); minigrad/_core/cpu.pyx chooses when it is imported. Where v2 cannot
# be built, as where code for two processors is made at once, base stands in for it.
LEVELS: dict[str, list[list[str]]] = {"base": [[]]}
if platform.machine().lower() in ("x86_64", "amd64"):
    V2 = ["-mcx16", "-mpopcnt", "-msahf", "-msse4.2"]
    V3 = [*V2, "-mavx2", "-mbmi", "-mbmi2", "-mf16c", "-mfma", "-mlzcnt", "-mmovbe"]
    V4 = [*V3, "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl"]
    WHOLE = "-mprefer-vector-width=512"
    LEVELS = {
        "v2": [["-march=x86-64-v2"], V2],
        "v3": [["-march=x86-64-v3"], V3],
        "v4": [["-march=x86-64-v4", WHOLE], [*V4, WHOLE]],
        "base": [[]],
    }
CORE = Path("minigrad", "_core")
LOOPS = "minigrad._core.loops."

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
        self.choose_levels()
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
            source.write_text("#include <omp.h>\nint probe(void) { return omp_get_max_threads(); }\n", encoding="utf-8")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=["-fopenmp"])
                self.compiler.link_shared_object(objects, str(Path(folder, "probe.so")), extra_postargs=["-fopenmp"])
            except (CCompilerError, BaseError):
                print("minigrad: this compiler has no OpenMP; the loops will run on one thread", file=sys.stderr)
            else:
                for extension in self.extensions:
                    extension.extra_compile_args.append("-fopenmp")
                    extension.extra_link_args.append("-fopenmp")

    def choose_levels(self) -> None:
        """Give the loops the flags of their instruction sets, and leave out the sets that the compiler lacks."""
        found = {level: self.known(spellings) for level, spellings in LEVELS.items()}
        lacking = [level for level, flags in found.items() if flags is None]
        if lacking:
            names = ", ".join(f"x86-64-{level}" for level in lacking)
            print(f"minigrad: this compiler cannot build for {names}; its loops are left out", file=sys.stderr)
        if found.get("v2") is not None:
            del found["base"]
        kept = []
        for extension in self.extensions:
            if extension.name.startswith(LOOPS):
                flags = found.get(extension.name.rpartition("_")[2])
                if flags is None:
                    continue
                extension.extra_compile_args += flags
            kept.append(extension)
        self.extensions[:] = kept  # the distribution has the same list

    def known(self, spellings: list[list[str]]) -> list[str] | None:
        """The first of several spellings of flags that the compiler takes."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("int probe(void) { return 0; }\n", encoding="utf-8")
            for flags in spellings:
                try:
                    self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
                except (CCompilerError, BaseError):
                    continue
                return flags
        return None

    def translate(self) -> None:
        """Replace every module's .pyx by the C file that Cython makes of it, the same one for each instruction set."""
        import numpy
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError

        # Cython looks at the sources' dates; the directives are here.
        changed = Path("setup.py").stat().st_mtime
        stale = any(file.stat().st_mtime < changed for file in (BUILD / "cython").rglob("*.c"))
        sources = {extension.sources[0] for extension in self.extensions}
        modules = [Extension(".".join(Path(source).with_suffix("").parts), [source]) for source in sorted(sources)]
        try:
            translated = cythonize(
                modules,
                build_dir=str(BUILD / "cython"),
                compiler_directives=DIRECTIVES,
                nthreads=JOBS,
                force=stale or bool(self.force),
            )
        except CompileError as error:  # Cython has printed the lines at fault
            raise SystemExit(f"minigrad: Cython cannot translate the core: {error}") from None
        files = {module.name: Path(module.sources[0]).resolve() for module in translated}
        for extension in self.extensions:
            source = Path(extension.sources[0])
            file = files[".".join(source.with_suffix("").parts)]
            extension.sources = [str(file if source.parent == CORE else variant(extension.name, file))]
            extension.depends.append(str(file))
            extension.include_dirs.append(numpy.get_include())


def variant(name: str, file: Path) -> Path:
    """A C file that includes `file` under the name of one variant of the module, since objects lie beside sources."""
    title = name.rpartition(".")[2]
    text = f'#define PyInit_{file.stem} PyInit_{title}\n#include "{file.as_posix()}"\n'
    made = BUILD / "variants" / f"{title}.c"
    made.parent.mkdir(parents=True, exist_ok=True)
    if not made.exists() or made.read_text(encoding="utf-8") != text:
        made.write_text(text, encoding="utf-8")
    return made


def core() -> list[Extension]:
    """One extension for every ``minigrad/_core/*.pyx``, and one for every level of those in ``_core/loops``."""
    modules = [(source, source.stem) for source in sorted(CORE.glob("*.pyx"))]
    for source in sorted(CORE.glob("loops/*.pyx")):
        modules += [(source, f"loops.{source.stem}_{level}") for level in LEVELS]
    return [
        Extension(
            f"minigrad._core.{name}",
            sources=[str(source)],
            define_macros=MACROS,
            undef_macros=["NDEBUG"] if DEBUG else [],
            extra_compile_args=list(COMPILE_ARGS),
            extra_link_args=list(LINK_ARGS),
            depends=["setup.py"],
        )
        for source, name in modules
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
