"""Trainer(parallel=): N ranks train as one process does, write once, and end together."""

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

from minigrad import parallel, train

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package, and the ranks get this path
functions = importlib.import_module("rank_trainers")
BOUNDS = {"float64": 1e-12, "float32": 1e-6}


@pytest.fixture(scope="module")
def group() -> Iterator[parallel.Group]:
    with parallel.Group(3, threads_each=1, timeout=60.0) as made:
        yield made


def is_close(found: Any, wanted: Any, bound: float, name: str = "") -> None:
    """To `bound`, relative to the largest number of the array; all of a nest."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            is_close(found[key], wanted[key], bound, f"{name} {key}")
    else:
        wanted = np.asarray(wanted, np.float64)
        limit = bound * max(1.0, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=0, atol=limit, err_msg=name)


def same(found: Any, first: Any) -> None:
    """Equal bits."""
    assert repr(found[:3]) == repr(first[:3])
    assert {name: w.tobytes() for name, w in found[3].items()} == {name: w.tobytes() for name, w in first[3].items()}


def compare(group: parallel.Group, size: int, options: dict[str, Any], bound: float) -> Any:
    found = group.run(functions.fit, size, options)[:size]
    wanted = functions.fit(1, options)
    for own in found:
        same(own, found[0])
        for part, want in zip(own[:1] + own[2:], wanted[:1] + wanted[2:], strict=True):
            is_close(part, want, bound)
        for step, want in zip(own[1], wanted[1], strict=True):
            is_close(step, want, bound)
    return found


@settings(max_examples=12)
@given(
    size=st.sampled_from([2, 3]),
    options=st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["float32", "float64"]),
            "n": st.integers(5, 40),
            "batch_size": st.integers(1, 14),
            "accumulate": st.integers(1, 3),
            "clip_norm": st.sampled_from([None, 0.3]),
            "scaled": st.booleans(),
            "data": st.sampled_from(["arrays", "loader", "batches"]),
            "ema": st.sampled_from([None, 0.8]),
            "schedule": st.sampled_from([None, "cosine"]),
            "seed": st.integers(0, 1000),
            "optimizer": st.sampled_from(["sam", "sharded"]),
            "reduction": st.sampled_from(["mean", "mean", "sum"]),
            "unlike": st.just(True),
        }
    ),
)
def test_ranks_are_one_process(group: parallel.Group, size: int, options: dict[str, Any]) -> None:
    if options["data"] == "loader":
        options["unlike"] = False  # one process draws what rank 0 does, whose loader has its own seed
    compare(group, size, options, BOUNDS[options["dtype"]])
