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
from minigrad.nn.parameter import Parameter
from minigrad.nn.recurrent import GRU, LSTM, RNN
from minigrad.nn.recurrent_cells import GRUCell, LSTMCell, RNNCell
from minigrad.nn.sequential import Sequential

__all__ = [
    "ELU", "GELU", "GRU", "LSTM", "RNN", "SELU", "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CosineEmbeddingLoss",
    "CrossEntropyLoss", "Dense", "Dropout", "GRUCell", "HingeLoss", "HuberLoss", "Identity", "KLDivLoss", "L1Loss",
    "LSTMCell", "LeakyReLU", "LoadReport", "LogSigmoid", "LogSoftmax", "MSELoss", "MarginRankingLoss", "Mish",
    "Module", "NLLLoss", "Parameter", "RNNCell", "ReLU", "Sequential", "SiLU", "Sigmoid", "SigmoidFocalLoss",
    "SmoothL1Loss", "Softmax", "SoftmaxFocalLoss", "Softplus", "Tanh", "TripletMarginLoss", "activations",
    "functional", "init",
]  # fmt: skip
