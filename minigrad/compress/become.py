"""become: a layer that turns into another one, in its place."""

from __future__ import annotations

from typing import Any

from minigrad.nn.module import Module

__all__ = ["become"]

KEPT = ("_name", "_is_plain", "_pre_hooks", "_hooks", "is_checkpointed", "training")


def become(layer: Any, other: Module) -> None:
    """Turn a layer into another one, so that all that shares it, its name and its hooks are kept."""
    own = vars(layer)
    kept = {name: own[name] for name in KEPT if name in own}
    own.clear()
    own.update(vars(other))
    own.update(kept)
    layer.__class__ = type(other)
