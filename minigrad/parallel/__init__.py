"""Several processes, on one machine or many, that train one model."""

from minigrad.parallel.communicator import Communicator
from minigrad.parallel.errors import ParallelError
from minigrad.parallel.group import Group
from minigrad.parallel.start import init

__all__ = ["Communicator", "Group", "ParallelError", "init"]
