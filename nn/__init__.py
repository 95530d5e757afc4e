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
from minigrad.nn.convolution import Conv1D, Conv1DTranspose, Conv2D, Conv2DTranspose
from minigrad.nn.dense import Dense
from minigrad.nn.dropout import Dropout
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
from minigrad.nn.sequential import Sequential

__all__ = [
    "ELU", "GELU", "SELU", "AdaptiveAvgPool1D", "AdaptiveAvgPool2D", "AvgPool1D", "AvgPool2D", "BCEWithLogitsLoss",
    "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "CrossEntropyLoss", "Dense", "Dropout",
    "GlobalAvgPool1D", "GlobalAvgPool2D", "HuberLoss", "Identity", "KLDivLoss", "L1Loss", "LeakyReLU", "LoadReport",
    "LogSigmoid", "LogSoftmax", "MSELoss", "MaxPool1D", "MaxPool2D", "Mish", "Module", "NLLLoss", "Parameter",
    "ReLU", "Sequential", "SiLU", "Sigmoid", "SmoothL1Loss", "Softmax", "Softplus", "Tanh", "activations",
    "functional", "init",
]  # fmt: skip
