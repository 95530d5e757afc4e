"""Smaller models: pruning, distillation, quantization."""

from minigrad.compress.channels import remove_channels
from minigrad.compress.cost import Cost, measure
from minigrad.compress.distillation_loss import DistillationLoss
from minigrad.compress.distiller import Distiller
from minigrad.compress.export import load_sparse, save_sparse
from minigrad.compress.features import (
    AttentionMaps,
    AttentionTransfer,
    Hint,
    Term,
    attention_map,
    attention_map_loss,
    attention_transfer_loss,
    hint_loss,
)
from minigrad.compress.heads import remove_heads
from minigrad.compress.int8 import dequantize_array, quantize_array
from minigrad.compress.layer_map import copy_layers, layer_map, tinybert_terms
from minigrad.compress.layers import remove_layers
from minigrad.compress.masks import apply_masks, masks, remove_masks
from minigrad.compress.neurons import remove_neurons, remove_units
from minigrad.compress.pruner import Pruner
from minigrad.compress.pruning import prune
from minigrad.compress.quantization import quantize
from minigrad.compress.quantized_dense import QuantizedDense
from minigrad.compress.quantized_embedding import QuantizedEmbedding
from minigrad.compress.relations import RelationAngles, RelationDistances, angle_loss, distance_loss
from minigrad.compress.rewind import Rewind
from minigrad.compress.schedules import CubicSchedule, GeometricSchedule, OneShot, PruningSchedule
from minigrad.compress.scores import Magnitude, Movement, Random, Score, Taylor
from minigrad.compress.soft_targets import soft_target_loss
from minigrad.compress.sparse_dense import SparseDense, sparsify
from minigrad.compress.sparsity import Sparsity, sparsity
from minigrad.compress.taps import capture
from minigrad.compress.teacher_cache import Indexed, TeacherCache
from minigrad.compress.teachers import EMATeacher, Ensemble, born_again
from minigrad.compress.vocabulary import shrink_embedding
from minigrad.compress.width import remove_features

__all__ = [
    "AttentionMaps", "AttentionTransfer", "Cost", "CubicSchedule", "DistillationLoss", "Distiller", "EMATeacher",
    "Ensemble", "GeometricSchedule", "Hint", "Indexed", "Magnitude", "Movement", "OneShot", "Pruner",
    "PruningSchedule", "QuantizedDense", "QuantizedEmbedding", "Random", "RelationAngles", "RelationDistances",
    "Rewind", "Score", "SparseDense", "Sparsity", "Taylor", "TeacherCache", "Term", "angle_loss", "apply_masks",
    "attention_map", "attention_map_loss", "attention_transfer_loss", "born_again", "capture", "copy_layers",
    "dequantize_array", "distance_loss", "hint_loss", "layer_map", "load_sparse", "masks", "measure", "prune",
    "quantize", "quantize_array", "remove_channels", "remove_features", "remove_heads", "remove_layers",
    "remove_masks", "remove_neurons", "remove_units", "save_sparse", "shrink_embedding", "soft_target_loss",
    "sparsify", "sparsity", "tinybert_terms",
]  # fmt: skip
