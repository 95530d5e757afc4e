"""A full training step of a pre-norm GPT: forward, cross-entropy, backward, AdamW.

The model is written once, in functions that take their weights as arguments; each library brings its own. It predicts
characters: a vocabulary of 65, as in the texts of Shakespeare, so that the layers and not the logits take the time. No
dropout; the output layer has its own weights, unless it is tied to the tokens, as in the larger one of benchmarks/gpu.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import adam_jax
from benchmarks.workload import NO_GOAL, Goal, Point, Task, Workload

LEARNING_RATE = 3e-4
BETAS = (0.9, 0.95)
EPSILON = 1e-8
DECAY = 0.1
VOCABULARY = 65


@dataclass(frozen=True)
class Config:
    """The sizes of a GPT and of its batch."""

    layers: int
    features: int
    heads: int
    length: int
    batch: int
    vocabulary: int = VOCABULARY
    tied: bool = False  # whether tokens and logits share their weight

    @property
    def flops(self) -> float:
        """Of a step at the least: three products a weight and position, seven an attention, half of those masked."""
        weights = self.layers * 12 * self.features**2 + self.vocabulary * self.features
        attention = self.layers * 7 * self.length * self.features
        return self.batch * self.length * (3 * 2 * weights + attention)


def parameters(config: Config) -> dict[str, NDArray[np.float32]]:
    """Parameters by name; those of linear layers are (in, out)."""
    random = np.random.default_rng(0)
    d = config.features

    def normal(*shape: int) -> NDArray[np.float32]:
        return np.float32(0.02) * random.standard_normal(shape, dtype=np.float32)

    def norm(name: str) -> dict[str, NDArray[np.float32]]:
        return {f"{name}.scale": np.ones(d, np.float32), f"{name}.bias": np.zeros(d, np.float32)}

    def linear(name: str, m: int, n: int) -> dict[str, NDArray[np.float32]]:
        return {f"{name}.weight": normal(m, n), f"{name}.bias": np.zeros(n, np.float32)}

    made = {"tokens": normal(config.vocabulary, d), "positions": normal(config.length, d)}
    for i in range(config.layers):
        made |= norm(f"{i}.norm1") | linear(f"{i}.qkv", d, 3 * d) | linear(f"{i}.out", d, d)
        made |= norm(f"{i}.norm2") | linear(f"{i}.up", d, 4 * d) | linear(f"{i}.down", 4 * d, d)
    made |= norm("norm")
    return made if config.tied else made | {"head.weight": normal(d, config.vocabulary)}


def batch(config: Config) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Token ids, their positions, and the next tokens."""
    ids = np.random.default_rng(1).integers(0, config.vocabulary, (config.batch, config.length + 1))
    return ids[:, :-1].copy(), np.arange(config.length), ids[:, 1:].reshape(-1).copy()


def loss(F: Any, config: Config, p: Mapping[str, Any], ids: Any, positions: Any, targets: Any) -> Any:
    """The loss, in the words of `minigrad.nn.functional`."""
    heads_last = (config.batch, config.length, config.heads, config.features // config.heads)

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, p[f"{name}.scale"], p[f"{name}.bias"])

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    x = F.embedding(ids, p["tokens"]) + F.embedding(positions, p["positions"])
    for i in range(config.layers):
        parts = F.chunk(linear(norm(x, f"{i}.norm1"), f"{i}.qkv"), 3, 2)
        query, key, value = (part.reshape(heads_last).swapaxes(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + linear(attended.swapaxes(1, 2).reshape(x.shape), f"{i}.out")
        x = x + linear(F.gelu(linear(norm(x, f"{i}.norm2"), f"{i}.up"), approximate="tanh"), f"{i}.down")
    x = norm(x, "norm")
    logits = F.tied_logits(x, p["tokens"]) if config.tied else F.linear(x, p["head.weight"])
    return F.cross_entropy(logits.reshape((-1, config.vocabulary)), targets)


def words_minigrad() -> SimpleNamespace:
    """What `loss` takes from minigrad."""
    import minigrad as mg
    from minigrad.nn import functional

    tied_logits = lambda x, tokens: functional.linear(x, tokens.T)  # noqa: E731
    return SimpleNamespace(**vars(functional), chunk=mg.chunk, tied_logits=tied_logits)


def words_torch() -> SimpleNamespace:
    """What `loss` takes from PyTorch."""
    import torch
    from torch.nn import functional

    words = {
        "chunk": torch.chunk,
        "layer_norm": lambda x, scale, bias: functional.layer_norm(x, scale.shape, scale, bias),
        "tied_logits": functional.linear,
    }
    return SimpleNamespace(**vars(functional) | words)


def parameters_minigrad(config: Config) -> dict[str, Any]:
    """Parameters by name."""
    from minigrad import nn

    return {name: nn.Parameter(array) for name, array in parameters(config).items()}


def parameters_torch(config: Config) -> dict[str, Any]:
    """Parameters by name; linear layers are (out, in) there."""
    import torch

    arrays = {name: array.T.copy() if name.endswith(".weight") else array for name, array in parameters(config).items()}
    return {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in arrays.items()}


def step(adamw: Any, compute: Callable[[], Any], parameters: Iterable[Any], **options: Any) -> Task:
    """Zero, compute, backward, and a step of a class of optimizers."""
    optimizer = adamw(parameters, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY, **options)

    def run() -> Any:
        optimizer.zero_grad()
        made = compute()
        made.backward()
        optimizer.step()
        return made

    return Task(run)


def gpt_minigrad(config: Config) -> Task:
    import minigrad as mg
    from minigrad import optim

    F, p = words_minigrad(), parameters_minigrad(config)
    inputs = [mg.asarray(array) for array in batch(config)]
    return step(optim.AdamW, lambda: loss(F, config, p, *inputs), p.values())


def gpt_torch(config: Config) -> Task:
    import torch

    F, p = words_torch(), parameters_torch(config)
    inputs = [torch.from_numpy(array) for array in batch(config)]
    return step(torch.optim.AdamW, lambda: loss(F, config, p, *inputs), p.values(), fused=True)


def gpt_jax(config: Config) -> Task:
    import jax
    from jax import numpy as jnp

    def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        centered = x - x.mean(-1, keepdims=True)
        return centered * jax.lax.rsqrt((centered * centered).mean(-1, keepdims=True) + 1e-5) * scale + bias

    def attention(*heads_first: jax.Array, is_causal: bool) -> jax.Array:
        query, key, value = (array.swapaxes(1, 2) for array in heads_first)
        return jax.nn.dot_product_attention(query, key, value, is_causal=is_causal).swapaxes(1, 2)

    def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1).mean()

    F = SimpleNamespace(
        chunk=jnp.split,
        embedding=lambda ids, weight: weight[ids],
        linear=lambda x, weight, bias=0: x @ weight + bias,
        layer_norm=layer_norm,
        gelu=lambda x, approximate: jax.nn.gelu(x, approximate=approximate == "tanh"),
        scaled_dot_product_attention=attention,
        cross_entropy=cross_entropy,
    )
    inputs = [jnp.asarray(array) for array in batch(config)]

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, *inputs: jax.Array) -> tuple[Any, jax.Array]:
        made, gradients = jax.value_and_grad(lambda p: loss(F, config, p, *inputs))(state[0])
        return adam_jax.step(state, gradients, LEARNING_RATE, BETAS, EPSILON, DECAY), made

    state = adam_jax.start({name: jnp.asarray(array) for name, array in parameters(config).items()})

    def run() -> jax.Array:
        nonlocal state
        state, made = jax.block_until_ready(step(state, *inputs))
        return made

    return Task(run)


def workload(config: Config, goal: Goal = NO_GOAL, series: str = "GPT") -> Workload:
    builders = {"minigrad": gpt_minigrad, "torch": gpt_torch, "jax": gpt_jax}
    return Workload(
        f"GPT {config.layers} layers d{config.features} T{config.length} batch {config.batch}, AdamW step",
        {side: partial(build, config) for side, build in builders.items()},
        goal,
        flops=config.flops,
        point=Point(series, config.flops, "FLOP"),
    )


WORKLOADS = [
    workload(Config(layers=4, features=128, heads=4, length=64, batch=12), Goal(ratio=0.45)),
    workload(Config(layers=6, features=384, heads=6, length=256, batch=16), Goal(ratio=0.45)),
]
SWEEP = [
    workload(Config(layers=2, features=32, heads=2, length=32, batch=4)),
    workload(Config(layers=4, features=128, heads=4, length=64, batch=12)),
    workload(Config(layers=4, features=256, heads=4, length=128, batch=8)),
    workload(Config(layers=6, features=384, heads=6, length=256, batch=4)),
    workload(Config(layers=4, features=128, heads=4, length=1024, batch=2)),
    workload(Config(layers=6, features=384, heads=6, length=256, batch=16)),
]
QUICK = [workload(Config(layers=2, features=16, heads=2, length=8, batch=2))]
