"""Callbacks: what a `Trainer` calls while it trains."""

from minigrad.train.callbacks.callback import Callback, CallbackList

__all__ = ["Callback", "CallbackList"]
