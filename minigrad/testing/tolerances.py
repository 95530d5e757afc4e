"""How closely numbers must agree, in one place: tight enough that a rule which is 0.1 % off never passes."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import dtypes

__all__ = ["RELATIVE", "assert_close", "gradient"]

# Per dtype, what a handful of roundings may cost relative to the largest element. Half types hold 11 and 8 bits, so two
# of their roundings (a result saved for backward, a gradient) are 0.1 % and 0.8 %; faulty formulas show in float64.
RELATIVE: dict[dtypes.DType, float] = {
    dtypes.float64: 1e-12,
    dtypes.float32: 5e-6,
    dtypes.float16: 2e-3,
    dtypes.bfloat16: 1.6e-2,
    dtypes.complex64: 5e-6,
    dtypes.complex128: 1e-12,
}


def gradient(order: int) -> tuple[float, float]:
    """Relative and absolute tolerance of a float64 derivative of some order against central differences."""
    return (1e-7, 1e-9) if order == 1 else (1e-6, 1e-8)


def assert_close(
    actual: Any,
    expected: Any,
    dtype: dtypes.DType,
    what: str,
    *,
    factor: float = 1.0,
    floor: float = 0.0,
    each: bool = False,
) -> None:
    """Raise AssertionError unless two arrays agree to what `dtype` can hold.

    Parameters
    ----------
    actual, expected : array_like
        The arrays; their shapes must be equal. NaN equals NaN, and infinities must match.
    dtype : dtype
        The coarsest dtype that had a part in `actual`.
    what : str
        What is compared, for the message.
    factor : float
        A multiple of the dtype's tolerance.
    floor : float
        A scale that the largest element counts for at least.
    each : bool
        Every element is its own scale, for values of very different magnitudes.

    Raises
    ------
    AssertionError
        With the worst element and both its values.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.testing.tolerances import assert_close
    >>> assert_close(np.float32([1.0, 2.0]), [1.0, 2.0000001], np.dtype("float32"), "x")
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if actual.size == 0:
        return
    if dtype not in RELATIVE or actual.dtype.kind in "biu":
        wrong = actual != expected
        assert not wrong.any(), f"{what}: {actual[wrong][0]!r}, expected {expected[wrong][0]!r}"
        return
    wide = np.complex128 if actual.dtype.kind == "c" or expected.dtype.kind == "c" else np.float64
    a, e = actual.astype(wide), expected.astype(wide)
    limit = factor * RELATIVE[dtype]
    finite = np.isfinite(e)
    size = np.where(finite, np.abs(e), 0.0)
    # below the smallest normal number the spacing no longer shrinks
    tiny = dtypes.finfo(dtype).smallest_normal
    allowed = limit * np.maximum(size if each else np.full(e.shape, size.max()), floor) + tiny
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - e)
    fine = np.where(finite, gap <= allowed, (a == e) | (np.isnan(a) & np.isnan(e)))
    if not fine.all():
        gaps = np.where(fine, -1.0, np.nan_to_num(gap, nan=np.inf, posinf=np.inf))
        worst = np.unravel_index(np.argmax(gaps), a.shape)
        at = tuple(int(i) for i in worst)
        raise AssertionError(
            f"{what}: element {at} is {a[worst]!r}, expected {e[worst]!r}, difference {gap[worst]:.3e}, "
            f"allowed {allowed[worst]:.3e} ({dtype})"
        )
