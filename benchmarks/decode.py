"""Decoding with a GPT: the most likely token, again and again, with the keys and values of those before in a cache.

minigrad's side is what a user calls, `minigrad.models.generate`; PyTorch's is written in its operations with a cache
that is allocated ahead, JAX's is one compiled loop. All sequences start from one token. The figures are for one token
of every sequence: they grow with the length only by the attention to the tokens that the cache holds.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpt import VOCABULARY, Config, parameters
from benchmarks.workload import Point, Task, Workload


def starts(config: Config) -> NDArray[np.int64]:
    """The first token of each sequence, (batch, 1)."""
    return np.arange(1, config.batch + 1)[:, None] % VOCABULARY


def flops(config: Config) -> float:
    """Of one token of every sequence at the least: a product a weight, and two attentions of half the length."""
    weights = config.layers * 12 * config.features**2 + VOCABULARY * config.features
    return config.batch * 2 * (weights + config.layers * config.length * config.features)


def decode_minigrad(config: Config) -> Task:
    from minigrad.io import NameMap, Rename
    from minigrad.models import GPT, GPTConfig, generate

    layer = "decoder.layers.{i}."
    projections = tuple(f"{layer}self_attention.{name}.{{p}}" for name in ("query", "key", "value"))
    moved = {
        "tokens": "tokens.weight",
        "positions": "positions.weight",
        "{i}.norm1.scale": f"{layer}self_attention_norm.weight",
        "{i}.norm1.bias": f"{layer}self_attention_norm.bias",
        "{i}.qkv.{p}": projections,
        "{i}.out.{p}": f"{layer}self_attention.output.{{p}}",
        "{i}.norm2.scale": f"{layer}feed_forward_norm.weight",
        "{i}.norm2.bias": f"{layer}feed_forward_norm.bias",
        "{i}.up.{p}": f"{layer}feed_forward.hidden.{{p}}",
        "{i}.down.{p}": f"{layer}feed_forward.output.{{p}}",
        "norm.scale": "decoder.norm.weight",
        "norm.bias": "decoder.norm.bias",
        "head.weight": "head.weight",
    }
    sizes = {"features": config.features, "num_layers": config.layers, "num_heads": config.heads}
    model = GPT(GPTConfig(vocab_size=VOCABULARY, max_length=config.length, tied=False, **sizes)).eval()
    NameMap([Rename(*names) for names in moved.items()]).load(model, parameters(config))
    prompts = starts(config)
    return Task(lambda: np.array(generate(model, prompts, max_new_tokens=config.length)))


def decode_torch(config: Config) -> Task:
    import torch
    from torch.nn import functional as F

    p = {
        name: torch.from_numpy(array.T.copy() if name.endswith(".weight") else array)
        for name, array in parameters(config).items()  # linear layers are (out, in) there
    }
    size = (config.batch, config.heads, config.length, config.features // config.heads)
    first = torch.from_numpy(starts(config))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scale = p[f"{name}.scale"]
        return F.layer_norm(x, scale.shape, scale, p[f"{name}.bias"])

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def run() -> torch.Tensor:
        with torch.inference_mode():
            keys, values = ([torch.empty(size) for _ in range(config.layers)] for _ in range(2))
            ids, found = first, []
            for at in range(config.length):
                x = F.embedding(ids, p["tokens"]) + p["positions"][at]
                for i in range(config.layers):
                    parts = linear(norm(x, f"{i}.norm1"), f"{i}.qkv").chunk(3, -1)
                    query, key, value = (part.view(config.batch, 1, config.heads, -1).transpose(1, 2) for part in parts)
                    keys[i][:, :, at : at + 1] = key
                    values[i][:, :, at : at + 1] = value
                    attended = F.scaled_dot_product_attention(query, keys[i][:, :, : at + 1], values[i][:, :, : at + 1])
                    x = x + linear(attended.transpose(1, 2).reshape(x.shape), f"{i}.out")
                    x = x + linear(F.gelu(linear(norm(x, f"{i}.norm2"), f"{i}.up"), approximate="tanh"), f"{i}.down")
                ids = F.linear(norm(x, "norm"), p["head.weight"])[:, 0].argmax(-1, keepdim=True)
                found.append(ids)
            return torch.cat(found, 1)

    return Task(run)


def decode_jax(config: Config) -> Task:
    import jax
    from jax import numpy as jnp

    weights = {name: jnp.asarray(array) for name, array in parameters(config).items()}
    dim = config.features // config.heads
    size = (config.layers, config.batch, config.heads, config.length, dim)

    def step(p: Any, carry: Any, at: jax.Array) -> Any:
        ids, keys, values = carry

        def norm(x: jax.Array, name: str) -> jax.Array:
            centered = x - x.mean(-1, keepdims=True)
            scaled = centered * jax.lax.rsqrt((centered * centered).mean(-1, keepdims=True) + 1e-5)
            return scaled * p[f"{name}.scale"] + p[f"{name}.bias"]

        def linear(x: jax.Array, name: str) -> jax.Array:
            return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

        x = p["tokens"][ids] + p["positions"][at]
        for i in range(config.layers):
            parts = jnp.split(linear(norm(x, f"{i}.norm1"), f"{i}.qkv"), 3, -1)
            query, key, value = (part.reshape(config.batch, config.heads, dim) for part in parts)
            keys, values = keys.at[i, :, :, at].set(key), values.at[i, :, :, at].set(value)
            scores = jnp.einsum("bhd,bhnd->bhn", query, keys[i]) / dim**0.5
            shares = jax.nn.softmax(jnp.where(jnp.arange(config.length) <= at, scores, -jnp.inf))
            attended = jnp.einsum("bhn,bhnd->bhd", shares, values[i])
            x = x + linear(attended.reshape(x.shape), f"{i}.out")
            x = x + linear(jax.nn.gelu(linear(norm(x, f"{i}.norm2"), f"{i}.up")), f"{i}.down")
        ids = (norm(x, "norm") @ p["head.weight"]).argmax(-1)
        return (ids, keys, values), ids

    @jax.jit
    def loop(p: Any, first: jax.Array) -> jax.Array:
        carry = (first, jnp.zeros(size), jnp.zeros(size))
        return jax.lax.scan(partial(step, p), carry, jnp.arange(config.length))[1].T

    first = jnp.asarray(starts(config)[:, 0])
    return Task(lambda: jax.block_until_ready(loop(weights, first)))


def workload(config: Config) -> Workload:
    builders = {"minigrad": decode_minigrad, "torch": decode_torch, "jax": decode_jax}
    model = f"GPT {config.layers} layers d{config.features} batch {config.batch}"
    return Workload(
        f"decode {config.length} tokens, {model}, a token",
        {side: partial(build, config) for side, build in builders.items()},
        flops=flops(config),
        point=Point(model, config.length, "tokens"),
        per=config.length,
    )


SMALL: dict[str, int] = {"layers": 4, "features": 128, "heads": 4}
WORKLOADS = [
    workload(Config(**SMALL, length=256, batch=1)),
    workload(Config(**SMALL, length=256, batch=16)),
    workload(Config(layers=6, features=384, heads=6, length=256, batch=1)),
]
SWEEP = [workload(Config(**SMALL, length=length, batch=batch)) for batch in (1, 16) for length in (64, 256, 1024)]
QUICK = [workload(Config(layers=2, features=16, heads=2, length=8, batch=2))]
