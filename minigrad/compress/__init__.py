"""Smaller models from larger ones: ``from minigrad import compress``."""

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
from minigrad.compress.layer_map import copy_layers, layer_map, tinybert_terms
from minigrad.compress.relations import RelationAngles, RelationDistances, angle_loss, distance_loss
from minigrad.compress.soft_targets import soft_target_loss
from minigrad.compress.taps import capture
from minigrad.compress.teacher_cache import Indexed, TeacherCache
from minigrad.compress.teachers import EMATeacher, Ensemble, born_again

__all__ = [
    "AttentionMaps",
    "AttentionTransfer",
    "DistillationLoss",
    "Distiller",
    "EMATeacher",
    "Ensemble",
    "Hint",
    "Indexed",
    "RelationAngles",
    "RelationDistances",
    "TeacherCache",
    "Term",
    "angle_loss",
    "attention_map",
    "attention_map_loss",
    "attention_transfer_loss",
    "born_again",
    "capture",
    "copy_layers",
    "distance_loss",
    "hint_loss",
    "layer_map",
    "soft_target_loss",
    "tinybert_terms",
]
