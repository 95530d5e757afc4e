"""tensor_parallel: split the layers of a model over ranks; and its state as that of the plain model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from minigrad import ops
from minigrad._core import tape
from minigrad.errors import ShapeError, message
from minigrad.models.language_model import IGNORED, LanguageModel
from minigrad.nn.attention import MultiHeadAttention
from minigrad.nn.deferred import check_initialized
from minigrad.nn.feed_forward import FeedForward
from minigrad.nn.masks import SUFFIX, pack, unpack
from minigrad.nn.module import LoadReport, Module
from minigrad.ops.noise import split_rank
from minigrad.optim.clip import clip_by, grad_norm
from minigrad.parallel.communicator import Communicator
from minigrad.parallel.split_functions import (
    copy_in,
    gather_out,
    part,
    slice_in,
    sum_out,
    vocabulary_cross_entropy,
    whole,
)
from minigrad.parallel.split_layers import ColumnDense, RowDense, VocabularyEmbedding, same
from minigrad.parallel.start import init
from minigrad.tensor import Tensor

__all__ = ["clip_split_grad_norm_", "gather_state_dict", "load_gathered_state_dict", "split_norms", "tensor_parallel"]

M = TypeVar("M", bound=Module)


class SplitAttention(MultiHeadAttention):
    """A `MultiHeadAttention` of which this rank has some heads."""

    communicator: Communicator

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, **options: Any) -> Any:
        """Attend with the heads of this rank, and add what all ranks give; masks and biases may have all heads."""
        tensors = {id(x): ops.asarray(x) for x in (query, key, value) if x is not None}
        inside: Any = {i: copy_in(x, self.communicator) for i, x in tensors.items()}
        for name in ("mask", "bias"):
            if options.get(name) is not None:
                options[name] = self._of_own_heads(ops.asarray(options[name]))
        given: Any = [None if x is None else inside[id(x)] for x in (query, key, value)]
        with split_rank(self.communicator.rank, self.communicator.size):
            result = super().forward(*given, **options)
        if isinstance(result, tuple):
            return result[0], gather_out(result[1], self.communicator, -3)
        return result

    def _of_own_heads(self, x: Tensor) -> Tensor:
        """What all ranks have for all heads, or for each, as it enters."""
        if x.ndim > 2 and x.shape[-3] > 1:
            return slice_in(x, self.communicator, x.ndim - 3)
        return copy_in(x, self.communicator)


class SplitFeedForward(FeedForward):
    """A `FeedForward` of which this rank has some features in between."""

    communicator: Communicator

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., features)."""
        with split_rank(self.communicator.rank, self.communicator.size):
            return super().forward(copy_in(ops.asarray(x), self.communicator))


class SplitHead:
    """Logits of a language model whose vocabulary is split."""

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator

    def logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Those of all ranks."""
        return gather_out(ops.linear(copy_in(hidden, self.communicator), weight), self.communicator)

    def loss(self, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy, for which no rank makes the logits of others."""
        logits = ops.linear(copy_in(hidden, self.communicator), weight)
        return vocabulary_cross_entropy(logits, targets, self.communicator, ignore_index=IGNORED)


def tensor_parallel(model: M, communicator: Communicator | None = None) -> M:
    """Split the attention, the feed-forward networks and the vocabulary of a model over ranks, in place.

    Every rank calls it with the same model and afterwards with the same batch: each rank computes with its part of the
    heads, of the features in between and of the vocabulary, and all have the same result, loss, and gradients of what
    is not split. A Transformer layer costs an allreduce after attention and one after its network, and as many in
    backward. M. Shoeybi et al., "Megatron-LM", 2019.

    Split are every `MultiHeadAttention` and `FeedForward`, not their subclasses, and, of a `GPT` or `Llama`, tokens and
    logits. The rest (normalization, positions) is on all ranks.

    Parameters
    ----------
    model : Module
        Its values on rank 0 count.
    communicator : Communicator, optional
        The ranks; by default those of `init`.

    Returns
    -------
    Module
        The model.

    Raises
    ------
    ShapeError
        If heads of keys are no multiple of the ranks, there are fewer features or tokens than ranks, or a parameter
        waits for the first batch.
    ValueError
        If a weight has a constraint.

    Notes
    -----
    The ranks must have the same random state, so that they drop the same of what they all hold; of its own heads and
    features each drops by a pattern of its own, which is not that of the plain model.

    A rule of an optimizer that takes norms of weights sees this rank's part of them.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, parallel
    >>> model = parallel.tensor_parallel(nn.TransformerEncoder(2, 4, 32, features=16))
    >>> model(mg.ones((2, 5, 16))).shape
    (2, 5, 16)
    """
    made = init() if communicator is None else communicator
    for name, p in model.named_parameters():
        check_initialized("tensor_parallel", name, p)
    layers = [m for m in model.modules() if type(m) in (MultiHeadAttention, FeedForward)]
    for layer in layers:
        if isinstance(layer, MultiHeadAttention) and layer.num_kv_heads % made.size:
            need = f"a multiple of the ranks, {made.size}"
            raise ShapeError(message("tensor_parallel", "num_kv_heads", f"{layer.num_kv_heads}", need))
    for layer in layers:
        if isinstance(layer, MultiHeadAttention):
            _split_attention(layer, made)
        elif isinstance(layer, FeedForward):
            _split_feed_forward(layer, made)
    if isinstance(model, LanguageModel):
        model.tokens.__class__ = VocabularyEmbedding  # so that what shares it, and its hooks, are kept
        model.tokens._take(made)  # type: ignore[attr-defined]
        if model.head is not None:
            model.head = ColumnDense.of(model.head, made)  # type: ignore[assignment]
        model.split_head = SplitHead(made)
    split = {id(p) for layer in model.modules() for p in _splits(layer).values()}
    for p in model.parameters():
        if id(p) not in split:
            same(p, made)
    return model


def _split_attention(layer: Any, communicator: Communicator) -> None:
    layer.__class__, layer.communicator = SplitAttention, communicator
    for name in ("query", "key", "value"):
        setattr(layer, name, ColumnDense.of(getattr(layer, name), communicator, copies=False))
    layer.output = RowDense.of(layer.output, communicator)
    layer.num_heads //= communicator.size
    layer.num_kv_heads //= communicator.size
    if layer.slopes is not None:
        layer.slopes = tape.new_tensor(part(layer.slopes._array, communicator, 0).copy())
    for norm in (layer.query_norm, layer.key_norm):
        for p in () if norm is None else norm.parameters():
            p.register_hook(lambda g: sum_out(g, communicator))  # each rank has the gradient by its own heads


def _split_feed_forward(layer: Any, communicator: Communicator) -> None:
    layer.__class__, layer.communicator = SplitFeedForward, communicator
    for name in ("gate", "hidden"):
        if getattr(layer, name) is not None:
            setattr(layer, name, ColumnDense.of(getattr(layer, name), communicator, copies=False))
    layer.output = RowDense.of(layer.output, communicator)


def _splits(layer: Module) -> dict[str, Any]:
    """The parameters of a layer that are split, by their names."""
    names: Any = getattr(layer, "splits", {})
    return {name: getattr(layer, name) for name in names if getattr(layer, name) is not None}


def _split_parameters(model: Module) -> dict[int, tuple[int, Communicator]]:
    """The axis and the ranks of each parameter that is split, by its id."""
    found = {}
    for layer in model.modules():
        for name, p in _splits(layer).items():
            found[id(p)] = layer.splits[name], layer.communicator  # type: ignore[attr-defined]
    return found


def gather_state_dict(model: Module) -> dict[str, Tensor]:
    """The state of the plain model, of the parts that the ranks have; a collective, and every rank gets all of it.

    Examples
    --------
    >>> from minigrad import nn, parallel
    >>> model = parallel.tensor_parallel(nn.FeedForward(32, features=16))
    >>> parallel.gather_state_dict(model)["hidden.weight"].shape
    (16, 32)
    """
    split = _split_parameters(model)
    axes = {name: split[id(t)] for name, t, _ in model._tensors() if id(t) in split}
    state = model.state_dict()
    for name, (axis, communicator) in axes.items():
        local = state[name].shape
        state[name] = tape.new_tensor(whole(state[name]._array, communicator, axis))
        if name + SUFFIX in state:
            keep = whole(unpack(state[name + SUFFIX]._array, local), communicator, axis)
            state[name + SUFFIX] = tape.new_tensor(pack(keep))
    return state


def load_gathered_state_dict(model: Module, state: Mapping[str, Any], *, strict: bool = True) -> LoadReport:
    """Load the state of the plain model, of which each rank takes its parts.

    Parameters
    ----------
    model : Module
        One that has been split.
    state : mapping
        What `gather_state_dict` gave, or the `state_dict` of the plain model.
    strict : bool
        As for `Module.load_state_dict`.

    Raises
    ------
    ValueError
        As for `Module.load_state_dict`; extents that are split are those of this rank's part.

    Examples
    --------
    >>> from minigrad import nn, parallel
    >>> model = parallel.tensor_parallel(nn.FeedForward(32, features=16))
    >>> parallel.load_gathered_state_dict(model, nn.FeedForward(32, features=16).state_dict())
    LoadReport(missing=[], unexpected=[])
    """
    split = _split_parameters(model)
    own = dict(state)
    for name, t, _ in model._tensors():
        if id(t) in split and name in own:
            axis, communicator = split[id(t)]
            array = np.asarray(own[name]._array if isinstance(own[name], Tensor) else own[name])
            own[name] = part(array, communicator, axis) if array.ndim > axis else array
            bits = own.get(name + SUFFIX)
            if bits is not None and np.asarray(bits).size == -(-array.size // 8) and array.ndim > axis:
                own[name + SUFFIX] = part(unpack(np.asarray(bits), array.shape), communicator, axis)
    return model.load_state_dict(own, strict=strict)


def clip_split_grad_norm_(model: Module, max_norm: float, norm_type: float = 2.0) -> float:
    """Scale the gradients of a split model so that their norm, that of the plain model, is at most `max_norm`.

    Returns
    -------
    float
        The norm before, the same on all ranks; see `minigrad.optim.clip_grad_norm_`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, parallel
    >>> model = parallel.tensor_parallel(nn.FeedForward(32, features=16))
    >>> model(mg.ones((2, 16))).sum().backward()
    >>> parallel.clip_split_grad_norm_(model, 1.0) > 1.0
    True
    """
    return clip_by(model.parameters(), np.array(split_norms(model, norm_type)), max_norm, norm_type)


def split_norms(model: Module, norm_type: float = 2.0) -> list[float]:
    """The norms of the gradients that all ranks have, and of those of each rank; a collective."""
    split = _split_parameters(model)
    parameters = model.parameters()
    groups: dict[int, tuple[Communicator, list[Any]]] = {}
    for p in parameters:
        if id(p) in split:
            communicator = split[id(p)][1]
            groups.setdefault(id(communicator), (communicator, []))[1].append(p)
    norms = [float(grad_norm([p for p in parameters if id(p) not in split], norm_type))]
    for communicator, parts in groups.values():
        norms += communicator.all_gather(np.float64(float(grad_norm(parts, norm_type)))).tolist()
    return norms
