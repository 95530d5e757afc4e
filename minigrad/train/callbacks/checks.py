"""Checks that callbacks share, and the error for a package that is not there."""

from __future__ import annotations

import importlib
import operator
from typing import Any

from minigrad.errors import message

__all__ = ["count", "needed"]


def count(who: str, name: str, value: Any, least: int = 0) -> int:
    """An int of at least so much."""
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(message(who, name, value, "an int")) from None
    if found < least:
        raise ValueError(message(who, name, f"{found}", f"at least {least}"))
    return found


def needed(who: str, module: str, extra: str) -> Any:
    """A module of an optional package.

    Raises
    ------
    ImportError
        If it is not installed; it says how to do that.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{who} needs {package}: pip install 'minigrad[{extra}]'") from error
