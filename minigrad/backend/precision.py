"""How exactly a GPU multiplies float32 matrices: one setting of the process, which needs no GPU."""

from __future__ import annotations

from minigrad.errors import describe, message

__all__ = ["get_matmul_precision", "set_matmul_precision"]

WORDS = ("highest", "high")

_matmul = WORDS[0]


def get_matmul_precision() -> str:
    """How float32 matrices are multiplied on a GPU, ``"highest"`` or ``"high"``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.cuda.get_matmul_precision()
    'highest'
    """
    return _matmul


def set_matmul_precision(precision: str) -> None:
    """Choose how float32 matrices are multiplied on a GPU; the CPU and other dtypes are not concerned.

    Parameters
    ----------
    precision : str
        ``"highest"``, the default: in float32. ``"high"``: factors are rounded to TF32, which has the range of float32
        and 10 bits of mantissa, and their products are summed in float32 on tensor cores. A step that is already
        captured as a CUDA graph keeps what was set then.

    Raises
    ------
    ValueError
        If it is another word.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.cuda.set_matmul_precision("high")
    >>> mg.cuda.set_matmul_precision("highest")
    """
    global _matmul
    if precision not in WORDS:
        raise ValueError(message("set_matmul_precision", "precision", describe(precision), "'highest' or 'high'"))
    _matmul = precision
