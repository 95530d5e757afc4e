"""What the ranks of the tests of tensor parallelism call."""

from __future__ import annotations

from typing import Any

import numpy as np
import rank_functions as functions

import minigrad as mg
from minigrad import nn, ops, optim, parallel
from minigrad.models import GPT, GPTConfig, Llama, LlamaConfig
from minigrad.parallel.split_model import _split_parameters


def model_of(kind: str) -> Any:
    """A small model in float64, the same on all ranks."""
    mg.random.seed(3)
    if kind == "gpt":
        sizes: dict[str, Any] = {"vocab_size": 11, "max_length": 8, "features": 8, "num_layers": 2, "num_heads": 4}
        return GPT(GPTConfig(**sizes, dropout=0.0, attention_dropout=0.0, embedding_dropout=0.0), dtype=mg.float64)
    if kind == "llama":
        sizes = {"vocab_size": 10, "features": 16, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2}
        return Llama(LlamaConfig(**sizes, hidden_features=10, tied=False), dtype=mg.float64)
    options: dict[str, Any] = {"features": 16, "dtype": mg.float64, "hidden_features": 12, "dropout": 0.25}
    if kind == "encoder":
        return nn.TransformerEncoder(2, 4, alibi=True, norm="post", qk_norm=True, attention_dropout=0.0, **options)
    return nn.TransformerDecoderLayer(4, activation="swiglu", attention_dropout=0.0, window=(3, 0), **options)


def loss_of(model: Any, kind: str, step: int) -> Any:
    rng = np.random.default_rng([11, step])
    if kind in ("gpt", "llama"):
        ids = rng.integers(0, 10, (3, 7))
        targets = rng.integers(0, 10, (3, 7))
        targets[0, :2] = -100
        return model(mg.asarray(ids), mg.asarray(targets), key_lengths=mg.asarray([7, 4, 6]))
    x = mg.asarray(rng.normal(size=(2, 5, 16)))
    if kind == "encoder":
        bias = mg.asarray(rng.normal(size=(2, 4 if step % 2 else 1, 5, 5)))
        y = model(x, key_lengths=mg.asarray([5, 3]), bias=bias, is_causal=step % 3 == 0)
    else:
        y = model(x, mg.asarray(rng.normal(size=(2, 4, 16))), memory_mask=mg.asarray(rng.random((2, 4, 5, 4)) < 0.7))
    return (y * mg.asarray(rng.normal(size=y.shape))).mean()


def train(size: int, kind: str, steps: int = 10, loaded: Any = None) -> Any:
    """Ten steps: losses, norms, the first gradients, weights; size 0 is the plain model."""
    world = functions.team(max(size, 1))
    if world is None:
        return None
    model = model_of(kind)
    if kind in ("encoder", "decoder") and size:
        for p in model.parameters():  # those of rank 0 count
            p._array[...] += world.rank
    if size:
        # a network inside drops what is split, whose pattern is not that of the plain model
        parallel.tensor_parallel(model, world)
    for layer in model.modules():
        if isinstance(layer, nn.FeedForward):
            layer.dropout = nn.Dropout(0.0)
    if loaded is not None:
        parallel.load_gathered_state_dict(model, loaded)
    mg.random.seed(5)
    optimizer = optim.AdamW(model.parameters(), lr=0.01, eps=1e-5)  # a smaller one enlarges the last digits of 0
    split = _split_parameters(model)
    losses, norms, grads = [], [], {}
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, kind, step)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            for name, p in model.named_parameters():
                grad = None if p.grad is None else functions.host(p.grad).copy()
                if id(p) in split and grad is not None:
                    grad = np.moveaxis(world.all_gather(np.moveaxis(grad, split[id(p)][0], 0)), 0, split[id(p)][0])
                grads[name] = grad
        norms.append(parallel.clip_split_grad_norm_(model, 0.1))
        optimizer.step()
    weights = {name: functions.host(t) for name, t in parallel.gather_state_dict(model).items()}
    held = sum(p.nbytes for p in model.parameters())
    return losses, norms, grads, weights, held


def logits(size: int) -> Any:
    """Those that all ranks gather, and a token decoded with a cache."""
    world = functions.team(size)
    if world is None:
        return None
    model = model_of("llama").eval()
    ids = mg.asarray([[1, 2, 3, 4]])
    with mg.no_grad():
        plain = model(ids).numpy()
        parallel.tensor_parallel(model, world)
        cache = model.make_cache()
        model(ids[:, :3], cache=cache)
        return plain, model(ids).numpy(), model(ids[:, 3:], cache=cache).numpy()


def weights_of_attention(size: int) -> Any:
    """Attention that gives its weights, and takes a bias that requires grad."""
    world = functions.team(size)
    if world is None:
        return None
    found = []
    for splits in (False, True):
        mg.random.seed(1)
        layer = nn.MultiHeadAttention(4, 8, dtype=mg.float64)
        if splits:
            layer = parallel.tensor_parallel(nn.ModuleList([layer]), world)[0]
        rng = np.random.default_rng(0)
        x = mg.asarray(rng.normal(size=(2, 3, 8)))
        for shape in ((2, 4, 3, 3), (1, 1, 3, 3), (3, 3)):
            bias = mg.tensor(rng.normal(size=shape), requires_grad=True)
            y, weights = layer(x, x, bias=bias, need_weights=True)
            (y * mg.asarray(rng.normal(size=y.shape))).sum().backward()
            found.append((y.detach().numpy(), weights.detach().numpy(), bias.grad.numpy()))
    return found


def orders(size: int, seed: int) -> Any:
    """Derivatives of the first and second order through all ways in and out, and the plain ones."""
    world = functions.team(size)
    if world is None:
        return None
    rng = np.random.default_rng(seed)
    n = size + int(rng.integers(0, 4))
    x, w, v, c = (mg.tensor(rng.normal(size=s), requires_grad=True) for s in ((3, n), (n,), (3, n), (3, n)))
    cut = slice(n * world.rank // size, n * (world.rank + 1) // size)

    def plain(x: Any, w: Any) -> Any:
        return ops.tanh(x * w) * ops.sum(x * x * w, axis=-1, keepdims=True)

    def split(x: Any, w: Any) -> Any:
        own = parallel.slice_in(w, world, 0)
        inside = parallel.slice_in(x, world)
        alike = parallel.copy_in(x, world)[:, cut]
        total = parallel.sum_out(ops.sum(inside * alike * own, axis=-1, keepdims=True), world)
        return parallel.gather_out(ops.tanh(alike * own), world) * total

    found = []
    for f in (plain, split):
        y = f(x, w)
        first = mg.grad((y * c).sum(), [x, w], create_graph=True)
        second = mg.grad((first[0] * v).sum() + (first[1] * v[0]).sum(), [x, w])
        found.append([t.detach().numpy() for t in (y, *first, *second)])
    return found


def layers(size: int, seed: int, features: int, units: int, between: int, gather: bool, bias: bool, dtype: str) -> Any:
    """A column and a row layer, a table, and the cross-entropy, beside the plain ones: results and gradients."""
    world = functions.team(size)
    if world is None:
        return None
    kind = getattr(mg, dtype)
    rng = np.random.default_rng(seed)
    x = mg.tensor(rng.normal(size=(4, features)), dtype=kind, requires_grad=True)
    ids = mg.asarray(rng.integers(0, between, (2, 4)))
    c, d = mg.asarray(rng.normal(size=(4, units)).astype(dtype)), mg.asarray(rng.normal(size=(2, 4, 3)).astype(dtype))
    targets = rng.integers(0, between, 4)
    targets[0] = -1
    found = []
    for splits in (False, True):
        mg.random.seed(seed + world.rank * splits)  # the values of rank 0 count
        given: dict[str, Any] = {"bias": bias, "dtype": kind}
        if splits:
            given["communicator"] = world
            first: Any = parallel.ColumnDense(between, "tanh", in_features=features, gather=gather, **given)
            last: Any = parallel.RowDense(units, "tanh", in_features=between, cut=gather, **given)
            table: Any = parallel.VocabularyEmbedding(between, 3, padding_idx=1, dtype=kind, communicator=world)
            head: Any = parallel.ColumnDense(between, in_features=features, **given)
        else:
            first = nn.Dense(between, "tanh", in_features=features, **given)
            last = nn.Dense(units, "tanh", in_features=between, **given)
            table = nn.Embedding(between, 3, padding_idx=1, dtype=kind)
            head = nn.Dense(between, in_features=features, **given)
        y, vectors = last(first(x)), table(ids)
        scores = head(x)
        if splits:
            loss = parallel.vocabulary_cross_entropy(scores, mg.asarray(targets), world, ignore_index=-1)
        else:
            loss = nn.functional.cross_entropy(scores, mg.asarray(targets), ignore_index=-1)
        x.grad = None
        ((y * c).sum() + (vectors * d).sum() + loss).backward()
        own = [y.detach(), vectors.detach(), loss.detach(), x.grad]
        model = nn.ModuleList([first, last, table, head])
        axes = _split_parameters(model)
        grads = []
        for p in model.parameters():
            grad = p.grad.numpy()
            if id(p) in axes:
                axis = axes[id(p)][0]
                grad = np.moveaxis(world.all_gather(np.moveaxis(grad, axis, 0)), 0, axis)
            grads.append(grad)
        found.append([*(t.numpy().copy() for t in own), *grads])
    return found


def wrong() -> list[str]:
    """What is refused, in words."""
    world = parallel.init()
    texts = []
    constrained = nn.FeedForward(8, features=4)
    constrained.hidden.weight.constraint = nn.MaxNorm(1.0)
    for make in (
        lambda: parallel.tensor_parallel(nn.MultiHeadAttention(4, 8, num_kv_heads=1), world),
        lambda: parallel.tensor_parallel(constrained, world),
        lambda: parallel.ColumnDense(1, in_features=2),
        lambda: parallel.VocabularyEmbedding(4, 2, sparse=True),
        lambda: parallel.VocabularyEmbedding(4, 2)(mg.asarray([4])),
        lambda: parallel.tensor_parallel(nn.FeedForward(8), world),
        lambda: parallel.vocabulary_cross_entropy(mg.zeros((2, 3)), mg.asarray([0, 6]), world),
        lambda: parallel.vocabulary_cross_entropy(mg.zeros((2, 3)), mg.asarray([0]), world),
    ):
        try:
            make()
            texts.append("nothing")
        except Exception as error:
            texts.append(f"{type(error).__name__}: {error}")
    return texts


def dropped(size: int) -> Any:
    """What each rank drops of its heads, of its features in between, and of what all have."""
    world = functions.team(size)
    if world is None:
        return None
    layer = nn.TransformerEncoderLayer(4, 64, features=32, dropout=0.5, attention_dropout=0.0)
    parallel.tensor_parallel(nn.ModuleList([layer]), world)
    seen: list[Any] = []
    for part in (layer.feed_forward.dropout, layer.dropout):
        part.register_forward_hook(lambda module, args, out: seen.append((out.detach().numpy() == 0).astype(int)))
    mg.random.seed(4)
    layer(mg.asarray(np.random.default_rng(0).normal(size=(2, 8, 32)).astype(np.float32)))
    return seen
