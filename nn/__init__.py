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
from minigrad.nn.normalization import LayerNorm, RMSNorm
from minigrad.nn.parameter import Parameter
from minigrad.nn.sequential import Sequential

__all__ = [
    "ELU", "GELU", "SELU", "BCEWithLogitsLoss", "CrossEntropyLoss", "Dense", "Dropout", "Embedding", "HuberLoss",
    "Identity", "KLDivLoss", "L1Loss", "LayerNorm", "LeakyReLU", "LoadReport", "LogSigmoid", "LogSoftmax", "MSELoss", "Mish", "Module",
    "NLLLoss", "Parameter", "RMSNorm", "ReLU", "Sequential", "SiLU", "Sigmoid", "SmoothL1Loss", "Softmax", "Softplus", "Tanh",
    "activations", "functional", "init",
]  # fmt: skip
