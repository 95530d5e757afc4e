"""Collectives: what each gives, on every engine, however the ranks come; and what ends them."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import parallel
from minigrad._core import cpu, shared
from minigrad.errors import DTypeError, ShapeError
from minigrad.parallel import start

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package, and the ranks get this path
functions = importlib.import_module("rank_functions")

SHAPES: Any = st.one_of(
    st.just(()),
    st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple),
    st.integers(0, 9000).map(lambda n: (n,)),
    st.sampled_from([(131_072,), (131_073,), (400_001,), (700, 501)]),
)


class Ranks:
    """A group that is made anew after a failure, so that Hypothesis can go on."""

    made: parallel.Group | None = None

    def run(self, function: Any, *args: Any) -> list[Any]:
        if self.made is None or self.made.broken:
            self.made = parallel.Group(4, threads_each=1, timeout=60.0)
        return self.made.run(function, *args)


@pytest.fixture(scope="module")
def group() -> Iterator[Ranks]:
    ranks = Ranks()
    yield ranks
    if ranks.made is not None:
        ranks.made.close()


@st.composite
def cases(draw: Any) -> tuple[Any, ...]:
    dtype = draw(st.sampled_from(sorted(functions.DTYPES)))
    kind = functions.DTYPES[dtype].kind
    ops = {"b": ["max"], "i": ["sum", "max"], "u": ["sum", "max"], "c": ["sum", "mean"]}.get(
        kind, ["sum", "mean", "max"]
    )
    return (
        draw(st.integers(1, 4)), draw(st.integers(0, 10**6)), draw(SHAPES), dtype, draw(st.sampled_from(ops)),
        draw(st.sampled_from(["plain", "fortran", "strided", "reversed"])), kind in "fV" and draw(st.booleans()),
    )  # fmt: skip


@given(cases())
def test_each_collective_gives_what_it_says(group: Ranks, case: tuple[Any, ...]) -> None:
    found = group.run(functions.laws, *case)[: case[0]]
    assert all(sums == found[0] for sums in found)


@settings(max_examples=10)
@given(cases())
def test_one_rank_alone(case: tuple[Any, ...]) -> None:
    assert functions.laws(1, *case[1:]) is not None


def test_the_order_in_time_changes_nothing(group: Ranks) -> None:
    found = group.run(functions.late_ranks, 5, 6)
    for number in range(6):
        xs = [np.random.default_rng([5, number, rank]).normal(size=70_000).astype(np.float32) for rank in range(4)]
        assert {sums[number] for sums in found} == {(((xs[0] + xs[1]) + xs[2]) + xs[3]).tobytes()}


def test_float32_sums_are_close_to_those_in_float64(group: Ranks) -> None:
    xs = functions.draw(3, 4, (5000,), "float32")
    got = np.frombuffer(group.run(functions.laws, 4, 3, (5000,), "float32", "sum", "plain", False)[0], np.float32)
    np.testing.assert_allclose(got, np.sum(np.array(xs, np.float64), axis=0), rtol=0, atol=4 * 400 * 2.0**-24)


def test_groups_form_a_mesh(group: Ranks) -> None:
    assert group.run(functions.mesh) == [[11, 101, 3], [11, 1010, 2], [1100, 101, 1], [1100, 1010, 0]]


def test_a_thread_may_use_a_duplicate(group: Ranks) -> None:
    assert group.run(functions.beside_a_thread, 30) == [True] * 4


def test_tensors_are_answered_with_tensors(group: Ranks) -> None:
    assert group.run(functions.tensors) == [["Tensor", False, [1.0, 1.5], [0, 1, 2, 3]]] * 4


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("raise", ValueError, "boom"),
        ("kill", parallel.ParallelError, "rank 1 was killed by SIGKILL"),
        ("unlike", parallel.ParallelError, "came to (barrier|allreduce of 400000 numbers .float32, sum.)"),
        ("late", parallel.ParallelError, "has waited for the other ranks 0.[23]"),
        ("shape", ShapeError, "needs one dtype and equal extents but the first"),
        ("recv", parallel.ParallelError, "killed by SIGKILL"),
    ],
)
def test_a_failure_ends_the_others(how: str, error: type[Exception], words: str) -> None:
    made = parallel.Group(2, threads_each=1, timeout=0.2 if how == "late" else 60.0)
    made.run(os.getpid)
    begun = time.monotonic()
    with pytest.raises(error, match=words):
        made.run(functions.fail, how)
    assert time.monotonic() - begun < 5.0  # not the timeout: a machine may be busy
    with pytest.raises(parallel.ParallelError, match="the group has ended"):
        made.run(os.getpid)


@pytest.mark.parametrize(
    ("how", "first", "second", "words"),
    [
        ("allreduce", ((2, 3),), ((3, 2),), "came to allreduce of 6 numbers .float64, sum. of another dtype or shape"),
        ("allreduce", (4, "f4"), (2, "c8"), "of another dtype or shape"),
        ("allreduce", (4, "i4"), (4, "u4"), "of another dtype or shape"),
        ("broadcast", (2, "f8"), (4, "f4"), "came to broadcast of 16 bytes from rank 0 of another dtype or shape"),
        ("broadcast", ((),), ((1,),), "of another dtype or shape"),
        ("reduce_scatter", ((4,),), ((4,),), "or with other rows"),
        ("all_gather", ((2, 2, 3),), ((1, 3, 2),), "x is of another dtype or shape on rank"),
    ],
)
def test_arrays_that_differ_are_not_mixed(how: str, first: Any, second: Any, words: str) -> None:
    """As many bytes of another shape or type would give numbers, wrong ones."""
    with parallel.Group(2, threads_each=1, timeout=60.0) as made:
        said = made.run(functions.unlike_arrays, how, first, second)
    assert all("another" in text for text in said), said
    assert any(re.search(words, text) for text in said), said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel takes no memory back from a file")
def test_groups_that_are_dropped_give_their_memory_back() -> None:
    with parallel.Group(3, threads_each=1, timeout=60.0) as made:
        for before, after in made.run(functions.memory_of_groups, 8):
            assert after == before


@pytest.mark.parametrize("shift", [-300_000, -1, 0, 1, 300_000])
def test_a_result_may_lie_over_what_is_summed(shift: int) -> None:
    with parallel.Group(2, threads_each=1, timeout=60.0) as made:
        assert made.run(functions.onto_itself, shift) == [True, True]


def test_what_no_pickle_holds() -> None:
    with parallel.Group(2, threads_each=1, timeout=60.0) as made:
        with pytest.raises((AttributeError, pickle.PicklingError), match="<lambda>"):
            made.run(lambda: None)
        assert made.run(os.getpid) == [process.pid for process in made.processes]
        with pytest.raises((AttributeError, pickle.PicklingError), match="no_answer"):
            made.run(functions.no_answer)


def test_copies_of_what_knows_its_ranks() -> None:
    with parallel.Group(2, threads_each=1, timeout=60.0) as made:
        for said, shared_ranks, own_weight in made.run(functions.copies):
            assert "DataParallel: got a copy, needs none" in said
            assert (shared_ranks, own_weight) == (True, True)


def test_errors_name_what_does_not_fit() -> None:
    world = parallel.init()
    for call, words in [
        (lambda: world.split(0.5), "split: color is 0.5, needs an int or None"),  # type: ignore[arg-type]
        (lambda: world.split(0, key=0.5), "split: key is 0.5, needs an int or None"),  # type: ignore[arg-type]
        (lambda: world.broadcast([1], None), "broadcast: root is None, needs an int"),  # type: ignore[arg-type]
        (lambda: world.send([1], "0"), "send: to is '0', needs an int"),  # type: ignore[arg-type]
        (lambda: world.allreduce([1.0], out=mg.ones(1)), "out is a Tensor, needs a numpy.ndarray"),
    ]:
        with pytest.raises(TypeError, match=words):
            call()
    with pytest.raises(ValueError, match="op is 'product', needs 'sum', 'mean' or 'max'"):
        world.allreduce(1.0, "product")
    with pytest.raises(DTypeError, match="mean"):
        world.allreduce(np.ones(2, np.int32), "mean")
    with pytest.raises(DTypeError, match="maximum"):
        world.allreduce(np.ones(2, np.complex64), "max")
    with pytest.raises(DTypeError, match="sum"):
        world.allreduce(np.ones(2, np.bool_))
    with pytest.raises(DTypeError, match="numbers or bools"):
        world.broadcast(np.array(["a"]))
    with pytest.raises(DTypeError, match="byte order"):
        world.allreduce(np.ones(2, ">f4"))
    with pytest.raises(ShapeError, match=r"out is float32 .3,., needs float32 .2,., as x"):
        world.allreduce(np.ones(2, np.float32), out=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="in C order"):
        world.allreduce(np.ones(2, np.float32), out=np.ones(4, np.float32)[::2])
    with pytest.raises(ShapeError, match="an axis to cut"):
        world.reduce_scatter(1.0)
    with pytest.raises(ValueError, match="root is 1, needs a rank from 0 to 0"):
        world.broadcast(1.0, 1)
    with pytest.raises(ValueError, match="other than 0"):
        world.send(1.0, 0)


def test_init_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_world", None)
    world = parallel.init()
    assert parallel.init() is world
    assert parallel.init("single") is world
    assert (world.size, world.rank, world.engine) == (1, 0, "single")
    assert world.split(None) is None
    with pytest.raises(RuntimeError, match="needs 'single', which runs already"):
        parallel.init("processes")
    monkeypatch.setattr(start, "_world", None)
    with pytest.raises(RuntimeError, match=r"minigrad\.launch"):
        parallel.init("processes")
    with pytest.raises(ValueError, match="engine is 'nccl'"):
        parallel.init("nccl")
    assert isinstance(world.allreduce(mg.ones(2)), mg.Tensor)
    with pytest.raises(SystemExit):
        world.abort()


@pytest.mark.parametrize(
    ("names", "under"),
    [
        ({}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"PMI_SIZE": "1"}, False),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, True),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"PMIX_RANK": "0", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "8"}, False),  # of the job's script, which runs once
    ],
)
def test_what_mpiexec_sets_is_found(names: dict[str, str], under: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OMPI_", "PMI", "SLURM_"))]:
        monkeypatch.delenv(name)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert start._under_mpi() is under


MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

MPI_PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import rank_functions
from minigrad import parallel
from minigrad._core import cpu, shared
world = parallel.init()
assert world.engine == "mpi" and world.size == 3, world
rank_functions.laws(3, 1, (700, 300), "float32", "mean", "strided", False)
for seed, (dtype, op) in enumerate([("bfloat16", "sum"), ("int8", "sum"), ("bool", "max"), ("float64", "max")]):
    for shape in [(), (0, 2), (7, 3), (5000,)]:
        rank_functions.laws(3, seed, shape, dtype, op, "fortran", False)
assert rank_functions.beside_a_thread(5)
print(f"rank {{world.rank}}: {{rank_functions.late_ranks(2, 2)[1][:8].hex()}}\\n", end="")
if len(sys.argv) > 1 and world.rank == 1:
    raise ValueError("boom")
world.barrier()
"""


@pytest.mark.slow
@pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")
@pytest.mark.parametrize("fails", [False, True])
def test_mpi_gives_the_same_bits(tmp_path: Path, fails: bool) -> None:
    pytest.importorskip("mpi4py")
    assert MPIEXEC is not None
    program = tmp_path / "program.py"
    program.write_text(MPI_PROGRAM.format(tests=str(Path(__file__).parent)))
    command = [MPIEXEC, "-n", "3", sys.executable, str(program), *(["fail"] if fails else [])]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    if fails:
        assert done.returncode != 0
        assert "ValueError: boom" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    xs = [np.random.default_rng([2, 1, rank]).normal(size=70_000).astype(np.float32) for rank in range(3)]
    want = ((xs[0] + xs[1]) + xs[2]).tobytes()[:8].hex()
    assert sorted(done.stdout.split("\n"))[1:] == [f"rank {rank}: {want}" for rank in range(3)]


@pytest.mark.parametrize("dtype", sorted(set(functions.DTYPES) - {"bool", "complex64", "complex128"}))
def test_every_instruction_set_combines_alike(dtype: str) -> None:
    name = dtype
    for op in ("sum", "mean", "max"):
        if op == "mean" and "int" in dtype:
            continue
        if op == "sum" and dtype.startswith("int"):
            name = f"u{dtype}"
        xs = functions.draw(4, 5, (2_500,), dtype, special="float" in dtype)
        wanted = functions.combined(xs, op)
        for level in cpu.levels():
            before = cpu.use_level(level)
            try:
                out = np.empty_like(xs[0])
                shared.combine(xs, out, out.itemsize, shared.kinds[name if op == "sum" else dtype], shared.ops[op])
                first = xs[0].copy()
                given = [first, *xs[1:]]
                shared.combine(given, first, out.itemsize, shared.kinds[name if op == "sum" else dtype], shared.ops[op])
            finally:
                cpu.use_level(before)
            assert functions.same(out, wanted), (level, op)
            assert functions.same(first, wanted), (level, op, "in place")


def test_a_timeout_is_a_time() -> None:
    block = start.Block(1)
    with pytest.raises(ValueError, match=r"timeout is 0\.0, needs seconds, more than 0"):
        block.communicator(0, 0.0)
    assert int(block.communicator(0, float("inf")).allreduce(3)) == 3
    with pytest.raises(ValueError, match="the number of ranks is 0"):
        start.Block(0)
