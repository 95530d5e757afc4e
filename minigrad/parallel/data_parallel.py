"""DataParallel: every rank computes on its part of the batch, and the gradients are averaged."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import numpy as np

from minigrad import dtypes, random
from minigrad._core import tape
from minigrad.autograd import is_grad_enabled, no_grad
from minigrad.errors import describe, message
from minigrad.nn.masks import mask_of, pack, unpack
from minigrad.nn.mode import evaluation
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.ops.noise import set_rank
from minigrad.parallel.arrays import is_here
from minigrad.parallel.buckets import Bucket, Table, Worker, fill
from minigrad.parallel.communicator import Communicator
from minigrad.parallel.errors import ParallelError
from minigrad.parallel.nccl import Lane
from minigrad.parallel.start import init
from minigrad.parallel.sync_batch_norm import AllStatistics, synchronize
from minigrad.tensor import Tensor

__all__ = ["DataParallel"]

Array = np.ndarray[Any, Any]


class Box:
    """Holds the module so that the walk over the tree does not find it under another name."""

    def __init__(self, module: Module) -> None:
        self.module = module


class DataParallel(Module):
    """A model whose gradients are averaged over the ranks while ``backward`` still runs.

    Each rank calls it with its own part of the batch. Afterwards every rank holds the same gradients, bit for bit, and
    so its optimizer makes the same step: a step of N ranks is one of a single process on the whole batch, where the
    loss is a mean over equal parts (`weighted` is for unequal ones). Dropout too, if the ranks seed their generators
    alike and batches come first among the axes: each rank drops its part of what one process would.

    Names of parameters, state dicts and modes are those of the model.

    Parameters
    ----------
    module : Module
        The model. Its parameters, their masks, and its buffers become those of rank 0; where some wait for the first
        batch, with it.
    communicator : Communicator, optional
        The ranks; by default those of `init`.
    bucket_size : int
        Bytes of gradients that are averaged together.
    compression : dtype, optional
        float16 or bfloat16: what wider gradients are sent as. Sums are float32.
    broadcast_buffers : bool
        Take the buffers (running statistics) of rank 0 before each forward in training.
    sync_batch_norm : bool
        Let the layers of batch normalization use the statistics of the whole batch.

    Raises
    ------
    TypeError
        If `module` is none.
    ValueError
        If `compression` is no half type.
    ParallelError
        If the ranks have different models.

    Notes
    -----
    Gradients lie in memory that the next backward writes to: copy what is to be kept. Parameters that a backward does
    not reach count as zeros, and keep None where no rank has reached them. At least one parameter must be reached on
    every rank. What is frozen or trained may change between steps, on all ranks alike; parameters may not come later.

    S. Li et al., "PyTorch distributed: experiences on accelerating data parallel training", 2020.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, parallel
    >>> model = parallel.DataParallel(nn.Dense(1, in_features=2))
    >>> model(mg.ones((4, 2))).mean().backward()
    >>> model.module.bias.grad
    tensor([1.])
    >>> [name for name, p in model.named_parameters()]
    ['weight', 'bias']
    """

    def __init__(
        self,
        module: Module,
        communicator: Communicator | None = None,
        *,
        bucket_size: int = 4 << 20,
        compression: Any = None,
        broadcast_buffers: bool = True,
        sync_batch_norm: bool = False,
    ) -> None:
        if not isinstance(module, Module):
            raise TypeError(message("DataParallel", "module", module, "a Module"))
        self._box = Box(module)
        self.communicator = init() if communicator is None else communicator
        self.bucket_size, self.broadcast_buffers = bucket_size, broadcast_buffers
        self.compression = None if compression is None else dtypes.as_dtype(compression, "DataParallel")
        if self.compression is not None and self.compression not in dtypes.HALF:
            raise ValueError(message("DataParallel", "compression", describe(self.compression), "float16 or bfloat16"))
        self._buckets: list[Bucket | Table] = []
        self._frozen: list[Tensor] = []  # parameters that are not trained, until they are
        self._place: dict[int, tuple[int, int]] = {}  # id of a parameter -> its bucket, its place there
        self._next = 0  # the bucket that is sent next: all ranks send them in the same order
        self._syncs, self._ready, self._sharded = True, False, False
        # where gradients lie on the CPU, and where on a GPU: what averages them beside backward, and its ranks
        self._lanes: dict[bool, tuple[Worker | Lane | None, Communicator]] = {}
        if sync_batch_norm:
            synchronize(module, self.communicator)
        if all(p.is_initialized for p in module.parameters()):
            self._prepare()

    # --- the tree is the model's ------------------------------------------------------------------------------------

    @property
    def module(self) -> Module:
        """The model."""
        return self._box.module

    @property
    def training(self) -> bool:
        """That of the model."""
        return self.module.training

    @training.setter
    def training(self, mode: bool) -> None:
        self.module.training = mode

    def named_modules(self) -> list[tuple[str, Module]]:
        """Those of the model."""
        return self.module.named_modules()

    def named_children(self) -> list[tuple[str, Module]]:
        """Those of the model."""
        return self.module.named_children()

    def train(self, mode: bool = True) -> Self:
        self.module.train(mode)
        return self

    # --- the step ---------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        if not self._ready:
            with no_grad(), evaluation():
                self.module(*args, **kwargs)  # completes the shapes
            self._prepare()
        if any(p.requires_grad for p in self._frozen):
            if self._sharded:
                need, hint = "as frozen as when the ShardedOptimizer was made", "Make both anew"
                raise ValueError(message("DataParallel", "a parameter", "trained now", need, hint))
            self._watch(self._frozen)
        alone = self.communicator.size == 1
        if self._syncs and not alone and is_grad_enabled():
            self._open()  # where the model may have been moved to since
        if self.broadcast_buffers and self._syncs and not alone and self.module.training and is_grad_enabled():
            self._broadcast(self._unshared())
        return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let ``backward`` in this block add to the gradients of this rank alone; the next one outside averages all.

        Examples
        --------
        ::

            for i, (x, y) in enumerate(parts):
                with model.no_sync() if i < len(parts) - 1 else nullcontext():
                    loss(model(x), y).backward()
        """
        before, self._syncs = self._syncs, False
        try:
            yield
        finally:
            self._syncs = before

    def weighted(self, loss: Tensor, count: float) -> Tensor:
        """A mean over this rank's `count` items, scaled so that the ranks together have the mean over all items.

        ::

            loss * count * size / (sum of the counts of all ranks)

        Parameters
        ----------
        loss : Tensor
            A mean over `count` items (samples, tokens).
        count : float
            How many; the ranks may differ.

        Returns
        -------
        Tensor
            What to call ``backward`` on.

        Examples
        --------
        >>> import minigrad as mg
        >>> from minigrad import nn, parallel
        >>> model = parallel.DataParallel(nn.Dense(1, in_features=2))
        >>> model.weighted(mg.asarray(2.0), 5)
        tensor(2.)
        """
        total = float(self.communicator.allreduce(np.float64(count)))
        if not total > 0:
            raise ValueError(message("DataParallel.weighted", "count", f"{total:g} on all ranks", "more than 0"))
        return loss * (count * self.communicator.size / total)

    def share_buffers(self) -> None:
        """Take the buffers of rank 0, as before a forward in training; for what reads them after the last step.

        Examples
        --------
        >>> from minigrad import nn, parallel
        >>> parallel.DataParallel(nn.BatchNorm1D(2)).share_buffers()
        """
        if self.broadcast_buffers and self._ready and self.communicator.size > 1:
            self._broadcast(self._unshared())

    def share_gradients(self, shared: Callable[[Bucket | Table], Bucket | Table]) -> None:
        """Put others in the place of the buckets; `ShardedOptimizer` calls it."""
        if not self._ready:
            got, hint = "a model that waits for its first batch", "Call it once before"
            need = "one whose parameters have their shapes"
            raise ValueError(message("ShardedOptimizer", "model", got, need, hint))
        self._buckets = [shared(bucket) for bucket in self._buckets]
        self._sharded = True

    def recover(self, step: int, *stateful: Any) -> int:
        """After `RankLost`: go on with the ranks that are left, from the last step that one of them has made.

        When a rank is lost, some of the others may have made a step that the rest has not. All take the weights,
        buffers and states, `minigrad.random` too, of one that is the furthest, so that they are the same again. A
        collective of the ranks that are left; `communicator` is then another one, with other numbers of ranks.

        Parameters
        ----------
        step : int
            How many steps this rank has made, counted right after each.
        *stateful
            The optimizer, a schedule, a loss scaler: what has ``state_dict`` and ``load_state_dict`` and is alike on
            all ranks.

        Returns
        -------
        int
            How many steps have been made, on all ranks.

        Raises
        ------
        RuntimeError
            If the engine ends all ranks with one that fails, or the lost rank has taken its share of a
            `ShardedOptimizer` along.
        RankLost
            If yet another rank is gone: call it again.

        Examples
        --------
        ::

            step = 0
            while step < steps:
                try:
                    train_on(batch(step, model.communicator))  # forward, backward, the optimizer's step
                    step += 1
                except parallel.RankLost:
                    step = model.recover(step, optimizer)
        """
        if self._sharded:
            got, need = "a ShardedOptimizer", "an optimizer whose state every rank holds"
            raise RuntimeError(message("DataParallel.recover", "the optimizer", got, need, "Load a checkpoint"))
        if any(not is_here(p._array) for p in self.module.parameters()):
            got, hint = "on GPUs, which may have made half of a step", "Start all again, from the last checkpoint"
            raise RuntimeError(message("DataParallel.recover", "the model", got, "one on the CPU", hint))
        for worker, _ in self._lanes.values():
            if isinstance(worker, Worker):
                worker.join()
        self._lanes.clear()
        self.communicator = self.communicator.shrink()
        steps = self.communicator.all_gather(np.int64(step))
        leader = int(np.argmax(steps))
        tensors = [t for _, t in self.module.named_parameters() + self.module.named_buffers()]
        own: Any = None
        if self.communicator.rank == leader:
            own = random.get_state(), [one.state_dict() for one in stateful], [t._array for t in tensors]
        drawn, states, values = self._object(own, leader)
        if self._ready:
            self._open()
        # nothing is sent from here on: were a rank lost, some would hold values of another step than they say
        random.set_state(drawn)
        for one, state in zip(stateful, states):
            one.load_state_dict(state)
        for t, value in zip(tensors, values):
            t._array[...] = value
        tape.mark_updated(tensors, f"the values of rank {leader}")
        for p in self.module.parameters():
            p._grad = None
        for layer in self.module.modules():
            if isinstance(getattr(layer, "statistics", None), AllStatistics):
                layer.statistics = AllStatistics(self.communicator)
        for bucket in self._buckets:
            bucket.waiting = set(range(len(bucket.parameters)))
        self._next = 0
        set_rank(self.communicator.rank)
        return int(steps[leader])

    # --- how it is done ---------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Take the values of rank 0, and put a hook on every parameter that is trained."""
        named = self.module.named_parameters() + self.module.named_buffers()
        text = repr([(name, t.shape, str(t.dtype), t.requires_grad) for name, t in named])
        sums = self.communicator.all_gather(np.int64(zlib.crc32(text.encode())))
        odd = np.flatnonzero(sums != sums[0])
        if odd.size:
            got = f"another one on rank {odd[0]} than on rank 0"
            need = "the same parameters and buffers on every rank, in names, shapes, dtypes and requires_grad"
            raise ParallelError(message("DataParallel", "module", got, need))
        self._ready = True
        set_rank(self.communicator.rank)
        if self.communicator.size == 1:
            return
        self._broadcast([t for _, t in named])
        self._broadcast_masks()
        self._watch(self.module.parameters())
        self._open()

    def _watch(self, parameters: Sequence[Tensor]) -> None:
        """Put buckets for the gradients of those that are trained behind the others; the rest may be some day."""
        trained = [p for p in parameters if p.requires_grad]
        self._frozen = [p for p in parameters if not p.requires_grad]
        tables = {
            id(t)
            for m in self.module.modules()
            if getattr(m, "sparse", False)
            for t in vars(m).values()
            if isinstance(t, Parameter)
        }
        new = fill(trained, tables, self.bucket_size, self.compression)
        for i, bucket in enumerate(new, len(self._buckets)):
            for place, p in enumerate(bucket.parameters):
                self._place[id(p)] = i, place
                p.register_post_accumulate_grad_hook(self._arrived)
        self._buckets += new

    def _open(self) -> None:
        """Let a thread, where the engine allows it, or a stream of the GPU average the gradients."""
        for bucket in self._buckets:
            bucket.settle()
        for on_gpu in sorted({bucket.on_gpu for bucket in self._buckets} - set(self._lanes)):
            if on_gpu or self.communicator.overlaps:
                self._lanes[on_gpu] = Lane() if on_gpu else Worker(), self.communicator.duplicate()
            else:
                self._lanes[on_gpu] = None, self.communicator

    def _object(self, value: Any, root: int) -> Any:
        """That of one rank, for all."""
        own = np.frombuffer(pickle.dumps(value) if self.communicator.rank == root else b"", np.uint8)
        return pickle.loads(self.communicator.all_gather(own).tobytes())

    def _unshared(self) -> list[Tensor]:
        """Those that ranks may hold different values of."""
        layers = [m for m in self.module.modules() if getattr(m, "statistics", None) is None]
        found = {id(t): t for m in layers for t in (getattr(m, name) for name in m._buffers) if t is not None}
        return list(found.values())

    def _broadcast(self, tensors: list[Tensor]) -> None:
        """Write the values of rank 0 into those of all, each dtype at once."""
        kinds: dict[Any, list[Tensor]] = {}
        for t in tensors:
            kinds.setdefault((t.dtype, type(t._array)), []).append(t)
        for group in kinds.values():
            flat = np.concatenate([np.ravel(t._array) for t in group])
            self.communicator.broadcast(flat, out=flat)
            start = 0
            for t in group:
                t._array[...] = flat[start : start + t.size].reshape(t.shape)
                start += t.size
        tape.mark_updated(tensors, "the values of rank 0")

    def _broadcast_masks(self) -> None:
        """Let the masks be those of rank 0: what one rank holds at 0 the others may not move."""
        parameters = self.module.parameters()
        masks = [mask_of(p, "DataParallel") for p in parameters]
        masked = self.communicator.broadcast(np.array([mask is not None for mask in masks]))
        for p, mask, known in zip(parameters, masks, masked.tolist(), strict=True):
            if known:
                bits = pack(np.ones(p.shape, np.bool_) if mask is None else mask)
                p.mask = unpack(self.communicator.broadcast(bits), p.shape)
            else:
                p.mask = None

    def _arrived(self, p: Tensor) -> Any:
        """The hook: a gradient is complete."""
        if not self._syncs:
            return None
        i, place = self._place[id(p)]
        self._buckets[i].take(place)
        self._send()
        return self._finish

    def _send(self) -> None:
        """Average the buckets that are full, as far as those before them are."""
        while self._next < len(self._buckets) and not self._buckets[self._next].waiting:
            bucket = self._buckets[self._next]
            worker, channel = self._lanes[bucket.on_gpu]
            self._next += 1
            reduce = partial(bucket.reduce, channel)
            if worker is not None:
                worker.add(reduce)
            else:
                reduce()

    def _finish(self) -> None:
        """Backward has ended: send what it did not reach, wait, and let the gradients be the averages."""
        for bucket in self._buckets[self._next :]:
            for place in tuple(bucket.waiting):
                bucket.take(place)
        self._send()
        self._next = 0
        own = np.array([used for bucket in self._buckets for used in bucket.used])
        used = self.communicator.allreduce(own, "max").tolist()
        for worker, _ in self._lanes.values():
            if worker is not None:
                worker.wait()
        for bucket in self._buckets:
            bucket.give(used[: len(bucket.parameters)])
            del used[: len(bucket.parameters)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.communicator.size > 1:
            hint = "Copy or pickle model.module, or its state_dict"
            need = "none: its ranks average the gradients of these parameters"
            raise TypeError(message("DataParallel", None, "a copy", need, hint))
        return super().__reduce_ex__(protocol)

    def extra_repr(self) -> str:
        """The ranks."""
        return f"{self.communicator!r}"
