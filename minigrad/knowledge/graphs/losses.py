"""Losses of scores: against all entities, and against the scores of wrong triples."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.knowledge.graphs.ids import as_ids, check_range
from minigrad.nn.checks import as_tensor, finite, number
from minigrad.tensor import Tensor

__all__ = [
    "all_entity_bce", "all_entity_cross_entropy", "margin_ranking_loss", "self_adversarial_loss", "softplus_loss",
]  # fmt: skip

Array = np.ndarray[Any, Any]


def all_entity_cross_entropy(
    scores: Tensor, rows: Any, answers: Any, *, label_smoothing: float = 0.0, per: str = "answer"
) -> Tensor:
    """The cross entropy of every answer against all entities, each query scored once.

    ::

        loss = mean over j of -log softmax(scores[rows[j]])[answers[j]]

    So the mean is the one over a query for each triple (1vsAll; Lacroix, Usunier and Obozinski, "Canonical tensor
    decomposition for knowledge base completion", 2018), but triples with a query in common share its scores. ``per =
    "query"`` takes the mean over the answers of a query first (KvsAll with the softmax; Ruffinelli, Broscheit and
    Gemulla, "You can teach an old dog new tricks!", 2020).

    Parameters
    ----------
    scores : Tensor
        ``(queries, entities)``.
    rows, answers : array_like of int
        ``(m,)``: entity ``answers[j]`` is an answer to query ``rows[j]``, as a `QueryBatch` has them.
    label_smoothing : float
        How much of the uniform distribution is mixed into that of the answers.
    per : str
        ``"answer"`` or ``"query"``: what counts alike in the mean.

    Returns
    -------
    Tensor
        A scalar; 0 without answers.

    Raises
    ------
    ShapeError
        The shapes do not fit.
    IndexError
        A row or an answer is out of range.
    ValueError
        Another `per`, or a label smoothing that is not between 0 and 1.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import knowledge
    >>> scores = mg.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    >>> mg.round(knowledge.all_entity_cross_entropy(scores, [0, 0, 1], [0, 1, 1]), 4)
    tensor(0.6367)
    """
    who = "all_entity_cross_entropy"
    x, row, answer = _checked(who, scores, rows, answers)
    smooth = _share(who, "label_smoothing", label_smoothing)
    if per not in ("answer", "query"):
        raise ValueError(message(who, "per", repr(per), "'answer' or 'query'"))
    counts = np.bincount(row, minlength=x.shape[0])
    weight = np.ones(row.shape) if per == "answer" else 1.0 / counts[row]
    if not row.size:
        return ops.sum(x[row, answer])
    # means of what is about 1 in size: in float16 a sum of so many terms is beyond the largest number
    total = np.bincount(row, weight, minlength=x.shape[0])  # of each query
    share = _as(total / total.mean(), x)
    picked = ops.mean(x[row, answer] * _as(weight / weight.mean(), x)) * (1.0 - smooth)
    if smooth:
        picked = picked + smooth * ops.mean(ops.mean(x, axis=1) * share)
    return ops.mean(ops.logsumexp(x, axis=1) * share) - picked


def all_entity_bce(scores: Tensor, rows: Any, answers: Any, *, label_smoothing: float = 0.0) -> Tensor:
    """The binary cross entropy of "is it an answer?", over every query and entity.

    ::

        loss = mean over q, e of softplus(s) - y * s        y = (1 - smoothing) * [e answers q] + smoothing / entities

    KvsAll: Dettmers, Minervini, Stenetorp and Riedel, "Convolutional 2D knowledge graph embeddings", 2018.

    Parameters
    ----------
    scores : Tensor
        ``(queries, entities)``.
    rows, answers : array_like of int
        As for `all_entity_cross_entropy`, each pair once.
    label_smoothing : float
        From 0 to 1.

    Returns
    -------
    Tensor
        A scalar; 0 of an empty batch.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import knowledge
    >>> mg.round(knowledge.all_entity_bce(mg.tensor([[2.0, 0.0]]), [0], [0]), 4)
    tensor(0.41)
    """
    x, row, answer = _checked("all_entity_bce", scores, rows, answers)
    smooth = _share("all_entity_bce", "label_smoothing", label_smoothing)
    yes = (1.0 - smooth) * _mean(x[row, answer]) * (row.size / max(1, x.size))
    if smooth:
        yes = yes + _mean(x) * (smooth / max(1, x.shape[1]))
    return _mean(ops.softplus(x)) - yes


def margin_ranking_loss(positive: Tensor, negative: Tensor, margin: float = 1.0) -> Tensor:
    """``mean(max(0, margin - positive + negative))``: a right triple beats each of its wrong ones by a margin.

    Bordes et al., "Translating embeddings for modeling multi-relational data", 2013.

    Parameters
    ----------
    positive : Tensor
        ``(n,)``, scores of right triples.
    negative : Tensor
        ``(n, k)``, scores of k wrong ones for each.
    margin : float
        How far they are to be apart.

    Returns
    -------
    Tensor
        A scalar; 0 of an empty batch.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import knowledge
    >>> knowledge.margin_ranking_loss(mg.tensor([0.0]), mg.tensor([[-3.0, 0.5]]), 1.0)
    tensor(0.75)
    """
    right, wrong = _pair("margin_ranking_loss", positive, negative)
    gap = finite("margin_ranking_loss", "margin", margin)
    return _mean(ops.relu(gap - ops.expand_dims(right, axis=1) + wrong))


def softplus_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """``mean over all triples of softplus(-y * score)``, y = 1 for the right ones and -1 for the wrong ones.

    The logistic loss of ComplEx (Trouillon et al., 2016); it equals the binary cross entropy with targets 1 and 0.

    Parameters
    ----------
    positive : Tensor
        ``(n,)``.
    negative : Tensor
        ``(n, k)``.

    Returns
    -------
    Tensor
        A scalar; 0 of an empty batch.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import knowledge
    >>> mg.round(knowledge.softplus_loss(mg.tensor([2.0]), mg.tensor([[-1.0, 0.0]])), 4)
    tensor(0.3778)
    """
    right, wrong = _pair("softplus_loss", positive, negative)
    share = right.size / max(1, right.size + wrong.size)
    return share * _mean(ops.softplus(-right)) + (1.0 - share) * _mean(ops.softplus(wrong))


def self_adversarial_loss(positive: Tensor, negative: Tensor, margin: float = 6.0, temperature: float = 1.0) -> Tensor:
    """Wrong triples count by how likely the model finds them.

    ::

        loss = mean over i of softplus(-(margin + positive[i]))
               + sum over j of p[i, j] * softplus(margin + negative[i, j])
        p[i] = softmax(temperature * negative[i]), taken as constant

    Sun, Deng, Nie and Tang, "RotatE", 2019; made for scores that are negative distances.

    Parameters
    ----------
    positive : Tensor
        ``(n,)``.
    negative : Tensor
        ``(n, k)``.
    margin : float
        gamma of the paper: right triples shall have a distance below it, wrong ones above it.
    temperature : float
        alpha of the paper; 0 weighs all alike.

    Returns
    -------
    Tensor
        A scalar; 0 of an empty batch.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import knowledge
    >>> mg.round(knowledge.self_adversarial_loss(mg.tensor([-1.0]), mg.tensor([[-9.0, -3.0]]), margin=4.0), 4)
    tensor(1.3586)
    """
    who = "self_adversarial_loss"
    right, wrong = _pair(who, positive, negative)
    gap, alpha = finite(who, "margin", margin), finite(who, "temperature", temperature)
    share = ops.softmax(wrong.detach() * alpha, axis=1)
    return _mean(ops.softplus(-(right + gap)) + ops.sum(share * ops.softplus(wrong + gap), axis=1))


def _checked(who: str, scores: Any, rows: Any, answers: Any) -> tuple[Tensor, Array, Array]:
    x, row, answer = as_tensor(scores), as_ids(who, "rows", rows), as_ids(who, "answers", answers)
    if x.ndim != 2:
        raise ShapeError(message(who, "scores", x, "a matrix (queries, entities)"))
    if row.ndim != 1 or answer.shape != row.shape:
        raise ShapeError(message(who, "answers", answer, f"one axis, as long as that of rows, which is {row.shape}"))
    for name, ids, count in (("rows", row, x.shape[0]), ("answers", answer, x.shape[1])):
        check_range(who, name, ids, count)
    return x, row, answer


def _pair(who: str, positive: Any, negative: Any) -> tuple[Tensor, Tensor]:
    right, wrong = as_tensor(positive), as_tensor(negative)
    if right.ndim != 1:
        raise ShapeError(message(who, "positive", right, "one axis, a score for each right triple"))
    if wrong.ndim != 2 or wrong.shape[0] != right.shape[0]:
        need = f"shape ({right.shape[0]}, k), k wrong triples for each right one"
        raise ShapeError(message(who, "negative", wrong, need))
    return right, wrong


def _share(who: str, name: str, value: Any) -> float:
    found = number(who, name, value)
    if not 0.0 <= found <= 1.0:
        raise ValueError(message(who, name, f"{found}", "a number from 0 to 1"))
    return found


def _mean(x: Tensor) -> Tensor:
    """The mean, and 0 of nothing."""
    return ops.mean(x) if x.size else ops.sum(x)


def _as(array: Array, like: Tensor) -> Tensor:
    return ops.asarray(array.astype(like.dtype))
