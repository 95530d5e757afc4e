"""Knowledge: facts about entities, and the ways in which they enter a model of language."""

from minigrad.knowledge.decoder import KnowledgeDecoder
from minigrad.knowledge.fusion import FusionEncoder, FusionLayer
from minigrad.knowledge.kbert import KBert
from minigrad.knowledge.knowledge_embedding import KnowledgeEmbedding
from minigrad.knowledge.linking import EntityLinker, Mention, words
from minigrad.knowledge.lookup import TripleLookup
from minigrad.knowledge.retrieval import TripleAttention
from minigrad.knowledge.visible_matrix import SentenceTree, pad_trees, sentence_tree

__all__ = [
    "EntityLinker",
    "FusionEncoder",
    "FusionLayer",
    "KBert",
    "KnowledgeDecoder",
    "KnowledgeEmbedding",
    "Mention",
    "SentenceTree",
    "TripleAttention",
    "TripleLookup",
    "pad_trees",
    "sentence_tree",
    "words",
]
