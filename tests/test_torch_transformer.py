"""Attention and Transformer layers agree with PyTorch in float64: values, gradients, and 100 steps of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.nn import functional as F
from minigrad.testing.tolerances import assert_close

torch = pytest.importorskip("torch")

Array = np.ndarray[Any, Any]
BATCH, LENGTH, MEMORY, FEATURES, HEADS, HIDDEN = 3, 5, 7, 8, 2, 12
STEPS, EVERY = 100, 20
TRAJECTORY = 10  # 1e-11: a hundred steps add up the roundings of each


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dense(name: str, weight: Any, bias: Any) -> dict[str, Array]:
    """A linear layer's state; PyTorch keeps (out, in)."""
    state = {f"{name}.weight": weight.detach().numpy().T}
    return state if bias is None else state | {f"{name}.bias": bias.detach().numpy()}


def attention_state(theirs: Any, of: Callable[[Any], Any] = lambda p: p) -> dict[str, Array]:
    """The state of a MultiHeadAttention from PyTorch's; `of` picks the parameter's values or its gradient."""
    names = ("query", "key", "value")
    if theirs.in_proj_weight is None:
        weights = [of(w) for w in (theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight)]
    else:
        weights = of(theirs.in_proj_weight).chunk(3)
    biases = [None] * 3 if theirs.in_proj_bias is None else of(theirs.in_proj_bias).chunk(3)
    state = {}
    for name, w, b in zip(names, weights, biases, strict=True):
        state |= dense(name, w, b)
    last = theirs.out_proj
    return state | dense("output", of(last.weight), None if last.bias is None else of(last.bias))


def within(prefix: str, state: dict[str, Array]) -> dict[str, Array]:
    return {f"{prefix}.{name}": value for name, value in state.items()}


def layer_state(theirs: Any, of: Callable[[Any], Any] = lambda p: p) -> dict[str, Array]:
    """The state of an encoder or decoder layer."""
    crossed = hasattr(theirs, "multihead_attn")
    norms = ["self_attention_norm", "cross_attention_norm", "feed_forward_norm"]
    state = within("self_attention", attention_state(theirs.self_attn, of))
    if crossed:
        state |= within("cross_attention", attention_state(theirs.multihead_attn, of))
    else:
        norms.remove("cross_attention_norm")
    for i, name in enumerate(norms, 1):
        norm = getattr(theirs, f"norm{i}")
        state |= {f"{name}.weight": of(norm.weight).detach().numpy(), f"{name}.bias": of(norm.bias).detach().numpy()}
    for name, linear in (("hidden", theirs.linear1), ("output", theirs.linear2)):
        state |= dense(f"feed_forward.{name}", of(linear.weight), of(linear.bias))
    return state


def draw(*shapes: tuple[int, ...], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def scatter_biases(theirs: Any) -> None:
    """Biases and norms start at 0 and 1 in PyTorch; other values show more."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.ndim == 1:
                p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)


def copied(ours: nn.Module, state: dict[str, Array]) -> nn.Module:
    ours.load_state_dict(state)
    return ours


def compare(
    ours: nn.Module,
    theirs: Any,
    of_state: Callable[..., dict[str, Array]],
    inputs: list[Array],
    run_ours: Callable[..., Any],
    run_theirs: Callable[..., Any],
) -> None:
    """Values and gradients at the start, then the losses and weights on the way of training by Adam."""
    own = [mg.tensor(a, requires_grad=True) for a in inputs]
    other = [torch.tensor(a, requires_grad=True) for a in inputs]
    mine, reference = run_ours(*own), run_theirs(*other)
    assert_close(mine.detach().numpy(), reference.detach().numpy(), mg.float64, "value")
    (cotangent,) = draw(mine.shape, seed=1)
    mine.backward(mg.asarray(cotangent))
    reference.backward(torch.tensor(cotangent))
    for i, (a, b) in enumerate(zip(own, other, strict=True)):
        assert_close(a.grad.numpy(), b.grad.numpy(), mg.float64, f"gradient of input {i}")
    expected = of_state(theirs, lambda p: p.grad)
    assert {name for name, _ in ours.named_parameters()} == set(expected)
    # the gradient of a key's bias is 0 but for roundings, since a softmax does not see what it adds
    scale = max(np.abs(g).max() for g in expected.values())
    for name, p in ours.named_parameters():
        assert_close(p.grad.numpy(), expected[name], mg.float64, f"gradient of {name}", floor=scale)

    (target,) = draw(mine.shape, seed=2)
    # an epsilon well above those roundings, which Adam would make steps of
    adam = optim.Adam(ours.parameters(), lr=1e-2, eps=1e-3)
    peer = torch.optim.Adam(theirs.parameters(), lr=1e-2, eps=1e-3)
    inner, outer = [mg.asarray(a) for a in inputs], [torch.tensor(a) for a in inputs]
    first = None
    for step in range(STEPS):
        adam.zero_grad()
        loss = F.mse_loss(run_ours(*inner), mg.asarray(target))
        loss.backward()
        adam.step()
        peer.zero_grad()
        other_loss = torch.nn.functional.mse_loss(run_theirs(*outer), torch.tensor(target))
        other_loss.backward()
        peer.step()
        first = first or loss.item()
        assert_close(loss.detach().numpy(), other_loss.detach().numpy(), mg.float64, f"loss {step}", factor=TRAJECTORY)
        if step % EVERY == EVERY - 1:
            state = of_state(theirs)
            for name, p in ours.named_parameters():
                what = f"{name} after {step + 1} steps"
                assert_close(p.detach().numpy(), state[name], mg.float64, what, factor=TRAJECTORY, floor=1.0)
    assert loss.item() < 0.8 * first


@pytest.mark.parametrize("bias", [True, False])
def test_self_attention(bias: bool) -> None:
    theirs = torch.nn.MultiheadAttention(FEATURES, HEADS, bias=bias, batch_first=True, dtype=torch.float64)
    scatter_biases(theirs)
    ours = copied(nn.MultiHeadAttention(HEADS, bias=bias, dtype=mg.float64), attention_state(theirs))
    blocked = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)
    compare(
        ours,
        theirs,
        attention_state,
        draw((BATCH, LENGTH, FEATURES)),
        lambda x: ours(x, is_causal=True),
        lambda x: theirs(x, x, x, attn_mask=blocked, need_weights=False)[0],
    )


def test_cross_attention_with_padding_and_weights() -> None:
    """Keys and values of other widths, and the weights, which are ours per head."""
    theirs = torch.nn.MultiheadAttention(FEATURES, HEADS, kdim=6, vdim=5, batch_first=True, dtype=torch.float64)
    scatter_biases(theirs)
    ours = copied(nn.MultiHeadAttention(HEADS, dtype=mg.float64), attention_state(theirs))
    lengths = [7, 3, 5]
    padding = torch.arange(MEMORY) >= torch.tensor(lengths)[:, None]
    (bias,) = draw((BATCH * HEADS, LENGTH, MEMORY), seed=5)
    inputs = draw((BATCH, LENGTH, FEATURES), (BATCH, MEMORY, 6), (BATCH, MEMORY, 5))
    own_bias = mg.asarray(bias.reshape(BATCH, HEADS, LENGTH, MEMORY))
    given = {"bias": own_bias, "key_lengths": mg.tensor(lengths)}
    masked = torch.zeros(padding.shape, dtype=torch.float64).masked_fill(padding, -torch.inf)
    masks = {"attn_mask": torch.tensor(bias), "key_padding_mask": masked}  # PyTorch wants both of one kind
    out, weights = ours(*(mg.asarray(a) for a in inputs), need_weights=True, **given)
    reference = theirs(*(torch.tensor(a) for a in inputs), average_attn_weights=False, **masks)
    assert_close(out.detach().numpy(), reference[0].detach().numpy(), mg.float64, "value")
    assert_close(weights.detach().numpy(), reference[1].detach().numpy(), mg.float64, "weights")
    compare(
        ours,
        theirs,
        attention_state,
        inputs,
        lambda *x: ours(*x, **given),
        lambda *x: theirs(*x, need_weights=False, **masks)[0],
    )


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer(norm: str, activation: str) -> None:
    theirs = torch.nn.TransformerEncoderLayer(
        FEATURES, HEADS, HIDDEN, 0.0, activation, batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    scatter_biases(theirs)
    ours = nn.TransformerEncoderLayer(HEADS, HIDDEN, norm=norm, activation=activation, dtype=mg.float64)
    copied(ours, layer_state(theirs))
    lengths = [5, 2, 4]
    padding = torch.arange(LENGTH) >= torch.tensor(lengths)[:, None]
    compare(
        ours,
        theirs,
        layer_state,
        draw((BATCH, LENGTH, FEATURES)),
        lambda x: ours(x, key_lengths=mg.tensor(lengths)),
        lambda x: theirs(x, src_key_padding_mask=padding),
    )


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_decoder_layer(norm: str) -> None:
    theirs = torch.nn.TransformerDecoderLayer(
        FEATURES, HEADS, HIDDEN, 0.0, "gelu", batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    scatter_biases(theirs)
    ours = copied(nn.TransformerDecoderLayer(HEADS, HIDDEN, norm=norm, dtype=mg.float64), layer_state(theirs))
    blocked = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)
    lengths = [7, 3, 5]
    padding = torch.arange(MEMORY) >= torch.tensor(lengths)[:, None]
    compare(
        ours,
        theirs,
        layer_state,
        draw((BATCH, LENGTH, FEATURES), (BATCH, MEMORY, FEATURES)),
        lambda x, memory: ours(x, memory, memory_lengths=mg.tensor(lengths)),
        lambda x, memory: theirs(x, memory, tgt_mask=blocked, memory_key_padding_mask=padding),
    )


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_whole_transformer(norm: str) -> None:
    theirs = torch.nn.Transformer(
        FEATURES, HEADS, 2, 2, HIDDEN, 0.0, batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    scatter_biases(theirs)
    # PyTorch's Transformer ends in a normalization either way
    ours = nn.Transformer(
        HEADS, 2, 2, HIDDEN, norm=norm, final_norm=True, activation="relu", features=FEATURES, dtype=mg.float64
    )

    def state(model: Any, of: Callable[[Any], Any] = lambda p: p) -> dict[str, Array]:
        found = {}
        for part in ("encoder", "decoder"):
            stack = getattr(model, part)
            for i, layer in enumerate(stack.layers):
                found |= within(f"{part}.layers.{i}", layer_state(layer, of))
            found |= within(f"{part}.norm", {n: of(p).detach().numpy() for n, p in stack.norm.named_parameters()})
        return found

    copied(ours, state(theirs))
    source, target = draw((BATCH, MEMORY, FEATURES), (BATCH, LENGTH, FEATURES))
    lengths = [7, 3, 5]
    padding = torch.arange(MEMORY) >= torch.tensor(lengths)[:, None]
    blocked = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)
    own = [mg.tensor(a, requires_grad=True) for a in (source, target)]
    other = [torch.tensor(a, requires_grad=True) for a in (source, target)]
    mine = ours(*own, source_lengths=mg.tensor(lengths))
    reference = theirs(*other, tgt_mask=blocked, src_key_padding_mask=padding, memory_key_padding_mask=padding)
    assert_close(mine.detach().numpy(), reference.detach().numpy(), mg.float64, "value", factor=10)
    (cotangent,) = draw(mine.shape, seed=1)
    mine.backward(mg.asarray(cotangent))
    reference.backward(torch.tensor(cotangent))
    for a, b in zip(own, other, strict=True):
        assert_close(a.grad.numpy(), b.grad.numpy(), mg.float64, "gradient of an input", factor=10)
    expected = state(theirs, lambda p: p.grad)
    assert {name for name, _ in ours.named_parameters()} == set(expected)
    scale = max(np.abs(g).max() for g in expected.values())
    for name, p in ours.named_parameters():
        assert_close(p.grad.numpy(), expected[name], mg.float64, f"gradient of {name}", floor=scale)
