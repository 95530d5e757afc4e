"""Knowledge: graphs as vectors, and facts in language models."""

from minigrad.knowledge.graphs.bilinear import ComplEx, DistMult
from minigrad.knowledge.graphs.graph import Graph, load_graph, read_graph
from minigrad.knowledge.graphs.losses import (
    all_entity_bce,
    all_entity_cross_entropy,
    margin_ranking_loss,
    self_adversarial_loss,
    softplus_loss,
)
from minigrad.knowledge.graphs.model import KnowledgeModel
from minigrad.knowledge.graphs.picture import plot_embedding, principal_components
from minigrad.knowledge.graphs.prediction import LinkPredictor
from minigrad.knowledge.graphs.queries import Queries, QueryBatch
from minigrad.knowledge.graphs.ranking import Ranking, evaluate, ranks
from minigrad.knowledge.graphs.rotation import RotatE
from minigrad.knowledge.graphs.sampling import NegativeSampler
from minigrad.knowledge.graphs.translation import TransE, TransH
from minigrad.knowledge.graphs.triples import Names, TripleSet
from minigrad.knowledge.language.decoder import KnowledgeDecoder
from minigrad.knowledge.language.dialogue import DialogueModel
from minigrad.knowledge.language.fusion import FusionEncoder, FusionLayer
from minigrad.knowledge.language.kbert import KBert
from minigrad.knowledge.language.knowledge_embedding import KnowledgeEmbedding
from minigrad.knowledge.language.linking import EntityLinker, Mention, words
from minigrad.knowledge.language.lookup import TripleLookup
from minigrad.knowledge.language.retrieval import TripleAttention
from minigrad.knowledge.language.stated_facts import stated_facts
from minigrad.knowledge.language.visible_matrix import SentenceTree, pad_trees, sentence_tree

__all__ = [
    "ComplEx", "DialogueModel", "DistMult", "EntityLinker", "FusionEncoder", "FusionLayer", "Graph", "KBert",
    "KnowledgeDecoder", "KnowledgeEmbedding", "KnowledgeModel", "LinkPredictor", "Mention", "Names",
    "NegativeSampler", "Queries", "QueryBatch", "Ranking", "RotatE", "SentenceTree", "TransE", "TransH",
    "TripleAttention", "TripleLookup", "TripleSet", "all_entity_bce", "all_entity_cross_entropy", "evaluate",
    "load_graph", "margin_ranking_loss", "pad_trees", "plot_embedding", "principal_components", "ranks",
    "read_graph", "self_adversarial_loss", "sentence_tree", "softplus_loss", "stated_facts", "words",
]  # fmt: skip
