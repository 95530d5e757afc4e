"""Sampler: how the next token is chosen from its logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad import dtypes, random
from minigrad.errors import describe, message
from minigrad.nn.checks import extent, number, positive
from minigrad.random import Generator

__all__ = ["Sampler"]

Array = np.ndarray[Any, Any]
LARGEST = np.finfo(np.float64).max


class Sampler:
    """Choose tokens: the most likely ones at temperature 0, else drawn at random.

    The logits of tokens that occurred are lowered first, then all are divided by the temperature, then the unlikely
    ones are cut off: ``top_k`` before ``top_p``. All is computed in float64.

    Parameters
    ----------
    temperature : float
        0 takes the most likely token, the first of several.
    top_k : int, optional
        Draw from this many of the most likely tokens; from all of equal logits at the border.
    top_p : float, optional
        Draw from the fewest most likely tokens whose probabilities sum to this. A. Holtzman et al., "The curious case
        of neural text degeneration", 2020.
    repetition_penalty : float
        Positive logits of tokens that occurred are divided by it, negative ones multiplied. N. S. Keskar et al.,
        "CTRL", 2019.
    generator : Generator, optional
        Draws; that of `minigrad.random` by default.

    Raises
    ------
    ValueError
        If an option is out of range, or the tokens are to be cut off where none is drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.models.sampling import Sampler
    >>> logits = np.log([[0.5, 0.3, 0.15, 0.05]])
    >>> Sampler(temperature=1.0, top_p=0.75).probabilities(logits)
    array([[0.625, 0.375, 0.   , 0.   ]])
    >>> Sampler()(logits)
    array([0])
    """

    def __init__(
        self,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        generator: Generator | None = None,
    ) -> None:
        self.temperature = number("generate", "temperature", temperature)
        if not 0 <= self.temperature < math.inf:
            raise ValueError(message("generate", "temperature", temperature, "a number of at least 0"))
        self.top_k = None if top_k is None else extent("generate", "top_k", top_k)
        self.top_p = None if top_p is None else number("generate", "top_p", top_p)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(message("generate", "top_p", top_p, "a probability, 0 < top_p <= 1"))
        self.repetition_penalty = positive("generate", "repetition_penalty", repetition_penalty)
        if generator is not None and not isinstance(generator, Generator):
            raise TypeError(message("generate", "generator", describe(generator), "an mg.random.Generator"))
        for name, value in (("top_k", top_k), ("top_p", top_p)):
            if value is not None and self.temperature == 0:
                need = "None, as nothing is drawn at temperature 0"
                raise ValueError(message("generate", name, value, need, "Pass temperature=1.0"))
        self.generator = generator

    @property
    def looks_back(self) -> bool:
        """Whether the tokens that occurred count."""
        return self.repetition_penalty != 1

    def scores(self, logits: Array, seen: Array | None = None) -> Array:
        """Logits in float64, those of tokens that occurred lowered.

        Parameters
        ----------
        logits : numpy.ndarray
            (rows, vocabulary).
        seen : numpy.ndarray, optional
            (rows, vocabulary) bools, which tokens occurred in a row.

        Raises
        ------
        ValueError
            If a logit is NaN.
        """
        scores = np.asarray(logits).astype(np.float64)
        if np.isnan(scores).any():
            raise ValueError(message("generate", "logits", "NaN in one place", "numbers", "Are the weights finite?"))
        if seen is not None and self.looks_back:
            with np.errstate(over="ignore"):
                lowered = np.where(scores > 0, scores / self.repetition_penalty, scores * self.repetition_penalty)
            lowered = np.where(np.isfinite(scores), np.clip(lowered, -LARGEST, LARGEST), scores)
            scores = np.where(seen, lowered, scores)
        return scores

    def probabilities(self, logits: Array, seen: Array | None = None) -> Array:
        """What tokens are drawn from, (rows, vocabulary); for a temperature above 0."""
        with np.errstate(over="ignore"):  # at a temperature near 0 the unlikely ones are minus infinity
            scores = below_highest(self.scores(logits, seen)) / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[1]:
            border = np.partition(scores, -self.top_k, axis=1)[:, -self.top_k, None]
            scores = np.where(scores < border, -np.inf, scores)
        p = np.exp(scores)
        p /= p.sum(axis=1, keepdims=True)
        if self.top_p is not None and self.top_p < 1:
            order = np.argsort(-p, axis=1, kind="stable")
            falling = np.take_along_axis(p, order, axis=1)
            before = np.cumsum(falling, axis=1) - falling
            np.put_along_axis(p, order, np.where(before < self.top_p, falling, 0.0), axis=1)
            p /= p.sum(axis=1, keepdims=True)
        return p

    def __call__(self, logits: Array, seen: Array | None = None) -> Array:
        """A token for each row, (rows,) integers."""
        if self.temperature == 0:
            return self.scores(logits, seen).argmax(axis=1)  # type: ignore[no-any-return]
        levels = np.cumsum(self.probabilities(logits, seen), axis=1)
        draw = random.uniform if self.generator is None else self.generator.uniform
        heights = draw((len(levels), 1), dtype=dtypes.float64).numpy() * levels[:, -1:]
        return (levels > heights).argmax(axis=1)  # type: ignore[no-any-return]


def below_highest(scores: Array) -> Array:
    """Scores (rows, vocabulary) less the highest of their row, which is to be finite."""
    highest = scores.max(axis=1, keepdims=True)
    wrong = highest[~np.isfinite(highest)]
    if wrong.size:
        got = f"{wrong[0]} as the highest of a row"
        raise ValueError(message("generate", "logits", got, "a finite number", "Are the weights finite?"))
    with np.errstate(over="ignore"):
        return scores - highest  # type: ignore[no-any-return]
