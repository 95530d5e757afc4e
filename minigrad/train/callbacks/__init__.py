"""Callbacks: what a `Trainer` calls while it trains."""

from minigrad.train.callbacks.callback import Callback, CallbackList
from minigrad.train.callbacks.checkpoint import Checkpoint, latest
from minigrad.train.callbacks.csv_logger import CSVLogger
from minigrad.train.callbacks.early_stopping import EarlyStopping
from minigrad.train.callbacks.lambda_callback import LambdaCallback
from minigrad.train.callbacks.lr_schedule import LRSchedule
from minigrad.train.callbacks.plot import Plot
from minigrad.train.callbacks.progress_bar import ProgressBar
from minigrad.train.callbacks.tensor_board import TensorBoard
from minigrad.train.callbacks.terminate_on_nan import TerminateOnNaN

__all__ = [
    "CSVLogger", "Callback", "CallbackList", "Checkpoint", "EarlyStopping", "LRSchedule", "LambdaCallback", "Plot",
    "ProgressBar", "TensorBoard", "TerminateOnNaN", "latest",
]  # fmt: skip
