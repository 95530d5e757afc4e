"""Inspection: what the array API standard lets a library ask of this namespace."""

from __future__ import annotations

from minigrad import dtypes
from minigrad.backend import devices

__all__ = ["__array_api_version__", "__array_namespace_info__"]

__array_api_version__ = "2024.12"

# the standard knows no half types, and lets a namespace list only dtypes that it knows
STANDARD = sorted(dtypes.ALL - dtypes.HALF, key=lambda dtype: (dtype.kind, dtype.itemsize))


class NamespaceInfo:
    """What the namespace can do, and with which defaults."""

    def capabilities(self) -> dict[str, bool | int | None]:
        """Whether boolean masks index, whether shapes may depend on data, and how many axes a tensor may have."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """The device that tensors are created on."""
        return "cpu"

    def devices(self) -> list[str]:
        """All devices."""
        return ["cpu"]

    def default_dtypes(self, *, device: str | None = None) -> dict[str, dtypes.DType]:
        """The dtypes that creation functions choose, by kind."""
        devices.backend_of(device, "default_dtypes")
        return {
            "real floating": dtypes.default_float,
            "complex floating": dtypes.complex64,
            "integral": dtypes.int64,
            "indexing": dtypes.int64,
        }

    def dtypes(
        self, *, device: str | None = None, kind: str | tuple[str, ...] | None = None
    ) -> dict[str, dtypes.DType]:
        """The dtypes of the standard by name: all of them, or those of a kind (see `isdtype`)."""
        devices.backend_of(device, "dtypes")
        return {str(dtype): dtype for dtype in STANDARD if kind is None or dtypes.isdtype(dtype, kind)}


def __array_namespace_info__() -> NamespaceInfo:
    """The inspection object of the array API standard.

    Returns
    -------
    NamespaceInfo
        With ``capabilities()``, ``default_device()``, ``default_dtypes()``, ``devices()`` and ``dtypes()``.

    Examples
    --------
    >>> import minigrad as mg
    >>> mg.__array_namespace_info__().default_dtypes()["integral"]
    dtype('int64')
    """
    return NamespaceInfo()
