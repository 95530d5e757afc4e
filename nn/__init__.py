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
from minigrad.nn.batch_norm import BatchNorm, BatchNorm1D, BatchNorm2D
from minigrad.nn.containers import Lambda, ModuleDict, ModuleList, Residual
from minigrad.nn.dense import Dense
from minigrad.nn.dropout import Dropout
from minigrad.nn.embedding import Embedding
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
from minigrad.nn.sequential import Sequential
from minigrad.nn.shape import Flatten, Reshape

__all__ = [
    "ELU", "GELU", "SELU", "BCEWithLogitsLoss", "BatchNorm", "BatchNorm1D", "BatchNorm2D", "CrossEntropyLoss", "Dense",
    "Dropout", "Embedding", "Flatten", "GroupNorm", "HuberLoss", "Identity", "InstanceNorm", "KLDivLoss", "L1Loss",
    "Lambda", "LayerNorm", "LeakyReLU", "LoadReport", "LogSigmoid", "LogSoftmax", "MSELoss", "Mish", "Module",
    "ModuleDict", "ModuleList", "NLLLoss", "Parameter", "RMSNorm", "ReLU", "Reshape", "Residual", "Sequential", "SiLU",
    "Sigmoid", "SmoothL1Loss", "Softmax", "Softplus", "Tanh", "activations", "functional", "init",
]  # fmt: skip
