"""Autocast: the block in which ops take the dtypes that suit them, half types where that does no harm."""

from __future__ import annotations

from typing import Any

from minigrad import dtypes
from minigrad._core import tape
from minigrad.autograd import Decorating
from minigrad.errors import DTypeError, describe, message

__all__ = ["autocast", "autocast_dtype"]


class autocast(Decorating, tape.AutocastMode):
    """Run ops in the dtype that suits them: a context manager or a decorator, for this thread (or task) only.

    Products, convolution, attention and recurrent layers take their inputs in `dtype`; softmax, norms, losses, sums and
    what grows fast, such as ``exp``, take half inputs in float32; all others are left alone. The table of all ops is in
    docs/mixed_precision.md. The casts are recorded, so a float32 parameter has a float32 gradient. Tensors of float64
    are never cast.
    What an op does inside is its own affair, and so is backward: both keep to the dtypes that the op was given.

    Blocks nest; ``autocast(enabled=False)`` switches it off inside. The values of a cast parameter are kept until the
    block ends, and those of a recorded result until another one is cast. An optimizer's step, and every other change
    that goes through minigrad, is noticed, but not a change through NumPy in the memory of one.

    P. Micikevicius et al., "Mixed precision training", 2018.

    Parameters
    ----------
    dtype : dtype
        ``mg.bfloat16`` or ``mg.float16``; the second one needs a `GradScaler`.
    enabled : bool
        False for a block without autocast.

    Raises
    ------
    DTypeError
        For another dtype.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import amp
    >>> x, weight = mg.ones((2, 3)), mg.ones((3, 4), requires_grad=True)
    >>> with amp.autocast(mg.bfloat16):
    ...     y = x @ weight
    ...     loss = y.sum()
    >>> y.dtype, loss.dtype
    (dtype(bfloat16), dtype('float32'))
    >>> loss.backward()
    >>> weight.grad.dtype
    dtype('float32')
    """

    def __init__(self, dtype: Any = dtypes.bfloat16, enabled: bool = True) -> None:
        need = "float16 or bfloat16"
        try:
            found = dtypes.as_dtype(dtype, "autocast")
        except DTypeError:
            raise DTypeError(message("autocast", "dtype", describe(dtype), need)) from None
        if found not in dtypes.HALF:
            raise DTypeError(message("autocast", "dtype", str(found), need))
        super().__init__(found if enabled else None)

    def again(self) -> tape.Mode:
        """A block like this one, which the others know nothing of."""
        return tape.AutocastMode(self.value)


def autocast_dtype() -> dtypes.DType | None:
    """The half type of the `autocast` block in force here, None where there is none.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import amp
    >>> with amp.autocast(mg.float16):
    ...     amp.autocast_dtype()
    dtype('float16')
    >>> amp.autocast_dtype() is None
    True
    """
    return tape.autocast_dtype()  # type: ignore[no-any-return]
