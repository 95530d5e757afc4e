"""DeviceNumber: a number that kernels on a GPU count on, which stands in a state for the number itself."""

from __future__ import annotations

from typing import Any

__all__ = ["DeviceNumber"]


class DeviceNumber:
    """An element of an array on a GPU. It is read, and waited for, when it is used as a number.

    Parameters
    ----------
    array : array
        (numbers,), 8 bytes an element.
    place : int
        Which of them it is.
    """

    __slots__ = ("array", "place")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, array: Any, place: int) -> None:
        self.array, self.place = array, place

    @property
    def ptr(self) -> int:
        """The address."""
        return int(self.array.data.ptr) + 8 * self.place

    def item(self) -> Any:
        """The number, as it is now."""
        return self.array[self.place].item()

    def __int__(self) -> int:
        return int(self.item())

    __index__ = __int__

    def __float__(self) -> float:
        return float(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __add__(self, other: Any) -> Any:
        return self.item() + other

    def __sub__(self, other: Any) -> Any:
        return self.item() - other

    def __mul__(self, other: Any) -> Any:
        return self.item() * other

    def __eq__(self, other: object) -> Any:
        return self.item() == (other.item() if isinstance(other, DeviceNumber) else other)

    def __repr__(self) -> str:
        return repr(self.item())

    def __reduce__(self) -> Any:  # a copy, or a pickle, is the number
        value = self.item()
        return type(value), (value,)
