"""The kernel of rotary embedding on the GPU: what the generic body and rule give in float64, in any order in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.ops.registry import REGISTRY
from minigrad.testing.tolerances import assert_close
from minigrad.testing.variants import generic

pytestmark = pytest.mark.usefixtures("gpu")

FLOATS = (mg.float16, mg.bfloat16, mg.float32, mg.float64)


@pytest.fixture(scope="module", autouse=True)
def backend(gpu: None) -> None:
    mg.ones(1, device="cuda")  # its kernels are registered when a GPU is first asked for


def numbers(array: Any) -> Any:
    return mg.asarray(array).to("cpu").numpy()


@given(
    shapes=st.sampled_from([
        ((3, 4), (3, 2)), ((5, 7), (1,)), ((2, 3, 6), (3, 2)), ((2, 4, 3, 10), (3, 5)), ((2, 4, 3, 2), (2, 1, 3, 1)),
        ((2, 2, 40, 70), (40, 33)), ((1, 3, 5, 4), (1, 2)), ((2, 3), (2, 0)),
    ]),
    dtype=st.sampled_from(FLOATS),
    wide=st.booleans(),
    interleaved=st.booleans(),
    order=st.sampled_from(["C", "heads last", "sliced"]),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_it_turns_as_the_generic_body(
    shapes: tuple[Any, Any], dtype: Any, wide: bool, interleaved: bool, order: str, seed: int
) -> None:
    import cupy

    rng = np.random.default_rng(seed)
    x, g = (rng.normal(size=shapes[0]).astype(dtype) for _ in range(2))
    tables = mg.float32 if wide and dtype.itemsize == 2 else dtype
    cos, sin = (rng.normal(size=shapes[1]).astype(tables) for _ in range(2))

    def placed(a: Any) -> Any:
        if order == "heads last" and a.ndim == 4:
            return cupy.array(np.array(a.transpose(0, 2, 1, 3), order="C")).transpose(0, 2, 1, 3)
        if order == "sliced":
            return cupy.array(np.concatenate([a, a], axis=-1))[..., : a.shape[-1]]
        return cupy.array(a)

    op = REGISTRY["rotary_embedding"]
    angles = cupy.array(cos), cupy.array(sin)
    found = op.kernels["cuda", dtype](placed(x), *angles, interleaved=interleaved)
    pulled = op.vjps[0].kernels["cuda", dtype](placed(g), *angles, interleaved=interleaved)
    if order == "heads last" and x.ndim == 4 and 1 not in x.shape:
        assert found.transpose(0, 2, 1, 3).flags.c_contiguous
    with generic():
        t = mg.tensor(x.astype(np.float64), requires_grad=True)
        y = op(t, cos.astype(np.float64), sin.astype(np.float64), interleaved=interleaved)
        y.backward(mg.tensor(g.astype(np.float64)))
    assert found.dtype == pulled.dtype == dtype
    assert_close(numbers(found), y.detach().numpy(), dtype, "value")
    assert_close(numbers(pulled), t.grad.numpy(), dtype, "gradient")


def test_what_does_not_fit_is_left_to_the_generic_body() -> None:
    import cupy

    kernel = REGISTRY["rotary_embedding"].kernels["cuda", mg.float32]
    ones = lambda *shape: cupy.ones(shape, np.float32)  # noqa: E731
    for x, cos, sin in (
        (ones(3, 4), ones(3, 3), ones(3, 3)),
        (ones(3, 4), ones(3, 2), ones(1, 2)),
        (ones(3, 4), ones(2, 2), ones(2, 2)),
        (ones(1, 1, 2, 3, 4), ones(3, 2), ones(3, 2)),
        (ones(0, 4), ones(0, 2), ones(0, 2)),
        (ones(3, 8)[:, ::2], ones(3, 2), ones(3, 2)),
        (ones(3, 4), ones(3, 2).astype(np.float64), ones(3, 2).astype(np.float64)),
    ):
        assert kernel(x, cos, sin, interleaved=False) is NotImplemented


@pytest.mark.parametrize("dtype", [mg.float32, mg.float16, mg.bfloat16], ids=str)
def test_positions_of_a_layer(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tables are of float32, and half queries need no cast: the kernels are given them as they are."""
    op, given_ = REGISTRY["rotary_embedding"], []
    for kernels in (op.kernels, op.vjps[0].kernels):
        kernel = kernels["cuda", dtype]

        def watched(*arrays: Any, kernel: Any = kernel, **params: Any) -> Any:
            given_.append([a.dtype for a in arrays])
            return kernel(*arrays, **params)

        monkeypatch.setitem(kernels, ("cuda", dtype), watched)
    outcomes = []
    for device in ("cpu", "cuda"):
        data, g = (np.random.default_rng(i).normal(size=(2, 2, 5, 6)).astype(dtype) for i in range(2))
        x = mg.tensor(data, device=device, requires_grad=True)
        y = nn.RotaryPositions()(x)
        y.backward(mg.tensor(g, device=device))
        outcomes.append([numbers(y.detach()), numbers(x.grad)])
    for found, want in zip(outcomes[1], outcomes[0], strict=True):
        assert found.dtype == dtype
        assert_close(found, want, dtype, "turned")
    assert given_ == [[dtype, mg.float32, mg.float32]] * 2
