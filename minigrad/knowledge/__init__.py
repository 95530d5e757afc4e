"""Knowledge graphs: triples, models that score them, losses, negative samples, and the ranking of answers."""

from minigrad.knowledge.bilinear import ComplEx, DistMult
from minigrad.knowledge.decoder import KnowledgeDecoder
from minigrad.knowledge.fusion import FusionEncoder, FusionLayer
from minigrad.knowledge.graph import Graph, load_graph, read_graph
from minigrad.knowledge.kbert import KBert
from minigrad.knowledge.knowledge_embedding import KnowledgeEmbedding
from minigrad.knowledge.linking import EntityLinker, Mention, words
from minigrad.knowledge.lookup import TripleLookup
from minigrad.knowledge.losses import (
    all_entity_bce,
    all_entity_cross_entropy,
    margin_ranking_loss,
    self_adversarial_loss,
    softplus_loss,
)
from minigrad.knowledge.model import KnowledgeModel
from minigrad.knowledge.picture import plot_embedding, principal_components
from minigrad.knowledge.prediction import LinkPredictor
from minigrad.knowledge.queries import Queries, QueryBatch
from minigrad.knowledge.ranking import Ranking, evaluate, ranks
from minigrad.knowledge.retrieval import TripleAttention
from minigrad.knowledge.rotation import RotatE
from minigrad.knowledge.sampling import NegativeSampler
from minigrad.knowledge.translation import TransE, TransH
from minigrad.knowledge.triples import Names, TripleSet
from minigrad.knowledge.visible_matrix import SentenceTree, pad_trees, sentence_tree

__all__ = [
    "ComplEx", "DistMult", "EntityLinker", "FusionEncoder", "FusionLayer", "Graph", "KBert", "KnowledgeDecoder",
    "KnowledgeEmbedding", "KnowledgeModel", "LinkPredictor", "Mention", "Names", "NegativeSampler", "Queries",
    "QueryBatch", "Ranking", "RotatE", "SentenceTree", "TransE", "TransH", "TripleAttention", "TripleLookup",
    "TripleSet", "all_entity_bce", "all_entity_cross_entropy", "evaluate", "load_graph", "margin_ranking_loss",
    "pad_trees", "plot_embedding", "principal_components", "ranks", "read_graph", "self_adversarial_loss",
    "sentence_tree", "softplus_loss", "words",
]  # fmt: skip
