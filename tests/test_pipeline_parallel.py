"""Pipelines and meshes: stages and micro-batches give what one process gives, and come to an end."""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, parallel
from minigrad.errors import ShapeError
from minigrad.parallel.pipeline import cut_layers

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package, and the ranks get this path
functions = importlib.import_module("pipeline_functions")


class Ranks:
    """A group that is made anew after a failure, so that Hypothesis can go on."""

    made: parallel.Group | None = None

    def run(self, function: Any, *args: Any) -> list[Any]:
        if self.made is None or self.made.broken:
            self.made = parallel.Group(4, threads_each=1, timeout=30.0)
        return self.made.run(function, *args)


@pytest.fixture(scope="module")
def group() -> Iterator[Ranks]:
    ranks = Ranks()
    yield ranks
    if ranks.made is not None:
        ranks.made.close()


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12, strict=True)


def compare(found: list[Any], wanted: Any) -> None:
    """Losses, norms, weights and the optimizer's state with those of one process, and the ranks with each other."""
    losses, norms, weights, state, _ = wanted
    for own in found:
        close(own[0], losses)
        close(own[1], norms)
        assert sorted(own[2]) == sorted(weights)
        for name, weight in weights.items():
            close(own[2][name], weight)
            assert own[2][name].tobytes() == found[0][2][name].tobytes()
        close(own[6], found[0][6])
        if own[3] is not None:
            assert sorted(own[3]["param_groups"][0]["params"]) == sorted(state["param_groups"][0]["params"])
            for key, entries in state["state"].items():
                for name, value in entries.items():
                    close(own[3]["state"][key][name], value)


@settings(max_examples=10)
@given(
    size=st.integers(1, 4),
    parts=st.integers(1, 6),
    n=st.sampled_from([6, 7, 12]),
    checkpoint=st.booleans(),
    kind=st.sampled_from(["dense", "batch"]),
    cut=st.lists(st.integers(1, 2), min_size=4, max_size=4),
    given_stages=st.booleans(),
)
def test_stages_give_what_one_process_gives(
    group: Ranks, size: int, parts: int, n: int, checkpoint: bool, kind: str, cut: list[int], given_stages: bool
) -> None:
    n = 12 if kind == "batch" else n  # a normalization needs two items
    first = cut[: size - 1]
    stages = [*first, 5 - sum(first)] if given_stages and sum(first) < 5 else None
    plan = {"checkpoint": checkpoint and kind == "dense", "stages": stages}
    found = group.run(functions.train, size, kind, n, parts, plan)[:size]
    compare(found, functions.plain(kind, n, parts))
    for rank, own in enumerate(found):
        assert own[5] <= min(size - rank, parts)  # micro-batches whose activations are held


def test_memory_of_a_stage(group: Ranks) -> None:
    found = group.run(functions.train, 4, "attention", 8, 8, {})
    wanted = functions.plain("attention", 8, 8)
    compare(found, wanted)
    assert sum(own[4] for own in found) == wanted[4]
    assert max(own[4] for own in found) <= 0.4 * wanted[4]
    assert [own[5] for own in found] == [4, 3, 2, 1]


@pytest.mark.parametrize("mesh", [{"data": 2, "pipeline": 2}, {"tensor": 2, "pipeline": 2}, {"data": 2, "tensor": 2}])
def test_a_mesh_gives_what_one_process_gives(group: Ranks, mesh: dict[str, int]) -> None:
    found = group.run(functions.train, 4, "attention", 12, 3, {"mesh": mesh})
    compare(found, functions.plain("attention", 12, 1))


def test_a_mesh_with_a_sharded_optimizer(group: Ranks) -> None:
    plan = {"mesh": {"data": 2, "pipeline": 2}, "steps": (0, 2)}
    sharded = group.run(functions.train, 4, "dense", 12, 3, {**plan, "sharded": True})
    for own in sharded:
        assert own[2]["0.weight"].tobytes() == sharded[0][2]["0.weight"].tobytes()
        assert len(own[3]["state"]) == 10
    losses = functions.plain("dense", 12, 1, (0, 1))[0]
    close(sharded[0][0][:1], losses)


@pytest.mark.parametrize("sizes", [(1, 3), (4, 2), (2, 1)])
def test_a_state_loads_for_another_number_of_stages(group: Ranks, sizes: tuple[int, int]) -> None:
    half = group.run(functions.train, sizes[0], "dense", 6, 2, {})[0]
    plan = {"loaded": half[2:4], "steps": (3, 6)}
    found = group.run(functions.train, sizes[1], "dense", 6, 2, plan)[: sizes[1]]
    compare(found, functions.plain("dense", 6, 2, (3, 6), functions.plain("dense", 6, 2)[2:4]))


def test_loss_scaling(group: Ranks) -> None:
    found = group.run(functions.train, 3, "dense", 6, 3, {"scaled": True})[:3]
    compare(found, functions.plain("dense", 6, 3))
    over = group.run(functions.train, 3, "dense", 6, 3, {"scaled": True, "overflow": (1, 1)})[:3]
    assert [own[7] for own in over] == [[True, False, True]] * 3


def test_messages_that_do_not_fit_come_through(group: Ranks) -> None:
    found = group.run(functions.crowd, 4)
    assert found == [found[0]] * 4


def test_stages_exchange_whole_numbers() -> None:
    with parallel.Group(2, threads_each=1, timeout=60.0) as made:
        losses = made.run(functions.whole_numbers_between_stages)
    assert losses[0] == losses[1] > 0


def test_axes_of_a_mesh(group: Ranks) -> None:
    found = group.run(functions.axes)
    assert found[1] == [
        [[0, 1], [1], [1, 3]],
        [[1, 3], [0, 1], [1]],
        [[1], [0, 1], [1, 3]],
        [[1], [1], [0, 1, 2, 3]],
    ]
    assert found[2][2] == [[2], [2, 3], [0, 2]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.data())
def test_the_heaviest_stage_is_as_light_as_can_be(weights: list[int], data: Any) -> None:
    size = data.draw(st.integers(1, len(weights)))
    counts = cut_layers(weights, size)
    assert (len(counts), sum(counts)) == (size, len(weights))
    assert min(counts) >= 1

    def heaviest(cuts: Any) -> int:
        return max(sum(weights[a:b]) for a, b in itertools.pairwise([0, *cuts, len(weights)]))

    every = itertools.combinations(range(1, len(weights)), size - 1)
    assert heaviest(np.cumsum(counts)[:-1]) == min(map(heaviest, every))


def test_what_does_not_fit_is_refused() -> None:
    layers = [nn.Dense(2, in_features=2), nn.Dense(2, in_features=2)]
    with pytest.raises(ShapeError, match=r"stages is \[1\], needs 1 numbers of at least 1 whose sum is 2"):
        parallel.Pipeline(layers, micro_batches=1, stages=[1])
    pipeline = parallel.Pipeline(layers, micro_batches=3)
    with pytest.raises(ShapeError, match="needs at least 3 items"):
        pipeline.train_step(mg.ones((2, 2)), mg.ones((2, 2)), nn.functional.mse_loss)
    with pytest.raises(ShapeError, match=r"Pipeline"):
        parallel.Pipeline([nn.Dense(2)], micro_batches=1)
    with pytest.raises(ValueError, match="needs 1, as many as there are"):
        parallel.Mesh(data=2)
    assert "micro_batches=3" in repr(pipeline)
    assert [name for name, _ in pipeline.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]


MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

MPI_PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
import pipeline_functions, sharded_functions, split_functions
from minigrad import parallel
world = parallel.init()
assert world.engine == "mpi" and world.size == 4, world
plan = {{"seed": 1, "optimizer": "AdamW", "scaled": True}}
shared, plain = (sharded_functions.train(4, {{**plan, "stage": stage}}) for stage in (2, 0))
assert all(shared[0][name].tobytes() == weight.tobytes() for name, weight in plain[0].items())
for x, y in zip(*split_functions.orders(4, 0), strict=True):
    assert np.abs(x - y).max() < 1e-12
for mesh in ({{"data": 2, "pipeline": 2}}, {{"tensor": 2, "pipeline": 2}}):
    found = pipeline_functions.train(4, "attention", 12, 3, {{"mesh": mesh}})
    wanted = pipeline_functions.plain("attention", 12, 1)
    assert np.abs(np.array(found[0]) - wanted[0]).max() < 1e-12
pipeline_functions.crowd(4)
print(f"rank {{world.rank}} is done\\n", end="")
"""


@pytest.mark.slow
@pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")
def test_mpi_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    assert MPIEXEC is not None
    program = tmp_path / "program.py"
    program.write_text(MPI_PROGRAM.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    command = [MPIEXEC, "-n", "4", sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n"))[1:] == [f"rank {rank} is done" for rank in range(4)]
