"""Layer maps: which layer of the teacher each layer of a student learns from, or starts from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from minigrad.compress.distillation.features import AttentionMaps, Hint, Term
from minigrad.compress.distillation.taps import check_tap
from minigrad.errors import describe, message
from minigrad.nn.checks import extent, integer
from minigrad.nn.module import Module
from minigrad.nn.projection import Projection
from minigrad.nn.transformer_layers import TransformerEncoderLayer

__all__ = ["copy_layers", "layer_map", "tinybert_terms"]

Mapping = str | Sequence[int]


def layer_map(student_layers: int, teacher_layers: int, mapping: Mapping = "uniform") -> list[int]:
    """The teacher's layer for each of the student's, counted from 0.

    ``"uniform"`` takes the ends of equal parts: layer m of M learns from layer ``m N / M`` of N, both counted from 1,
    rounded up. X. Jiao et al., "TinyBERT", 2020.

    Parameters
    ----------
    student_layers, teacher_layers : int
        How many there are.
    mapping : str or sequence of int
        ``"uniform"``, ``"first"``, ``"last"``, or the layers themselves.

    Raises
    ------
    ValueError
        If the student has more layers than the teacher, or the layers named do not fit.

    Examples
    --------
    >>> from minigrad.compress import layer_map
    >>> layer_map(4, 12), layer_map(2, 6), layer_map(3, 12, "last")
    ([2, 5, 8, 11], [2, 5], [9, 10, 11])
    """
    own = extent("layer_map", "student_layers", student_layers)
    count = extent("layer_map", "teacher_layers", teacher_layers)
    if not isinstance(mapping, str):
        if not isinstance(mapping, Iterable):
            raise TypeError(message("layer_map", "mapping", describe(mapping), "a name, or the layers themselves"))
        found = [integer("layer_map", "mapping", layer) for layer in mapping]
        if len(found) != own or not all(0 <= layer < count for layer in found):
            need = f"{own} layers of the teacher, from 0 to {count - 1}"
            raise ValueError(message("layer_map", "mapping", f"{found}", need))
        return found
    if own > count:
        got = f"{own}, of a teacher with {count}"
        need = "at most as many as the teacher's"
        raise ValueError(message("layer_map", "student_layers", got, need, "Or name the layers"))
    if mapping == "uniform":
        return [-(-(m + 1) * count // own) - 1 for m in range(own)]
    if mapping == "first":
        return list(range(own))
    if mapping == "last":
        return list(range(count - own, count))
    raise ValueError(message("layer_map", "mapping", repr(mapping), "'uniform', 'first', 'last' or a list of layers"))


def tinybert_terms(
    student: Module,
    teacher: Module,
    mapping: Mapping = "uniform",
    *,
    hidden: float = 1.0,
    attention: float = 1.0,
    embeddings: str | tuple[str, str] | None = None,
    projection: bool | None = None,
    mean_heads: bool = False,
) -> list[Term]:
    """The terms of TinyBERT: hidden states, attention maps and embeddings of a student from those of a teacher.

    The encoder layers (or decoder layers) of both are found in their order. Hidden states of all layers go through one
    projection where the features differ, as those of the embeddings go through another. X. Jiao et al., "TinyBERT:
    distilling BERT for natural language understanding", 2020.

    Parameters
    ----------
    student, teacher : Module
        With `TransformerEncoderLayer` or `TransformerDecoderLayer` inside.
    mapping : str or sequence of int
        As for `layer_map`.
    hidden, attention : float
        The weights of the terms of each layer; 0 for none.
    embeddings : str or tuple of str, optional
        The taps of the embeddings, the same for both or a pair, weighed as the hidden states; for `Bert` ``"norm"``.
    projection : bool, optional
        Whether there is one; by default where the features are known to be equal there is none.
    mean_heads : bool
        Compare attention maps as means over heads, as other numbers of heads need it.

    Returns
    -------
    list of Term
        For `Distiller`.

    Examples
    --------
    >>> from minigrad import nn
    >>> from minigrad.compress import tinybert_terms
    >>> student = nn.TransformerEncoder(2, 2, 16, features=8)
    >>> teacher = nn.TransformerEncoder(4, 2, 32, features=16)
    >>> for term in tinybert_terms(student, teacher, attention=0.5):
    ...     print(type(term).__name__, term.extra_repr())
    Hint 'layers.0', 'layers.1'
    AttentionMaps 'layers.0.self_attention:weights', 'layers.1.self_attention:weights', weight=0.5
    Hint 'layers.1', 'layers.3'
    AttentionMaps 'layers.1.self_attention:weights', 'layers.3.self_attention:weights', weight=0.5
    """
    own, others = (_layers("tinybert_terms", *pair) for pair in (("student", student), ("teacher", teacher)))
    chosen = layer_map(len(own), len(others), mapping)
    pairs = [(own[i], others[j]) for i, j in enumerate(chosen)]
    if projection is None:
        sizes = {layer.self_attention.features for (_, first), (_, second) in pairs for layer in (first, second)}
        projection = len(sizes) > 1 or None in sizes
    shared: bool | Module = Projection() if projection else False
    terms: list[Term] = []
    if embeddings is not None:
        taps = (embeddings, embeddings) if isinstance(embeddings, str) else embeddings
        for model, tap in zip((student, teacher), taps, strict=True):
            check_tap("tinybert_terms", model, tap)
        terms.append(Hint(*taps, hidden, projection=projection))
    for (first, _), (second, _) in pairs:
        if hidden:
            terms.append(Hint(first, second, hidden, projection=shared))
        if attention:
            own_map, other_map = (f"{path}.self_attention:weights" for path in (first, second))
            terms.append(AttentionMaps(own_map, other_map, attention, mean_heads=mean_heads))
    return terms


def copy_layers(student: Module, teacher: Module, mapping: Mapping = "uniform") -> list[int]:
    """Start a student from a teacher of the same sizes: its layers are copies of some of the teacher's.

    What stands outside of the layers is copied by name. V. Sanh et al., "DistilBERT", 2019.

    Parameters
    ----------
    student, teacher : Module
        Alike but for the number of their encoder or decoder layers, which lie in one list.
    mapping : str or sequence of int
        As for `layer_map`.

    Returns
    -------
    list of int
        The layers that were copied.

    Raises
    ------
    ValueError
        If the two do not fit.

    Examples
    --------
    >>> from minigrad import nn
    >>> from minigrad.compress import copy_layers
    >>> student = nn.TransformerEncoder(2, 2, 16, features=8)
    >>> copy_layers(student, nn.TransformerEncoder(6, 2, 16, features=8))
    [2, 5]
    """
    own, others = (_layers("copy_layers", *pair) for pair in (("student", student), ("teacher", teacher)))
    chosen = layer_map(len(own), len(others), mapping)
    state = teacher.state_dict()
    paths = [path for path, _ in others]
    kept = {name: t for name, t in state.items() if not any(name.startswith(f"{path}.") for path in paths)}
    for (path, _), i in zip(own, chosen):
        source = f"{paths[i]}."
        kept |= {f"{path}.{name.removeprefix(source)}": t for name, t in state.items() if name.startswith(source)}
    student.load_state_dict(kept)
    return chosen


def _layers(who: str, name: str, model: Any) -> list[tuple[str, TransformerEncoderLayer]]:
    """The layers of a Transformer, with their paths, in their order."""
    if not isinstance(model, Module):
        raise TypeError(message(who, name, describe(model), "a Module"))
    found = [(path, m) for path, m in model.named_modules() if isinstance(m, TransformerEncoderLayer)]
    if not found:
        got = f"{type(model).__name__} without any"
        raise ValueError(message(who, f"layers of the {name}", got, "TransformerEncoderLayer in it"))
    return found
