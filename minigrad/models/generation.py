"""Generation: continue sequences of tokens with a model, all at once or token by token."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from minigrad.errors import message
from minigrad.models.beam_search import beam_search
from minigrad.models.decoding import Generative
from minigrad.models.rows import TEXT, Prompts, Rows, read_prompts, read_token
from minigrad.models.sampling import Sampler
from minigrad.nn.checks import extent, finite
from minigrad.random import Generator

__all__ = ["generate", "stream"]


def generate(
    model: Generative,
    prompts: Prompts,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    beams: int = 1,
    length_penalty: float = 1.0,
    stop: int | Collection[int] = (),
    sliding: bool = False,
    inputs: Mapping[str, Any] | None = None,
    generator: Generator | None = None,
) -> Any:
    """Continue sequences.

    Every token is read once, as keys and values are kept: n tokens cost n steps. The model works in evaluation mode,
    without a graph. Sequences that have ended leave the batch.

    Parameters
    ----------
    model : Generative
        Such as `GPT` or `Llama`; see `minigrad.models.decoding` for what is asked of one.
    prompts : array_like of int, or list of them
        How the sequences begin: ids of tokens, flat for one sequence, else one list each; their lengths may differ.
    max_new_tokens : int
        The most tokens to add to each.
    temperature, top_k, top_p, repetition_penalty, generator : optional
        See `Sampler`. At temperature 0, the default, it is always the most likely token.
    beams : int
        Above 1, the best of a beam search this wide.
    length_penalty : float
        Of the beam search: what was found is compared by the logarithm of its probability over
        ``count ** length_penalty``, where `count` is the number of its tokens.
    stop : int or collection of int
        Tokens that end a sequence; they are not part of the result.
    sliding : bool
        Where a sequence becomes longer than the model takes, go on from the last half of the context; otherwise that
        is an error.
    inputs : mapping, optional
        What an encoder-decoder reads: keywords for its `decoding`.

    Returns
    -------
    list of int, or list of list of int
        The new tokens of the sequence, or of each.

    Raises
    ------
    ShapeError
        If a prompt is empty, or a sequence becomes too long.
    DTypeError
        If tokens are not integers.
    IndexError
        If the model has no such token.
    ValueError
        If an option is out of range.
    TypeError
        If an argument is of another kind, or `inputs` are not those that the model takes.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.models import GPT, GPTConfig, generate
    >>> model = GPT(GPTConfig(vocab_size=9, max_length=16, features=8, num_layers=1, num_heads=2))
    >>> len(generate(model, [1, 2, 3], max_new_tokens=5))
    5
    >>> mg.random.seed(0)
    >>> found = generate(model, [[1, 2, 3], [4]], max_new_tokens=5, temperature=1.0, top_k=4)
    >>> [len(tokens) for tokens in found]
    [5, 5]
    """
    width = extent("generate", "beams", beams)
    options: dict[str, Any] = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition_penalty": repetition_penalty,
        "generator": generator,
    }  # fmt: skip
    rows, alone = read_prompts(prompts)
    if width == 1:
        found: list[list[int]] = [[] for _ in rows]
        more: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop, "sliding": sliding, "inputs": inputs}
        for tokens in stream(model, rows, **more, **options):
            for text, token in zip(found, tokens):
                if token is not None:
                    text.append(token)
    else:
        if temperature:
            raise ValueError(message("generate", "temperature", temperature, "0, as a beam search draws nothing"))
        if sliding:
            raise ValueError(message("generate", "sliding", True, "False for a beam search"))
        sampler, most = Sampler(**options), extent("generate", "max_new_tokens", max_new_tokens)
        batch = Rows(model, rows, most, inputs=inputs, looks_back=sampler.looks_back)
        hypotheses = beam_search(
            batch,
            sampler,
            beams=width,
            max_new_tokens=most,
            length_penalty=finite("generate", "length_penalty", length_penalty),
            stop=stops(stop),
        )
        found = [some[0].tokens for some in hypotheses]
    return found[0] if alone else found


def stream(
    model: Generative,
    prompts: Prompts,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: int | Collection[int] = (),
    sliding: bool = False,
    inputs: Mapping[str, Any] | None = None,
    generator: Generator | None = None,
) -> Iterator[Any]:
    """Continue sequences, and give each token as soon as it is there.

    Parameters
    ----------
    model, prompts, **options
        As for `generate`, which does this and collects; there are no beams.

    Yields
    ------
    int, or list of int or None
        The next token of the sequence, or of each; None for those that have ended.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad.models import GPT, GPTConfig, stream
    >>> model = GPT(GPTConfig(vocab_size=9, max_length=16, features=8, num_layers=1, num_heads=2))
    >>> [isinstance(token, int) for token in stream(model, [1, 2, 3], max_new_tokens=3)]
    [True, True, True]
    """
    given, alone = read_prompts(prompts)
    most, ends = extent("generate", "max_new_tokens", max_new_tokens), stops(stop)
    sampler = Sampler(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        generator=generator,
    )
    rows = Rows(model, given, most, sliding=sliding, inputs=inputs, looks_back=sampler.looks_back)

    def tokens() -> Iterator[Any]:
        live = list(range(len(given)))
        for _ in range(most):
            chosen = sampler(rows.advance(), rows.seen).tolist()
            going = [row for row, token in enumerate(chosen) if token not in ends]
            live, chosen = [live[row] for row in going], [chosen[row] for row in going]
            if not live:
                return
            rows.keep(going)
            rows.append(chosen)
            if alone:
                yield chosen[0]
                continue
            step: list[int | None] = [None] * len(given)
            for row, token in zip(live, chosen):
                step[row] = token
            yield step

    return tokens()


def stops(stop: Any) -> frozenset[int]:
    """The tokens that end a sequence: those given, or the one."""
    given = stop.tolist() if hasattr(stop, "tolist") else stop
    several = isinstance(given, Collection) and not isinstance(given, (*TEXT, Mapping))
    return frozenset(read_token("stop", token) for token in (given if several else [given]))
