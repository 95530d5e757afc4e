"""Measure the error of the float32 elementary functions in units in the last place, over every number there is.

    python tools/check_ulp.py                             every function on all 2**32 numbers: minutes for each
    python tools/check_ulp.py exp log --level v3 --step 1009

The reference is computed in float64. An error is in units of the float32 spacing at the reference. Infinities and NaN
must be the reference's, and so must the sign of zeros.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad._core import cpu, special
from minigrad._core.cpu import Kernel

Array = np.ndarray[Any, Any]
NUMBERS = 2**32
CHUNK = 2**15
EXPONENT = 0x7FF0000000000000  # its bits in float64
TINY, EPSILON = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Reference:
    """A function in float64; `flushes` where its kernel gives 0 for results that are subnormal in float32."""

    function: Callable[[Array], Array]
    flushes: bool = False


def sigmoid(x: Array) -> Array:
    """Relative to its value exact on both sides."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e, 1.0) / (1 + e))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) without overflow."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


REFERENCES = {
    "exp": Reference(np.exp),
    "log": Reference(np.log),
    "tanh": Reference(np.tanh),
    "erf": Reference(special.erf),
    "sigmoid": Reference(sigmoid),
    "softplus": Reference(softplus, flushes=True),
}


def errors(found: Array, exact: Array, flushes: bool = False) -> Array:
    """The distance of float32 numbers from float64 ones in float32 spacings; inf where one of them is no number."""
    binade = (exact.view(np.int64) & EXPONENT).view(np.float64)
    error: Array = np.abs(found - exact) / (np.maximum(binade, TINY) * EPSILON)
    if flushes:
        error[(found == 0) & (np.abs(exact) < TINY)] = 0.0
    (odd,) = np.nonzero(~(error < NUMBERS) | (exact == 0))
    if odd.size:
        ours, theirs = found[odd], exact[odd].astype(np.float32)
        same = (ours == theirs) & (np.signbit(ours) == np.signbit(theirs)) | np.isnan(ours) & np.isnan(theirs)
        error[odd] = np.where(same, 0.0, np.inf)
    return error


def worst(name: str, step: int = 1) -> tuple[float, np.float32]:
    """The largest error of the kernel in use over every `step`-th float32, and where it is."""
    kernel, reference = Kernel("elementwise", name), REFERENCES[name]
    largest, place = -1.0, np.float32(0)
    for start in range(0, NUMBERS, CHUNK * step):
        bits = np.arange(start, min(start + CHUNK * step, NUMBERS), step, dtype=np.uint64)
        x = bits.astype(np.uint32).view(np.float32)
        error = errors(kernel(x), reference.function(x.astype(np.float64)), reference.flushes)
        at = int(error.argmax())
        if error[at] > largest:
            largest, place = float(error[at]), x[at]
    return largest, place


def main() -> None:
    """Print the largest error of each function."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("functions", nargs="*", help=f"of {', '.join(REFERENCES)}; all by default")
    parser.add_argument("--level", default=cpu.level(), choices=cpu.levels(), help="the instruction set")
    parser.add_argument("--step", type=int, default=1, help="take every STEP-th number")
    arguments = parser.parse_args()
    unknown = set(arguments.functions) - set(REFERENCES)
    if unknown:
        parser.error(f"no function {', '.join(sorted(unknown))}; there are {', '.join(REFERENCES)}")
    cpu.use_level(arguments.level)
    with np.errstate(all="ignore"):
        for name in arguments.functions or REFERENCES:
            largest, place = worst(name, arguments.step)
            print(f"{name:10}{arguments.level}  {largest:.4f} ULP at {float(place).hex()} = {place!s}", flush=True)


if __name__ == "__main__":
    main()
