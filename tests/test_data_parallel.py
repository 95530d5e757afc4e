"""DataParallel: N ranks on parts of a batch make the step of one process on the whole of it."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, parallel
from minigrad.errors import GradError

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package, and the ranks get this path
functions = importlib.import_module("rank_functions")
BOUNDS = {"float64": 1e-12, "float32": 1e-6}


@pytest.fixture(scope="module")
def group() -> Iterator[parallel.Group]:
    with parallel.Group(4, threads_each=1, timeout=60.0) as made:
        yield made


def is_close(found: Any, wanted: Any, bound: float) -> None:
    """To `bound`, relative to the largest number of the array."""
    if wanted is None:
        assert found is None
        return
    assert found is not None
    wanted = np.asarray(wanted, np.float64)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound * max(1.0, float(np.abs(wanted).max(initial=0))))


def compare(group: parallel.Group, size: int, seed: int, dtype: str, options: dict[str, Any], bound: float) -> None:
    """The ranks among each other, bit for bit, and with one process on the whole batch."""
    agree(group.run(functions.train, size, seed, dtype, options)[:size], seed, dtype, options, bound)


def agree(found: list[Any], seed: int, dtype: str, options: dict[str, Any], bound: float) -> None:
    """What the ranks have found, among each other and with one process."""
    losses, grads, weights, scale = functions.train(1, seed, dtype, {**options, "overflow": None})
    loss_scale = 1024 if options.get("scaled") else 1  # the gradients are those of the scaled loss
    for own, own_grads, own_weights, own_scale in found:
        assert own == found[0][0]
        assert own_scale == scale
        is_close(own, losses, bound)
        for name, wanted in grads.items():
            is_close(*(g if g is None else g / loss_scale for g in (own_grads[name], wanted)), bound)
            assert wanted is None or own_grads[name].tobytes() == found[0][1][name].tobytes()
        for name, wanted in weights.items():
            is_close(own_weights[name], wanted, bound)
            assert own_weights[name].tobytes() == found[0][2][name].tobytes()


@pytest.mark.parametrize("size", [2, 4])
def test_what_is_trained_may_change(group: parallel.Group, size: int) -> None:
    """As in fine-tuning: a layer that is trained later is averaged as well."""
    ranks = group.run(functions.thawed, size)[:size]
    wanted = functions.thawed(1)
    assert [np.count_nonzero(np.abs(step[:-4]) > 0) > 0 for step in wanted] == [False, True, False]
    for found in ranks:
        assert found == ranks[0]
        for got, want in zip(found, wanted, strict=True):
            is_close(got, want, 1e-6)


@given(
    size=st.integers(1, 4),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from(["float32", "float64"]),
    options=st.fixed_dictionaries(
        {
            "bucket_size": st.sampled_from([1, 100, 300, 10**6]),
            "parts": st.integers(1, 3),
            "clip": st.booleans(),
            "norm": st.sampled_from(["layer", "batch"]),
            "sparse": st.booleans(),
            "dropout": st.sampled_from([0.0, 0.3]),
            "batch_size": st.sampled_from([24, 48]),
            "skew": st.just(1),
        }
    ),
)
def test_ranks_on_parts_equal_one_process(
    group: parallel.Group, size: int, seed: int, dtype: str, options: dict[str, Any]
) -> None:
    if options["dropout"]:
        options["batch_size"] = 72  # ranks have equal parts of it, however it is cut, as equal masks need
    compare(group, size, seed, dtype, options, BOUNDS[dtype])


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_parts_of_unequal_sizes(group: parallel.Group, norm: str) -> None:
    compare(group, 3, 5, "float64", {"skew": 2, "batch_size": 27, "norm": norm}, 1e-12)


def test_loss_scaling(group: parallel.Group) -> None:
    compare(group, 2, 6, "float32", {"scaled": True, "clip": True, "parts": 2}, 1e-6)


def test_overflow_on_one_rank_skips_the_step_on_all(group: parallel.Group) -> None:
    options = {"scaled": True, "overflow": (1, 1)}
    found = group.run(functions.train, 3, 7, "float32", options)[:3]
    plain = group.run(functions.train, 3, 7, "float32", {"scaled": True})[:3]
    assert [scale for *_, scale in found] == [512.0] * 3
    assert [scale for *_, scale in plain] == [1024.0] * 3
    for name, weight in found[0][2].items():
        assert np.isfinite(weight).all()
        assert {own[2][name].tobytes() for own in found} == {weight.tobytes()}
    assert found[0][2]["last.weight"].tobytes() != plain[0][2]["last.weight"].tobytes()


@pytest.mark.parametrize(("name", "bound"), [("bfloat16", 2e-2), ("float16", 2e-3)])
def test_gradients_sent_as_half(group: parallel.Group, name: str, bound: float) -> None:
    options = {"compression": name, "bucket_size": 10**6}
    found = group.run(functions.train, 4, 8, "float32", options)
    exact = functions.train(1, 8, "float32", {})
    is_close(found[0][2]["last.weight"], exact[2]["last.weight"], bound)
    grads = {name: g for name, g in found[0][1].items() if g is not None}
    half = functions.DTYPES[name]
    for grad in grads.values():
        assert (grad.astype(half).astype(np.float32) == grad).all()
    assert {own[2]["last.weight"].tobytes() for own in found} == {found[0][2]["last.weight"].tobytes()}


def test_rows_stay_rows(group: parallel.Group) -> None:
    """Row-sparse gradients are gathered; what no rank used stays None."""
    found = group.run(functions.rows_only)
    wanted = found[0]
    assert found == [wanted] * 4
    assert wanted[0] == "RowSparse"
    assert wanted[1] == [0, 1, 2, 3, 5]
    np.testing.assert_allclose(wanted[2], np.array([1, 1, 1, 1, 4])[:, None] * np.ones((1, 2)) / 4)
    assert wanted[3] is None


def test_shapes_that_wait_for_the_first_batch(group: parallel.Group) -> None:
    found = group.run(functions.deferred)
    assert all(own == found[0] for own in found)


def test_ranks_with_other_models() -> None:
    with (
        parallel.Group(2, threads_each=1, timeout=60.0) as made,
        pytest.raises(parallel.ParallelError, match="the same parameters and buffers on every rank"),
    ):
        made.run(functions.unlike_models)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TypeError, match=r"module is \[\], needs a Module"):
        parallel.DataParallel([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs float16 or bfloat16"):
        parallel.DataParallel(nn.Dense(1, in_features=1), compression=mg.float64)
    with pytest.raises(ValueError, match="count is 0 on all ranks"):
        parallel.DataParallel(nn.Dense(1, in_features=1)).weighted(mg.asarray(1.0), 0)


def test_a_leaf_tells_when_its_gradient_is_complete() -> None:
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    seen: list[Any] = []

    def end() -> None:
        seen.append("end")

    def hook(leaf: Any) -> Any:
        seen.append(leaf.grad.tolist())
        return end

    remove = x.register_post_accumulate_grad_hook(hook)
    twice = x.register_post_accumulate_grad_hook(hook)
    (x * x + 3 * x).sum().backward()
    assert seen == [[5.0, 7.0], [5.0, 7.0], "end"]
    twice()
    seen.clear()
    x.register_hook(lambda g: g * 10)
    (x * 2).sum().backward()
    assert seen == [[25.0, 27.0], "end"]
    seen.clear()
    assert mg.grad((x * 2).sum(), x).tolist() == [20.0, 20.0]
    assert seen == []
    remove()
    x.sum().backward()
    assert seen == []
    y = x * 2
    with pytest.raises(GradError, match="no leaf"):
        y.register_post_accumulate_grad_hook(hook)


def test_hooks_for_afterwards_leave_kernels_their_way() -> None:
    """A gradient that a kernel adds to in place is complete, and told once."""
    w = nn.Parameter(np.ones((64, 64), np.float32))
    seen: list[float] = []
    w.register_post_accumulate_grad_hook(lambda leaf: seen.append(float(leaf.grad.sum())))
    for _ in range(2):
        (mg.ones((32, 64)) @ w).sum().backward()
    assert seen == [32 * 64 * 64, 2 * 32 * 64 * 64]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_dropout_of_attention_is_that_of_the_whole_batch(group: parallel.Group, checkpointed: bool) -> None:
    wanted = functions.attention(1, checkpointed)
    for size in (2, 3, 4):
        for own in group.run(functions.attention, size, checkpointed)[:size]:
            for found, grad in zip(own, wanted):
                is_close(found, grad, 1e-6)


@given(st.integers(0, 40), st.integers(1, 700), st.sampled_from([0.1, 0.5]))
def test_a_part_of_a_mask(first: int, n: int, rate: float) -> None:
    """What a rank drops is a part of what one process does, by the kernel and by the mask."""
    whole = mg.ops.dropout(mg.ones(first + n), rate, key=(5, 6)).numpy()
    part = mg.ops.dropout(mg.ones(n), rate, key=(5, 6, first)).numpy()
    assert part.tobytes() == whole[first:].tobytes()
    assert (mg.ops.keep_mask((n,), 5, 6, rate, first).numpy() == (part != 0)).all()


MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
MPI_PROGRAM = """
import pickle, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import rank_functions
from minigrad import parallel
world = parallel.init()
assert world.engine == "mpi" and world.size == 4, world
jobs = pickle.loads(Path({folder!r}, "jobs").read_bytes())
made = [rank_functions.train(*job) for job in jobs]
Path({folder!r}, f"rank{{world.rank}}").write_bytes(pickle.dumps(made))
"""
JOBS = st.tuples(
    st.integers(1, 4),
    st.integers(0, 1000),
    st.sampled_from(["float32", "float64"]),
    st.fixed_dictionaries(
        {
            "bucket_size": st.sampled_from([1, 100, 300, 10**6]),
            "parts": st.integers(1, 3),
            "clip": st.booleans(),
            "norm": st.sampled_from(["layer", "batch"]),
            "sparse": st.booleans(),
            "dropout": st.sampled_from([0.0, 0.3]),
            "batch_size": st.just(72),
        },
        optional={"scaled": st.just(True)},
    ),
)


@pytest.mark.slow
@pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")
@given(jobs=st.lists(JOBS, min_size=8, max_size=12))
@settings(max_examples=2, phases=[Phase.generate])  # a program each, too slow to shrink
def test_ranks_of_mpi_equal_one_process(jobs: list[Any]) -> None:
    pytest.importorskip("mpi4py")
    assert MPIEXEC is not None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "jobs").write_bytes(pickle.dumps(jobs))
        program = Path(folder, "program.py")
        program.write_text(MPI_PROGRAM.format(tests=str(Path(__file__).parent), folder=folder))
        own = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1"}
        own["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
        own["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
        command = [MPIEXEC, "-n", "4", sys.executable, str(program)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=own, check=False)
        assert done.returncode == 0, done.stderr
        ranks = [pickle.loads(Path(folder, f"rank{rank}").read_bytes()) for rank in range(4)]
    for number, (size, seed, dtype, options) in enumerate(jobs):
        agree([made[number] for made in ranks[:size]], seed, dtype, options, BOUNDS[dtype])
