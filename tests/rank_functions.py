"""What the ranks of the tests of minigrad.parallel call: functions that processes import by name."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import signal
import sys
import threading
import time
from typing import Any

import ml_dtypes
import numpy as np

import minigrad as mg
from minigrad import amp, nn, ops, optim, parallel
from minigrad.errors import ShapeError

Array = np.ndarray[Any, Any]
DTYPES: dict[str, Any] = {
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128", "bool")},
    **{f"{kind}{bits}": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_teams: dict[int, parallel.Communicator | None] = {}


def team(size: int) -> parallel.Communicator | None:
    """The first ranks as a group, made once; None for the others."""
    world = parallel.init()
    if size == world.size:
        return world
    if size not in _teams:
        _teams[size] = world.split(0 if world.rank < size else None)
    return _teams[size]


def host(t: Any) -> Any:
    """The array of a tensor, on the CPU."""
    return t.to("cpu")._array


def draw(seed: int, size: int, shape: tuple[int, ...], dtype: str, special: bool = False) -> list[Array]:
    """The arrays of all ranks."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(size):
        x = rng.normal(size=shape) * 50
        if special and x.size:
            x.flat[rng.integers(x.size)] = rng.choice([np.nan, np.inf, -np.inf, -0.0])
        if "complex" in dtype:
            x = x + 1j * rng.normal(size=shape)
        with np.errstate(invalid="ignore"):
            made.append(np.asarray(np.abs(x) if dtype.startswith("u") else x).astype(DTYPES[dtype]))
    return made


def combined(xs: list[Array], op: str) -> Array:
    """The sum in the order of the ranks, in float32 for half types, rounded once."""
    dtype = xs[0].dtype
    wide = np.dtype(np.float32) if dtype.itemsize == 2 and dtype.kind in "fV" else dtype
    total = xs[0].astype(wide)
    with np.errstate(invalid="ignore", over="ignore"):
        for x in xs[1:]:
            total = np.maximum(total, x.astype(wide)) if op == "max" else np.asarray(total + x.astype(wide))
        if op == "mean":
            if wide.kind == "c":
                parts = np.ravel(total).view(f"f{wide.itemsize // 2}")
                total = (parts / len(xs)).view(wide).reshape(total.shape)
            else:
                total = np.asarray(total / wide.type(len(xs)))
        return np.asarray(total).astype(dtype)


def laid(x: Array, layout: str) -> Array:
    """The same values in another order in memory."""
    if layout == "fortran" and x.ndim:
        return np.asfortranarray(x)
    if layout == "strided" and x.ndim:
        wide = np.zeros((2 * x.shape[0], *x.shape[1:]), x.dtype)
        wide[::2] = x
        return wide[::2]
    if layout == "reversed" and x.ndim:
        return x[::-1].copy()[::-1]
    return x


def same(a: Any, b: Array) -> bool:
    """Equal bits, NaN for NaN."""
    a = np.asarray(a)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    nan = a != a
    return bool((nan == (b != b)).all() and a[~nan].tobytes() == b[~nan].tobytes())


def laws(size: int, seed: int, shape: tuple[int, ...], dtype: str, op: str, layout: str, special: bool) -> Any:
    """Every collective against what it is to give; the bytes of the sum, or what went wrong."""
    world = team(size)
    if world is None:
        return None
    xs = draw(seed, size, shape, dtype, special)
    mine = laid(xs[world.rank], layout)
    before = mine.copy()
    want = combined(xs, op)
    got = world.allreduce(mine, op)
    assert same(got, want), ("allreduce", got, want)
    assert same(mine, before), "allreduce wrote into what it was given"
    place = np.array(mine, order="C")
    assert world.allreduce(place, op, out=place) is place
    assert same(place, want), "allreduce in place"
    if shape:
        part = world.reduce_scatter(mine, op)
        rows = [shape[0] * r // size for r in range(size + 1)]
        assert same(part, want[rows[world.rank] : rows[world.rank + 1]]), "reduce_scatter"
        assert same(world.all_gather(part), want), "all_gather of reduce_scatter"
        cut = laid(xs[world.rank][: len(mine) * (world.rank + 1) // size], layout)
        whole = np.concatenate([x[: len(x) * (r + 1) // size] for r, x in enumerate(xs)])
        assert same(world.all_gather(cut), whole), "all_gather of unequal parts"
    root = seed % size
    assert same(world.broadcast(mine, root), xs[root]), "broadcast"
    if size > 1:
        right, left = (world.rank + 1) % size, (world.rank - 1) % size
        assert same(world.sendrecv(mine, right, left), xs[left]), "sendrecv"
        if world.rank == 0:
            world.send(mine, size - 1)
            assert same(world.recv(size - 1), xs[-1]), "recv"
        elif world.rank == size - 1:
            assert same(world.recv(0), xs[0]), "recv"
            world.send(mine, 0)
    return np.asarray(got).tobytes()


def late_ranks(seed: int, rounds: int) -> list[bytes]:
    """Sums whose ranks come at random times."""
    world = parallel.init()
    rng = np.random.default_rng(100 * seed + world.rank)
    found = []
    for number in range(rounds):
        time.sleep(float(rng.exponential(0.002)))
        x = np.random.default_rng([seed, number, world.rank]).normal(size=70_000).astype(np.float32)
        found.append(world.allreduce(x).tobytes())
    return found


def beside_a_thread(rounds: int) -> bool:
    """Two communicators of the same ranks, one in a thread, do not disturb each other."""
    world = parallel.init()
    other = world.duplicate()
    sums: list[float] = []

    def count() -> None:
        for number in range(rounds):
            sums.append(float(other.allreduce(np.full(20_000, number, np.float64))[-1]))

    thread = threading.Thread(target=count)
    thread.start()
    own = [float(world.allreduce(np.full(3, float(number)))[0]) for number in range(rounds)]
    thread.join()
    return own == sums == [float(number * world.size) for number in range(rounds)]


def mesh() -> list[int]:
    """A grid of 2 x 2: sums along both axes, and groups in another order."""
    world = parallel.init()
    row, column = world.split(world.rank // 2), world.split(world.rank % 2)
    turned = world.split(0, key=-world.rank)
    assert row is not None
    assert column is not None
    assert turned is not None
    own = np.int64(10**world.rank)
    return [int(row.allreduce(own)), int(column.allreduce(own)), turned.rank]


def tensors() -> list[Any]:
    """Tensors are answered with tensors."""
    world = parallel.init()
    x = mg.tensor([1.0, float(world.rank)], requires_grad=True)
    got = world.allreduce(x, "mean")
    return [type(got).__name__, got.requires_grad, got.tolist(), world.all_gather(mg.asarray(world.rank)).tolist()]


def fail(how: str) -> Any:
    """Rank 1 fails while the others wait for it."""
    world = parallel.init()
    x = np.ones(400_000, np.float32)
    world.allreduce(x)
    if world.rank == 1:
        if how == "raise":
            raise ValueError("boom")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            sys.exit(0)
        if how == "unlike":
            return world.barrier()
        if how == "late":
            time.sleep(1000)
        if how == "shape":
            return world.all_gather(np.ones((1, 3)))
    if how == "shape":
        return world.all_gather(np.ones((1, 2)))
    if how == "recv":
        return world.recv(1) if world.rank == 0 else os.kill(os.getpid(), signal.SIGKILL)
    return world.allreduce(x)


# --- DataParallel -------------------------------------------------------------------------------------------------


class Model(nn.Module):
    """Dense layers, a table of rows, a layer or batch norm, and a branch for few rows, which not every part takes."""

    def __init__(self, dtype: Any, norm: str, sparse: bool, rate: float) -> None:
        self.table = nn.Embedding(7, 4, sparse=sparse, dtype=dtype)
        self.first = nn.Dense(6, activation="tanh", in_features=4, dtype=dtype)
        self.norm = nn.BatchNorm1D(6, dtype=dtype) if norm == "batch" else nn.LayerNorm(6, dtype=dtype)
        self.branch = nn.Dense(6, in_features=6, dtype=dtype)
        self.dropout = nn.Dropout(rate)
        self.idle = nn.Dense(2, in_features=2, dtype=dtype)
        self.last = nn.Dense(1, in_features=6, dtype=dtype)

    def forward(self, ids: Any, x: Any) -> Any:
        h = self.dropout(self.norm(self.first(self.table(ids) + x)))
        rows = x[:, :1] > 1.5
        if bool(ops.any(rows)):
            h = h + self.branch(h) * ops.astype(rows, h.dtype)
        return self.last(h)


def batch(seed: int, step: int, size: int, dtype: Any) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng([seed, step])
    x = rng.normal(size=(size, 4)).astype(dtype)
    x[0, 0] = 2.0  # for one row at least the branch is taken
    return rng.integers(0, 7, size), x, rng.normal(size=(size, 1)).astype(dtype)


def train(size: int, seed: int, dtype: str, options: dict[str, Any]) -> Any:
    """A few steps on this rank's part of each batch: losses, gradients of the first step, weights."""
    world = team(size)
    if world is None:
        return None
    norm, parts = options.get("norm", "layer"), options.get("parts", 1)
    mg.random.seed(seed + world.rank)  # the values of rank 0 count
    plain = Model(getattr(mg, dtype), norm, options.get("sparse", False), options.get("dropout", 0.0))
    model = parallel.DataParallel(
        plain, world, bucket_size=options.get("bucket_size", 200), compression=options.get("compression"),
        sync_batch_norm=norm == "batch",
    )  # fmt: skip
    mg.random.seed(seed)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = amp.GradScaler(init_scale=1024.0, enabled=options.get("scaled", False))
    losses: list[float] = []
    grads: dict[str, Any] = {}
    count = options.get("batch_size", 12)
    for step in range(3):
        ids, x, y = batch(seed, step, count, dtype)
        optimizer.zero_grad(set_to_none=step != 1)
        total = 0.0
        for number in range(parts):
            low, high = (count * k // parts for k in (number, number + 1))
            skew = options.get("skew", 1)  # 2: the parts of the ranks are 1, 3, 5, ... squares apart
            ends = low + (high - low) * np.arange(world.size + 1) ** skew // world.size**skew
            a, b = ends[world.rank : world.rank + 2]
            with model.no_sync() if number < parts - 1 else contextlib.nullcontext():
                loss = model.weighted(
                    ((model(mg.asarray(ids[a:b]), mg.asarray(x[a:b])) - mg.asarray(y[a:b])) ** 2).mean(), b - a
                )
                loss = loss * ((high - low) / count)
                if options.get("overflow") == (step, world.rank):
                    loss = loss * float("inf")
                scaler.scale(loss).backward()
            total += float(world.allreduce(np.float64(loss.item()), "mean"))
        if step == 0:
            grads = {n: None if p.grad is None else np.array(host(p.grad)) for n, p in plain.named_parameters()}
        if options.get("clip"):
            scaler.unscale_(optimizer)
            optim.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        losses.append(total)
    weights = {name: host(t).copy() for name, t in plain.state_dict().items()}
    assert list(weights) == list(model.state_dict())
    return losses, grads, weights, scaler.get_scale()


def deferred() -> Any:
    """Shapes that the first batch completes."""
    world = parallel.init()
    mg.random.seed(world.rank)
    model = parallel.DataParallel(nn.Sequential([nn.Dense(3), nn.Dropout(0.5), nn.Dense(1)]))
    x = np.random.default_rng(world.rank).normal(size=(4, 2)).astype(np.float32)
    model(mg.asarray(x)).mean().backward()
    return [p.grad.tolist() for p in model.parameters()], [p.tolist() for p in model.parameters()]


def unlike_arrays(how: str, first: Any, second: Any) -> str:
    """What a collective says of ranks that come with arrays of as many bytes, but of other shapes or dtypes."""
    world = parallel.init()
    x = np.ones(*(second if world.rank else first))
    given = {"rows": [1, x.size - 1] if world.rank else [x.size - 1, 1]} if how == "reduce_scatter" else {}
    try:
        getattr(world, how)(x, **given)
    except (parallel.ParallelError, ShapeError) as error:
        return str(error)
    return "nothing"


def onto_itself(shift: int) -> bool:
    """Whether a sum is right whose result lies over what is summed, some elements before or behind."""
    n = 500_000
    x = np.arange(n + abs(shift), dtype=np.float32)
    first, last = x[:n], x[-n:]
    own, out = (first, last) if shift > 0 else (last, first)
    wanted = 2 * own
    return bool((parallel.init().allreduce(own, out=out) == wanted).all())


def memory_of_groups(number: int) -> list[int]:
    """The memory of the block before groups are made and dropped, and after."""
    world: Any = parallel.init()
    x = np.ones(1000)
    sizes = []
    for times in (1, number):
        for _ in range(times):
            world.split(world.rank % 2).allreduce(x)
            world.duplicate().sendrecv(x, (world.rank + 1) % world.size, (world.rank - 1) % world.size)
        gc.collect()
        world.barrier()
        sizes.append(os.fstat(world.block.fd).st_blocks * 512)
        world.barrier()
    return sizes


def no_answer() -> Any:
    """Something that no pickle holds."""
    return lambda: None


def copies() -> list[Any]:
    """What becomes of a copy of a wrapped model, and of one with a layer that knows its ranks."""
    made = parallel.DataParallel(nn.Sequential([nn.Dense(2, in_features=2), nn.BatchNorm1D(2)]), sync_batch_norm=True)
    try:
        copy.deepcopy(made)
    except TypeError as error:
        said = str(error)
    other: Any = copy.deepcopy(made.module)
    return [said, other[1].statistics.communicator is parallel.init(), other[0].weight is not made.module[0].weight]


def thawed(size: int) -> list[list[float]]:
    """The gradients of a model whose first layer is trained from the second step on, and frozen again in the third."""
    ranks = team(size)
    if ranks is None:
        return []
    mg.random.seed(0)
    plain = nn.Sequential(
        [nn.Embedding(6, 3, sparse=True), nn.Dense(3, "tanh", in_features=3), nn.Dense(1, in_features=3)]
    )
    frozen = [*plain[0].parameters(), *plain[1].parameters()]  # type: ignore[index]
    for p in frozen:
        p.requires_grad = False
    model = parallel.DataParallel(plain, ranks, bucket_size=16)
    ids = mg.tensor(np.arange(12).reshape(12, 1) % 5)[ranks.rank * 12 // size : (ranks.rank + 1) * 12 // size]
    found = []
    for trained in (False, True, False):
        for p in frozen:
            p.requires_grad = trained
        model.zero_grad()
        (model(ids) ** 2).mean().backward()
        assert list(model.state_dict()) == list(plain.state_dict())
        grads = [np.zeros(p.shape) if p.grad is None else np.asarray(p.grad._array) for p in plain.parameters()]
        found.append(np.concatenate([np.ravel(g) for g in grads]).tolist())
    return found


def unlike_models() -> Any:
    """Ranks with other models."""
    return parallel.DataParallel(nn.Dense(1, in_features=2 + parallel.init().rank))


def rows_only() -> Any:
    """A table of rows of which each rank uses two, and one that no rank uses."""
    world = parallel.init()

    class Tables(nn.Module):
        def __init__(self) -> None:
            self.used = nn.Embedding(6, 2, sparse=True)
            self.idle = nn.Embedding(6, 2, sparse=True)

        def forward(self, ids: Any) -> Any:
            return self.used(ids)

    model = parallel.DataParallel(Tables())
    model(mg.asarray([world.rank, 5])).sum().backward()
    grad = model.module.used.weight.grad._array
    return type(grad).__name__, grad.ids.tolist(), grad.values.tolist(), model.module.idle.weight.grad


def attention(size: int, masked: bool) -> Any:
    """Attention with dropout, on this rank's part of a batch, computed again in backward."""
    world = team(size)
    if world is None:
        return None
    mg.random.seed(3)
    layer = nn.MultiHeadAttention(2, 6, dropout=0.4)
    model = parallel.DataParallel(nn.checkpointed(layer) if masked else layer, world)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(12, 5, 6)).astype(np.float32)
    y = rng.normal(size=(12, 5, 6)).astype(np.float32)
    mine = slice(12 * world.rank // size, 12 * (world.rank + 1) // size)
    model(mg.asarray(x[mine])).sum().backward()  # completes the shapes
    model.zero_grad()
    mg.random.seed(4)
    (model(mg.asarray(x[mine])) * mg.asarray(y[mine])).mean().backward()
    return [p.grad.numpy().copy() for p in model.parameters()]
