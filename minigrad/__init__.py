"""minigrad: tensors that differentiate, on NumPy."""

from minigrad import dtypes
from minigrad.tensor import Tensor
from minigrad.ops import *
from minigrad.ops import linalg
from minigrad.dtypes import *
from minigrad import autograd, random
from minigrad.autograd import *
from minigrad.function import Function, checkpoint

__version__ = "0.1.0"
