"""A picture of an embedding: its two principal components."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.errors import ShapeError, message
from minigrad.io.files import replacing
from minigrad.nn.checks import extent
from minigrad.tensor import Tensor

__all__ = ["plot_embedding", "principal_components"]

Array = np.ndarray[Any, Any]


def principal_components(vectors: Any, components: int = 2) -> tuple[Array, Array]:
    """The coordinates of vectors along the directions in which they differ most.

    ``(x - mean(x)) @ V``, with the first right singular vectors of ``x - mean(x)`` in V: K. Pearson, "On lines and
    planes of closest fit to systems of points in space", 1901. The sign of a direction is such that its largest entry
    is positive.

    Parameters
    ----------
    vectors : array_like
        ``(n, features)``.
    components : int
        How many directions; at most as many as there are features, and vectors.

    Returns
    -------
    coordinates : numpy.ndarray
        float64 ``(n, components)``.
    shares : numpy.ndarray
        The share of the variance along each direction.

    Raises
    ------
    ShapeError
        `vectors` is no matrix, or too small for so many directions.
    ValueError
        There are NaN or infinite numbers among them.

    Examples
    --------
    >>> from minigrad.knowledge import principal_components
    >>> coordinates, shares = principal_components([[0.0, 1.0], [3.0, 5.0], [6.0, 9.0]], 1)
    >>> coordinates.round(3).tolist(), shares.round(3).tolist()
    ([[-5.0], [0.0], [5.0]], [1.0])
    """
    x = np.asarray(vectors.detach().to("cpu").numpy() if isinstance(vectors, Tensor) else vectors, np.float64)
    count = extent("principal_components", "components", components)
    if x.ndim != 2 or min(x.shape) < count:
        raise ShapeError(
            message("principal_components", "vectors", x, f"a matrix of at least {count} rows and columns")
        )
    if not np.isfinite(x).all():
        raise ValueError(message("principal_components", "vectors", "NaN or infinite in places", "finite numbers"))
    centered = x - x.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centered, full_matrices=False)
    first = directions[:count]
    largest = np.take_along_axis(first, np.argmax(np.abs(first), axis=1)[:, None], axis=1)
    variances = sizes**2
    return centered @ (first * np.sign(largest)).T, variances[:count] / max(variances.sum(), np.finfo(np.float64).tiny)


def plot_embedding(
    vectors: Any,
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    label: Iterable[int] = (),
    title: str = "",
    dpi: int = 120,
) -> None:
    """Draw vectors in the plane of their two principal components.

    Parameters
    ----------
    vectors : array_like
        ``(n, features)``, such as ``model.entities.weight``.
    path : path-like
        Where to save the picture; the ending says in which format.
    names : sequence of str, optional
        Of the vectors.
    groups : sequence of str, optional
        A word for each vector: those of a group have a color in common, and the legend says which.
    label : iterable of int
        The vectors that get their names written beside them.
    title : str
        Above the picture.
    dpi : int
        Dots an inch.

    Raises
    ------
    ShapeError
        There are fewer than two vectors or features, or not one name or group for each vector.
    ImportError
        matplotlib is not installed.

    Examples
    --------
    >>> from minigrad import knowledge
    >>> model = knowledge.DistMult(20, 2, 8)
    >>> knowledge.plot_embedding(model.entities.weight, "entities.png", label=[0])  # doctest: +SKIP
    """
    points, shares = principal_components(vectors, 2)
    for name, given in (("names", names), ("groups", groups)):
        if given is not None and len(given) != len(points):
            got = f"of length {len(given)}"
            raise ShapeError(message("plot_embedding", name, got, f"one for each of the {len(points)} vectors"))
    try:
        from matplotlib.backends import backend_agg
        from matplotlib.figure import Figure
    except ImportError as error:
        text = message("plot_embedding", "matplotlib", "not installed", "it", "pip install 'minigrad[plot]'")
        raise ImportError(text, name=error.name) from None
    ending = Path(path).suffix[1:].lower() or "png"
    kinds = backend_agg.FigureCanvasAgg.get_supported_filetypes()
    if ending not in kinds:
        need = f"an ending of {', '.join(sorted(kinds))}"
        raise ValueError(message("plot_embedding", "path", f"{Path(path).name!r}", need))
    figure = Figure(figsize=(9, 7), dpi=dpi, layout="constrained")
    axes = figure.add_subplot()
    of = np.array(["" for _ in points] if groups is None else [str(group) for group in groups])
    size = min(22.0, max(4.0, 4000.0 / len(points)))  # of many points small ones
    distinct = list(dict.fromkeys(of.tolist()))
    for k, group in enumerate(distinct):
        here = points[of == group]
        axes.scatter(
            here[:, 0],
            here[:, 1],
            s=size,
            color=f"C{k % 10}",
            marker="osD^v"[k // 10 % 5],
            alpha=0.8,
            label=f"group {k}" if group else None,
        )
    for i in label:
        name = str(i) if names is None else names[i]
        axes.annotate(name, points[i], xytext=(3, 3), textcoords="offset points", fontsize=7, parse_math=False)
    for axis, share, number in ((axes.xaxis, shares[0], "first"), (axes.yaxis, shares[1], "second")):
        axis.set_label_text(f"{number} principal component, {share:.0%} of the variance")
    axes.set_title(title, parse_math=False)
    if groups is not None:
        # names of data, in which dollars begin no formula and an underscore does not mean to leave a label out
        legend = axes.legend(frameon=False, fontsize=8)
        for entry, group in zip(legend.get_texts(), filter(None, distinct), strict=True):
            entry.set_parse_math(False)
            entry.set_text(group)
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format=ending)
