"""The cache of keys and values is equal to lists of rows, its cost linear, and decoding with it the full forward."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, GradError, ShapeError
from minigrad.testing.tolerances import assert_close

Array = np.ndarray[Any, Any]
HEADS, FEATURES, VALUES = 2, 3, 1
WIDTH = 6  # of the tokens of the layers below


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


class Twin(RuleBasedStateMachine):
    """A cache beside lists of tokens, one list a sequence."""

    @initialize(batch=st.integers(1, 3), capacity=st.sampled_from([None, 1, 4]))
    def start(self, batch: int, capacity: int | None) -> None:
        self.cache = nn.KVCache(capacity)
        self.rng = np.random.default_rng(batch)
        self.begin(batch)

    def begin(self, batch: int) -> None:
        self.tokens: list[list[Array]] = [[] for _ in range(batch)]
        self.seen = [0] * batch

    @rule(new=st.integers(0, 5), ragged=st.booleans(), data=st.data())
    def append(self, new: int, ragged: bool, data: st.DataObject) -> None:
        batch = len(self.tokens)
        both = self.rng.normal(size=(batch, HEADS, new, FEATURES + VALUES))
        lengths = data.draw(st.lists(st.integers(0, new), min_size=batch, max_size=batch)) if ragged else None
        for row, count in enumerate(lengths or [new] * batch):
            self.tokens[row] += [both[row, :, i] for i in range(count)]
            self.seen[row] += count
        result = self.cache.append(mg.asarray(both[..., :FEATURES]), mg.asarray(both[..., FEATURES:]), lengths)
        assert [t.tolist() for t in result] == [t.tolist() for t in self.cache.read()]

    @precondition(lambda self: not self.cache.is_empty)
    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        index = data.draw(st.lists(st.integers(0, len(self.tokens) - 1), min_size=1, max_size=4))
        self.cache.reorder(index)
        self.tokens = [list(self.tokens[i]) for i in index]
        self.seen = [self.seen[i] for i in index]

    @rule(keep=st.integers(1, 8))
    def trim(self, keep: int) -> None:
        self.cache.trim(keep)
        self.tokens = [row[-keep:] for row in self.tokens]

    @rule(batch=st.integers(1, 3))
    def reset(self, batch: int) -> None:
        self.cache.reset()
        self.begin(batch)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "cache") or self.cache.is_empty:
            return
        keys, values = (t.numpy() for t in self.cache.read())
        assert self.cache.lengths.tolist() == [len(row) for row in self.tokens]
        assert self.cache.offsets.tolist() == self.seen
        assert keys.shape == (len(self.tokens), HEADS, max(map(len, self.tokens)), FEATURES)
        assert self.cache.is_ragged == (len(set(map(len, self.tokens))) > 1)
        assert np.isfinite(keys).all()
        assert np.isfinite(values).all()
        for row, tokens in enumerate(self.tokens):
            for i, token in enumerate(tokens):
                assert (keys[row, :, i] == token[:, :FEATURES]).all()
                assert (values[row, :, i] == token[:, FEATURES:]).all()


TestTwin = Twin.TestCase
TestTwin.settings = settings(stateful_step_count=12)


def test_the_cost_of_growing_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    original = nn.KVCache._moved

    def counted(self: nn.KVCache, chosen: Any, capacity: int) -> Any:
        moved.append(self.length)
        return original(self, chosen, capacity)

    monkeypatch.setattr(nn.KVCache, "_moved", counted)
    cache = nn.KVCache(1)
    token = mg.ones((1, 1, 1, 1))
    for n in range(1, 501):
        keys, _ = cache.append(token, token)
        assert cache.capacity < 2 * n + 1
    assert keys.shape == (1, 1, 500, 1)
    assert sum(moved) < 2 * 500
    memory = cache._keys
    cache.append(token, token)
    assert cache._keys is memory
    assert cache.nbytes == 2 * 4 * cache.capacity


def test_what_is_returned_lies_in_the_memory_of_the_cache() -> None:
    cache = nn.KVCache()
    token = mg.ones((1, 1, 1, 1))
    keys, _ = cache.append(token, token)
    assert np.shares_memory(keys.numpy(), cache._keys.numpy())
    later, _ = cache.append(2 * token, token)
    assert keys.tolist() == [[[[1.0]]]]
    assert later.tolist() == [[[[1.0], [2.0]]]]


# --- layers -----------------------------------------------------------------------------------------------------------


@st.composite
def layers(draw: st.DrawFn) -> nn.MultiHeadAttention:
    window = draw(st.sampled_from([None, (0, None), (2, None), (3, 0)]))
    rotary = draw(st.sampled_from([False, True, nn.RotaryPositions(interleaved=True, rotary_dim=2)]))
    layer = nn.MultiHeadAttention(
        4, WIDTH, num_kv_heads=2, head_dim=4, window=window, rotary=rotary, alibi=draw(st.booleans()),
        softcap=draw(st.sampled_from([None, 2.0])), qk_norm=draw(st.booleans()), dtype=mg.float64,
    )  # fmt: skip
    for i, p in enumerate(layer.parameters()):
        nn.init.normal(p, std=0.6, generator=mg.random.Generator(i))
    return layer


def cuts(n: int) -> st.SearchStrategy[list[int]]:
    """Where a sequence of n tokens is cut into parts."""
    inner = st.lists(st.integers(1, n - 1), unique=True, max_size=n - 1)
    return inner.map(lambda found: [0, *sorted(found), n])


@given(layer=layers(), at=cuts(8), seed=st.integers(0, 99))
def test_parts_give_what_the_whole_gives(layer: nn.MultiHeadAttention, at: list[int], seed: int) -> None:
    x = mg.asarray(normal(2, 8, WIDTH, seed=seed))
    cache = nn.KVCache(2)
    with mg.no_grad():
        whole = layer(x, is_causal=True).numpy()
        parts = [layer(x[:, a:b], is_causal=True, cache=cache).numpy() for a, b in itertools.pairwise(at)]
    assert_close(np.concatenate(parts, 1), whole, mg.float64, "parts", factor=4)
    assert cache.offsets.tolist() == [8, 8]


@given(layer=layers(), first=st.tuples(st.integers(0, 4), st.integers(1, 4)), seed=st.integers(0, 99), data=st.data())
def test_sequences_of_different_lengths(
    layer: nn.MultiHeadAttention, first: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    """Padded prompts, then tokens for both, then some for one of them, then a reordering: each is as if alone."""
    rng = np.random.default_rng(seed)
    cache = nn.KVCache(1)
    own: list[Array] = [np.zeros((0, WIDTH))] * 2
    calls = [(4, first), (1, (1, 1)), (3, data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))), (2, (2, 2))]
    with mg.no_grad():
        for step, (new, counts) in enumerate(calls):
            x = rng.normal(size=(2, new, WIDTH))
            out, weights = layer(
                mg.asarray(x), is_causal=True, cache=cache, key_lengths=mg.tensor(list(counts)), need_weights=True
            )
            for row, count in enumerate(counts):
                own[row] = np.concatenate((own[row], x[row, :count]))
                if count:
                    alone = layer(mg.asarray(own[row][None]), is_causal=True).numpy()[0, -count:]
                    assert_close(out.numpy()[row, :count], alone, mg.float64, f"step {step}, row {row}", factor=4)
                    sums = weights.numpy()[row, :, :count].sum(-1)
                    assert_close(sums, np.ones_like(sums), mg.float64, "weights")
            if step == 2:
                cache.reorder([1, 0])
                own.reverse()


@given(seed=st.integers(0, 99), steps=st.integers(1, 40), rotary=st.booleans())
def test_a_window_bounds_the_memory(seed: int, steps: int, rotary: bool) -> None:
    layer = nn.MultiHeadAttention(2, WIDTH, head_dim=2, window=(3, None), rotary=rotary, alibi=True, dtype=mg.float64)
    x = mg.asarray(normal(1, steps, WIDTH, seed=seed))
    cache = nn.KVCache(1)
    with mg.no_grad():
        whole = layer(x, is_causal=True).numpy()
        for i in range(steps):
            out = layer(x[:, i : i + 1], is_causal=True, cache=cache).numpy()
            assert_close(out[:, 0], whole[:, i], mg.float64, f"token {i}", factor=4)
            assert cache.length <= 6
    assert cache.capacity <= 16
    assert cache.offsets.tolist() == [steps]


def test_a_mask_and_a_bias_over_the_keys_that_are_held() -> None:
    layer = nn.MultiHeadAttention(2, WIDTH, dtype=mg.float64)
    x = mg.asarray(normal(2, 5, WIDTH))
    bias = mg.asarray(normal(1, 2, 5, 5, seed=1))
    mask = mg.asarray(normal(2, 1, 5, 5, seed=2) > -0.5)
    for ragged in (False, True):
        with mg.no_grad():
            whole = layer(x, is_causal=True, bias=bias, mask=mask).numpy()
            cache = nn.KVCache()
            counts = mg.tensor([3, 2]) if ragged else None
            head = {"bias": bias[:, :, :3, :3], "mask": mask[..., :3, :3]}
            layer(x[:, :3], is_causal=True, cache=cache, key_lengths=counts, **head)
            if ragged:
                # the second sequence is one behind: its next token is the third, and it has no key 3 yet
                both = mg.stack([x[0, 3:4], x[1, 2:3]])
                rows = {
                    "bias": mg.stack([bias[0, :, 3:4, :4], bias[0, :, 2:3, :4]]),
                    "mask": mg.stack([mask[0, :, 3:4, :4], mask[1, :, 2:3, :4]]),
                }
                out = layer(both, is_causal=True, cache=cache, **rows).numpy()[:, 0]
                expected = np.stack([whole[0, 3], whole[1, 2]])
            else:
                rest = {"bias": bias[:, :, 3:4, :4], "mask": mask[..., 3:4, :4]}
                out = layer(x[:, 3:4], is_causal=True, cache=cache, **rest).numpy()[:, 0]
                expected = whole[:, 3]
        assert_close(out, expected, mg.float64, f"ragged {ragged}", factor=4)


def test_cross_attention_reads_what_the_first_call_filled_in() -> None:
    layer = nn.MultiHeadAttention(2, WIDTH, dtype=mg.float64)
    query, memory = mg.asarray(normal(2, 4, WIDTH)), mg.asarray(normal(2, 7, WIDTH, seed=1))
    calls: list[int] = []
    layer.key.register_forward_hook(lambda module, args, out: calls.append(1))
    lengths = mg.tensor([7, 4])
    cache = nn.KVCache()
    with mg.no_grad():
        whole = layer(query, memory, key_lengths=lengths).numpy()
        parts = [layer(query[:, i : i + 1], memory, cache=cache, key_lengths=lengths).numpy() for i in range(4)]
    assert_close(np.concatenate(parts, 1), whole, mg.float64, "steps", factor=4)
    assert len(calls) == 2
    assert cache.length == 7
    assert cache.capacity == 32


# --- errors -----------------------------------------------------------------------------------------------------------


def filled() -> nn.KVCache:
    cache = nn.KVCache()
    cache.append(mg.ones((2, 1, 3, 4)), mg.ones((2, 1, 3, 4)))
    return cache


ERRORS: list[tuple[type[Exception], str, Any]] = [
    (ShapeError, "capacity is 0, needs at least 1", lambda: nn.KVCache(0)),
    (ShapeError, "got nothing so far, needs an append", lambda: nn.KVCache().read()),
    (ShapeError, "got nothing so far, needs an append", lambda: nn.KVCache().reorder([0])),
    (ShapeError, "needs key and value of shape", lambda: filled().append(mg.ones((2, 3, 4)), mg.ones((2, 3, 4)))),
    (
        ShapeError,
        r"key is float32 \(3, 1, 1, 4\), needs shape \(2, 1, new tokens, 4\)",
        lambda: filled().append(mg.ones((3, 1, 1, 4)), mg.ones((3, 1, 1, 4))),
    ),
    (
        DTypeError,
        "key is float64 .*, needs float32",
        lambda: filled().append(mg.ones((2, 1, 1, 4), dtype=mg.float64), mg.ones((2, 1, 1, 4))),
    ),
    (IndexError, "index is 2 in one place", lambda: filled().reorder([0, 2])),
    (DTypeError, "index is .*, needs integers", lambda: filled().reorder([0.5])),
    (
        ShapeError,
        r"lengths is \(1,\), needs shape \(2,\)",
        lambda: filled().append(mg.ones((2, 1, 1, 4)), mg.ones((2, 1, 1, 4)), [1]),
    ),
    (
        ValueError,
        "lengths is 2 in one place, needs lengths from 0 to 1",
        lambda: filled().append(mg.ones((2, 1, 1, 4)), mg.ones((2, 1, 1, 4)), [1, 2]),
    ),
    (ShapeError, "keep is 0", lambda: filled().trim(0)),
    (
        GradError,
        "^KVCache: key or value is with a graph .* mg.no_grad",
        lambda: nn.MultiHeadAttention(1, 2)(mg.ones((1, 1, 2)), cache=nn.KVCache()),
    ),
    (
        ShapeError,
        r"query is .*, needs shape \(batch, queries, features\) with a cache",
        lambda: nn.MultiHeadAttention(1, 2)(mg.ones((1, 2)), cache=nn.KVCache()),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "wrong"), ERRORS, ids=[text[:30] for _, text, _ in ERRORS])
def test_errors_say_what_is_needed(kind: type[Exception], text: str, wrong: Any) -> None:
    with pytest.raises(kind, match=text):
        wrong()


def test_a_refused_append_changes_nothing() -> None:
    cache = filled()
    with pytest.raises(ShapeError):
        cache.append(mg.ones((2, 1, 1, 4)), mg.ones((2, 1, 1, 5)))
    assert cache.lengths.tolist() == [3, 3]
    fresh = nn.KVCache()
    with pytest.raises(ValueError, match="lengths is 3"):
        fresh.append(mg.ones((2, 1, 1, 4)), mg.ones((2, 1, 1, 4)), [1, 3])
    assert fresh.is_empty
