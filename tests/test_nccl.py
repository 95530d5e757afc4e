"""Ranks with a GPU each: NCCL's collectives, and training that equals one process; on stand-ins where there is none."""

from __future__ import annotations

import importlib
import math
import os
import queue
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
from minigrad.errors import DeviceError
from minigrad.parallel import nccl

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # tests are no package, and the ranks get this path
functions = importlib.import_module("nccl_functions")
alone, pipelines, sharded, split = (
    importlib.import_module(f"{name}_functions") for name in ("rank", "pipeline", "sharded", "split")
)
stand_in = pytest.mark.skipif(functions.REAL, reason="plants faults in the stand-in")
pytestmark = pytest.mark.skipif(functions.REAL and mg.cuda.device_count() < 3, reason="needs three GPUs")

PROGRAM = """
import os, signal, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
import stand_in_nccl
stand_in_nccl.install(3)
import minigrad as mg
from minigrad import nn, parallel

world = parallel.init()
model = parallel.DataParallel(nn.Dense(64, in_features=64).to("cuda"), bucket_size=1)
for step in range(1000):
    if step == 5 and world.rank == 1:
        with open(sys.argv[2], "w") as file:
            file.write(str(time.monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)
    model(mg.ones((2, 64), device="cuda")).sum().backward()
    world.allreduce(mg.ones(100_000, device="cuda"))
"""

BY_MPI = """
import sys
sys.path.insert(0, sys.argv[1])
import nccl_functions as functions
import numpy as np
from minigrad import parallel

found = functions.laws(2, 3, (5, 2), "bfloat16", "mean", "plain", False)
found = functions.laws(2, 3, (5, 2), "float32", "sum", "strided", False)
sys.stdout.write(f"{parallel.init()} {functions.where()[0]}\\n")
"""
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


class Ranks:
    """A group that is made anew after a failure, so that Hypothesis can go on."""

    made: parallel.Group | None = None

    def run(self, name: str, *args: Any, where: Any = functions) -> list[Any]:
        if self.made is None or self.made.broken:
            self.made = parallel.Group(3, threads_each=1, timeout=60.0)
        if where is functions:
            return self.made.run(getattr(functions, name), *args)
        return self.made.run(functions.on_gpu, where.__name__, name, *args)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    made = Ranks()
    yield made
    if made.made is not None:
        made.made.close()


def close(found: Any, wanted: Any, bound: float) -> None:
    if wanted is None:
        assert found is None
        return
    wanted = np.asarray(wanted, np.float64)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound * max(1.0, float(np.abs(wanted).max(initial=0))))


@given(
    size=st.integers(1, 3),
    seed=st.integers(0, 1000),
    shape=st.lists(st.integers(0, 7), max_size=3).map(tuple),
    kind=st.sampled_from(
        [(dtype, op) for dtype in ("float16", "bfloat16", "float32", "float64") for op in ("sum", "mean", "max")]
        + [(f"{sign}int{bits}", op) for sign in ("", "u") for bits in (8, 16, 32, 64) for op in ("sum", "max")]
        + [("bool", "max"), ("complex64", "sum"), ("complex128", "mean")]
    ),
    layout=st.sampled_from(["plain", "strided"]),
    special=st.booleans(),
)
def test_collectives(
    ranks: Ranks, size: int, seed: int, shape: tuple[int, ...], kind: tuple[str, str], layout: str, special: bool
) -> None:
    special = special and kind[0].startswith(("float", "bfloat"))
    found = ranks.run("laws", size, seed, shape, *kind, layout, special)[:size]
    assert all(own == found[0] for own in found)


def test_many_elements(ranks: Ranks) -> None:
    for kind in (("float32", "mean"), ("bfloat16", "mean"), ("float32", "max")):
        found = ranks.run("laws", 3, 7, (100_003, 3), *kind, "plain", False)
        assert found[0] == found[1] == found[2]


def test_each_rank_has_its_gpu(ranks: Ranks) -> None:
    wanted = [(f"cuda:{rank}", f"cuda:{rank}", [3.0, 3.0], False) for rank in range(3)]
    assert ranks.run("where") == wanted


@stand_in
def test_ranks_beyond_the_gpus_start_again_at_the_first(ranks: Ranks) -> None:
    for found in ranks.run("order_of_gpus"):
        assert found == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]


@stand_in
@pytest.mark.slow
@pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")
def test_ranks_of_mpi() -> None:
    pytest.importorskip("mpi4py")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-c", BY_MPI, str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | allowed)
    assert done.returncode == 0, done.stderr
    lines = [f"Communicator(mpi, rank {rank} of 2) cuda:{rank}" for rank in range(2)]
    assert sorted(done.stdout.splitlines()) == lines


# --- DataParallel ---------------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(
    size=st.integers(1, 3),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from(["float32", "float64"]),
    options=st.fixed_dictionaries(
        {
            "bucket_size": st.sampled_from([1, 100, 300, 10**6]),
            "parts": st.integers(1, 2),
            "norm": st.sampled_from(["layer", "batch"]),
            "sparse": st.booleans(),
            "dropout": st.sampled_from([0.0, 0.3]),
            "clip": st.booleans(),
            "batch_size": st.just(36),
        }
    ),
)
def test_ranks_on_parts_equal_one_process(
    ranks: Ranks, size: int, seed: int, dtype: str, options: dict[str, Any]
) -> None:
    bound = {"float64": 1e-12, "float32": 2e-6}[dtype]
    # on a GPU the gradient of a table is a full array, and so momentum moves all of its rows
    losses, grads, weights, _ = alone.train(1, seed, dtype, {**options, "sparse": False})
    found = ranks.run("train", size, seed, dtype, options, where=alone)[:size]
    for own, own_grads, own_weights, _ in found:
        assert own == found[0][0]
        close(own, losses, bound)
        for name, wanted in grads.items():
            close(own_grads[name], wanted, bound)
            assert wanted is None or own_grads[name].tobytes() == found[0][1][name].tobytes()
        for name, wanted in weights.items():
            close(own_weights[name], wanted, bound)
            assert own_weights[name].tobytes() == found[0][2][name].tobytes()


def test_overflow_on_one_rank_skips_the_step_on_all(ranks: Ranks) -> None:
    found = ranks.run("train", 3, 7, "float32", {"scaled": True, "overflow": (1, 1)}, where=alone)
    assert [scale for *_, scale in found] == [512.0] * 3
    for name, weight in found[0][2].items():
        assert np.isfinite(weight).all()
        assert {own[2][name].tobytes() for own in found} == {weight.tobytes()}


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_gradients_sent_as_half_are_those_of_the_cpu(ranks: Ranks, name: str) -> None:
    """They are added in float32, in the order of the ranks, so the first step's have the same bits."""
    options = {"compression": name, "bucket_size": 10**6}
    found = ranks.run("train", 2, 8, "float64", options, where=alone)[:2]
    assert ranks.made is not None
    on_cpu = ranks.made.run(alone.train, 2, 8, "float64", options)[0]
    half = alone.DTYPES[name]
    for key, grad in found[0][1].items():
        assert grad is None or (grad.astype(half).astype(np.float64) == grad).all()
        close(grad, on_cpu[1][key], float(alone.ml_dtypes.finfo(half).eps))
    assert {own[2]["last.weight"].tobytes() for own in found} == {found[0][2]["last.weight"].tobytes()}


def test_a_model_may_move_once_it_is_wrapped(ranks: Ranks) -> None:
    found = ranks.run("moved")
    for stays, moves in found:
        close(moves, stays, 1e-6)
        assert moves.tobytes() == found[0][1].tobytes()


@stand_in
def test_gradients_are_averaged_on_a_stream_of_their_own(ranks: Ranks) -> None:
    for calls, waits in ranks.run("streams"):
        assert calls == [("allReduce", "side"), ("allReduce", "main")]
        assert waits == 1  # before what comes after backward


def test_a_trainer(ranks: Ranks) -> None:
    for on_cpu, on_gpu in ranks.run("trainer"):
        close(on_gpu, on_cpu, 1e-5)


# --- what else is parallel ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("compression", [None, "float16"])
def test_sharded_optimizers(ranks: Ranks, stage: int, compression: str | None) -> None:
    plan = {
        "seed": 4, "stage": stage, "optimizer": "AdamW", "dtype": "float32", "compression": compression, "clip": True,
        "parts": 2, "sparse": compression is None,
    }  # fmt: skip
    found = ranks.run("train", 3, plan, where=sharded)
    wanted = ranks.run("train", 3, {**plan, "stage": 0}, where=sharded)[0]
    for own in found:
        for name, weight in wanted[0].items():
            assert own[0][name].tobytes() == found[0][0][name].tobytes()
            close(own[0][name], weight, 1e-6)
        assert list(own[1]["state"]) == list(wanted[1]["state"])
        for key, state in wanted[1]["state"].items():
            for name, value in state.items():
                close(own[1]["state"][key][name], value, 1e-6)


@pytest.mark.parametrize("stage", [1, 2])
def test_overflow_skips_the_step_of_a_sharded_optimizer(ranks: Ranks, stage: int) -> None:
    plan = {"seed": 5, "stage": stage, "optimizer": "AdamW", "dtype": "float32", "scaled": True, "overflow": (1, 2)}
    for own in ranks.run("train", 3, plan, where=sharded):
        assert own[4] == ([True, False, True], 512.0)
        assert all(np.isfinite(weight).all() for weight in own[0].values())


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_tensor_parallel_models(ranks: Ranks, kind: str) -> None:
    losses, norms, grads, weights, _ = split.train(0, kind, 3)
    found = ranks.run("train", 2, kind, 3, where=split)[:2]
    for own in found:
        close(own[0], losses, 1e-12)
        close(own[1], norms, 1e-12)
        for name, grad in grads.items():
            close(own[2][name], grad, 1e-12)
        for name, weight in weights.items():
            close(own[3][name], weight, 1e-12)
            assert own[3][name].tobytes() == found[0][3][name].tobytes()


def test_a_target_that_is_no_class_makes_the_loss_nan(ranks: Ranks) -> None:
    for right, wrong, ignored in ranks.run("wrong_classes"):
        assert right == ignored == pytest.approx(math.log(6))
        assert math.isnan(wrong)


@pytest.mark.parametrize(
    ("kind", "plan"), [("dense", {}), ("batch", {"checkpoint": False}), ("dense", {"mesh": {"data": 3, "pipeline": 1}})]
)
def test_pipelines(ranks: Ranks, kind: str, plan: dict[str, Any]) -> None:
    losses, norms, weights, _, _ = pipelines.plain(kind, 12, 4 if kind == "batch" else 1)
    found = ranks.run("train", 3, kind, 12, 4, plan, where=pipelines)
    for own in found:
        close(own[0], losses, 1e-12)
        close(own[1], norms, 1e-12)
        for name, weight in weights.items():
            close(own[2][name], weight, 1e-12)
            assert own[2][name].tobytes() == found[0][2][name].tobytes()
        close(own[6], found[0][6], 1e-12)


# --- when something is wrong ----------------------------------------------------------------------------------------


@stand_in
def test_ranks_that_share_a_gpu() -> None:
    text = r"parallel: the GPU is .*, on both of ranks 0 and 1, needs one of its own for each rank\. Start no more"
    with parallel.Group(2, threads_each=1) as group, pytest.raises(DeviceError, match=text):
        group.run(functions.fails, "shared", 1)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("out", "allreduce: out is a ndarray, needs a ndarray on the GPU, as x"),
        ("recover", "DataParallel.recover: the model is on GPUs, which may have made half of a step"),
        ("mixed", "DataParallel: parameters of a bucket is some on the CPU and some on a GPU, needs all on one device"),
    ],
)
def test_refusals(ranks: Ranks, how: str, text: str) -> None:
    for said in ranks.run("refusal", how):
        assert said.startswith(text)


@stand_in
def test_graphs_are_refused(ranks: Ranks) -> None:
    need = "allreduce: got a CUDA graph that is being captured, needs no graph: call the step itself"
    assert ranks.run("captured") == [need] * 3


@stand_in
def test_an_array_on_the_gpu_of_another_rank(ranks: Ranks) -> None:
    said = ranks.run("refusal", "other")[0]
    assert said == "allreduce: x is an array on cuda:1, needs one on cuda:0, the current GPU. See mg.cuda.set_device"


@stand_in
def test_counts_that_differ_end_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_NCCL_TIMEOUT", "0.5")
    text = r"allreduce: rank \d is told by NCCL: NCCL_ERROR_REMOTE_ERROR"
    with parallel.Group(2, threads_each=1) as group, pytest.raises(parallel.ParallelError, match=text):
        group.run(functions.fails, "counts")


@stand_in
def test_a_rank_that_dies_ends_the_others(tmp_path: Path) -> None:
    """They wait for it in NCCL, which does not find out; the launcher does."""
    program, when = tmp_path / "program.py", tmp_path / "when"
    program.write_text(PROGRAM)
    words = ["-m", "minigrad.launch", "-n", "3", "--threads", "1", str(program), str(HERE), str(when)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 137
    assert time.monotonic() - float(when.read_text()) < 3.0  # 0.3 s on a quiet machine
    assert done.stderr == ("minigrad.launch: rank 1 was killed by SIGKILL; the system does that when memory runs out\n")


class Link:
    """A link on which something goes wrong, and an event that never comes."""

    done = False

    def __init__(self, error: Exception | None) -> None:
        self.error, self.aborted = error, 0

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def abort(self) -> None:
        self.aborted += 1


@pytest.mark.parametrize(
    ("error", "late", "text"),
    [
        (None, 0.05, "allreduce: waited for the GPUs of the other ranks 0.5 s"),
        (
            RuntimeError("NCCL_ERROR_REMOTE_ERROR: remote error"),
            60.0,
            "allreduce: NCCL_ERROR_REMOTE_ERROR: remote error",
        ),
    ],
)
def test_what_does_not_come_to_its_end_is_given_up(error: Exception | None, late: float, text: str) -> None:
    link, jobs, said = Link(error), queue.SimpleQueue[Any](), list[str]()
    jobs.put(("broadcast", type("Event", (), {"done": True})(), time.monotonic() - 1.0, 0.5))  # done, if late
    jobs.put(("allreduce", link, time.monotonic() + late, 0.5))
    nccl.watch(jobs, link, said.append)
    assert said == [text]
    assert link.aborted == 1


def test_the_watch_ends_with_the_communicator() -> None:
    jobs = queue.SimpleQueue[Any]()
    jobs.put(None)
    nccl.watch(jobs, Link(None), pytest.fail)
