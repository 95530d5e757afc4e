"""What moves memory or multiplies: rows of softmax and its kin, attention, products, a copy, batches from a loader."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu.work import Work, passes
from benchmarks.passes import normal

Run = Callable[[], Any]
BYTES = {"float32": 4, "bfloat16": 2}


def words(library: Any) -> Any:
    """Functions of a library: `minigrad.nn.functional`, `torch.nn.functional`."""
    if library.name == "torch":
        return library.torch.nn.functional
    from minigrad.nn import functional

    return functional


def softmax(library: Any) -> Callable[..., Any]:
    F = words(library)
    return (lambda x: F.softmax(x, dim=-1)) if library.name == "torch" else (lambda x: F.softmax(x, axis=-1))


def layer_norm(library: Any) -> Callable[..., Any]:
    F = words(library)
    if library.name == "torch":
        return lambda x, weight, bias: F.layer_norm(x, weight.shape, weight, bias)
    return lambda x, weight, bias: F.layer_norm(x, weight, bias)


def gelu(library: Any) -> Callable[..., Any]:
    return lambda x: words(library).gelu(x, approximate="tanh")


def dropout(library: Any) -> Callable[..., Any]:
    return lambda x: words(library).dropout(x, 0.1)


def cross_entropy(library: Any) -> Callable[..., Any]:
    return lambda x, targets: words(library).cross_entropy(x, targets)


def attention(library: Any) -> Callable[..., Any]:
    return lambda q, k, v: words(library).scaled_dot_product_attention(q, k, v, is_causal=True)


def product(library: Any) -> Callable[..., Any]:
    return lambda x, weight: x @ weight


def row_works(n: int, width: int, dtype: str) -> list[Work]:
    """Forward and backward of (n, width) rows; how often each reads or writes all of them."""
    size, tolerance = n * width * BYTES[dtype], 1e-3 if dtype == "float32" else 2e-2
    named = f"{n:,}x{width:,} {dtype}"

    def x() -> list[Any]:
        return [normal(n, width)]

    def targets() -> list[Any]:
        return [normal(n, width), np.random.default_rng(3).integers(0, width, n)]

    def parts() -> list[Any]:
        return [normal(n, width), np.ones(width, np.float32), normal(width)]

    def mean(array: Any) -> Any:  # the zeros of dropout lie elsewhere, so that it is a rough one
        return np.array([np.abs(array).mean() + 1.0])

    made: list[tuple[str, dict[str, Any], int, Callable[[Any], Any]]] = [
        ("softmax", passes(softmax, x, dtype), 5, np.asarray),
        ("layer norm", passes(layer_norm, parts, dtype), 5, np.asarray),
        ("gelu", passes(gelu, x, dtype), 5, np.asarray),
        ("dropout", passes(dropout, x, dtype), 4, mean),
        ("cross-entropy", passes(cross_entropy, targets, dtype, constants=1), 3, np.asarray),
    ]
    return [
        Work(
            f"{name} {named}",
            sides,
            moved=times * size,
            tolerance=0.1 if compare is mean else tolerance,
            compare=compare,
        )
        for name, sides, times, compare in made
    ]


def attention_work(batch: int, heads: int, length: int, features: int) -> Work:
    """Two products forward and five backward, half of each masked."""

    def inputs() -> list[Any]:
        return [normal(batch, heads, length, features, seed=i) for i in range(3)]

    sides = passes(attention, inputs, "bfloat16")
    name = f"attention B{batch} H{heads} D{features} N={length} causal bfloat16"
    return Work(
        name,
        {side: sides[side] for side in ("minigrad", "torch")},
        flops=7 * batch * heads * length**2 * features,
        tolerance=2e-2,
    )


def product_work(m: int, k: int, n: int, dtype: str) -> Work:
    """A product, forward and backward."""

    def inputs() -> list[Any]:
        return [normal(m, k), normal(k, n, seed=1) / np.float32(k**0.5)]

    sides = passes(product, inputs, dtype)
    return Work(
        f"matmul {m}x{k} @ {k}x{n} {dtype}",
        {side: sides[side] for side in ("minigrad", "torch")},
        flops=6 * m * k * n,
        tolerance=1e-3 if dtype == "float32" else 2e-2,
    )


def copy(size: int, library: Any) -> Run:
    source = library.put(np.arange(size // 4, dtype=np.float32))
    if library.name == "torch":
        target = library.torch.empty_like(source)
        return lambda: target.copy_(source)
    target = library.mg.zeros_like(source)

    def run() -> Any:
        target[...] = source
        return target

    return run


def copy_work(size: int) -> Work:
    """What the memory can do, read and written: the limit that the rows are measured by."""
    return Work(
        f"copy of {size:,} bytes",
        {"minigrad": partial(copy, size), "torch": partial(copy, size)},
        moved=2 * size,
    )


def loader_minigrad(n: int, batch: int, shape: tuple[int, ...], library: Any) -> Run:
    from minigrad import data

    images = np.ones((n, *shape), np.float32)
    loader = data.DataLoader(data.TensorDataset(images), batch, shuffle=True, device="cuda")

    def run() -> Any:
        total = library.put(np.zeros((), np.float32))
        for (x,) in loader:
            total = total + x[:, 0, 0, 0].sum()
        return total

    return run


def loader_torch(n: int, batch: int, shape: tuple[int, ...], library: Any) -> Run:
    torch = library.torch
    images = torch.ones((n, *shape))
    dataset = torch.utils.data.TensorDataset(images)
    loader = torch.utils.data.DataLoader(
        dataset, sampler=torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(dataset), batch, False),
        batch_size=None, pin_memory=not library.dry,
    )  # fmt: skip

    def run() -> Any:
        total = torch.zeros((), device=library.device)
        for (x,) in loader:
            total = total + x.to(library.device, non_blocking=True)[:, 0, 0, 0].sum()
        return total

    return run


def loader_work(n: int, batch: int, shape: tuple[int, ...]) -> Work:
    """An epoch of shuffled batches that are gathered, pinned and copied to the GPU."""
    return Work(
        f"loader, {n:,} images of {'x'.join(map(str, shape))} float32 in batches of {batch} to the GPU",
        {"minigrad": partial(loader_minigrad, n, batch, shape), "torch": partial(loader_torch, n, batch, shape)},
        items=(n, "images"),
    )


FULL = [
    copy_work(1 << 30),
    attention_work(8, 16, 4096, 64),
    *row_works(32_768, 4096, "float32"),
    *row_works(32_768, 4096, "bfloat16"),
    product_work(8192, 8192, 8192, "bfloat16"),
    product_work(4096, 4096, 4096, "float32"),
    loader_work(4096, 256, (3, 224, 224)),
]
QUICK = [
    copy_work(1 << 10),
    attention_work(1, 2, 16, 8),
    *row_works(6, 16, "float32"),
    *row_works(6, 16, "bfloat16")[:2],
    product_work(8, 16, 8, "bfloat16"),
    product_work(8, 8, 8, "float32"),
    loader_work(6, 3, (3, 4, 4)),
]
