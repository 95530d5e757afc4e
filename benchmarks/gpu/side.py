"""One side of some works, measured in this process: ``python -m benchmarks.gpu.side JOB``.

The job is a JSON object, and so is the last line of the output.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.agreement import fingerprint
from benchmarks.gpu import rows, steps
from benchmarks.gpu.library import LIBRARIES, Library
from benchmarks.gpu.work import Work

SAMPLE, SAMPLES, WARM = 0.02, 25, 0.5  # seconds of a sample at the least, their number, seconds before the first


def works(quick: bool) -> list[Work]:
    """All of them, in the order of the table."""
    return [*steps.QUICK, *rows.QUICK] if quick else [*steps.FULL, *rows.FULL]


def measure(side: str, indices: Sequence[int], quick: bool, dry: bool) -> dict[str, Any]:
    """The results of some works by index, and what ran; an error is a result as well."""
    library = LIBRARIES[side.split()[0]](dry)
    results: dict[int, Any] = {}
    for index in indices:
        try:
            results[index] = result(library, works(quick)[index], side, quick)
        except Exception:
            results[index] = {"error": traceback.format_exc()}
        gc.collect()
    return {"results": results, "version": library.version, "gpu": library.gpu()}


def result(library: Library, work: Work, side: str, quick: bool) -> dict[str, Any]:
    """The median of the samples of one work, the memory that it took, the fingerprints of its first results."""
    run = work.sides[side](library)
    values = [value for _ in range(work.checked) for value in fingerprint(plain(library, run()), work.compare)]
    samples = [library.seconds(run, 1)] if quick else take(library.seconds, run)
    return {
        "seconds": statistics.median(samples), "samples": samples, "values": values, "peak_bytes": library.taken(),
    }  # fmt: skip


def plain(library: Any, result: Any) -> list[Any]:
    """A result as arrays on the CPU."""
    found = result if isinstance(result, (list, tuple)) else [result]
    return [np.asarray(library.host(part)) for part in found]


def take(seconds: Callable[..., float], run: Callable[[], Any]) -> list[float]:
    """Seconds of a call, of each sample, after a warm-up that finds how many calls one takes."""
    number, spent = 1, 0.0
    while True:
        took = seconds(run, number)
        spent += took
        if spent >= WARM and took >= SAMPLE:
            break
        number = max(number, int(number * min(10.0, SAMPLE / max(took, 1e-9))) + 1) if took < SAMPLE else number
    gc.collect()
    return [seconds(run, number) / number for _ in range(SAMPLES)]


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
