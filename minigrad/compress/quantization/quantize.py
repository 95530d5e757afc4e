"""quantize: a trained model with int8 weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from minigrad.compress.become import become
from minigrad.compress.quantization.quantized_dense import QuantizedDense, checked_bits
from minigrad.compress.quantization.quantized_embedding import QuantizedEmbedding
from minigrad.errors import layer_path, message
from minigrad.nn.deferred import check_initialized
from minigrad.nn.dense import Dense
from minigrad.nn.embedding import Embedding
from minigrad.nn.module import Module
from minigrad.nn.projection import Projection

__all__ = ["quantize"]

M = TypeVar("M", bound=Module)

NAME = "quantize"


def quantize(
    model: M,
    dtype: str = "int8",
    *,
    per_channel: bool = True,
    dynamic: bool = True,
    input_bits: int = 8,
    embeddings: bool = True,
    exclude: Iterable[str] = (),
) -> M:
    """Give a trained model int8 weights, in place, for inference: a quarter of the size, and faster.

    Every `Dense`, every projection inside attention and feed-forward networks, and every `Embedding` becomes a
    `QuantizedDense` or `QuantizedEmbedding`; subclasses of them stay as they are. The model is put into evaluation
    mode, and its other parameters are frozen. B. Jacob et al., "Quantization and training of neural networks for
    efficient integer-arithmetic-only inference", 2018; docs/quantization.md has formulas, bounds and figures.

    To load a quantized model, quantize one that was made as the first was, with the same options, and call its
    `load_state_dict`.

    Parameters
    ----------
    model : Module
        `copy.deepcopy` keeps one as it was.
    dtype : str
        ``"int8"``.
    per_channel : bool
        A scale for each output feature and each row of an embedding, or one for each weight.
    dynamic : bool
        Round the inputs of products to integers as well, which is faster. Otherwise only weights are rounded, which is
        more exact, and faster than float32 where batches are small.
    input_bits : int
        Bits of the inputs' integers, 8 to 12; more are more exact, and cost no time.
    embeddings : bool
        Whether embeddings are quantized.
    exclude : iterable of str
        Paths of layers that are left alone, with all that is below them.

    Returns
    -------
    Module
        The model.

    Raises
    ------
    ValueError
        If there is nothing to quantize, a path in `exclude` leads to no module, a weight is not finite, or the dtype is
        another one; then the model is as it was.
    ShapeError
        If a weight waits for the first batch.
    TypeError
        If `model` is no module, or `exclude` a str.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import compress, nn
    >>> model = nn.Sequential([nn.Dense(8, "relu", in_features=4), nn.Dense(2, in_features=8)])
    >>> compress.quantize(model, exclude=["1"])
    Sequential(
      (0): QuantizedDense(4 -> 8, activation=relu)
      (1): Dense(8 -> 2)
    )
    >>> model(mg.ones((3, 4))).shape
    (3, 2)
    """
    if not isinstance(model, Module):
        raise TypeError(message(NAME, "model", model, "a Module"))
    if str(dtype) != "int8":
        raise ValueError(message(NAME, "dtype", repr(dtype), "'int8'"))
    ways: dict[str, Any] = {
        "per_channel": per_channel,
        "dynamic": dynamic,
        "input_bits": checked_bits(NAME, input_bits),
    }
    modules = dict(model.named_modules())
    left = _excluded(modules, exclude)
    made: list[tuple[Module, Module]] = []
    for path, layer in modules.items():
        if path in left:
            continue
        dense = type(layer) in (Dense, Projection)
        if not dense and not (embeddings and type(layer) is Embedding):
            continue
        check_initialized(NAME, f"{path}.weight" if path else "weight", layer.weight)  # type: ignore[attr-defined]
        token = layer_path.set(path)  # what an error says
        try:
            made.append((layer, (QuantizedDense if dense else QuantizedEmbedding).of(layer, **ways)))
        finally:
            layer_path.reset(token)
    if not made and not any(isinstance(layer, (QuantizedDense, QuantizedEmbedding)) for layer in modules.values()):
        need = "one with a Dense, a layer with projections, or an Embedding, that is not excluded"
        raise ValueError(message(NAME, "model", f"a {type(model).__name__} without layers to quantize", need))
    for layer, quantized in made:
        become(layer, quantized)
    model.eval()
    model.requires_grad_(False)
    return model


def _excluded(modules: dict[str, Module], exclude: Iterable[str]) -> set[str]:
    """The paths that are left alone."""
    given: Any = exclude
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(message(NAME, "exclude", repr(exclude), "a list of paths"))
    left: set[str] = set()
    for name in exclude:
        found = {path for path in modules if path == name or path.startswith(f"{name}.")}
        if name not in modules:
            raise ValueError(message(NAME, "exclude", repr(name), "the path of a module, as named_modules gives them"))
        left |= found
    return left
