"""Smaller models: pruning, distillation, quantization."""

from minigrad.compress.distillation_loss import DistillationLoss
from minigrad.compress.distiller import Distiller
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
from minigrad.compress.int8 import dequantize_array, quantize_array
from minigrad.compress.layer_map import copy_layers, layer_map, tinybert_terms
from minigrad.compress.quantization import quantize
from minigrad.compress.quantized_dense import QuantizedDense
from minigrad.compress.quantized_embedding import QuantizedEmbedding
from minigrad.compress.relations import RelationAngles, RelationDistances, angle_loss, distance_loss
from minigrad.compress.soft_targets import soft_target_loss
from minigrad.compress.taps import capture
from minigrad.compress.teacher_cache import Indexed, TeacherCache
from minigrad.compress.teachers import EMATeacher, Ensemble, born_again

__all__ = [
    "AttentionMaps", "AttentionTransfer", "DistillationLoss", "Distiller", "EMATeacher", "Ensemble", "Hint",
    "Indexed", "QuantizedDense", "QuantizedEmbedding", "RelationAngles", "RelationDistances", "TeacherCache",
    "Term", "angle_loss", "attention_map", "attention_map_loss", "attention_transfer_loss", "born_again", "capture",
    "copy_layers", "dequantize_array", "distance_loss", "hint_loss", "layer_map", "quantize", "quantize_array",
    "soft_target_loss", "tinybert_terms",
]  # fmt: skip
