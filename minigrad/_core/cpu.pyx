"""What the kernels know of the processor: its instruction set, how many threads to use, and how memory is kept."""
from libc.stdlib cimport getenv

import os
import sys
from importlib.util import find_spec

from minigrad import threads

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
    #if !defined(__clang__) && __GNUC__ >= 11
    #define MG_LZCNT __builtin_cpu_supports("lzcnt")
    #define MG_F16C __builtin_cpu_supports("f16c")
    #else
    #define MG_LZCNT 1
    #define MG_F16C 1
    #endif
    static int mg_has_v3(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
            && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && MG_LZCNT && MG_F16C;
    }
    static int mg_has_v4(void) {
        return mg_has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512vl");
    }
    #if defined(__clang__) || __GNUC__ >= 11
    static int mg_has_bf16(void) { return mg_has_v4() && __builtin_cpu_supports("avx512bf16"); }
    #else
    static int mg_has_bf16(void) { return 0; }
    #endif
    #else
    static int mg_has_v3(void) { return 0; }
    static int mg_has_v4(void) { return 0; }
    static int mg_has_bf16(void) { return 0; }
    #endif
    #if defined(__GLIBC__)
    #include <malloc.h>
    static int mg_keep_memory(void) { return mallopt(M_MMAP_MAX, 0) && mallopt(M_TRIM_THRESHOLD, -1); }
    static int mg_return_memory(void) { return malloc_trim(0); }
    #else
    static int mg_keep_memory(void) { return 0; }
    static int mg_return_memory(void) { return 0; }
    #endif
    """
    bint mg_has_v3() nogil
    bint mg_has_v4() nogil
    bint mg_has_bf16() nogil
    bint mg_keep_memory() nogil
    bint mg_return_memory() nogil

# ---- the instruction set ---------------------------------------------------------------------------------------------

cdef list _kernels = []
cdef list _watched = None


def find_levels():
    """The instruction sets that the processor has and the loops were built for, base where there is no other one."""
    known = ("base",)
    if os.uname().machine in ("x86_64", "amd64") if hasattr(os, "uname") else False:
        known = ("base", "v2", "v3", "v4")[:4 if mg_has_v4() else 3 if mg_has_v3() else 2]
    # a compiler may know fewer than the processor has
    return tuple([name for name in known if find_spec(f"minigrad._core.loops.elementwise_{name}")]) or ("base",)


cdef tuple _levels = find_levels()
cdef str _level = _levels[len(_levels) - 1]


def levels():
    """The instruction sets that can be used here, the widest last: x86-64-v2, -v3 and -v4, elsewhere only base."""
    return _levels


def level():
    """The instruction set whose loops run."""
    return _level


def use_level(str name not None):
    """Run the loops of another instruction set from now on; returns the one before."""
    global _level
    if name not in _levels:
        raise ValueError(f"MINIGRAD_CPU is {name!r}, needs one that this processor has: {', '.join(_levels)}")
    before, _level = _level, name
    unload()
    return before


def has_bf16():
    """Whether the processor multiplies bfloat16 (AVX512_BF16) and the loops in use may."""
    return _level == "v4" and mg_has_bf16()


if os.environ.get("MINIGRAD_CPU"):
    use_level(os.environ["MINIGRAD_CPU"])


cdef unload():
    """Let each kernel be loaded anew when it is called next."""
    for kernel in _kernels:
        (<Kernel>kernel).function = None


def watch(list seen):
    """Note every call of a kernel from now on as (its name, whether it took the arguments); None ends it."""
    global _watched
    _watched = seen
    unload()


def watched(str name, function, list seen):
    """A function that notes its calls."""
    def call(*args, **kwargs):
        out = function(*args, **kwargs)
        seen.append((name, out is not NotImplemented))
        return out
    return call


cdef class Kernel:
    """A function of a module in ``_core/loops``, in the variant for the instruction set; loaded when first called."""

    def __init__(self, str module not None, str name not None):
        self.module, self.name = module, name
        _kernels.append(self)

    cdef object load(self):
        if self.function is None:
            name = f"minigrad._core.loops.{self.module}_{_level}"
            if name not in sys.modules:
                __import__(name)
            self.function = getattr(sys.modules[name], self.name)
            if _watched is not None:
                self.function = watched(f"{self.module}.{self.name}", self.function, _watched)
        return self.function

    def __call__(self, *args, **kwargs):
        return self.load()(*args, **kwargs)

    def __repr__(self):
        return f"<kernel {self.module}.{self.name}>"


# ---- threads ---------------------------------------------------------------------------------------------------------

cdef int _threads = threads.default()
cdef npy_intp _parallel = PARALLEL
cdef bint _forked = False

if os.environ.get("MINIGRAD_NUM_THREADS"):
    from minigrad._core import blas
    blas.set_threads(_threads)


cdef int num_threads() noexcept nogil:
    return _threads


cdef int threads_for(npy_intp work) noexcept nogil:
    return _threads if work >= _parallel else 1


def get_threads():
    """The number of threads that loops are shared among."""
    return _threads


def set_threads(int n):
    """Share loops among `n` threads."""
    global _threads
    if n > 1 and _forked:
        raise RuntimeError(
            f"set_num_threads: n is {n} in a child made by fork, needs 1: OpenMP's threads do not survive a fork. "
            "Start processes by spawn or forkserver"
        )
    _threads = n


def set_parallel_from(npy_intp elements):
    """Share loops of that many elements and more; returns what was set before."""
    global _parallel
    before, _parallel = _parallel, elements
    return before


def stay_alone():
    """In a child made by fork, stay on one thread: libgomp's are gone, and a parallel region would wait for them."""
    global _forked
    set_threads(1)
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=stay_alone)

# ---- memory ----------------------------------------------------------------------------------------------------------


def keep_memory():
    """Let malloc keep what is freed, however large, so that a training step faults in no pages after the first."""
    return mg_keep_memory()


def return_memory():
    """Give memory that is free back to the system; returns whether there was any."""
    return mg_return_memory()


if getenv("MINIGRAD_MALLOC") == NULL or getenv("MINIGRAD_MALLOC") != b"system":
    keep_memory()
