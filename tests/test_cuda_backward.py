"""Backward on the GPU: random graphs, and gradients that are added up where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from test_graphs import Graphs

import minigrad as mg
from minigrad import amp
from minigrad.backend.devices import backend_of
from minigrad.errors import GradError
from minigrad.ops.registry import REGISTRY

pytestmark = pytest.mark.usefixtures("gpu")


class GraphsOnGPU(Graphs):
    """Gradients in memory that nobody else sees are added to and kept, never copied: none may belong to another."""

    device = "cuda"


TestGraphsOnGPU = GraphsOnGPU.TestCase
TestGraphsOnGPU.settings = settings(stateful_step_count=30)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("dtype", [mg.float32, mg.float64], ids=str)
def test_a_norm_adds_to_the_gradient_that_went_around_it(name: str, dtype: Any) -> None:
    mg.zeros(1, device="cuda")
    kernels = REGISTRY[name].joint.kernels
    kernel, rooms = kernels["cuda", dtype], []

    def noting(*args: Any, **kwargs: Any) -> Any:
        rooms.append(kwargs.get("into"))
        return kernel(*args, **kwargs)

    rng = np.random.default_rng(0)
    x, weight, g = (rng.normal(size=shape) for shape in ((5, 40), (40,), (5, 40)))
    found, adding = [], REGISTRY[name].joint.adding
    kernels["cuda", dtype] = noting
    adding.add(noting)
    try:
        for device, kind in (("cpu", mg.float64), ("cuda", dtype)):
            start = mg.tensor(x, dtype=kind, device=device, requires_grad=True)
            scale = mg.tensor(weight, dtype=kind, device=device, requires_grad=True)
            t = mg.tanh(start)
            out = t + mg.exp(getattr(mg, name)(t, scale))
            out = out + mg.sin(getattr(mg, name)(out, scale))
            out.backward(mg.tensor(g, dtype=kind, device=device))
            found.append([p.grad.to("cpu").numpy().astype(np.float64) for p in (start, scale)])
    finally:
        kernels["cuda", dtype] = kernel
        adding.discard(noting)
    # the cotangent of the outer one is the caller's own
    assert [into is not None and into[0] is not None for into in rooms] == [False, True]
    for a, b in zip(*found, strict=True):
        size = np.abs(a).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=size * (2e-5 if dtype == mg.float32 else 1e-13))


def test_a_gradient_is_kept_as_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = mg.ones((3, 4), device="cuda", requires_grad=True), mg.ones((4, 2), device="cuda")
    monkeypatch.setattr(backend_of("cuda", "tests")[0], "copy", lambda array: pytest.fail("a gradient was copied"))
    ((w @ x) * 2.0).sum().backward()
    before = w.grad._array.data.ptr
    ((w @ x) * 2.0).sum().backward()
    assert w.grad._array.data.ptr == before
    assert w.grad.tolist() == [[8.0] * 4] * 3


def test_a_cast_shares_no_memory_and_a_view_does() -> None:
    """A sum in place, as of a block of a network to its input, after a product under autocast has cast that."""
    rng = np.random.default_rng(0)
    x, w, g = (rng.normal(size=(3, 3)) for _ in range(3))
    found = []
    for device in ("cpu", "cuda"):
        start, weight = (mg.tensor(a, dtype=mg.float32, device=device, requires_grad=True) for a in (x, w))
        with amp.autocast(mg.bfloat16):
            h = start * 2.0
            for _ in range(2):
                h += mg.linear(h, weight).astype(mg.float32)
        h.backward(mg.tensor(g, dtype=mg.float32, device=device))
        found.append([t.detach().to("cpu").numpy() for t in (h, start.grad, weight.grad)])
        kept = h.T
        with pytest.raises(GradError, match="shares its memory"):
            h += 1.0
        assert kept.shape == (3, 3)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-2 * np.abs(b).max())


def test_a_gradient_in_memory_of_others_is_not_added_to() -> None:
    """One that a hook hands over from another library, and one whose elements lie in one place."""
    w, x = mg.ones((3,), device="cuda", requires_grad=True), mg.ones((3,), device="cuda")
    theirs = mg.full((3,), 5.0, device="cuda")
    w.register_hook(lambda g: mg.from_dlpack(theirs._array))
    t = mg.tanh(w)
    t.register_hook(lambda g: mg.from_dlpack(theirs._array))
    for _ in range(2):
        (t * x + mg.sin(t)).sum().backward(retain_graph=True)
    assert theirs.tolist() == [5.0] * 3
    assert w.grad.tolist() == [10.0] * 3

    one = mg.ones((1,), device="cuda")
    x.requires_grad = True
    x.grad = mg.broadcast_to(one, (3,))
    (x * 2.0).sum().backward()
    assert one.tolist() == [1.0]
    assert x.grad.tolist() == [3.0] * 3
    t = mg.broadcast_to(one, (3,))
    with pytest.raises(ValueError, match="a read-only tensor"):
        t += 1.0
