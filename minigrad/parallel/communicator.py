"""Communicator: how the ranks of a group exchange arrays; the engines behind it are in modules of their own."""

from __future__ import annotations

import abc
import math
from typing import Any, Self

import numpy as np

from minigrad._core import tape
from minigrad.backend import devices
from minigrad.errors import ShapeError, describe, message
from minigrad.parallel import arrays
from minigrad.parallel.arrays import HOST, NCCL, STAGED, bytes_of, checked, empty, form, is_here, kind_of
from minigrad.tensor import Tensor

__all__ = ["Communicator", "bounds"]

Array = Any


class Communicator(abc.ABC):
    """A group of ranks, each a process that runs the same program.

    Every rank of a group calls the same methods in the same order (*collectives*), one at a time; `send` and `recv`
    concern two ranks. Arrays may be of any shape, also without elements, and of any layout; a tensor is taken as its
    values, and answered with a tensor that requires no grad. Every rank gets the same bits, and these depend neither on
    timing nor on the engine: elements are combined in the order of the ranks, half types in float32, rounded once.

    Arrays on the GPUs of the ranks go from GPU to GPU by NCCL, where the current stream has come to the call; NCCL
    chooses the order of sums of float32 and float64, the same on all ranks.

    A rank that fails ends the others: they raise `ParallelError`.

    Attributes
    ----------
    size : int
        How many ranks there are.
    rank : int
        The number of this one, from 0.

    Notes
    -----
    An engine writes the methods with an underscore. They get flat arrays in C order that have been checked. Those on a
    GPU go to `minigrad.parallel.nccl.Gpus`, which is made when a collective first meets one, and writes some of these.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import parallel
    >>> world = parallel.init()
    >>> world.size, world.rank
    (1, 0)
    >>> world.allreduce(np.ones(2, np.float32))
    array([1., 1.], dtype=float32)
    """

    size: int
    rank: int
    engine: str = ""  # its name
    timeout: float = math.inf  # seconds that a rank waits for the others
    local_rank: int = 0  # of the world: the number of this rank among those of its machine
    overlaps: bool = True  # whether a duplicate may be used by a thread of its own
    _gpus: Any = None  # what moves arrays on GPUs
    _form: int = 0  # stands for dtype and shape of what a call was given; an engine may compare those of the ranks

    # --- collectives ------------------------------------------------------------------------------------------------

    def allreduce(self, x: Any, op: str = "sum", *, out: Array | None = None) -> Any:
        """Combine the arrays of all ranks; every rank gets the result.

        Parameters
        ----------
        x : array_like
            Of one shape and dtype on all ranks.
        op : {"sum", "mean", "max"}
            "mean" divides the sum, before it is rounded to a half type. The maximum is NaN where one is.
        out : numpy.ndarray, optional
            Where to put the result, in C order; it may be `x`.

        Returns
        -------
        numpy.ndarray or Tensor
            Of the shape and dtype of `x`.

        Raises
        ------
        DTypeError
            For a dtype that is no number, the mean of integers, the maximum of complex numbers.
        ParallelError
            If the ranks did not come through it together.

        Examples
        --------
        >>> from minigrad import parallel
        >>> float(parallel.init().allreduce(3.0, "mean"))
        3.0
        """
        who = "allreduce"
        array = self._array(who, x)
        kind, flat = arrays.reducible(who, array, op)
        result = arrays.result_for(who, array, out)
        if out is not None and out is not array and devices.of_array(flat).namespace.may_share_memory(flat, out):
            flat = flat.copy()  # else what is read later would be written over
        self._of(array)._allreduce(flat, result.reshape(-1).view(flat.dtype), kind, op)
        return self._answer(x, result)

    def reduce_scatter(self, x: Any, op: str = "sum", *, rows: Any = None) -> Any:
        """Combine the arrays of all ranks; each rank gets its part of the result, along the first axis.

        Parameters
        ----------
        x : array_like
            (n, ...), of one shape and dtype on all ranks.
        op : {"sum", "mean", "max"}
            As for `allreduce`.
        rows : sequence of int, optional
            How many rows each rank gets, the same on all ranks; n of them together. By default rank r gets rows
            ``n * r // size`` to ``n * (r + 1) // size``.

        Returns
        -------
        numpy.ndarray or Tensor

        Raises
        ------
        ShapeError
            If `x` has no axis, or not as many rows.
        DTypeError, ParallelError
            As for `allreduce`.

        Examples
        --------
        >>> from minigrad import parallel
        >>> parallel.init().reduce_scatter([1.0, 2.0])
        array([1., 2.])
        """
        who = "reduce_scatter"
        array = self._array(who, x)
        kind, flat = arrays.reducible(who, array, op)
        if array.ndim == 0:
            raise ShapeError(message(who, "x", array, "an axis to cut"))
        if rows is None:
            ends = bounds(len(array), self.size)
        else:
            ends = np.concatenate([[0], np.cumsum(np.asarray(rows, np.int64))])
            if len(ends) != self.size + 1 or ends[-1] != len(array) or (np.diff(ends) < 0).any():
                need = f"{self.size} numbers whose sum is {len(array)}, the rows of x"
                raise ShapeError(message(who, "rows", np.asarray(rows).tolist(), need))
        width = flat.size // len(array) if len(array) else 0
        self._form = form(self._form, *ends.tolist())
        out = empty(array, (int(ends[self.rank + 1] - ends[self.rank]), *array.shape[1:]), array.dtype)
        self._of(array)._reduce_scatter(flat, out.reshape(-1).view(flat.dtype), ends * width, kind, op)
        return self._answer(x, out)

    def all_gather(self, x: Any) -> Any:
        """Put the arrays of all ranks one after the other, along the first axis; every rank gets the result.

        Parameters
        ----------
        x : array_like
            Its first extent may differ between ranks, the others and the dtype may not. A 0-d array counts as one of
            one element.

        Returns
        -------
        numpy.ndarray or Tensor

        Raises
        ------
        ParallelError
            As for `allreduce`.

        Examples
        --------
        >>> from minigrad import parallel
        >>> parallel.init().all_gather([[1.0, 2.0]]).shape
        (1, 2)
        """
        array = self._array("all_gather", x)
        array = array.reshape(array.shape or (1,))
        tail = array.shape[1:]
        width = int(np.prod(tail, dtype=np.int64)) * array.itemsize
        own = np.array([len(array), width, form(kind_of(array), *tail)], np.int64)
        table = np.empty((self.size, 3), np.int64)
        self._all_gather(own.view(np.uint8), table.reshape(-1).view(np.uint8), np.arange(self.size + 1) * own.nbytes)
        odd = np.flatnonzero((table[:, 1:] != own[1:]).any(axis=1))
        if odd.size:
            there, here = f"on rank {odd[0]}", f"on rank {self.rank}"
            got = f"of {table[odd[0], 1]} bytes a row {there}, and of {width} {here}"
            if table[odd[0], 1] == width:
                got = f"of another dtype or shape {there} than {here}, {describe(array)}"
            raise ShapeError(message("all_gather", "x", got, "one dtype and equal extents but the first"))
        ends = np.concatenate([[0], np.cumsum(table[:, 0])])
        out = empty(array, (int(ends[-1]), *tail), array.dtype)
        self._of(array)._all_gather(bytes_of(array), bytes_of(out), ends * width)
        return self._answer(x, out)

    def broadcast(self, x: Any, root: int = 0, *, out: Array | None = None) -> Any:
        """Give every rank the array of one.

        Parameters
        ----------
        x : array_like
            Of one shape and dtype on all ranks; the values count on `root` alone.
        root : int
            The rank whose values are taken.
        out : numpy.ndarray, optional
            Where to put the result, in C order; it may be `x`.

        Returns
        -------
        numpy.ndarray or Tensor

        Raises
        ------
        ParallelError
            As for `allreduce`.

        Examples
        --------
        >>> from minigrad import parallel
        >>> parallel.init().broadcast([1, 2])
        array([1, 2])
        """
        self._check_rank("broadcast", "root", root)
        array = self._array("broadcast", x)
        result = arrays.result_for("broadcast", array, out)
        if self.rank == root and result is not array:
            result[...] = array
        self._of(array)._broadcast(bytes_of(result), root)
        return self._answer(x, result)

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        self._barrier()

    # --- two ranks --------------------------------------------------------------------------------------------------

    def send(self, x: Any, to: int) -> None:
        """Send an array to a rank, which calls `recv`. What does not fit into a few hundred kilobytes waits for it.

        Examples
        --------
        A rank does not send to itself::

            world.send(x, to=1) if world.rank == 0 else world.recv(0)
        """
        self._check_rank("send", "to", to, other=True)
        array = self._array("send", x)
        head, moved = self._leaving(array)
        self._push(head.view(np.uint8), to)
        (self._gpus if head[-1] == NCCL else self)._push(moved, to)

    def recv(self, source: int) -> Array:
        """The next array that a rank sends to this one, on the CPU or the GPU as there."""
        self._check_rank("recv", "source", source, other=True)
        head = np.empty(arrays.BYTES, np.uint8)
        self._pull(head, source)
        out, moved = self._coming(head)
        (self if is_here(moved) else self._gpus)._pull(moved, source)
        return self._arrived(out, moved)

    def sendrecv(self, x: Any, to: int, source: int) -> Array:
        """Send an array to one rank and take one from another, or from the same, without either waiting for the other.

        Parameters
        ----------
        x : array_like
            What to send.
        to, source : int
            The ranks.
        """
        self._check_rank("sendrecv", "to", to, other=True)
        self._check_rank("sendrecv", "source", source, other=True)
        array = self._array("sendrecv", x)
        own, moved = self._leaving(array)
        head, none = np.empty(arrays.BYTES, np.uint8), np.empty(0, np.uint8)
        self._exchange(own.view(np.uint8), to, head, source)
        out, coming = self._coming(head)
        here = [one if is_here(one) else none for one in (moved, coming)]
        self._exchange(here[0], to, here[1], source)
        sends, receives = ([] if is_here(b) else [(b, peer)] for b, peer in ((moved, to), (coming, source)))
        if sends or receives:
            self._gpus._trade("sendrecv", sends, receives)
        return self._arrived(out, coming)

    def _leaving(self, array: Array) -> tuple[Array, Array]:
        """The header of an array to send, and its bytes, where they are sent from."""
        if is_here(array):
            return arrays.header(array, HOST), bytes_of(array)
        if self._gpus is None:  # to make them is a collective, and the others may know nothing of this call
            return arrays.header(array, STAGED), devices.of_array(array).to_numpy(bytes_of(array))
        return arrays.header(array, NCCL), bytes_of(array)

    @staticmethod
    def _coming(head: Array) -> tuple[Array, Array]:
        """Where an array goes that comes, and the bytes to fill before."""
        out = arrays.empty_by(head.view(np.int64))
        moved = bytes_of(out)
        return out, np.empty(moved.size, np.uint8) if head.view(np.int64)[-1] == STAGED else moved

    @staticmethod
    def _arrived(out: Array, moved: Array) -> Array:
        if is_here(moved) and not is_here(out):
            bytes_of(out)[...] = devices.of_array(out).asarray(moved)
        return out

    # --- groups -----------------------------------------------------------------------------------------------------

    def split(self, color: int | None, key: int | None = None) -> Communicator | None:
        """Part the ranks into groups; a collective of all of them.

        Parameters
        ----------
        color : int or None
            Ranks that give the same number form a group; None joins none.
        key : int, optional
            The order in the group, that of the ranks by default.

        Returns
        -------
        Communicator or None
            That of this rank's group.

        Raises
        ------
        TypeError
            If `color` or `key` is another thing.

        Examples
        --------
        >>> from minigrad import parallel
        >>> parallel.init().split(0).size
        1
        """
        for name, value in (("color", color), ("key", key)):
            if value is not None and not isinstance(value, (int, np.integer)):
                raise TypeError(message("split", name, repr(value), "an int or None"))
        own = np.array([[color is not None, color or 0, self.rank if key is None else key]], np.int64)
        table = self.all_gather(own)
        groups: dict[int, list[int]] = {}
        for rank in sorted(range(self.size), key=lambda r: (table[r, 2], r)):
            if table[rank, 0]:
                groups.setdefault(int(table[rank, 1]), []).append(rank)
        return self._split([groups[c] for c in sorted(groups)])

    def duplicate(self) -> Communicator:
        """Another communicator of the same ranks: a thread may use it beside this one. A collective."""
        made = self.split(0)
        assert made is not None
        return made

    def shrink(self) -> Communicator:
        """After `RankLost`: the communicator of the ranks that are left, in their order; a collective of these.

        From then on `init` gives it where it gave this one. MPI must be able to: ``mpiexec --with-ft ulfm`` of Open
        MPI 5 is. `DataParallel.recover` calls it.

        Raises
        ------
        RuntimeError
            If the engine ends all ranks with one that fails.

        Examples
        --------
        ::

            try:
                total = world.allreduce(x)
            except parallel.RankLost:
                world = world.shrink()
                total = world.allreduce(x)

        W. Bland et al., "Post-failure recovery of MPI communication capability: design and rationale", 2013.
        """
        return self._shrink()

    def abort(self, reason: str = "") -> None:
        """End all ranks, with a reason that is shown; this one by `SystemExit`, if nothing is faster."""
        self._abort(reason)

    # --- what an engine writes --------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _allreduce(self, x: Array, out: Array, kind: int, op: str) -> None:
        """Combine flat arrays; `x` may be `out`. `kind`: that of `minigrad._core.shared`."""

    @abc.abstractmethod
    def _reduce_scatter(self, x: Array, out: Array, ends: Array, kind: int, op: str) -> None:
        """Combine, and keep the elements from ``ends[rank]`` to ``ends[rank + 1]``."""

    @abc.abstractmethod
    def _all_gather(self, x: Array, out: Array, ends: Array) -> None:
        """Fill `out` with the bytes of all; those of a rank lie from ``ends[rank]`` to ``ends[rank + 1]``."""

    @abc.abstractmethod
    def _broadcast(self, x: Array, root: int) -> None:
        """Fill `x`, bytes, with those of one rank."""

    @abc.abstractmethod
    def _barrier(self) -> None: ...

    @abc.abstractmethod
    def _push(self, x: Array, to: int) -> None:
        """Send bytes."""

    @abc.abstractmethod
    def _pull(self, x: Array, source: int) -> None:
        """Fill `x` with bytes that were sent."""

    @abc.abstractmethod
    def _exchange(self, x: Array, to: int, out: Array, source: int) -> None:
        """Both at once."""

    @abc.abstractmethod
    def _split(self, groups: list[list[int]]) -> Communicator | None:
        """Make the groups, given by ranks of this one; that of this rank."""

    def _shrink(self) -> Communicator:
        got, need = f"{self.engine!r}, which ends all ranks with one that fails", "MPI, by mpiexec --with-ft ulfm"
        hint = "Here `python -m minigrad.launch --max-restarts 3` starts all again, from the last checkpoint"
        raise RuntimeError(message("shrink", "engine", got, need, hint))

    @abc.abstractmethod
    def _abort(self, reason: str) -> None: ...

    # --- checks -----------------------------------------------------------------------------------------------------

    def _array(self, who: str, x: Any) -> Array:
        array = checked(who, x)
        self._form = form(kind_of(array), *array.shape)
        return array

    def _of(self, array: Array) -> Any:
        """What moves an array: this engine, or the GPUs of the ranks."""
        if is_here(array):
            return self
        if self._gpus is None:
            from minigrad.parallel.nccl import connect

            self._gpus = connect(self)
        return self._gpus

    def _check_rank(self, who: str, name: str, rank: int, *, other: bool = False) -> None:
        if not isinstance(rank, (int, np.integer)):
            raise TypeError(message(who, name, repr(rank), "an int"))
        if not 0 <= rank < self.size or (other and rank == self.rank):
            need = f"a rank from 0 to {self.size - 1}" + (f" other than {self.rank}" if other else "")
            raise ValueError(message(who, name, f"{rank}", need))

    @staticmethod
    def _answer(x: Any, result: Array) -> Any:
        return tape.new_tensor(result) if isinstance(x, Tensor) else result

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copy of a layer is on the same ranks

    def __repr__(self) -> str:
        return f"Communicator({self.engine}, rank {self.rank} of {self.size})"


def bounds(n: int, size: int) -> Array:
    """Where the parts of n rows begin, and n: part r of all is ``n * r // size`` to ``n * (r + 1) // size``.

    Examples
    --------
    >>> from minigrad.parallel.communicator import bounds
    >>> bounds(7, 3).tolist()
    [0, 2, 4, 7]
    """
    return n * np.arange(size + 1, dtype=np.int64) // size
