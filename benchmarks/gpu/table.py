"""The report of the GPU's benchmarks: rows of figures, and the table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.agreement import agree
from benchmarks.gpu.work import SIDES, Work
from benchmarks.report import duration

PEERS = ("torch", "torch compile")


def row(work: Work, found: Mapping[str, list[dict[str, Any]]], failed: dict[str, str]) -> dict[str, Any]:
    """The medians of a work, their ratios, speed and memory; a side that did other work goes to `failed`."""
    first = next(iter(found), "")
    for side, made in found.items():
        if not agree(found[first][0]["values"], made[0]["values"], work.tolerance):
            failed[f"{work.name}, {side}"] = f"got {made[0]['values']}, and {first} {found[first][0]['values']}"
    seconds = {side: statistics.median(one["seconds"] for one in made) for side, made in found.items()}
    own = [side for side in seconds if side.startswith("minigrad")]
    return {
        "work": work.name,
        "seconds": seconds,
        "rounds": {side: [one["seconds"] for one in made] for side, made in found.items()},
        "ratios": {side: {p: seconds[side] / seconds[p] for p in PEERS if p in seconds} for side in own},
        "peak_bytes": {side: max(one["peak_bytes"] for one in made) for side, made in found.items()},
        "flops": work.flops,
        "moved": work.moved,
        "items": work.items,
    }


def copied(report: Mapping[str, Any]) -> float | None:
    """Bytes a second of the fastest copy that was measured."""
    rates = [
        row["moved"] / s for row in report["rows"] if row["work"].startswith("copy") for s in row["seconds"].values()
    ]
    return max(rates, default=None)


def speed(row: Mapping[str, Any], side: str, limit: float | None) -> str:
    """TFLOP/s, or GB/s and their share of a copy's, or what is counted a second."""
    seconds = row["seconds"][side]
    texts = []
    if row["items"] is not None:
        texts.append(f"{row['items'][0] / seconds:,.0f} {row['items'][1]}/s")
    if row["flops"] is not None:
        texts.append(f"{row['flops'] / seconds / 1e12:.3g} TFLOP/s")
    if row["moved"] is not None:
        rate = row["moved"] / seconds
        texts.append(f"{rate / 1e9:.4g} GB/s" + ("" if limit is None else f" ({100 * rate / limit:.0f} % of a copy)"))
    return ", ".join(texts)


def table(report: Mapping[str, Any]) -> str:
    """A line for each side of each work; ratios are times beside PyTorch's, above 1 with an exclamation mark."""
    limit = copied(report)
    lines = [["work", "side", "time", "speed", "peak", *(f"of {peer}" for peer in PEERS)]]
    for row in report["rows"]:
        for side in SIDES:
            if side in row["seconds"]:
                ratios = [row["ratios"].get(side, {}).get(peer) for peer in PEERS]
                lines.append(
                    [
                        row["work"], side, duration(row["seconds"][side]), speed(row, side, limit),
                        f"{row['peak_bytes'][side] / 2**20:,.0f} MiB",
                        *("-" if r is None else f"{r:.3f}{'!' if r > 1 else ' '}" for r in ratios),
                    ]
                )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def heading(report: Mapping[str, Any]) -> str:
    """What was measured on, and when."""
    lines = [f"{report['date']}, {report['driver'] or 'no driver'}; {report['machine']['cpu']}"]
    for name, side in report["sides"].items():
        lines.append(f"{name}: " + ("not installed" if side is None else f"{side['version']} on {side['gpu']['name']}"))
    if report["dry"]:
        lines.append("A DRY RUN WITHOUT A GPU: no figure below means anything.")
    elif report["quick"]:
        lines.append("Quick: tiny sizes, each measured once; the figures mean nothing.")
    return "\n".join(lines)
