"""The ops. This package is also a namespace: the `xp` of a rule or a generic body that runs on tensors."""

from minigrad.ops import linalg as linalg
from minigrad.ops.activation import *
from minigrad.ops.arithmetic import *
from minigrad.ops.attention import *
from minigrad.ops.attention_weights import *
from minigrad.ops.bitwise import *
from minigrad.ops.comparison import *
from minigrad.ops.complex import *
from minigrad.ops.constants import *
from minigrad.ops.creation import *
from minigrad.ops.cross_entropy import *
from minigrad.ops.datatypes import *
from minigrad.ops.embedding import *
from minigrad.ops.exponential import *
from minigrad.ops.flex_attention import *
from minigrad.ops.group_norm import *
from minigrad.ops.indexing import *
from minigrad.ops.info import *
from minigrad.ops.linear_cross_entropy import *
from minigrad.ops.loss import *
from minigrad.ops.manipulation import *
from minigrad.ops.matmul import *
from minigrad.ops.noise import *
from minigrad.ops.normalization import *
from minigrad.ops.reduction import *
from minigrad.ops.rotary import *
from minigrad.ops.rounding import *
from minigrad.ops.searching import *
from minigrad.ops.sets import *
from minigrad.ops.softmax import *
from minigrad.ops.sorting import *
from minigrad.ops.statistics import *
from minigrad.ops.trigonometric import *
