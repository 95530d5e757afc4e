"""The report as a picture: ``python -m benchmarks.plot REPORT.json PICTURE.png``."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"torch": "#c8553d", "jax": "#2a6f97"}
RANGE = (0.01, 2.0)  # of ratios that is always shown


def draw(report: dict[str, Any], file: Path) -> None:
    """Draw the ratios to each peer: for the table a row each with its goal, for sweeps lines over the size."""
    made = sweeps(report) if report["scope"] == "sweep" else rows(report)
    made.savefig(file, dpi=150)


def rows(report: dict[str, Any]) -> Figure:
    """A dot for each peer and row, and a line at the goal."""
    from matplotlib.figure import Figure

    found = [row for row in report["rows"] if row["ratios"]]
    figure = Figure(figsize=(10, 1.5 + 0.3 * len(found)), layout="constrained")
    axes = figure.subplots()
    peers = {peer for row in found for peer in row["ratios"]}
    for peer in [peer for peer in COLORS if peer in peers]:
        ratios = {place: row["ratios"][peer] for place, row in enumerate(found) if peer in row["ratios"]}
        axes.scatter(list(ratios.values()), list(ratios), color=COLORS[peer], label=f"ratio to {peer}", zorder=3)
    goals = {place: row["goal"]["ratio"] for place, row in enumerate(found) if row["goal"]["ratio"] is not None}
    axes.scatter(list(goals.values()), list(goals), color="black", marker="|", s=160, label="goal (torch)", zorder=2)
    axes.set_yticks(range(len(found)), [row["workload"] for row in found], fontsize=8)
    axes.set_ylim(len(found) - 0.5, -0.5)
    logarithmic(axes, "x")
    shown = [*RANGE, *(ratio for row in found for ratio in row["ratios"].values())]
    axes.set_xlim(min(shown) / 1.2, max(shown) * 1.2)
    axes.set_xlabel("minigrad's time / the peer's (below 1: minigrad is faster)")
    axes.axvline(1, color="gray")
    axes.grid(axis="both", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def sweeps(report: dict[str, Any]) -> Figure:
    """A field for each family, in it a line for each series; to the first peer that was measured."""
    from matplotlib.figure import Figure

    peer = next((peer for peer in COLORS if any(peer in row["ratios"] for row in report["rows"])), "torch")
    fields: dict[str, dict[str, list[tuple[float, float]]]] = {}
    units = {}
    for row in report["rows"]:
        if peer in row["ratios"]:
            series = fields.setdefault(row["family"], {}).setdefault(row["point"]["series"], [])
            series.append((row["point"]["size"], row["ratios"][peer]))
            units[row["family"]] = row["point"]["unit"]
    columns = min(3, max(1, len(fields)))
    lines = math.ceil(max(1, len(fields)) / columns)
    figure = Figure(figsize=(5 * columns, 3.8 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(fields) :]:
        axes.axis("off")
    for axes, (family, found) in zip(grid.flat, fields.items()):
        field(axes, found)
        axes.set_title(family)
        axes.set_xlabel(units[family])
        axes.set_ylabel(f"minigrad / {peer}")
    return figure


def field(axes: Axes, series: dict[str, list[tuple[float, float]]]) -> None:
    """The lines of one family."""
    for name, points in series.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, linewidth=1, label=name)
    axes.axhline(1, color="gray")
    axes.set_xscale("log")
    logarithmic(axes, "y")
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, 0.1), max(top, 1.5))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def logarithmic(axes: Axes, name: Literal["x", "y"]) -> None:
    """A logarithmic axis for ratios: 0.1, 0.2, 0.5, 1, ..."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
