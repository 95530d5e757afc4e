"""Smaller models: pruning, distillation, quantization."""

from minigrad.compress.distillation.distillation_loss import DistillationLoss
from minigrad.compress.distillation.distiller import Distiller
from minigrad.compress.distillation.features import (
    AttentionMaps,
    AttentionTransfer,
    Hint,
    Term,
    attention_map,
    attention_map_loss,
    attention_transfer_loss,
    hint_loss,
)
from minigrad.compress.distillation.layer_map import copy_layers, layer_map, tinybert_terms
from minigrad.compress.distillation.relations import RelationAngles, RelationDistances, angle_loss, distance_loss
from minigrad.compress.distillation.soft_targets import soft_target_loss
from minigrad.compress.distillation.taps import capture
from minigrad.compress.distillation.teacher_cache import Indexed, TeacherCache
from minigrad.compress.distillation.teachers import EMATeacher, Ensemble, born_again
from minigrad.compress.pruning.export import load_sparse, save_sparse
from minigrad.compress.pruning.masks import apply_masks, masks, remove_masks
from minigrad.compress.pruning.prune import prune
from minigrad.compress.pruning.pruner import Pruner
from minigrad.compress.pruning.rewind import Rewind
from minigrad.compress.pruning.schedules import CubicSchedule, GeometricSchedule, OneShot, PruningSchedule
from minigrad.compress.pruning.scores import Magnitude, Movement, Random, Score, Taylor
from minigrad.compress.pruning.sparse_dense import SparseDense, sparsify
from minigrad.compress.pruning.sparsity import Sparsity, sparsity
from minigrad.compress.quantization.int8 import dequantize_array, quantize_array
from minigrad.compress.quantization.quantize import quantize
from minigrad.compress.quantization.quantized_dense import QuantizedDense
from minigrad.compress.quantization.quantized_embedding import QuantizedEmbedding
from minigrad.compress.structured.channels import remove_channels
from minigrad.compress.structured.cost import Cost, measure
from minigrad.compress.structured.heads import remove_heads
from minigrad.compress.structured.layers import remove_layers
from minigrad.compress.structured.neurons import remove_neurons, remove_units
from minigrad.compress.structured.vocabulary import shrink_embedding
from minigrad.compress.structured.width import remove_features

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
