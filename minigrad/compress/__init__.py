"""Compression: models that become smaller and faster: ``from minigrad import compress``."""

from minigrad.compress.export import load_sparse, save_sparse
from minigrad.compress.masks import apply_masks, masks, remove_masks
from minigrad.compress.pruner import Pruner
from minigrad.compress.pruning import prune
from minigrad.compress.rewind import Rewind
from minigrad.compress.schedules import CubicSchedule, GeometricSchedule, OneShot, PruningSchedule
from minigrad.compress.scores import Magnitude, Movement, Random, Score, Taylor
from minigrad.compress.sparse_dense import SparseDense, sparsify
from minigrad.compress.sparsity import Sparsity, sparsity

__all__ = [
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
    "prune",
    "remove_masks",
    "save_sparse",
    "sparsify",
    "sparsity",
]
