"""Adam's step for JAX, as PyTorch and minigrad define it; the caller compiles it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax


def start(parameters: Any) -> tuple[Any, Any, Any, jax.Array]:
    """The state: parameters, both moments, and the number of steps."""
    import jax
    from jax import numpy as jnp

    return parameters, jax.tree.map(jnp.zeros_like, parameters), jax.tree.map(jnp.zeros_like, parameters), jnp.zeros(())


def step(
    state: Any, gradients: Any, rate: float, betas: tuple[float, float], epsilon: float, decay: float = 0.0
) -> tuple[Any, Any, Any, jax.Array]:
    """The state after a step; `decay` as AdamW's."""
    import jax
    from jax import numpy as jnp

    parameters, first, second, count = state
    count = count + 1
    first = jax.tree.map(lambda m, g: betas[0] * m + (1 - betas[0]) * g, first, gradients)
    second = jax.tree.map(lambda v, g: betas[1] * v + (1 - betas[1]) * g * g, second, gradients)
    size, scale = rate / (1 - betas[0] ** count), 1 / (1 - betas[1] ** count)

    def update(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        return p * (1 - rate * decay) - size * m / (jnp.sqrt(v * scale) + epsilon)

    return jax.tree.map(update, parameters, first, second), first, second, count
