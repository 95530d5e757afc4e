"""Checks that callbacks share, and the error for a package that is not there."""

from __future__ import annotations

import importlib
import operator
import os
from pathlib import Path
from typing import Any

from minigrad.errors import message

__all__ = ["count", "needed", "writable"]


def count(who: str, name: str, value: Any, least: int = 0) -> int:
    """An int of at least so much."""
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(message(who, name, value, "an int")) from None
    if found < least:
        raise ValueError(message(who, name, f"{found}", f"at least {least}"))
    return found


def writable(who: str, name: str, folder: Path) -> None:
    """Make a folder where it is missing; to find out that one cannot be written to after hours of training is late.

    Raises
    ------
    OSError
        If files cannot be made in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = f"{str(folder)!r}, which cannot be made ({error.strerror})"
        raise type(error)(message(who, name, got, "a folder to write to")) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(message(who, name, f"{str(folder)!r}, which is read-only", "a folder to write to"))


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
