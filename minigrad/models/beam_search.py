"""Beam search: the most likely continuations that a narrow search finds."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from minigrad.models.rows import Rows
from minigrad.models.sampling import Sampler, below_highest

__all__ = ["Hypothesis", "beam_search"]

Array = np.ndarray[Any, Any]


class Hypothesis(NamedTuple):
    """A continuation.

    Parameters
    ----------
    tokens : list of int
        Without a stop token.
    score : float
        The sum of the logarithms of the tokens' probabilities, that of a stop token too, over
        ``count ** length_penalty``, where `count` is the number of summands.
    """

    tokens: list[int]
    score: float


def beam_search(
    rows: Rows,
    sampler: Sampler,
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float,
    stop: Collection[int],
) -> list[list[Hypothesis]]:
    """Continue each prompt with its `beams` likeliest beginnings at a time, until as many have ended.

    Parameters
    ----------
    rows : Rows
        The prompts.
    sampler : Sampler
        Lowers the logits of tokens that occurred.
    beams : int
        The width.
    max_new_tokens : int
        The longest continuation; what has not ended by then counts as it is.
    length_penalty : float
        Above 0 it favours longer continuations.
    stop : collection of int
        Tokens that end a continuation.

    Returns
    -------
    list of list of Hypothesis
        For each prompt what was found, the best first.
    """
    starts = [len(tokens) for tokens in rows.tokens]
    found: list[list[tuple[float, Hypothesis]]] = [[] for _ in starts]
    live = list(range(len(starts)))  # the prompts that are being continued, `width` rows each
    sums = np.zeros((len(live), 1))
    for count in range(1, max_new_tokens + 1):
        width = sums.shape[1]
        shifted = below_highest(sampler.scores(rows.advance(), rows.seen))
        logs = (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).reshape(len(live), width, -1)
        totals = (sums[:, :, None] + logs).reshape(len(live), -1)
        origins: list[int] = []
        tokens: list[int] = []
        kept: list[list[float]] = []
        remain: list[int] = []
        for place, prompt in enumerate(live):
            going: list[tuple[float, int, int]] = []
            for rank, (total, beam, token) in enumerate(best(totals[place], 2 * beams, logs.shape[2])):
                if token not in stop:
                    going.append((total, beam, token))
                elif rank < beams:
                    text = rows.tokens[place * width + beam][starts[prompt] :]
                    found[prompt].append(scored(text, total, count, length_penalty))
                if len(going) == beams:
                    break
            if len(found[prompt]) < beams and going:
                # a vocabulary of a few tokens has not so many continuations: the others can never win
                going += [(-np.inf, *going[0][1:])] * (beams - len(going))
                remain.append(prompt)
                kept.append([total for total, _, _ in going])
                origins += [place * width + beam for _, beam, _ in going]
                tokens += [token for _, _, token in going]
        live, sums = remain, np.array(kept)
        if not live:
            break
        rows.keep(origins)
        rows.append(tokens)
    for place, prompt in enumerate(live):
        for beam in range(sums.shape[1]):
            if np.isfinite(sums[place, beam]):
                text = rows.tokens[place * sums.shape[1] + beam][starts[prompt] :]
                found[prompt].append(scored(text, float(sums[place, beam]), max(max_new_tokens, 1), length_penalty))
    return [[hypothesis for _, hypothesis in sorted(some, key=operator.itemgetter(0))] for some in found]


def scored(tokens: list[int], total: float, count: int, penalty: float) -> tuple[float, Hypothesis]:
    """A hypothesis and what to sort it by: the logarithm of minus the score, which no penalty takes out of range."""
    if not total:
        return -math.inf, Hypothesis(tokens, total)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        score = float(total / np.float64(count) ** penalty)
    return math.log(-total) - penalty * math.log(count), Hypothesis(tokens, score)


def best(totals: Array, count: int, vocabulary: int) -> list[tuple[float, int, int]]:
    """The largest totals with their beam and token, in falling order; of equal ones the first first."""
    if count < len(totals):
        border = np.partition(totals, -count)[-count]
        places = np.flatnonzero(totals >= border)
    else:
        places = np.arange(len(totals))
    order = places[np.argsort(-totals[places], kind="stable")][:count]
    return [(float(totals[i]), *divmod(int(i), vocabulary)) for i in order if totals[i] > -np.inf]
