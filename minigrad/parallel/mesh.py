"""Mesh: ranks in a grid, and a communicator along each of its axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.errors import message
from minigrad.nn.checks import extent
from minigrad.parallel.communicator import Communicator
from minigrad.parallel.start import init

__all__ = ["Mesh"]


class Mesh:
    """A grid of ranks: what data, tensor and pipeline parallelism, combined, communicate along.

    Ranks with neighbouring numbers, which are likely to be near each other, are neighbours in `tensor` first, which
    exchanges the most, then in `data`, then in `pipeline`. A collective of all ranks.

    Parameters
    ----------
    data : int, optional
        How many replicas there are, each with a part of the batch; by default what the others leave.
    tensor : int
        Over how many ranks each layer is split.
    pipeline : int
        How many stages there are.
    communicator : Communicator, optional
        The ranks; by default those of `init`.

    Attributes
    ----------
    data, tensor, pipeline : Communicator
        This rank's group along each axis, for `DataParallel`, `tensor_parallel` and `Pipeline`.
    world : Communicator
        All.

    Raises
    ------
    ValueError
        If the grid has not as many places as there are ranks.

    Examples
    --------
    >>> from minigrad import parallel
    >>> mesh = parallel.Mesh(tensor=1, pipeline=1)
    >>> mesh, mesh.data.size
    (Mesh(data=1, tensor=1, pipeline=1), 1)
    """

    def __init__(
        self, data: int | None = None, tensor: int = 1, pipeline: int = 1, communicator: Communicator | None = None
    ) -> None:
        self.world = world = init() if communicator is None else communicator
        inner = extent("Mesh", "tensor", tensor) * extent("Mesh", "pipeline", pipeline)
        outer = max(world.size // inner, 1) if data is None else extent("Mesh", "data", data)
        if inner * outer != world.size:
            got = f"{outer} x {tensor} x {pipeline} ranks (data, tensor, pipeline)"
            raise ValueError(message("Mesh", "the grid", got, f"{world.size}, as many as there are"))
        grid = np.arange(world.size).reshape(pipeline, outer, tensor)
        place = tuple(int(k[0]) for k in np.nonzero(grid == world.rank))
        self.pipeline = self._along(grid, place, 0)
        self.data = self._along(grid, place, 1)
        self.tensor = self._along(grid, place, 2)

    def _along(self, grid: np.ndarray[Any, Any], place: tuple[int, ...], axis: int) -> Communicator:
        """The ranks that differ from this one along one axis, which the least of them names."""
        first = tuple(0 if i == axis else k for i, k in enumerate(place))
        made = self.world.split(int(grid[first]))
        assert made is not None
        return made

    def __repr__(self) -> str:
        return f"Mesh(data={self.data.size}, tensor={self.tensor.size}, pipeline={self.pipeline.size})"
