"""LinkPredictor: what a trained model believes, by names."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.autograd import no_grad
from minigrad.errors import ShapeError, message
from minigrad.knowledge.graphs.graph import Graph
from minigrad.knowledge.graphs.model import KnowledgeModel
from minigrad.knowledge.graphs.queries import Queries
from minigrad.knowledge.graphs.triples import TripleSet
from minigrad.nn.checks import extent
from minigrad.nn.mode import evaluation

__all__ = ["LinkPredictor"]

Array = np.ndarray[Any, Any]
METRICS = ("cosine", "euclidean")


class LinkPredictor:
    """Answers questions with the names of entities, the likeliest first.

    Parameters
    ----------
    model : KnowledgeModel
        Trained.
    facts : Graph or TripleSet
        Has the names. What it says is true, all of its parts, is left out of the answers: they are guesses.

    Raises
    ------
    ShapeError
        The model has not as many entities or relations as there are names.

    Examples
    --------
    >>> from minigrad import knowledge
    >>> facts = knowledge.TripleSet.from_names([("Bern", "in", "Switzerland"), ("Oslo", "in", "Norway")])
    >>> model = knowledge.DistMult(4, 1, 2, initializer="ones")
    >>> vectors = {"entities.weight": [[1.0, 0.1], [0.1, 1.0], [0.2, 1.0], [1.0, 0.2]]}
    >>> _ = model.load_state_dict(vectors, strict=False)
    >>> guess = knowledge.LinkPredictor(model, facts)
    >>> [name for name, score in guess.predict_tails("Bern", "in", k=2)], guess.nearest("Oslo", k=1)[0][0]
    (['Bern', 'Oslo'], 'Norway')
    """

    def __init__(self, model: KnowledgeModel, facts: Graph | TripleSet) -> None:
        known = facts.known if isinstance(facts, Graph) else facts
        for name, count, names in (
            ("entities", model.num_entities, known.entities), ("relations", model.num_relations, known.relations),
        ):  # fmt: skip
            if count != len(names):
                raise ShapeError(
                    message("LinkPredictor", "model", f"of {count} {name}", f"{len(names)}, as facts name")
                )
        self.model, self.entities, self.relations = model, known.entities, known.relations
        self.known = Queries(known) if len(known) else None

    def predict_tails(self, head: str | int, relation: str | int, k: int = 10) -> list[tuple[str, float]]:
        """The k likeliest new tails, with their scores.

        Parameters
        ----------
        head, relation : str or int
            Names, or ids.
        k : int
            How many; fewer come where fewer are left.

        Raises
        ------
        KeyError, IndexError
            A name or an id is unknown.
        ValueError
            A score is NaN.
        """
        return self._answers(self.entities.id(head), self.relations.id(relation), k)

    def predict_heads(self, relation: str | int, tail: str | int, k: int = 10) -> list[tuple[str, float]]:
        """The k likeliest new heads, with their scores; as `predict_tails`."""
        return self._answers(self.entities.id(tail), self.relations.id(relation) + len(self.relations), k)

    def nearest(self, entity: str | int, k: int = 10, *, metric: str = "cosine") -> list[tuple[str, float]]:
        """The k entities with the nearest vectors.

        Parameters
        ----------
        entity : str or int
            A name, or an id; it is left out itself.
        k : int
            How many.
        metric : str
            ``"cosine"``, with the similarities, the largest first; or ``"euclidean"``, with the distances, the smallest
            first.

        Raises
        ------
        KeyError, IndexError
            The name or id is unknown.
        ValueError
            Another metric.
        """
        if metric not in METRICS:
            raise ValueError(message("LinkPredictor.nearest", "metric", repr(metric), f"one of {', '.join(METRICS)}"))
        own = self.entities.id(entity)
        vectors = self.model.entities.weight.detach().to("cpu").numpy().astype(np.float64)
        if metric == "cosine":
            norms = np.maximum(np.linalg.norm(vectors, axis=1), np.finfo(np.float64).tiny)
            found = (vectors @ vectors[own]) / norms / norms[own]
            keys = found.copy()
        else:
            found = np.linalg.norm(vectors - vectors[own], axis=1)
            keys = -found
        keys[own] = -np.inf
        return self._best(keys, found, k)

    def _answers(self, entity: int, relation: int, k: int) -> list[tuple[str, float]]:
        query = np.array([[entity, relation]])
        with evaluation(), no_grad():
            scores = self.model.score_queries(query).to("cpu").numpy()[0]
        keys = scores.astype(np.float64)
        if self.known is not None:
            keys[self.known.find(query)[1]] = -np.inf
        return self._best(keys, scores, k)

    def _best(self, keys: Array, values: Array, k: int) -> list[tuple[str, float]]:
        """The names with the largest keys, equal ones in the order of ids; none whose key is -inf."""
        if np.isnan(keys).any():
            raise ValueError(
                message("LinkPredictor", "model", "with NaN among its numbers", "scores that have an order")
            )
        order = np.argsort(-keys, kind="stable")[: extent("LinkPredictor", "k", k)]
        return [(self.entities[i], float(values[i])) for i in order if keys[i] > -np.inf]
