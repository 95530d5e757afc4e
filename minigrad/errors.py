"""The errors minigrad raises, and the one builder that gives each its op, argument, what came and what was needed."""

from __future__ import annotations

import contextvars
from typing import Any

import numpy as np

__all__ = ["AxisError", "DTypeError", "DeviceError", "GradError", "ShapeError", "describe", "layer_path", "message"]

# the path of the layer being called (``encoder.layers.0.attention``), kept by nn.Module
layer_path: contextvars.ContextVar[str] = contextvars.ContextVar("minigrad_layer_path", default="")


class ShapeError(ValueError):
    """A shape, an axis or an index does not fit."""


class AxisError(ShapeError, IndexError):
    """A tensor has no such axis; an IndexError too, as NumPy's is."""


class DTypeError(TypeError):
    """A data type does not fit."""


class DeviceError(RuntimeError):
    """A device is missing, or arrays of several devices meet."""


class GradError(RuntimeError):
    """The tape cannot do what was asked."""


def message(op: str, arg: str | None, got: object, need: str, hint: str = "") -> str:
    """Build the text of an error.

    Parameters
    ----------
    op : str
        The op or layer.
    arg : str or None
        The argument that does not fit.
    got : object
        What came; a str is used as it is, anything else is described.
    need : str
        What was needed.
    hint : str, optional
        How to mend it.

    Returns
    -------
    str
        ``path.op: arg is got, needs need. hint``

    Examples
    --------
    >>> from minigrad.errors import message
    >>> message("softmax", "axis", "2", "an axis of a tensor with 2 axes (-2..1)")
    'softmax: axis is 2, needs an axis of a tensor with 2 axes (-2..1)'
    """
    path = layer_path.get()
    where = f"{path}: {op}" if path else op
    what = got if isinstance(got, str) else describe(got)
    text = f"{where}: {arg} is {what}, needs {need}" if arg else f"{where}: got {what}, needs {need}"
    return f"{text}. {hint}" if hint else text


def describe(value: Any) -> str:
    """Say in a few words what a value is: an array by shape and dtype, anything else by type or value.

    Parameters
    ----------
    value : object
        Any value.

    Returns
    -------
    str
        A short description.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.errors import describe
    >>> describe(np.zeros((2, 3), np.float32)), describe(1.5), describe(None)
    ('float32 (2, 3)', '1.5', 'None')
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, np.dtype):
        return str(value)
    if value is Ellipsis:
        return "..."
    if isinstance(value, slice):
        return ":".join(
            "" if part is None else str(part)
            for part in (value.start, value.stop, value.step)[: 2 + (value.step is not None)]
        )
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return repr(value)
    if isinstance(value, (tuple, list)) and len(value) <= 4:
        inner = ", ".join(describe(v) for v in value)
        comma = "," if len(value) == 1 else ""
        return f"({inner}{comma})" if isinstance(value, tuple) else f"[{inner}]"
    return f"a {type(value).__name__}"
