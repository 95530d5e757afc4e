"""Datasets for the tests of the loader's workers, which import this module and could not import a test."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import data


class Draws(data.Dataset):
    """Draws from every generator that there is."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "name": f"item {index}",
            "item": data.item_rng().normal(size=(3, 2)),
            "numpy": np.random.rand(),  # noqa: NPY002
            "python": random.random(),
            "minigrad": mg.random.uniform((2,), dtype=mg.bfloat16),
        }


class Stream(data.IterableDataset):
    """A stream that draws."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[tuple[int, float, float]]:
        for index in range(self.n):
            yield index, data.item_rng().random(), random.random()


class Refuses(Exception):
    """An exception that cannot be pickled and read again."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


class Broken(data.Dataset):
    """Item 5 raises."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        if index == 5:
            raise self.error(1, 2) if self.error is Refuses else self.error("no such thing")
        return index


class Unreadable(data.Dataset):
    """Can be written, not read."""

    def __len__(self) -> int:
        return 3

    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("no way back")

    def __getstate__(self) -> Any:
        return {"x": 1}


class Slow(data.Dataset):
    """Each item takes a while; it says who made it."""

    def __init__(self, seconds: float, n: int = 1000) -> None:
        self.seconds, self.n = seconds, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        time.sleep(self.seconds)
        return os.getpid()


class Large(data.Dataset):
    """Reads a whole array, and says how much memory the process has for itself (Linux)."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[int, float]:
        total = float(self.array[::512].sum())
        with open("/proc/self/smaps_rollup", encoding="ascii") as file:
            own = sum(int(line.split()[1]) for line in file if line.startswith("Private"))
        return own * 1024, total


def noise(batch: Any, rng: np.random.Generator) -> Any:
    """A transform that draws."""
    images, labels = batch
    return images + rng.normal(size=images.shape), labels, np.random.rand()  # noqa: NPY002
