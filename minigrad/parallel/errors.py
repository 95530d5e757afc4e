"""ParallelError: what a rank raises when the ranks did not come through a collective together."""

from __future__ import annotations

__all__ = ["ParallelError", "RankLost", "WorldEnded"]


class ParallelError(RuntimeError):
    """Ranks called different collectives, one of them is gone, or none came in time."""


class WorldEnded(ParallelError):
    """Another rank failed, and says why; this one has nothing to add."""


class RankLost(ParallelError):
    """A rank is gone, and MPI lets the others go on without it: `Communicator.shrink`, `DataParallel.recover`."""
