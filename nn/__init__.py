"""Layers, losses and initializers: ``from minigrad import nn``."""

from minigrad.nn import activations, functional, init
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
from minigrad.nn.containers import Lambda, ModuleDict, ModuleList, Residual
from minigrad.nn.dense import Dense
from minigrad.nn.dropout import Dropout
from minigrad.nn.embedding import Embedding
from minigrad.nn.feed_forward import FeedForward
from minigrad.nn.kv_cache import DecoderCache, KVCache, LayerCache
from minigrad.nn.losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from minigrad.nn.module import LoadReport, Module
from minigrad.nn.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from minigrad.nn.parameter import Parameter
from minigrad.nn.positions import LearnedPositions, RotaryPositions, SinusoidalPositions, alibi_slopes
from minigrad.nn.sequential import Sequential
from minigrad.nn.shape import Flatten, Reshape
from minigrad.nn.transformer import Transformer, TransformerDecoder, TransformerEncoder
from minigrad.nn.transformer_layers import TransformerDecoderLayer, TransformerEncoderLayer

__all__ = [
    "ELU", "GELU", "SELU", "BCEWithLogitsLoss", "BatchNorm", "BatchNorm1D", "BatchNorm2D", "CrossEntropyLoss",
    "DecoderCache", "Dense", "Dropout", "Embedding", "FeedForward", "Flatten", "GroupNorm", "HuberLoss", "Identity",
    "InstanceNorm", "KLDivLoss", "KVCache", "L1Loss", "Lambda", "LayerCache", "LayerNorm", "LeakyReLU",
    "LearnedPositions", "LoadReport", "LogSigmoid", "LogSoftmax", "MSELoss", "Mish", "Module", "ModuleDict",
    "ModuleList", "MultiHeadAttention", "NLLLoss", "Parameter", "RMSNorm", "ReLU", "Reshape", "Residual",
    "RotaryPositions", "Sequential", "SiLU", "Sigmoid", "SinusoidalPositions", "SmoothL1Loss", "Softmax",
    "Softplus", "Tanh", "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
    "TransformerEncoderLayer", "activations", "alibi_slopes", "functional", "init",
]  # fmt: skip
