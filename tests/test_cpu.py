"""The instruction set, the number of threads, NumPy's BLAS, and the policy of memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import minigrad as mg
from minigrad import threads
from minigrad._core import blas, cpu
from minigrad.testing.variants import variant


def run(program: str, **environment: str) -> str:
    """What a program prints in a process of its own."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MINIGRAD_", "OMP_", "GOMP_", "MALLOC_"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=plain | environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_the_widest_instruction_set_is_chosen_and_another_can_be_forced() -> None:
    show = "from minigrad._core import cpu; print(cpu.level())"
    assert run(show) == cpu.levels()[-1]
    for level in cpu.levels():
        assert run(show, MINIGRAD_CPU=level) == level


LACKING = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name.rpartition("_")[2] in {lacks} else find(name, *args)
from minigrad._core import cpu
print(*cpu.levels())
"""


@pytest.mark.parametrize("kept", [1, 2])
def test_instruction_sets_that_were_not_built_are_not_chosen(kept: int) -> None:
    lacks = cpu.levels()[kept:]
    assert run(LACKING.format(lacks=lacks)).split() == list(cpu.levels()[:kept])
    assert run(LACKING.format(lacks=cpu.levels())) == "base"


def test_an_instruction_set_that_the_processor_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="MINIGRAD_CPU is 'v9', needs one that this processor has: "):
        cpu.use_level("v9")


def test_kernels_follow_the_instruction_set() -> None:
    kernel = cpu.Kernel("elementwise", "relu")
    assert repr(kernel) == "<kernel elementwise.relu>"
    for level in cpu.levels():
        with variant(level, 1):
            assert kernel(np.array([-1.0, 2.0])).tolist() == [0.0, 2.0]
            assert f"minigrad._core.loops.elementwise_{level}" in sys.modules


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"MINIGRAD_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3"), ({"OMP_NUM_THREADS": "5,2"}, "5")],
)
def test_threads_of_the_environment(environment: dict[str, str], expected: str) -> None:
    assert run("import minigrad as mg; print(mg.get_num_threads())", **environment) == expected


@pytest.mark.parametrize("value", ["", "0", "many", "-2", "²", "9" * 30])
def test_threads_by_default_are_the_cores(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIGRAD_NUM_THREADS", value)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert 1 <= threads.default() <= (os.cpu_count() or 1)


THREADS = """
import threadpoolctl
import minigrad as mg
from minigrad._core import blas
for n in (1, 2):
    mg.set_num_threads(n)
    print(mg.get_num_threads(), *{p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"})
"""


@pytest.mark.skipif(not blas.available(), reason="the BLAS of NumPy was not found")
def test_set_num_threads_reaches_blas() -> None:
    pytest.importorskip("threadpoolctl")
    assert run(THREADS).splitlines() == ["1 1", "2 2"]


@pytest.mark.parametrize(
    ("n", "error", "text"),
    [
        (0, ValueError, "set_num_threads: n is 0, needs 1 to 4096"),
        (2.0, TypeError, "set_num_threads: n is 2.0, needs an int"),
        (True, TypeError, "set_num_threads: n is True, needs an int"),
    ],
)
def test_a_wrong_number_of_threads(n: int, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mg.set_num_threads(n)


FORK = """
import os, warnings
import numpy as np
import minigrad as mg
warnings.simplefilter("ignore")
mg.set_num_threads(2)
def work():
    x = mg.tensor(np.linspace(-1, 1, 300_000, dtype=np.float32), requires_grad=True)
    mg.relu(x).sum().backward()
    return float(x.grad.sum())
expected = work()
pid = os.fork()
if not pid:
    try:
        mg.set_num_threads(2)
    except RuntimeError as error:
        os._exit("n is 2 in a child made by fork" not in str(error) or work() != expected or mg.get_num_threads() != 1)
    os._exit(1)
print(os.waitpid(pid, 0)[1], mg.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_computes_on_one_thread() -> None:
    assert run(FORK) == "0 2"


STEPS = """
import resource
import numpy as np
import minigrad as mg
x = mg.tensor(np.ones({size}, np.float32), requires_grad=True)
def step():
    x.grad = None
    y = x
    for _ in range(4):
        y = y * 1.5
    y.sum().backward()
step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer's allocator takes malloc's place"
)
@pytest.mark.parametrize("size", [300_000, 12_000_000])
def test_a_step_faults_in_no_pages_after_the_first(size: int) -> None:
    pages = 4 * size // 4096
    assert int(run(STEPS.format(size=size))) < pages / 4
    assert int(run(STEPS.format(size=size), MINIGRAD_MALLOC="system")) > pages / 2
