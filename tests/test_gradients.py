"""Derivatives of drawn ops at drawn values, to second order. Seeds are fixed in `test_ops.py`, drawn here."""

from __future__ import annotations

import functools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from minigrad.ops.registry import REGISTRY
from minigrad.ops.samples import A
from minigrad.testing import contract
from minigrad.testing.trial import Trial


@functools.cache
def samples() -> dict[str, list[int]]:
    """The ops that have a derivative, and which of their samples draw values for it."""
    found = {}
    for name, op in REGISTRY.items():
        trials = [Trial(op, case, i) for i, case in enumerate(op.cases) if case.raises is None]
        numbers = [t.number for t in trials if any(isinstance(t.case.inputs[i], A) for i in t.varying)]
        if numbers:
            found[name] = numbers
    return found


@st.composite
def trials(draw: st.DrawFn) -> Trial:
    """An op of the registry on one of its samples, with a seed of its own for the values and cotangents."""
    op = REGISTRY[draw(st.sampled_from(sorted(samples())))]
    number = draw(st.sampled_from(samples()[op.name]))
    trial = Trial(op, op.cases[number], number)
    trial.seed = draw(st.integers(0, 2**32 - 1))
    return trial


@given(trial=st.deferred(trials))
def test_gradients_of_order_1_and_2(trial: Any) -> None:
    contract.check_gradients.__wrapped__(trial)


def test_most_ops_are_drawn() -> None:
    assert len(samples()) > len(REGISTRY) // 2
