"""What the ranks of the tests of NCCL call: the functions of the other tests of ranks on GPUs, or on the stand-ins."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
import pytest
import rank_functions as functions
import stand_in_nccl
import stand_in_streams

import minigrad as mg
from minigrad import nn, optim, parallel, train
from minigrad.backend import devices
from minigrad.errors import DeviceError

REAL = bool(os.environ.get("MINIGRAD_TEST_GPU"))


def prepare(gpus: int = 3) -> None:
    """Let this process find GPUs."""
    if not REAL:
        stand_in_nccl.install(gpus)


def there(x: Any) -> Any:
    """An array on the GPU of this rank."""
    return mg.asarray(x, device="cuda")._array


def here(x: Any) -> Any:
    """It on the CPU."""
    assert not isinstance(x, np.ndarray), "it was to be on the GPU"
    return devices.of_array(x).to_numpy(x)


def on_gpu(module: str, name: str, *args: Any) -> Any:
    """A function of another test, whose tensors are made on the GPU of this rank."""
    prepare()
    devices.backend_of("cuda", "test")
    with devices.using("cuda"):
        found = getattr(importlib.import_module(module), name)(*args)
    assert REAL or not stand_in_streams.world.freed_too_soon
    return found


def laws(size: int, seed: int, shape: tuple[int, ...], dtype: str, op: str, layout: str, special: bool) -> Any:
    """Every collective against what it is to give, to rounding where NCCL chooses the order; the bytes of the sum."""
    prepare()
    world = functions.team(size)
    if world is None:
        return None
    xs = functions.draw(seed, size, shape, dtype, special)
    mine = there(xs[world.rank])
    if layout == "strided" and shape:
        wide = there(np.zeros((2 * shape[0], *shape[1:]), xs[0].dtype))
        wide[::2] = mine
        mine = wide[::2]
    want = functions.combined(xs, op)

    def check(got: Any, wanted: Any, what: str) -> None:
        got = here(got)
        if wanted.dtype.name in ("float32", "float64", "complex64", "complex128") and op != "max":
            assert got.dtype == wanted.dtype
            scale = max((float(np.abs(x[np.isfinite(x)]).max(initial=0)) for x in xs), default=0.0)
            bound = 1e-6 if got.dtype.name in ("float32", "complex64") else 1e-15
            np.testing.assert_allclose(got, wanted, rtol=0, atol=4 * bound * scale, err_msg=what)
        else:
            assert functions.same(got, wanted), (what, got, wanted)

    if size > 1:  # before a collective, through the CPUs
        right, left = (world.rank + 1) % size, (world.rank - 1) % size
        assert functions.same(here(world.sendrecv(mine, right, left)), xs[left]), "sendrecv"
    got = world.allreduce(mine, op)
    check(got, want, "allreduce")
    assert functions.same(here(mine), xs[world.rank]), "allreduce wrote into what it was given"
    place = there(xs[world.rank].copy())
    assert world.allreduce(place, op, out=place) is place
    check(place, want, "allreduce in place")
    if shape:
        ends = [shape[0] * r // size for r in range(size + 1)]
        check(world.reduce_scatter(mine, op), want[ends[world.rank] : ends[world.rank + 1]], "reduce_scatter")
        rows = [0] * (size - 1) + [shape[0]]
        check(world.reduce_scatter(mine, op, rows=rows), want[: 0 if world.rank < size - 1 else None], "all to one")
        cut = mine[: len(mine) * (world.rank + 1) // size]
        whole = np.concatenate([x[: len(x) * (r + 1) // size] for r, x in enumerate(xs)])
        assert functions.same(here(world.all_gather(cut)), whole), "all_gather"
    root = seed % size
    assert functions.same(here(world.broadcast(mine, root)), xs[root]), "broadcast"
    if size > 1:
        assert functions.same(here(world.sendrecv(mine, right, left)), xs[left]), "sendrecv by NCCL"
        both = world.sendrecv(xs[0] if world.rank else mine, right, left)  # rank 0 alone sends from its GPU
        assert functions.same(both if left else here(both), xs[0])
        if world.rank == 0:
            world.send(mine, size - 1)
            assert functions.same(here(world.recv(size - 1)), xs[-1]), "recv"
        elif world.rank == size - 1:
            assert functions.same(here(world.recv(0)), xs[0]), "recv"
            world.send(mine, 0)
    return here(got).tobytes()


def where() -> Any:
    """The GPU of this rank, by which name tensors are made on it, and what a tensor is answered with."""
    prepare()
    world = parallel.init()
    x = mg.ones(2, device="cuda", requires_grad=True)
    got = world.allreduce(x)
    return x.device, got.device, got.tolist(), got.requires_grad


def moved() -> Any:
    """A model that is wrapped on the CPU, trained, moved, and trained on, beside one that stays."""
    prepare()
    world = parallel.init()
    found = []
    for device in ("cpu", "cuda"):
        mg.random.seed(0)
        model = parallel.DataParallel(nn.Sequential([nn.Dense(3, "tanh", in_features=4), nn.Dense(1)]), bucket_size=32)
        x = np.random.default_rng(world.rank).normal(size=(4, 4)).astype(np.float32)
        model(mg.asarray(x))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            if step == 1:
                model.to(device)
            optimizer.zero_grad(set_to_none=step == 2)
            model(mg.asarray(x, device="cpu" if step == 0 else device)).mean().backward()
            optimizer.step()
        found.append(np.concatenate([functions.host(p).ravel() for p in model.parameters()]))
    return found


def streams() -> list[Any]:
    """On which streams what was done in a step, and how often the current one waited for the one beside it."""
    prepare()
    from minigrad.backend.cuda import nccl as library

    world = parallel.init()
    model = parallel.DataParallel(nn.Sequential([nn.Dense(3, in_features=4), nn.Dense(1, in_features=3)]).to("cuda"))
    stand_in_nccl.seen.clear()
    x = mg.ones((2, 4), device="cuda")
    joined: list[str] = []
    join = library.Side.join
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.Side, "join", lambda side: (joined.append("join"), join(side)))
        model(x).mean().backward()
    world.allreduce(x)
    calls = [(name, "side" if stream else "main") for name, stream in stand_in_nccl.seen]
    return [calls, len(joined)]


def captured() -> str:
    """What a collective says while a CUDA graph is captured."""
    prepare()
    from minigrad.backend.cuda import nccl as library

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "is_capturing", lambda: True)
        return refusal("counts")


def trainer() -> Any:
    """A Trainer's history, on the GPUs of all ranks and on the CPU."""
    prepare()
    x = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    found = []
    for device in ("cpu", "cuda"):
        mg.random.seed(1)
        model = nn.Sequential([nn.Dense(8, "tanh", in_features=5), nn.BatchNorm1D(8), nn.Dense(3, in_features=8)])
        model = parallel.DataParallel(model.to(device), sync_batch_norm=True)
        made = train.Trainer(model, "cross_entropy", "adam", ["accuracy"], parallel=True, device=device)
        history = made.fit((x, np.arange(24) % 3), epochs=2, batch_size=6, verbose=0)
        found.append(history["loss"] + history["accuracy"])
    return found


def wrong_classes() -> list[float]:
    """Losses of split logits for targets that are classes, and for one that is none."""
    prepare()
    world = parallel.init()
    logits = mg.zeros((2, 2), device="cuda")
    targets = [mg.tensor(pair, device="cuda") for pair in ([0, 2 * world.size - 1], [0, 2 * world.size], [0, -100])]
    return [parallel.vocabulary_cross_entropy(logits, t, world, ignore_index=-100).item() for t in targets]


def fails(how: str, gpus: int = 3) -> Any:
    """What is said where something is wrong."""
    prepare(gpus)
    world = parallel.init()
    if how == "other":
        world.allreduce(mg.tensor([1.0], device=f"cuda:{(world.rank + 1) % 3}"))
    if how == "out":
        x = there(np.ones(2))
        world.allreduce(x, out=np.ones(2))
    if how == "recover":
        model = parallel.DataParallel(nn.Dense(1, in_features=2).to("cuda"))
        model.recover(1)
    if how == "mixed":
        plain = nn.Sequential([nn.Dense(1, in_features=2), nn.Dense(1, in_features=1)])
        model = parallel.DataParallel(plain)
        plain[0].to("cuda")
        model(mg.ones((1, 2), device="cuda"))
    return world.allreduce(there(np.ones(2 + (world.rank if how == "counts" else 0), np.float32)))


def refusal(how: str) -> str:
    """The text of an error that all ranks raise alike."""
    try:
        fails(how)
    except (DeviceError, TypeError, RuntimeError) as error:
        return str(error)
    return "nothing"


def order_of_gpus() -> list[str]:
    """What "cuda" stands for, of a rank with a number among those of its machine."""
    prepare()
    found = []
    for number in range(5):
        devices.choose_gpu(number)
        found.append(mg.cuda.current_device())
    devices.choose_gpu(parallel.init().local_rank)
    return found
