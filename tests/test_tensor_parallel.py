"""Tensor parallelism: split layers and models give what the plain ones give."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import parallel
from minigrad.errors import AxisError

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package, and the ranks get this path
functions = importlib.import_module("split_functions")
BOUNDS = {"float64": 1e-12, "float32": 2e-5}


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


def close(found: Any, wanted: Any, bound: float) -> None:
    wanted = np.asarray(wanted)
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound * scale, strict=True)


@settings(max_examples=10)
@given(size=st.integers(1, 4), seed=st.integers(0, 1000))
def test_derivatives_of_the_first_and_second_order(group: Ranks, size: int, seed: int) -> None:
    for plain, split in group.run(functions.orders, size, seed)[:size]:
        for a, b in zip(split, plain, strict=True):
            close(a, b, 1e-12)


@settings(max_examples=15)
@given(
    size=st.integers(1, 4), seed=st.integers(0, 1000), features=st.integers(1, 4), units=st.integers(1, 3),
    between=st.integers(4, 9), gather=st.booleans(), bias=st.booleans(), dtype=st.sampled_from(["float64", "float32"]),
)  # fmt: skip
def test_layers(group: Ranks, size: int, dtype: str, **options: Any) -> None:
    found = group.run(functions.layers, size, *options.values(), dtype)[:size]
    for plain, split in found:
        for a, b in zip(split, plain, strict=True):
            close(a, b, BOUNDS[dtype])
        for a, b in zip(split, found[0][1], strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("kind", "sizes"), [("gpt", (1, 2, 4)), ("llama", (1, 2)), ("encoder", (2, 4)), ("decoder", (1, 2, 4))]
)
def test_ten_steps_of_training(group: Ranks, kind: str, sizes: tuple[int, ...]) -> None:
    losses, norms, grads, weights, held = functions.train(0, kind)
    assert min(norms) > 0.1  # it is clipped
    for size in sizes:
        found = group.run(functions.train, size, kind)[:size]
        for own in found:
            close(own[0], losses, 1e-12)
            close(own[1], norms, 1e-12)
            assert list(own[3]) == list(weights)
            assert own[:2] == found[0][:2]
            for name, grad in grads.items():
                close(own[2][name], grad, 1e-12)
            for name, weight in weights.items():
                close(own[3][name], weight, 1e-12)
                assert own[3][name].tobytes() == found[0][3][name].tobytes()
            if size == 4:
                assert own[4] < 0.45 * held  # what is on all ranks: norms, positions, biases


def test_a_state_loads_for_another_number_of_ranks(group: Ranks) -> None:
    """2 to 4, 4 to the plain model, the plain model to 2."""
    half = group.run(functions.train, 2, "gpt", 3)[0][3]
    wanted = functions.train(0, "gpt", 3, half)
    other = group.run(functions.train, 4, "gpt", 3, half)[0]
    close(other[0], wanted[0], 1e-12)
    back = functions.model_of("gpt")
    back.load_state_dict(other[3])
    again = group.run(functions.train, 2, "gpt", 1, back.state_dict())[0]
    close(again[0], [functions.loss_of(back, "gpt", 0).item()], 1e-12)


@pytest.mark.parametrize("size", [1, 2])
def test_logits_and_decoding(group: Ranks, size: int) -> None:
    for plain, whole, decoded in group.run(functions.logits, size)[:size]:
        close(whole, plain, 1e-12)
        close(decoded, plain[:, 3:], 1e-12)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_weights_of_all_heads_and_a_bias_that_is_trained(group: Ranks, size: int) -> None:
    for found in group.run(functions.weights_of_attention, size)[:size]:
        for split, plain in zip(found[3:], found[:3], strict=True):
            for a, b in zip(split, plain, strict=True):
                close(a, b, 1e-12)


def test_ranks_drop_alike_what_all_have_and_unlike_what_is_split(group: Ranks) -> None:
    attention, inside, output = zip(*group.run(functions.dropped, 4), strict=True)
    for whole in (attention, output):
        assert all((part == whole[0]).all() for part in whole)
        assert 0.4 < whole[0].mean() < 0.6
    for a, b in itertools.combinations(inside, 2):
        assert a.shape == (2, 8, 16)
        assert 0.3 < (a == b).mean() < 0.7


def test_large_logits_do_not_overflow() -> None:
    x = mg.tensor([[1e4, -1e4, 0.0], [np.nan, 1.0, 2.0]], requires_grad=True)
    loss = parallel.vocabulary_cross_entropy(x, mg.tensor([2, -100]), parallel.init(), ignore_index=-100)
    loss.backward()
    assert loss.item() == 1e4
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]
    nothing = parallel.vocabulary_cross_entropy(x, mg.tensor([-1, -1]), parallel.init(), ignore_index=-1)
    assert nothing.item() == 0.0


def test_what_does_not_fit_is_refused(group: Ranks) -> None:
    for function in (parallel.slice_in, parallel.gather_out):
        with pytest.raises(AxisError, match=r"axis is 2, needs an axis of x float32 \(2, 2\)"):
            function(mg.ones((2, 2)), parallel.init(), 2)
    texts = group.run(functions.wrong)[2]
    for text, words in zip(
        texts,
        [
            "ShapeError: tensor_parallel: num_kv_heads is 1, needs a multiple of the ranks, 4",
            "ValueError: parallel: constraint is",
            "ShapeError: parallel: axis 1 of a weight of shape (2, 1) is 1, needs at least 4",
            "ValueError: VocabularyEmbedding: sparse is True",
            "IndexError: VocabularyEmbedding: ids holds 4, and there are 4",
            "ShapeError: tensor_parallel",
            "nothing",
            "ShapeError: vocabulary_cross_entropy: targets is",
        ],
        strict=True,
    ):
        assert text.startswith(words), texts
