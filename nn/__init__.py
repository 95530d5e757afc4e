"""Layers, losses and initializers: ``from minigrad import nn``."""

from minigrad.nn import activations, constraints, functional, init, regularizers
from minigrad.nn.activations import (
    ELU,
    GELU,
    SELU,
    Identity,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from minigrad.nn.attention import MultiHeadAttention
from minigrad.nn.batch_norm import BatchNorm, BatchNorm1D, BatchNorm2D
from minigrad.nn.checkpointing import checkpointed
from minigrad.nn.constraints import Constraint, MaxNorm, MinMaxNorm, NonNegative, UnitNorm
from minigrad.nn.containers import Lambda, ModuleDict, ModuleList, Residual
from minigrad.nn.convolution import Conv1D, Conv1DTranspose, Conv2D, Conv2DTranspose
from minigrad.nn.dense import Dense
from minigrad.nn.dropout import Dropout
from minigrad.nn.embedding import Embedding
from minigrad.nn.feed_forward import FeedForward
from minigrad.nn.kv_cache import DecoderCache, KVCache, LayerCache
from minigrad.nn.losses import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    CTCLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
    SoftmaxFocalLoss,
)
from minigrad.nn.margin_losses import CosineEmbeddingLoss, HingeLoss, MarginRankingLoss, TripletMarginLoss
from minigrad.nn.module import LoadReport, Module
from minigrad.nn.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from minigrad.nn.parameter import Parameter
from minigrad.nn.pooling import (
    AdaptiveAvgPool1D,
    AdaptiveAvgPool2D,
    AvgPool1D,
    AvgPool2D,
    GlobalAvgPool1D,
    GlobalAvgPool2D,
    MaxPool1D,
    MaxPool2D,
)
from minigrad.nn.positions import LearnedPositions, RotaryPositions, SinusoidalPositions, alibi_slopes
from minigrad.nn.recurrent import GRU, LSTM, RNN
from minigrad.nn.recurrent_cells import GRUCell, LSTMCell, RNNCell
from minigrad.nn.regularizers import L1, L1L2, L2, ProximalL1, Regularizer, penalty, regularize
from minigrad.nn.sequential import Sequential
from minigrad.nn.shape import Flatten, Reshape
from minigrad.nn.transformer import Transformer, TransformerDecoder, TransformerEncoder
from minigrad.nn.transformer_layers import TransformerDecoderLayer, TransformerEncoderLayer

__all__ = [
    "ELU", "GELU", "GRU", "L1", "L1L2", "L2", "LSTM", "RNN", "SELU", "AdaptiveAvgPool1D", "AdaptiveAvgPool2D",
    "AvgPool1D", "AvgPool2D", "BCELoss", "BCEWithLogitsLoss", "BatchNorm", "BatchNorm1D", "BatchNorm2D", "CTCLoss",
    "Constraint", "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "CosineEmbeddingLoss",
    "CrossEntropyLoss", "DecoderCache", "Dense", "Dropout", "Embedding", "FeedForward", "Flatten", "GRUCell",
    "GlobalAvgPool1D", "GlobalAvgPool2D", "GroupNorm", "HingeLoss", "HuberLoss", "Identity", "InstanceNorm",
    "KLDivLoss", "KVCache", "L1Loss", "LSTMCell", "Lambda", "LayerCache", "LayerNorm", "LeakyReLU",
    "LearnedPositions", "LoadReport", "LogSigmoid", "LogSoftmax", "MSELoss", "MarginRankingLoss", "MaxNorm",
    "MaxPool1D", "MaxPool2D", "MinMaxNorm", "Mish", "Module", "ModuleDict", "ModuleList", "MultiHeadAttention",
    "NLLLoss", "NonNegative", "Parameter", "ProximalL1", "RMSNorm", "RNNCell", "ReLU", "Regularizer", "Reshape",
    "Residual", "RotaryPositions", "Sequential", "SiLU", "Sigmoid", "SigmoidFocalLoss", "SinusoidalPositions",
    "SmoothL1Loss", "Softmax", "SoftmaxFocalLoss", "Softplus", "Tanh", "Transformer", "TransformerDecoder",
    "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer", "TripletMarginLoss", "UnitNorm",
    "activations", "alibi_slopes", "checkpointed", "constraints", "functional", "init", "penalty", "regularize",
    "regularizers",
]  # fmt: skip
