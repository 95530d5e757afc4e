"""Several processes, on one machine or many, that train one model."""

from minigrad.parallel.communicator import Communicator
from minigrad.parallel.data_parallel import DataParallel
from minigrad.parallel.errors import ParallelError
from minigrad.parallel.functions import all_sum
from minigrad.parallel.group import Group
from minigrad.parallel.sharded_optimizer import ShardedOptimizer
from minigrad.parallel.start import init
from minigrad.parallel.sync_batch_norm import synchronize

__all__ = [
    "Communicator",
    "DataParallel",
    "Group",
    "ParallelError",
    "ShardedOptimizer",
    "all_sum",
    "init",
    "synchronize",
]
