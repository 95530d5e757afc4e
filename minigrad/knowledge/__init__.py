"""Knowledge graphs: triples, models that score them, losses, negative samples, and the ranking of answers."""

from minigrad.knowledge.bilinear import ComplEx, DistMult
from minigrad.knowledge.graph import Graph, load_graph, read_graph
from minigrad.knowledge.losses import all_entity_cross_entropy
from minigrad.knowledge.model import KnowledgeModel
from minigrad.knowledge.queries import Queries, QueryBatch
from minigrad.knowledge.ranking import Ranking, evaluate, ranks
from minigrad.knowledge.rotation import RotatE
from minigrad.knowledge.translation import TransE, TransH
from minigrad.knowledge.triples import Names, TripleSet

__all__ = [
    "ComplEx",
    "DistMult",
    "Graph",
    "KnowledgeModel",
    "Names",
    "Queries",
    "QueryBatch",
    "Ranking",
    "RotatE",
    "TransE",
    "TransH",
    "TripleSet",
    "all_entity_cross_entropy",
    "evaluate",
    "load_graph",
    "ranks",
    "read_graph",
]
