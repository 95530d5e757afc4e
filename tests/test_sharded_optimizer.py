"""ShardedOptimizer: the steps are those of the plain optimizer, and a rank holds its share of the state alone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import nn, optim, parallel
from minigrad.errors import GradError, ShapeError

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package, and the ranks get this path
functions = importlib.import_module("sharded_functions")


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


def equal(found: Any, wanted: Any) -> None:
    """Two state dicts, bit for bit."""
    assert {k: v for k, v in found.items() if k != "state"} == {k: v for k, v in wanted.items() if k != "state"}
    assert list(found["state"]) == list(wanted["state"])
    for key, state in wanted["state"].items():
        assert list(found["state"][key]) == list(state)
        for name, value in state.items():
            np.testing.assert_array_equal(found["state"][key][name], value, strict=True)


def compare(group: Ranks, size: int, plan: dict[str, Any]) -> list[Any]:
    """Bit for bit with the plain optimizer on the same ranks; what the ranks gave."""
    found = group.run(functions.train, size, plan)[:size]
    wanted = group.run(functions.train, size, {**plan, "stage": 0})[0]
    for own in found:
        for name, weight in wanted[0].items():
            assert np.isfinite(weight.astype(np.float64)).all()
            assert own[0][name].tobytes() == weight.tobytes(), name
        equal(own[1], wanted[1])
        assert own[4] == wanted[4]
    return [*found, wanted]


@settings(max_examples=12)
@given(
    size=st.integers(1, 4),
    plan=st.fixed_dictionaries(
        {
            "seed": st.integers(0, 1000),
            "stage": st.sampled_from([1, 2]),
            "optimizer": st.sampled_from(["SGD", "AdamW", "LAMB", "Adafactor", "NAdam", "RMSprop", "Lion"]),
            "dtype": st.sampled_from(["float32", "float64"]),
            "bucket_size": st.sampled_from([1, 100, 300, 10**6]),
            "parts": st.integers(1, 3),
            "groups": st.booleans(),
            "regular": st.booleans(),
            "scaled": st.booleans(),
            "rate": st.sampled_from([0.0, 0.25]),
        }
    ),
)
def test_steps_are_those_of_the_plain_optimizer(group: Ranks, size: int, plan: dict[str, Any]) -> None:
    compare(group, size, plan)


@pytest.mark.parametrize("stage", [1, 2])
def test_rows_of_a_table(group: Ranks, stage: int) -> None:
    compare(group, 3, {"seed": 1, "stage": stage, "optimizer": "Adam", "sparse": True})


@pytest.mark.parametrize("stage", [1, 2])
def test_half_parameters_have_their_master_weights_on_one_rank(group: Ranks, stage: int) -> None:
    found = compare(group, 3, {"seed": 2, "stage": stage, "optimizer": "AdamW", "dtype": "bfloat16", "scaled": True})
    assert "master" in found[0][1]["state"]["first.weight"]


def test_compressed_gradients(group: Ranks) -> None:
    plan = {"seed": 3, "stage": 2, "optimizer": "SGD", "dtype": "float32", "compression": "float16"}
    compare(group, 4, plan)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_clipping_takes_the_norm_of_all_ranks(group: Ranks, size: int, stage: int) -> None:
    plan = {"seed": 4, "stage": stage, "optimizer": "SGD", "clip": True, "scaled": True, "parts": 2}
    found = group.run(functions.train, size, plan)[:size]
    wanted = functions.train(1, {**plan, "stage": 0})
    assert max(wanted[2]) > 0.5
    for own in found:
        assert own[2] == found[0][2]
        np.testing.assert_allclose(own[2], wanted[2], rtol=1e-12)
        for name, weight in wanted[0].items():
            np.testing.assert_allclose(own[0][name], weight, rtol=0, atol=1e-12)
            assert own[0][name].tobytes() == found[0][0][name].tobytes()


@pytest.mark.parametrize("stage", [1, 2])
def test_overflow_on_one_rank_skips_the_step_on_all(group: Ranks, stage: int) -> None:
    plan = {"seed": 5, "stage": stage, "optimizer": "AdamW", "scaled": True, "overflow": (1, 2)}
    found = compare(group, 4, plan)
    assert found[0][4] == ([True, False, True], 512.0)


@pytest.mark.parametrize("stage", [1, 2])
def test_memory_falls(group: Ranks, stage: int) -> None:
    *found, plain = compare(group, 4, {"seed": 6, "stage": stage, "optimizer": "AdamW"})
    state, gradients = (sum(own[3][k] for own in found) for k in (0, 1))
    assert state == plain[3][0]  # each byte is held once
    assert max(own[3][0] for own in found) <= 0.45 * plain[3][0]  # the largest weight is more than a quarter
    if stage == 2:
        assert gradients == plain[3][1]
        assert max(own[3][1] for own in found) <= 0.45 * plain[3][1]
    else:
        assert gradients == 4 * plain[3][1]


@pytest.mark.parametrize("sizes", [(1, 2), (2, 3), (3, 1), (2, 0), (0, 3)])
def test_a_state_loads_for_another_number_of_ranks(group: Ranks, sizes: tuple[int, int]) -> None:
    """Three steps on some ranks and three on others are six on one; 0 stands for the plain optimizer."""
    plan = {"seed": 7, "optimizer": "AdamW", "groups": True}

    def go(size: int, more: dict[str, Any]) -> Any:
        return group.run(functions.train, max(size, 1), {**plan, "stage": size and 2, **more})[0]

    half = go(sizes[0], {})
    found = go(sizes[1], {"loaded": half[:2], "steps": (3, 6)})
    wanted = go(0, {"steps": (0, 6)})
    for name, weight in wanted[0].items():
        np.testing.assert_allclose(found[0][name], weight, rtol=0, atol=1e-12)
    assert found[1]["state"]["first.weight"]["step"] == 6
    equal({**found[1], "state": {}}, {**wanted[1], "state": {}})


def test_a_second_backward_is_refused() -> None:
    with parallel.Group(2, threads_each=1, timeout=60.0) as made, pytest.raises(GradError, match="no_sync"):
        made.run(functions.twice)


@pytest.mark.parametrize("rows", [[5, 0, 2, 1], [0, 0, 0, 0], [1, 1, 1, 900]])
def test_reduce_scatter_in_unequal_parts(group: Ranks, rows: list[int]) -> None:
    assert group.run(functions.scattered, rows) == [True] * 4


def test_what_does_not_fit_is_refused() -> None:
    layer = nn.Dense(1, in_features=2)
    plain = nn.Dense(1, in_features=1)
    with pytest.raises(TypeError, match="model is a Dense, needs a DataParallel"):
        parallel.ShardedOptimizer(optim.SGD, plain.parameters(), model=plain, lr=0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="LBFGS"):
        parallel.ShardedOptimizer(optim.LBFGS, layer.parameters())
    model = parallel.DataParallel(nn.Dense(1))
    with pytest.raises(ValueError, match="waits for its first batch"):
        parallel.ShardedOptimizer(optim.SGD, model.parameters(), model=model)
    with pytest.raises(ShapeError, match=r"rows is \[1, 1\], needs 1 numbers whose sum is 2"):
        parallel.init().reduce_scatter([1.0, 2.0], rows=[1, 1])
    optimizer = parallel.ShardedOptimizer(optim.SGD, layer.parameters(), model=parallel.DataParallel(layer), lr=0.1)
    with pytest.raises(ValueError, match="all groups at the start"):
        optimizer.add_param_group({"params": [nn.Parameter([1.0])]})
    assert repr(optimizer).startswith("ShardedSGD(3 parameters: lr=0.1")
