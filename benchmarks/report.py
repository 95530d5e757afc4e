"""The report as text."""

from __future__ import annotations

import statistics
from typing import Any


def duration(seconds: float) -> str:
    """Seconds with three digits and a fitting unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def spread(rounds: list[float], median: float) -> str:
    """The lowest and the highest round in percent of the median."""
    return f"{100 * (min(rounds) / median - 1):+.0f}/{100 * (max(rounds) / median - 1):+.0f} %"


def goal(parts: dict[str, float | None]) -> str:
    """A goal in words."""
    texts = []
    if parts["ratio"] is not None:
        texts.append(f"{parts['ratio']:g} x torch")
    if parts["seconds"] is not None:
        texts.append(duration(parts["seconds"]))
    return ", ".join(texts) or "-"


def table(report: dict[str, Any]) -> str:
    """One line a workload: time, spread over the rounds and peak memory of each side, minigrad's share of what the
    machine can do, the ratio of the medians and that of the fastest rounds, the goal, and whether it is reached.

    A ratio above 1 has an exclamation mark.
    """
    peers = [side for side in report["sides"] if side != "minigrad"]
    head = ["workload", "minigrad", "rounds", "peak", "speed", "of limit"]
    for peer in peers:
        head += [peer, "rounds", "peak", "ratio", "fastest"]
    lines = [[*head, "goal", "reached"]]
    for row in report["rows"]:
        line = [row["workload"], *measured(row, "minigrad"), *speed(row, report["limits"])]
        for peer in peers:
            cells = measured(row, peer)
            cells += [ratio(row[key].get(peer)) for key in ("ratios", "fastest_ratios")]
            if report["sides"][peer] is None:
                cells[0] = "not installed"
            line += cells
        line += [goal(row["goal"]), {True: "yes", False: "no", None: "-"}[row["reached"]]]
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def measured(row: dict[str, Any], side: str) -> list[str]:
    """Time, spread and peak memory of a side."""
    if side not in row["seconds"]:
        return ["-", "-", "-"]
    seconds = row["seconds"][side]
    peak = f"{row['peak_bytes'][side] / 2**20:.0f} MiB" if side in row["peak_bytes"] else "-"
    return [duration(seconds), spread(row["rounds"][side], seconds), peak]


def ratio(value: float | None) -> str:
    """A ratio, marked where minigrad is the slower one."""
    return "-" if value is None else f"{value:.3f}{'!' if value > 1 else ' '}"


def speed(row: dict[str, Any], limits: dict[str, float]) -> list[str]:
    """Operations or bytes a second of minigrad, and their share of the machine's limit."""
    for amount, limit, unit in (("flops", "flops", "GFLOP/s"), ("moved", "bytes", "GB/s")):
        if row[amount] is not None:
            rate = row[amount] / row["seconds"]["minigrad"]
            return [f"{rate / 1e9:.3g} {unit}", f"{100 * rate / limits[limit]:.0f} %"]
    return ["-", "-"]


def summary(report: dict[str, Any]) -> str:
    """The mean over the rows with a goal, the rows that a peer is faster at, and what could not be measured."""
    lines = [f"geometric mean of the ratios to {peer}: {mean:.3f}" for peer, mean in report["geometric_means"].items()]
    slower = [
        f"  {row['workload']}: {value:.3f} x {peer}"
        for row in report["rows"]
        for peer, value in row["ratios"].items()
        if value > 1
    ]
    lines += ["slower than a peer:", *slower] if slower else []
    lines += [f"{family} could not be measured: {text}" for family, text in report["failed"].items()]
    return "\n".join([*lines, f"{report['minutes']:.1f} minutes"])


def others(report: dict[str, Any]) -> str:
    """The share of the processors that other processes used: the median over all rounds, and the most."""
    shares = [
        share for row in report["rows"] for rounds in row["others"].values() for share in rounds if share is not None
    ]
    if not shares:
        return ""
    return f"; others used {100 * statistics.median(shares):.0f} % of the processors, at most {100 * max(shares):.0f} %"


def heading(report: dict[str, Any]) -> str:
    """The machine, the settings, and the version and BLAS of each side."""
    machine = report["machine"]
    load = "" if machine["load"] is None else f", load {machine['load']:.2f} at the start"
    kind = machine["vectors"] + (", virtual machine" if machine["virtual"] else "")
    lines = [
        f"{report['date']}, {machine['cpu']} ({kind}), {machine['processors']} processors, {machine['system']}{load}",
        f"{report['threads']} threads, medians of {report['repeat']} rounds"
        + (", quick" if report["quick"] else "")
        + others(report),
        f"limits: {report['limits']['flops'] / 1e9:.3g} GFLOP/s (a large float32 matrix product by NumPy), "
        f"{report['limits']['bytes'] / 1e9:.3g} GB/s (a large copy, read and written)",
    ]
    for name, side in report["sides"].items():
        text = "not installed" if side is None else f"{side['version']}, BLAS: {side['blas']}"
        lines.append(f"{name} {text}" + ("" if side is None else f", NumPy {side['numpy']}, Python {side['python']}"))
    return "\n".join(lines)
