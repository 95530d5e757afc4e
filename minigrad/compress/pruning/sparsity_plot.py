"""The picture of a report of sparsity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.io.files import FilePath, as_path, replacing
from minigrad.train.callbacks.checks import needed

if TYPE_CHECKING:
    from minigrad.compress.pruning.sparsity import Sparsity

__all__ = ["plot"]

KEPT, GONE, DENSE, SPARSE, GRID = "#2a6fb0", "#d9dde2", "#8c96a1", "#d1602a", "#dddddd"


def plot(report: Sparsity, path: FilePath, dpi: int) -> None:
    """Draw a panel for sparsity, one for bytes, and one for the time where it was measured."""
    target = as_path("Sparsity.plot", path)
    figures = needed("Sparsity.plot", "matplotlib.figure", "plot")
    canvas = needed("Sparsity.plot", "matplotlib.backends.backend_agg", "plot").FigureCanvasAgg
    rows = [row for row in report.rows if len(row.shape) > 1] or report.rows
    timed = any(row.seconds is not None for row in rows)
    count = 2 + timed
    figure = figures.Figure(figsize=(4.2 * count, 1.4 + 0.42 * len(rows)), layout="constrained")
    canvas(figure)
    panels = figure.subplots(1, count, sharey=True)
    places = np.arange(len(rows))
    title = f"{report.total:.1%} of {report.weights:,} weights are 0"
    figure.suptitle(f"{title}; {_size(report.dense_bytes)} dense, {_size(report.sparse_bytes)} sparse")

    left = panels[0]
    zeros = [row.sparsity for row in rows]
    left.barh(places, [1 - z for z in zeros], color=KEPT, label="kept")
    left.barh(places, zeros, left=[1 - z for z in zeros], color=GONE, label="zero")
    for place, z in zip(places, zeros, strict=True):
        left.text(0.98, place, f"{z:.1%}", va="center", ha="right", fontsize=8)
    left.set(title="Sparsity", xlabel="share of the weights", xlim=(0, 1))
    left.set_yticks(places, [row.name for row in rows])
    left.invert_yaxis()

    middle = panels[1]
    middle.barh(places - 0.2, [row.dense_bytes / 1024 for row in rows], 0.4, color=DENSE, label="dense")
    middle.barh(places + 0.2, [row.sparse_bytes / 1024 for row in rows], 0.4, color=SPARSE, label="sparse")
    middle.set(title="Size", xlabel="KiB")
    if timed:
        times = [1e3 * (row.seconds or 0.0) for row in rows]
        panels[2].barh(places, times, 0.6, color=KEPT, label="forward")
        panels[2].set(title="Time of the layer", xlabel="ms")
    for panel in panels:
        panel.grid(axis="x", color=GRID)
        panel.set_axisbelow(True)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    figure.legend(*_handles(panels[:2]), loc="outside lower center", ncols=4, frameon=False)
    with replacing(Path(target)) as temporary:
        figure.savefig(temporary, format=target.suffix[1:].lower() or "png", dpi=dpi)


def _handles(panels: Any) -> tuple[list[Any], list[str]]:
    pairs = [panel.get_legend_handles_labels() for panel in panels]
    return [h for handles, _ in pairs for h in handles], [label for _, labels in pairs for label in labels]


def _size(count: int) -> str:
    return f"{count / 1024:.1f} KiB" if count < 2**20 else f"{count / 2**20:.2f} MiB"
