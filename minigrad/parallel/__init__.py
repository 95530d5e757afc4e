"""Several processes, on one machine or many, that train one model."""

from minigrad.parallel.communicator import Communicator
from minigrad.parallel.data_parallel import DataParallel
from minigrad.parallel.errors import ParallelError, RankLost
from minigrad.parallel.functions import all_sum
from minigrad.parallel.gather import agree_on_overflow, gather_optimizer_state, own_optimizer_state
from minigrad.parallel.group import Group
from minigrad.parallel.mesh import Mesh
from minigrad.parallel.pipeline import Pipeline
from minigrad.parallel.sharded_optimizer import ShardedOptimizer
from minigrad.parallel.split_functions import copy_in, gather_out, slice_in, sum_out, vocabulary_cross_entropy
from minigrad.parallel.split_layers import ColumnDense, RowDense, VocabularyEmbedding
from minigrad.parallel.split_model import (
    clip_split_grad_norm_,
    gather_state_dict,
    load_gathered_state_dict,
    tensor_parallel,
)
from minigrad.parallel.start import init, restart_count
from minigrad.parallel.sync_batch_norm import synchronize

__all__ = [
    "ColumnDense", "Communicator", "DataParallel", "Group", "Mesh", "ParallelError", "Pipeline", "RankLost", "RowDense",
    "ShardedOptimizer", "VocabularyEmbedding", "agree_on_overflow", "all_sum", "clip_split_grad_norm_", "copy_in",
    "gather_optimizer_state", "gather_out", "gather_state_dict", "init", "load_gathered_state_dict",
    "own_optimizer_state", "restart_count", "slice_in", "sum_out", "synchronize", "tensor_parallel",
    "vocabulary_cross_entropy",
]  # fmt: skip
