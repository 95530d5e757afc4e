"""WorkerError: what goes wrong with a loader's worker processes."""

from __future__ import annotations

__all__ = ["WorkerError"]


class WorkerError(RuntimeError):
    """A worker of a loader could not start, died, or raised what cannot be sent to another process."""
