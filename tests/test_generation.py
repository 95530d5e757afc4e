"""Generation: a cache changes nothing, a batch is its sequences, and what is drawn follows the distribution."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import DTypeError, ShapeError
from minigrad.models import (
    GPT,
    Decoding,
    Generative,
    GPTConfig,
    LanguageModel,
    Llama,
    LlamaConfig,
    RotaryScaling,
    Sampler,
    generate,
    stream,
)

Array = np.ndarray[Any, Any]
VOCABULARY = 11


def gpt(**options: Any) -> LanguageModel:
    given = {"max_length": 48, "features": 12, "num_layers": 2, "num_heads": 3, "initializer_range": 0.3} | options
    return GPT(GPTConfig(vocab_size=VOCABULARY, **given), dtype=mg.float64)


def llama(**options: Any) -> LanguageModel:
    given = {"features": 12, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_features": 16}
    given |= {"head_dim": 4, "initializer_range": 0.3, "rope_scaling": RotaryScaling(4.0, 16)} | options
    return Llama(LlamaConfig(vocab_size=VOCABULARY, **given), dtype=mg.float64)


MODELS: dict[str, Callable[[], LanguageModel]] = {
    "gpt": gpt,
    "llama": llama,
    "llama with a window": lambda: llama(window=3),
}
PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9], [10, 0, 3, 3, 1]]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    mg.random.seed(7)
    return MODELS[request.param]().eval()


def without_cache(model: LanguageModel, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens, from a forward of the whole sequence each time."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(mg.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


# --- greedy -----------------------------------------------------------------------------------------------------------


def test_a_cache_changes_nothing(model: LanguageModel) -> None:
    for prompt in PROMPTS:
        assert generate(model, prompt, max_new_tokens=20) == without_cache(model, prompt, 20)


def test_a_batch_is_its_sequences(model: LanguageModel) -> None:
    assert generate(model, PROMPTS, max_new_tokens=15) == [generate(model, p, max_new_tokens=15) for p in PROMPTS]


@given(prompts=st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6), min_size=1, max_size=4))
def test_any_batch_is_its_sequences(model: LanguageModel, prompts: list[list[int]]) -> None:
    stop = {"stop": [0, 5], "max_new_tokens": 6, "repetition_penalty": 1.4}
    assert generate(model, prompts, **stop) == [generate(model, p, **stop) for p in prompts]


def test_stop_tokens(model: LanguageModel) -> None:
    whole = generate(model, PROMPTS, max_new_tokens=12)
    stop = whole[0][4]
    cut = [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in whole]
    assert generate(model, PROMPTS, max_new_tokens=12, stop=stop) == cut
    assert generate(model, PROMPTS, max_new_tokens=12, stop=(stop,)) == cut
    assert generate(model, PROMPTS[0], max_new_tokens=12, stop={stop}) == cut[0]
    assert len(cut[0]) <= 4


def test_a_stream_gives_the_same(model: LanguageModel) -> None:
    found = list(stream(model, PROMPTS[0], max_new_tokens=9))
    assert found == generate(model, PROMPTS[0], max_new_tokens=9)
    whole = generate(model, PROMPTS, max_new_tokens=9)
    options = {"max_new_tokens": 9, "stop": whole[1][3]}
    rows: list[list[int]] = [[] for _ in PROMPTS]
    for step in stream(model, PROMPTS, **options):
        assert len(step) == len(PROMPTS)
        assert any(token is not None for token in step)
        for row, token in zip(rows, step, strict=True):
            row += [] if token is None else [token]
    assert rows == generate(model, PROMPTS, **options)


def test_a_stream_works_as_it_is_read(model: LanguageModel) -> None:
    calls = []
    remove = model.decoder.register_forward_hook(lambda module, args, output: calls.append(1))
    tokens = stream(model, [1, 2], max_new_tokens=5)
    assert not calls
    next(tokens)
    assert len(calls) == 1
    assert mg.is_grad_enabled()
    assert len(list(tokens)) == 4
    remove()
    assert len(calls) == 5


def test_every_token_is_read_once(model: LanguageModel) -> None:
    lengths = []
    remove = model.tokens.register_forward_hook(lambda module, args, output: lengths.append(args[0].shape))
    generate(model, [PROMPTS[0], PROMPTS[2]], max_new_tokens=6)
    remove()
    assert lengths == [(2, 5)] + 5 * [(2, 1)]


def test_sequences_that_ended_leave_the_batch(model: LanguageModel) -> None:
    whole = generate(model, PROMPTS, max_new_tokens=10)
    stop = whole[0][0]
    sizes = []
    remove = model.tokens.register_forward_hook(lambda module, args, output: sizes.append(args[0].shape[0]))
    generate(model, PROMPTS, max_new_tokens=10, stop=stop)
    remove()
    ended = [tokens.index(stop) + 1 if stop in tokens else 10 for tokens in whole]
    assert sizes == [sum(steps > i for steps in ended) for i in range(max(ended))]


def test_modes_and_graphs_are_left_alone() -> None:
    model = gpt(dropout=0.5, attention_dropout=0.5, embedding_dropout=0.5)
    model.decoder.layers[0].eval()
    before = [m.training for m in model.modules()]
    assert any(before)
    assert not all(before)
    first = generate(model, [1, 2], max_new_tokens=5)
    assert first == generate(model, [1, 2], max_new_tokens=5)  # no dropout
    assert [m.training for m in model.modules()] == before
    with pytest.raises(IndexError):
        generate(model, [VOCABULARY])
    assert [m.training for m in model.modules()] == before
    assert mg.is_grad_enabled()


def test_a_stream_leaves_the_mode_to_its_user() -> None:
    model = gpt(dropout=0.5)
    tokens = stream(model, [1, 2], max_new_tokens=4)
    found = [next(tokens)]
    model.eval()
    found.append(next(tokens))
    assert not any(m.training for m in model.modules())
    model.train()
    found += tokens
    assert all(m.training for m in model.modules())
    assert found == generate(model.eval(), [1, 2], max_new_tokens=4)


def test_threads_share_a_model_that_is_being_trained() -> None:
    """One generates while another is in the middle of it; a third trains, and sees its own mode."""
    model = gpt(dropout=0.5)
    expected = generate(model.eval(), [1, 2], max_new_tokens=4)
    model.train()
    seen: list[Any] = []

    def inside(module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.current_thread() is threading.main_thread():
            run(lambda: seen.append(generate(model, [1, 2], max_new_tokens=4)))
            run(lambda: seen.append(module.training))
            assert not module.training

    def run(function: Callable[[], Any]) -> None:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    remove = model.decoder.layers[0].register_forward_pre_hook(inside)
    found = generate(model, [1, 2], max_new_tokens=4)
    remove()
    assert found == expected
    assert seen == 4 * [expected, True]


def test_prompts_of_every_kind(model: LanguageModel) -> None:
    expected = generate(model, [[1, 2], [3, 4]], max_new_tokens=3)
    for prompts in (np.array([[1, 2], [3, 4]]), mg.tensor([[1, 2], [3, 4]]), [np.array([1, 2]), mg.tensor([3, 4])]):
        assert generate(model, prompts, max_new_tokens=3) == expected
    for prompt in ([1, 2], (1, 2), np.array([1, 2], np.uint8), mg.tensor([1, 2])):
        assert generate(model, prompt, max_new_tokens=3) == expected[0]
    assert generate(model, [[1, 2]], max_new_tokens=3) == expected[:1]


def test_memory_grows_with_the_tokens_that_there_are(model: LanguageModel) -> None:
    expected = generate(model, [1, 2], max_new_tokens=30)
    tokens = stream(model, [1, 2], max_new_tokens=2**40)
    assert [next(tokens) for _ in range(30)] == expected
    assert generate(model, [1, 2], max_new_tokens=2**40, stop=expected[5]) == expected[: expected.index(expected[5])]
    options: dict[str, Any] = {"beams": 2, "stop": range(VOCABULARY)}
    assert generate(model, [1, 2], max_new_tokens=2**40, **options) == []


def test_a_cache_that_grew_changes_nothing(monkeypatch: pytest.MonkeyPatch, model: LanguageModel) -> None:
    expected = generate(model, PROMPTS, max_new_tokens=30)
    monkeypatch.setattr("minigrad.models.rows.ROOM", 1)
    assert generate(model, PROMPTS, max_new_tokens=30) == expected


# --- longer than the model takes --------------------------------------------------------------------------------------


def test_too_long() -> None:
    model = gpt(max_length=8)
    assert len(generate(model, [1, 2, 3], max_new_tokens=6)) == 6  # the last token is not read
    with pytest.raises(ShapeError, match=r"tokens is 9, needs at most 8, .* sliding=True"):
        generate(model, [1, 2, 3], max_new_tokens=7)
    with pytest.raises(ShapeError, match="tokens is 9, needs at most 8"):
        generate(model, list(range(9)), max_new_tokens=1)


def test_sliding_goes_on_from_the_last_half() -> None:
    model = gpt(max_length=8).eval()
    prompts = [[1, 2, 3], [4, 5]]
    found = generate(model, prompts, max_new_tokens=20, sliding=True)
    for prompt, new in zip(prompts, found, strict=True):
        tokens, window = list(prompt), list(prompt)
        longest = len(prompts[0])
        for _ in range(20):
            if longest > 8:
                window, longest = tokens[-4:], 4
            token = int(model(mg.tensor([window]))[0, -1].argmax())
            tokens.append(token)
            window.append(token)
            longest += 1
        assert new == tokens[len(prompt) :]
    assert len(generate(model, list(range(11)), max_new_tokens=3, sliding=True)) == 3


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_seeds(model: LanguageModel) -> None:
    def drawn(seed: int) -> Any:
        mg.random.seed(seed)
        return generate(model, PROMPTS, max_new_tokens=10, temperature=1.0)

    assert drawn(1) == drawn(1) != drawn(2)
    own = [generate(model, [1], max_new_tokens=9, temperature=1.0, generator=mg.random.Generator(3)) for _ in range(2)]
    assert own[0] == own[1]


LOGITS = np.log([0.05, 0.4, 0.1, 0.25, 0.2])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.05, 0.4, 0.1, 0.25, 0.2]),
        ({"temperature": 0.5}, np.array([0.05, 0.4, 0.1, 0.25, 0.2]) ** 2 / 0.275),
        ({"top_k": 2}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        ({"top_k": 9}, [0.05, 0.4, 0.1, 0.25, 0.2]),
        ({"top_p": 0.6}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        ({"top_p": 0.66}, [0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85]),
        ({"top_p": 1.0}, [0.05, 0.4, 0.1, 0.25, 0.2]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-308}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.7}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
    ],
    ids=str,
)
def test_what_is_drawn_follows_the_distribution(options: dict[str, Any], expected: Any) -> None:
    count = 20_000
    sampler = Sampler(**{"temperature": 1.0, "generator": mg.random.Generator(0)} | options)
    np.testing.assert_allclose(sampler.probabilities(LOGITS[None])[0], expected, rtol=1e-12, atol=1e-15)
    found = np.bincount(sampler(np.tile(LOGITS, (count, 1))), minlength=5)
    deviation = np.sqrt(count * np.array(expected) * (1 - np.array(expected)))
    assert (np.abs(found - count * np.array(expected)) <= 4.5 * deviation).all()


@given(
    logits=st.lists(st.floats(-30, 30), min_size=1, max_size=12),
    k=st.integers(1, 14),
    p=st.floats(0.01, 1.0),
    temperature=st.floats(0.1, 5.0),
)
def test_cuts_keep_the_likeliest(logits: list[float], k: int, p: float, temperature: float) -> None:
    row = np.array(logits)
    whole = Sampler(temperature=temperature).probabilities(row[None])[0]
    kept = Sampler(temperature=temperature, top_k=k, top_p=p).probabilities(row[None])[0]
    assert abs(kept.sum() - 1) < 1e-12
    assert kept[whole.argmax()] > 0
    inside, outside = kept > 0, kept == 0
    assert whole[outside].max(initial=0) <= whole[inside].min()
    ratios = kept[inside & (whole > 1e-300)] / whole[inside & (whole > 1e-300)]
    np.testing.assert_allclose(ratios, ratios[:1].repeat(len(ratios)), rtol=1e-9)
    if len(set(logits)) == len(logits) and len(set(whole)) == len(whole):
        assert inside.sum() <= k


def test_the_next_token_follows_the_model() -> None:
    """Through the whole of generate: many sequences at once, one token each."""
    mg.random.seed(0)
    model = gpt().eval()
    expected = mg.softmax(model(mg.tensor([[1, 2]]))[0, -1]).detach().numpy()
    count = 4000
    found = generate(model, [[1, 2]] * count, max_new_tokens=1, temperature=1.0, generator=mg.random.Generator(1))
    counts = np.bincount(np.ravel(found), minlength=VOCABULARY)
    assert (np.abs(counts - count * expected) <= 4.5 * np.sqrt(count * expected * (1 - expected))).all()


def test_repetition_penalty() -> None:
    sampler = Sampler(repetition_penalty=2.0)
    seen = np.array([[True, True, False]])
    assert sampler.scores(np.array([[2.0, -2.0, 1.0]]), seen).tolist() == [[1.0, -4.0, 1.0]]
    assert sampler.scores(np.array([[2.0, -2.0, 1.0]])).tolist() == [[2.0, -2.0, 1.0]]


def test_repetition_penalties_of_any_size_keep_scores_finite() -> None:
    row, seen = np.array([[2.0, -2.0, 1.0, -np.inf]]), np.array([[True, True, False, True]])
    low, high = 1 / (1 + np.exp([1.0, -1.0]))  # a score of 2 / 1e308 against that of 1
    for penalty, expected in ((1e-308, [1.0, 0.0, 0.0, 0.0]), (1e308, [low, 0.0, high, 0.0])):
        sampler = Sampler(temperature=1.0, repetition_penalty=penalty)
        np.testing.assert_allclose(sampler.probabilities(row, seen), [expected], atol=1e-300)
        assert Sampler(repetition_penalty=penalty)(row, seen).tolist() == [np.argmax(expected)]
        everywhere = np.ones((1, 4), bool)
        assert np.isfinite(sampler.probabilities(-abs(row), everywhere)).all()
    assert generate(Chain(3, 0), [1], beams=2, max_new_tokens=3, repetition_penalty=1e-308)


def test_repetition_penalty_in_generate(model: LanguageModel) -> None:
    """Token for token what follows from whole forwards; with a huge one nothing comes twice."""
    for penalty in (1.5, 1e9):
        for prompt in PROMPTS:
            tokens = list(prompt)
            for _ in range(5):
                scores = model(mg.tensor([tokens]))[0, -1].detach().numpy().copy()
                for token in set(tokens):
                    scores[token] *= penalty if scores[token] < 0 else 1 / penalty
                tokens.append(int(scores.argmax()))
            options = {"max_new_tokens": 5, "repetition_penalty": penalty}
            assert generate(model, prompt, **options) == tokens[len(prompt) :]
            assert generate(model, [*PROMPTS, prompt], **options)[-1] == tokens[len(prompt) :]


# --- beams ------------------------------------------------------------------------------------------------------------


class Chain(nn.Module):
    """A language of few tokens whose next token depends on the last two, with the protocol and nothing else."""

    def __init__(self, vocabulary: int, seed: int) -> None:
        self.table = np.random.default_rng(seed).normal(size=(vocabulary, vocabulary, vocabulary)) * 2

    def logits(self, tokens: list[int]) -> Array:
        last, before = tokens[-1], tokens[-2] if len(tokens) > 1 else 0
        return self.table[before, last]

    def score(self, prompt: list[int], tokens: tuple[int, ...]) -> float:
        total, text = 0.0, list(prompt)
        for token in tokens:
            row = self.logits(text)
            total += row[token] - np.log(np.exp(row).sum())
            text.append(token)
        return float(total)

    def decoding(self, *, capacity: int | None = None) -> Decoding:
        chain = self

        class Read:
            max_length = None
            tokens: list[list[int]] | None = None

            def advance(self, ids: mg.Tensor, lengths: mg.Tensor | None) -> mg.Tensor:
                counts = [ids.shape[1]] * ids.shape[0] if lengths is None else lengths.tolist()
                self.tokens = self.tokens or [[] for _ in counts]
                for row, new, n in zip(self.tokens, ids.tolist(), counts, strict=True):
                    row += new[:n]
                return mg.asarray(np.stack([chain.logits(row) for row in self.tokens]))

            def reorder(self, index: Any) -> None:
                assert self.tokens is not None
                self.tokens = [list(self.tokens[i]) for i in index]

        return Read()


def test_the_protocol() -> None:
    assert isinstance(Chain(3, 0), Generative)
    assert isinstance(Chain(3, 0).decoding(), Decoding)
    assert isinstance(gpt().decoding(), Decoding)


@given(
    seed=st.integers(0, 2**32 - 1),
    vocabulary=st.integers(2, 3),
    length=st.integers(1, 4),
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_beams_enough_find_the_best(seed: int, vocabulary: int, length: int, prompts: list[list[int]]) -> None:
    chain = Chain(vocabulary, seed)
    found = generate(chain, prompts, beams=vocabulary**length, max_new_tokens=length)
    for prompt, tokens in zip(prompts, found, strict=True):
        every = list(itertools.product(range(vocabulary), repeat=length))
        assert tuple(tokens) == max(every, key=lambda some: chain.score(prompt, some))


@given(seed=st.integers(0, 2**32 - 1), penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_beams_enough_find_the_best_that_stops(seed: int, penalty: float) -> None:
    """Token 0 stops: what is found wins over all sequences, each by its own length."""
    chain, length, prompt = Chain(3, seed), 3, [1]
    (found,) = generate(chain, [prompt], beams=200, max_new_tokens=length, stop=0, length_penalty=penalty)

    def value(tokens: tuple[int, ...]) -> float:
        counted = tokens if len(tokens) == length else (*tokens, 0)
        return chain.score(prompt, counted) / len(counted) ** penalty

    every = [some for n in range(length + 1) for some in itertools.product((1, 2), repeat=n)]
    assert tuple(found) == max(every, key=value)


@given(seed=st.integers(0, 2**32 - 1), penalty=st.sampled_from([-1e4, -700.0, 60.0, 700.0, 1e4]))
def test_a_huge_length_penalty_decides_by_the_length(seed: int, penalty: float) -> None:
    """The longest of what can be found wins, or the shortest; of equal ones the likeliest."""
    chain, length, prompt = Chain(3, seed), 3, [1]
    (found,) = generate(chain, [prompt], beams=200, max_new_tokens=length, stop=0, length_penalty=penalty)
    count = 1 if penalty < 0 else length
    every = [some for n in range(length + 1) for some in itertools.product((1, 2), repeat=n)]
    counted = [(some, some if len(some) == length else (*some, 0)) for some in every]
    assert tuple(found) == max(
        (some for some, whole in counted if len(whole) == count),
        key=lambda some: chain.score(prompt, some if len(some) == length else (*some, 0)),
    )


@given(seed=st.integers(0, 2**32 - 1), stop=st.sets(st.integers(0, 3), max_size=2))
def test_a_wider_beam_is_no_worse_at_the_first_two_tokens(seed: int, stop: set[int]) -> None:
    """With two tokens to find and as many beams as there are first tokens, nothing is cut off."""
    chain = Chain(4, seed)
    narrow, wide = (generate(chain, [1], beams=b, max_new_tokens=2) for b in (2, 4))
    assert chain.score([1], tuple(wide)) >= chain.score([1], tuple(narrow)) - 1e-12
    for beams in (2, 3):
        assert not stop & set(generate(chain, [1], beams=beams, max_new_tokens=5, stop=stop))


def test_one_beam_is_greedy(model: LanguageModel) -> None:
    from minigrad.models.beam_search import beam_search
    from minigrad.models.rows import Rows

    whole = generate(model, PROMPTS, max_new_tokens=10)
    for stop in ((), {whole[0][3]}, set(whole[2][:2])):
        rows = Rows(model, PROMPTS, 10)
        options: dict[str, Any] = {"beams": 1, "max_new_tokens": 10, "length_penalty": 1.0, "stop": stop}
        found = [some[0].tokens for some in beam_search(rows, Sampler(), **options)]
        assert found == generate(model, PROMPTS, max_new_tokens=10, stop=stop)


def test_beams_in_a_batch(model: LanguageModel) -> None:
    options: dict[str, Any] = {"beams": 3, "max_new_tokens": 8, "stop": [0, 4], "repetition_penalty": 1.2}
    assert generate(model, PROMPTS, **options) == [generate(model, prompt, **options) for prompt in PROMPTS]


def test_beams_score_at_least_what_greedy_does(model: LanguageModel) -> None:
    """Not a law of beam search, but of these fixed models."""

    def score(prompt: list[int], tokens: list[int]) -> float:
        logs = mg.log_softmax(model(mg.tensor([prompt + tokens]))[0]).detach().numpy()
        return sum(logs[len(prompt) - 1 + i, token] for i, token in enumerate(tokens))

    for prompt in PROMPTS:
        wide, greedy = (generate(model, prompt, beams=b, max_new_tokens=6) for b in (8, 1))
        assert score(prompt, wide) >= score(prompt, greedy) - 1e-12


# --- errors -----------------------------------------------------------------------------------------------------------

ERRORS: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "temperature is -1, needs a number of at least 0", {"temperature": -1}),
    (ShapeError, "top_k is 0, needs at least 1", {"temperature": 1.0, "top_k": 0}),
    (TypeError, "top_k is 1.5, needs an int", {"temperature": 1.0, "top_k": 1.5}),
    (ValueError, "top_p is 1.5, needs a probability", {"temperature": 1.0, "top_p": 1.5}),
    (ValueError, "top_k is 3, needs None, .* Pass temperature=1.0", {"top_k": 3}),
    (ValueError, "top_p is 0.5, needs None", {"top_p": 0.5}),
    (ValueError, "repetition_penalty is 0", {"repetition_penalty": 0}),
    (ShapeError, "beams is 0, needs at least 1", {"beams": 0}),
    (ShapeError, "max_new_tokens is 0, needs at least 1", {"max_new_tokens": 0}),
    (ValueError, "temperature is 1.0, needs 0, as a beam search draws nothing", {"beams": 2, "temperature": 1.0}),
    (ValueError, "sliding is True, needs False for a beam search", {"beams": 2, "sliding": True}),
    (ValueError, "needs False for a model that reads inputs", {"sliding": True, "inputs": {"source": 1}}),
    (ShapeError, "prompts is empty, needs at least one token in each prompt", {"prompts": []}),
    (ShapeError, "prompts is empty", {"prompts": [[1], []]}),
    (DTypeError, "prompts is 1.5, needs integers", {"prompts": [1.5]}),
    (DTypeError, "prompts is 'a', needs integers", {"prompts": [["a"]]}),
    (DTypeError, r"prompts is \[1\], needs integers", {"prompts": [[[1]]]}),
    (DTypeError, "prompts is True, needs integers", {"prompts": [True]}),
    (TypeError, "prompts is int64 \\(\\), needs a sequence of ids", {"prompts": mg.tensor(3)}),
    (TypeError, "prompts is 3, needs a sequence of ids of tokens, .* One token is a prompt too", {"prompts": 3}),
    (TypeError, "prompts is None, needs a sequence", {"prompts": None}),
    (TypeError, "prompts is a set, needs a sequence", {"prompts": {1, 2}}),
    (TypeError, "prompts is a list_iterator, needs a sequence", {"prompts": iter([1, 2])}),
    (TypeError, "prompts is a bytes, needs a sequence .* Encode text with a tokenizer", {"prompts": b"ab"}),
    (TypeError, "prompts is 'ab', needs a sequence .* Encode text with a tokenizer", {"prompts": "ab"}),
    (TypeError, "prompts is a mixture of tokens and sequences", {"prompts": [1, [2]]}),
    (TypeError, "prompts is a mixture of tokens and sequences", {"prompts": [[2], 1]}),
    (TypeError, "prompts is a mixture", {"prompts": [[2], {1}]}),
    (IndexError, "prompts is 9223372036854775808 in one place, needs ids", {"prompts": [2**63]}),
    (IndexError, "prompts is -1 in one place, needs ids", {"prompts": [[1], [2, -1]]}),
    (TypeError, "temperature is 'a', needs a number", {"temperature": "a"}),
    (ValueError, "temperature is nan, needs a number of at least 0", {"temperature": mg.nan}),
    (TypeError, "top_p is 'a', needs a number", {"temperature": 1.0, "top_p": "a"}),
    (TypeError, "repetition_penalty is None, needs a number", {"repetition_penalty": None}),
    (TypeError, "generator is 3, needs an mg.random.Generator", {"generator": 3}),
    (TypeError, "max_new_tokens is 'a', needs an int", {"max_new_tokens": "a"}),
    (TypeError, "max_new_tokens is 'a', needs an int", {"max_new_tokens": "a", "beams": 2}),
    (ValueError, "length_penalty is nan, needs a finite number", {"beams": 2, "length_penalty": mg.nan}),
    (TypeError, "length_penalty is 'a', needs a number", {"beams": 2, "length_penalty": "a"}),
    (TypeError, "inputs is 3, needs a mapping of names to values", {"inputs": 3}),
    (TypeError, "inputs is 'source', needs what GPT.decoding takes: nothing", {"inputs": {"source": 1}}),
    (TypeError, "model is the class GPT, needs a model", {"model": GPT}),
    (TypeError, "model is a Dense, needs a model with a method decoding", {"model": nn.Dense(2)}),
]


@pytest.mark.parametrize(("kind", "text", "options"), ERRORS, ids=[text[:30] for _, text, _ in ERRORS])
def test_errors_say_what_is_needed(kind: type[Exception], text: str, options: dict[str, Any]) -> None:
    with pytest.raises(kind, match=f"generate: .*{text}"):
        generate(**{"model": gpt(), "prompts": [1]} | options)


def test_nan_is_not_a_token() -> None:
    model = gpt()
    with mg.no_grad():
        model.tokens.weight[3] = mg.nan
    with pytest.raises(ValueError, match="logits is NaN in one place"):
        generate(model, [1])


def test_stops_may_be_tensors_and_nothing_but_integers(model: LanguageModel) -> None:
    token = generate(model, [1], max_new_tokens=3)[0]
    for stop in (mg.tensor([token]), [mg.tensor(token)], np.array(token)):
        assert generate(model, [1], max_new_tokens=3, stop=stop) == generate(model, [1], max_new_tokens=3, stop=token)
    assert generate(model, [1], max_new_tokens=3, stop=-1) == generate(model, [1], max_new_tokens=3)
    for stop in (str(token), [1.5], None, b"a", {token: 1}, [True], [[token]]):
        with pytest.raises(DTypeError, match=r"generate: stop is .*, needs integers"):
            generate(model, [1], max_new_tokens=3, stop=stop)


def test_infinite_logits_are_refused_where_probabilities_are_needed() -> None:
    for row in ([0.0, np.inf], [-np.inf, -np.inf]):
        with pytest.raises(ValueError, match=r"generate: logits is .*inf as the highest of a row, needs a finite"):
            Sampler(temperature=1.0).probabilities(np.array([row]))
        chain = Chain(2, 0)
        chain.table[:] = row
        with pytest.raises(ValueError, match=r"generate: logits is .*inf as the highest of a row, needs a finite"):
            generate(chain, [1], beams=2)
