"""Mixed precision: ``from minigrad import amp``."""

from minigrad.amp.casting import autocast, autocast_dtype
from minigrad.amp.scaler import GradScaler

__all__ = ["GradScaler", "autocast", "autocast_dtype"]
