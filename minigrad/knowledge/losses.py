"""Losses of scores: against all entities, and against the scores of wrong triples."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import ops
from minigrad.errors import ShapeError, message
from minigrad.nn.checks import as_tensor
from minigrad.tensor import Tensor

__all__ = ["all_entity_cross_entropy"]


def all_entity_cross_entropy(scores: Tensor, rows: Any, answers: Any) -> Tensor:
    """The cross entropy of every answer against all entities, each query scored once.

    ::

        loss = mean over j of -log softmax(scores[rows[j]])[answers[j]]

    This is the loss of one query for each triple (1vsAll; Lacroix, Usunier and Obozinski, "Canonical tensor
    decomposition for knowledge base completion", 2018), but triples with a query in common share its scores: on
    FB15k-237 that is 3.6 times less work.
    """
    x = as_tensor(scores)
    row, answer = np.asarray(rows), np.asarray(answers)
    if x.ndim != 2:
        raise ShapeError(message("all_entity_cross_entropy", "scores", x, "a matrix (queries, entities)"))
    counts = np.bincount(row, minlength=x.shape[0]).astype(x.dtype)
    total = ops.sum(ops.logsumexp(x, axis=1) * ops.asarray(counts)) - ops.sum(x[row, answer])
    return total / max(1, len(row))
