"""Compression: models that become smaller and faster: ``from minigrad import compress``."""

from minigrad.compress.channels import remove_channels
from minigrad.compress.cost import Cost, measure
from minigrad.compress.export import load_sparse, save_sparse
from minigrad.compress.heads import remove_heads
from minigrad.compress.layers import remove_layers
from minigrad.compress.masks import apply_masks, masks, remove_masks
from minigrad.compress.neurons import remove_neurons, remove_units
from minigrad.compress.pruner import Pruner
from minigrad.compress.pruning import prune
from minigrad.compress.rewind import Rewind
from minigrad.compress.schedules import CubicSchedule, GeometricSchedule, OneShot, PruningSchedule
from minigrad.compress.scores import Magnitude, Movement, Random, Score, Taylor
from minigrad.compress.sparse_dense import SparseDense, sparsify
from minigrad.compress.sparsity import Sparsity, sparsity
from minigrad.compress.vocabulary import shrink_embedding
from minigrad.compress.width import remove_features

__all__ = [
    "Cost",
    "CubicSchedule",
    "GeometricSchedule",
    "Magnitude",
    "Movement",
    "OneShot",
    "Pruner",
    "PruningSchedule",
    "Random",
    "Rewind",
    "Score",
    "SparseDense",
    "Sparsity",
    "Taylor",
    "apply_masks",
    "load_sparse",
    "masks",
    "measure",
    "prune",
    "remove_channels",
    "remove_features",
    "remove_heads",
    "remove_layers",
    "remove_masks",
    "remove_neurons",
    "remove_units",
    "save_sparse",
    "shrink_embedding",
    "sparsify",
    "sparsity",
]
